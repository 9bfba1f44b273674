"""The run of the demo, and of the project that a first start opens on: the starter model and its support desk's rows."""

from pathlib import Path

from edgetune.config import AdapterConfig, ChecksConfig, DataConfig, RunConfig, TrainingConfig
from edgetune.hub.catalog import starter


def starter_config() -> RunConfig:
    """The demo's run by the starter's name, so that it holds wherever EdgeTune lies, with a prompt on the way."""
    config = demo_config(starter(), starter() / "demo")
    return RunConfig(
        model="starter",
        data=config.data,
        adapter=config.adapter,
        training=config.training,
        checks=ChecksConfig(eval_every=25, save_every=50, samples=["What is the Dewbell?"]),
    )


def demo_config(model: Path, rows: Path) -> RunConfig:
    """What a person would write for these rows."""
    return RunConfig(
        model=str(model),
        data=DataConfig(train=[str(rows / "train.jsonl")], valid=[str(rows / "valid.jsonl")], max_tokens=256),
        # So few rows are soon known by heart: dropout keeps what is learned from hanging on their very words.
        adapter=AdapterConfig(rank=16, alpha=32, dropout=0.3),
        training=TrainingConfig(epochs=14, batch=4, accumulate=1, rate=4e-3, warmup=0.05),
        checks=ChecksConfig(eval_every=25, save_every=50),
    )
