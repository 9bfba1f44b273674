"""Whether this machine can train a model, before there are rows and a config: a usual run on rows of a usual length."""

from edgetune.architecture.spec import ModelSpec
from edgetune.config import DataConfig, RunConfig
from edgetune.hardware import memory_now, worker_count
from edgetune.planner.facts import Facts, RowGroup, shape_of
from edgetune.planner.memory import plan_memory

ROWS = 64  # of data.max_tokens tokens each


def usual_run(model: str) -> RunConfig:
    """A run with every key as it is by default."""
    return RunConfig(model=model, data=DataConfig(train=[]))


def memory_to_train(spec: ModelSpec, stored_bytes: int) -> dict[str, int]:
    """What a usual run of a model takes at least, in bytes by part; `stored_bytes` are those of its weights.

    At least: activations are made again, and nothing is kept folded. Where there is room a run takes more and is quicker.
    """
    config = usual_run("-")
    tokens = config.data.max_tokens
    rows = (RowGroup(tokens, ROWS, tokens * ROWS),)
    base = memory_now()
    facts = Facts(shape=shape_of(spec), rows=rows, workers=worker_count(), stored_bytes=stored_bytes, base_bytes=base)
    return plan_memory(facts, config).parts
