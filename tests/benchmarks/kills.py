"""200 random kills, 0 lost or different adapters: `python -m tests.benchmarks.kills [--kills N] [--seed N]`.

`edgetune selftest resume` on a model so small that a process's start is most of a run's life: all moments are met often, those
before the first step too. Runs are killed ten times each. Ends with code 5 where a run was lost or ended elsewhere.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.events import Event, Progress
from edgetune.workspace.selftest import ResumeTest
from tests.conftest import write_tokenizer, write_weights


def tiny_run(folder: Path) -> RunConfig:
    """A model of two layers, forty rows, and a run that has all that must come back."""
    model, rows = folder / "model", folder / "rows.jsonl"
    model.mkdir()
    write_weights(model, write_tokenizer(model))
    lines = [{"prompt": f"Say {n}", "completion": f"{n} and {n + 1}."} for n in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunConfig(
        model=str(model),
        data=DataConfig(train=[str(rows)], valid=0.2, max_tokens=64),
        adapter=AdapterConfig(rank=4, alpha=8, dropout=0.1),
        training=TrainingConfig(steps=40, batch=2, accumulate=2, rate=5e-3),
        checks=ChecksConfig(eval_every=5, save_every=3, keep=2),
    )


def tell(event: Event) -> None:
    """How far it is."""
    if isinstance(event, Progress) and event.unit == "kills" and event.done % 20 == 0:
        print(f"{event.done:.0f} of {event.total:.0f} kills", file=sys.stderr, flush=True)


def main() -> int:
    """The test; one JSON line of what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgetune-kills-") as temporary:
        folder = Path(temporary)
        proof = ResumeTest(tiny_run(folder), folder, tell, lambda: False, "numpy").prove(wanted.kills, wanted.seed)
    print(json.dumps({name: getattr(proof, name) for name in ("kills", "runs", "steps", "lost", "different", "seconds")}))
    for reason in proof.reasons:
        print(reason, file=sys.stderr)
    return 0 if proof.identical else 5


if __name__ == "__main__":
    sys.exit(main())
