"""Rows on MLX: some at a time, laid end to end, forward and backward as one graph that is evaluated before the next begins.

Lengths are padded to one of eight in an octave, so that a run meets few shapes: what is compiled for each is found again.
On a CPU nothing is compiled: MLX would need a C++ compiler there. Everything touches MLX from the thread that made the
runner: what another one built cannot be evaluated.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetune.backend.mlx_adamw import MlxAdamW
from edgetune.backend.mlx_cache import MlxCachedOps
from edgetune.backend.mlx_ops import Array, Constants, Layout, MlxOps, mx
from edgetune.backend.mlx_team import MlxTeam
from edgetune.backend.ops import Row
from edgetune.backend.runner import Floats, Play
from edgetune.backend.sizes import padded
from edgetune.config import TrainingConfig

CACHE_BYTES = 1 << 31  # of buffers that MLX keeps to use them again: without a limit they grow through the night

Inputs = dict[str, Array]


class PaddedRows(NamedTuple):
    """Rows of one padded length as the transformer sees them, end to end. Padding has no target, and nothing attends to it."""

    tokens: Array  # (time,)
    spans: Layout
    kept: Array  # (kept,) positions that have a target; the last of them is repeated as padding
    kept_targets: Array  # (kept,) and -1 for the padding


def has_gpu() -> bool:
    """Whether MLX computes on Metal or CUDA here."""
    return bool(mx.default_device() == mx.gpu)


class MlxRunner:
    """Plays `together` rows at a time, shared out among a team. `parameters` are the trained arrays; MLX has its own.

    `trained` copies those back.
    """

    def __init__(
        self,
        parameters: Mapping[str, NDArray[np.float32]],
        together: int = 1,
        compiled: bool | None = None,
    ):
        self.arrays, self.together = parameters, together
        self.constants, self.team = Constants(), MlxTeam()
        self.compile: Callable[[Any], Any] = mx.compile if (has_gpu() if compiled is None else compiled) else lambda f: f
        self.functions: dict[tuple[Play, bool], Callable[..., Any]] = {}
        self.parameters: dict[str, Array] = {}
        self.are_same = False
        mx.set_cache_limit(CACHE_BYTES)
        self.reload()

    def loss_and_gradients(
        self, loss: Play, rows: Sequence[Row], seed: int = 0, step: int = 0
    ) -> tuple[float, dict[str, Array]]:
        """The mean loss over the trained tokens of all rows, in nats, and its gradient by each trained array."""
        learn = self.function(loss, learning=True)
        weight = mx.array(1 / sum(row.trained_tokens for row in rows))
        sums = {name: mx.zeros_like(array) for name, array in self.parameters.items()}
        total = 0.0
        for start in range(0, len(rows), self.together)[self.team.rank :: self.team.size]:
            inputs = joined(rows[start : start + self.together]) | {"dropout_key": dropout_key(seed, step, start)}
            part, sums = learn(self.parameters, sums, inputs, weight)
            mx.eval(part, sums)  # the activations of these rows are gone before the next ones come
            total += part.item()
        return self.team.sums(total, sums)

    def compute(self, play: Play, rows: Sequence[Row]) -> list[Floats]:
        """What `play` gives of every row, one after the other, without the padding; in a team, of the first process."""
        function = self.function(play, learning=False)
        results: list[Floats] = []
        for row in rows:
            value = np.array(function(self.parameters, joined([row])))
            value = value[: row.trained_tokens] if value.ndim else value
            results.append(self.team.arrays({"value": value})["value"])
        return results

    def function(self, play: Play, learning: bool) -> Callable[..., Any]:
        """What is evaluated of some rows, compiled where that pays."""
        key = play, learning
        if key not in self.functions:
            self.functions[key] = self.compile(partial(self.learn if learning else self.play, play))
        return self.functions[key]

    def play(self, play: Play, parameters: Mapping[str, Array], inputs: Inputs) -> Array:
        """`play` of some rows."""
        ops = MlxOps(parameters, self.constants, inputs.get("dropout_key"))
        layout = Layout(inputs["positions"], inputs["lengths"], inputs.get("sequences"))
        return play(ops, PaddedRows(inputs["tokens"].flatten(), layout, inputs["kept"], inputs["targets"]))

    def learn(
        self, loss: Play, parameters: dict[str, Array], sums: dict[str, Array], inputs: Inputs, weight: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The weighted loss of some rows, and its gradients added to `sums`."""

        def weighted(parameters: dict[str, Array]) -> Array:
            return self.play(loss, parameters, inputs) * weight

        value, gradients = mx.value_and_grad(weighted)(parameters)
        return value, {name: sums[name] + gradient for name, gradient in gradients.items()}

    # ---- the trained arrays ------------------------------------------------------------------------------------------

    def optimizer(self, config: TrainingConfig, ratios: Mapping[str, float]) -> MlxAdamW:
        """AdamW on MLX's arrays."""
        return MlxAdamW(self, config, ratios)

    def change(self, parameters: dict[str, Array]) -> None:
        """Takes new trained arrays."""
        self.parameters, self.are_same = parameters, False

    def trained(self) -> Mapping[str, NDArray[np.float32]]:
        """The trained arrays, copied back where they have changed. MLX's spare buffers are given back on the way."""
        if not self.are_same:
            for name, array in self.arrays.items():
                array[...] = np.array(self.parameters[name])
            self.are_same = True
            mx.clear_cache()
        return self.arrays

    def reload(self) -> None:
        """Takes what the NumPy arrays hold."""
        self.parameters, self.are_same = {name: mx.array(array) for name, array in self.arrays.items()}, True

    def cached_ops(self) -> MlxCachedOps:
        """Ops for one text that grows."""
        return MlxCachedOps(self.parameters, self.constants)

    def peak_memory(self) -> int:
        """The most bytes in MLX's arrays at once."""
        return int(mx.get_peak_memory())


def joined(rows: Sequence[Row]) -> Inputs:
    """Rows padded to one length, as arrays of (rows, length) and of (kept,)."""
    length = padded(max(len(row.tokens) for row in rows))
    tokens, positions, lengths, sequences = (np.zeros((len(rows), length), np.int32) for _ in range(4))
    lengths += length
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = row.tokens
        positions[index] = np.arange(length)
        sequences[index] = len(row.spans)
        for number, (start, stop) in enumerate(row.spans):
            positions[index, start:stop] = np.arange(stop - start)
            lengths[index, start:stop], sequences[index, start:stop] = stop - start, number
    kept = np.concatenate([index * length + row.kept for index, row in enumerate(rows)])
    targets = np.concatenate([row.kept_targets for row in rows])
    room = padded(len(kept)) - len(kept)
    inputs = {
        "tokens": tokens,
        "positions": positions,
        "lengths": lengths,
        "kept": np.concatenate([kept, np.repeat(kept[-1:], room)]).astype(np.int32),
        "targets": np.concatenate([targets, np.full(room, -1)]).astype(np.int32),
    }
    if any(len(row.spans) > 1 for row in rows):
        inputs["sequences"] = sequences
    return {name: mx.array(array) for name, array in inputs.items()}


def dropout_key(seed: int, step: int, row: int) -> Array:
    """(2,) random numbers that follow from the seed, the step and the first of the rows that go through together."""
    digest = hashlib.blake2b(f"{seed} {step} {row}".encode(), digest_size=8).digest()
    return mx.array(np.frombuffer(digest, "<u4"))
