"""Texts that grow on MLX: each next token's logits are NumPy's, and those of the whole text at once."""

from pathlib import Path

import numpy as np
import pytest
from random_model import tokens
from test_model_gradients import make

pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'edgetune[mlx-cpu]'")

from edgetune.architecture.generate import Generator, Memory
from edgetune.architecture.transformer import Model
from edgetune.backend.mlx_runner import MlxRunner
from edgetune.backend.numpy_runner import NumpyRunner
from edgetune.backend.ops import Row

pytestmark = pytest.mark.slow  # together

NAMES = [
    *("llama", "mistral-window", "qwen2-window", "qwen3", "smollm3", "granite", "phi3-window", "gemma2", "gemma3"),
    *("llama-dynamic", "llama-yarn-mscale", "phi3-longrope-partial"),
]


def both(name: str, folder: Path) -> tuple[Model, Generator, Generator]:
    """The model with an adapter, and its generators on NumPy and on MLX."""
    model, trained = make(name, "lora", np.float32, folder)
    return model, *(Generator(model, {}, new_ops=kind(trained, 1).cached_ops) for kind in (NumpyRunner, MlxRunner))


@pytest.mark.parametrize("name", NAMES)
def test_the_next_logits_are_numpys(name: str, tmp_path: Path) -> None:
    """A prompt at once, then token by token, then again from the middle."""
    _, on_numpy, on_mlx = both(name, tmp_path)
    ids, numpy, mlx = tokens(3, "text", 26, 61), on_numpy.new_ops(), on_mlx.new_ops()
    parts = [ids[:15], *([token] for token in ids[15:20]), ids[20:]]
    for part in parts:
        expected = on_numpy.next_logits(numpy, np.array(part, np.int32))
        assert np.abs(on_mlx.next_logits(mlx, np.array(part, np.int32)) - expected).max() < 1e-3 * np.abs(expected).max()
    assert mlx.position == mlx.length == len(ids)
    for ops in (numpy, mlx):
        ops.rewind(9)
    ours, others = (each.next_logits(ops, ids[9:12]) for each, ops in ((on_mlx, mlx), (on_numpy, numpy)))
    assert np.abs(ours - others).max() < 1e-3 * np.abs(others).max()


def test_what_is_learned_meanwhile_is_in_the_next_answer(tmp_path: Path) -> None:
    model, trained = make("llama", "lora", np.float32, tmp_path)
    runner, ids = MlxRunner(trained, 1), tokens(3, "text", 9, 61)
    generator = Generator(model, {}, new_ops=runner.cached_ops)
    before = generator.next_logits(generator.new_ops(), ids)
    runner.change({name: array * 1.5 for name, array in runner.parameters.items()})
    after = generator.next_logits(generator.new_ops(), ids)
    row = Row(ids, np.where(np.arange(9) == 8, 0, -1).astype(np.int32), ((0, 9),))
    from edgetune.training.loss import trained_logits

    assert np.abs(after - before).max() > 0.1
    assert np.abs(after - trained_logits(runner, model, row)[0]).max() < 1e-4


def test_a_conversation_that_goes_on_gives_the_same_tokens(tmp_path: Path) -> None:
    _, on_numpy, on_mlx = both("gemma2", tmp_path)
    ids, memories = tokens(3, "text", 12, 61).tolist(), (Memory(), Memory())
    for turn in (ids[:5], ids, ids[:3]):
        ours, others = (
            list(each.stream(turn, max_tokens=8, memory=memory))
            for each, memory in zip((on_mlx, on_numpy), memories, strict=True)
        )
        assert ours == others
