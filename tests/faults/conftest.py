"""One short run that nothing disturbs, for all that is done to others to be compared with."""

import json
from pathlib import Path

import pytest

from tests.faults.forks import forked
from tests.faults.runs import weights

CONFIG = """model = "{model}"
[data]
train = ["rows.jsonl"]
valid = 0.2
max_tokens = 64
[adapter]
rank = 4
alpha = 8
dropout = 0.1
[training]
steps = 12
batch = 2
accumulate = 2
rate = 5e-3
[checks]
eval_every = 4
save_every = 3
keep = 2
"""


@pytest.fixture(scope="session")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of that run. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("config")
    lines = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} and {n + 1}."}]}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text(CONFIG.format(model=tiny_model))
    return folder / "run.toml"


@pytest.fixture(scope="session")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What it hands over."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert forked("train", config, "--run", run).code == 0
    return weights(run)
