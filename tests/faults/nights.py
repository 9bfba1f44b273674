"""Where simulated nights are spent: a tiny model, rows of one length, a machine that does what a test says."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_model import write_model

from edgetune.config import convert
from edgetune.events import Event, StepFinished, read
from edgetune.training import session
from edgetune.training.session import Resources, prepare
from tests.faults.fake_machine import FakeMachine, Killed, kind_of

STEPS = 60
MODEL: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
HOUR, DAY = 3600.0, 86400.0


@dataclass
class Night:
    """Where nights are spent: a tiny model, rows of one length, a run folder of its own."""

    base: Path
    rows: Path
    place: Path
    machine: FakeMachine = field(default_factory=FakeMachine)
    events: list[Event] = field(default_factory=lambda: list[Event]())
    kill_at: int = 0
    stop_at: int = 0

    @property
    def run(self) -> Path:
        return self.place / "run"

    def config(self, **night: Any) -> dict[str, Any]:
        return {
            "model": str(self.base),
            "data": {"train": [str(self.rows)], "valid": 0.25, "max_tokens": 16, "packing": False},
            "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1},
            "training": {"steps": STEPS, "batch": 2, "accumulate": 1, "rate": 1e-2, "warmup": 0.0},
            "checks": {"eval_every": 20, "save_every": 7},
            "night": night,
        }

    def hear(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepFinished) and event.step == self.kill_at:
            self.kill_at = 0
            raise Killed

    def should_stop(self) -> bool:
        steps = self.of(StepFinished)
        return bool(self.stop_at and steps and steps[-1].step >= self.stop_at)

    def spend(self, **night: Any) -> "Night":
        """Begins the run, or goes on with it."""
        if (self.run / "run.toml").exists():
            prepared = prepare(session.read_run_config(self.run), self.base)
            session.resume(self.run, prepared, Resources(2), self.hear, self.should_stop, sensors=self.machine.sensors())
        else:
            prepared = prepare(convert(self.config(**night)), self.base)
            session.train(prepared, self.run, Resources(2), self.hear, self.should_stop, self.machine.sensors())
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return kind_of(self.events, kind)

    @property
    def adapter(self) -> bytes:
        assert list(read(self.run / "events.jsonl")) == self.events  # nothing is lost on the way to the disk
        return (self.run / "adapter" / "adapter_model.safetensors").read_bytes()


def write_place(folder: Path) -> tuple[Path, Path]:
    """The model and the rows."""
    write_model(folder / "base", MODEL, 9)
    lines = [{"input_ids": [(start + at) % 40 for at in range(9)], "loss_mask": [0] * 4 + [1] * 5} for start in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "base", folder / "rows.jsonl"
