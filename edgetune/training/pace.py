"""How much work a step is, so that paces of steps with rows of other lengths can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgetune.architecture.transformer import Model
from edgetune.backend.ops import Row


@dataclass(frozen=True)
class Work:
    """Multiplications of a forward, which everything else of a step is in proportion to."""

    per_token: int  # the layers' matrices
    per_pair: int  # a query and a key, in all layers
    per_trained_token: int  # the head

    def of(self, rows: Sequence[Row]) -> float:
        """Of these rows; attention looks at half of each sequence's square."""
        tokens = sum(len(row.tokens) for row in rows)
        pairs = sum((stop - start) ** 2 / 2 for row in rows for start, stop in row.spans)
        trained = sum(row.trained_tokens for row in rows)
        return tokens * self.per_token + pairs * self.per_pair + trained * self.per_trained_token


def work_of(model: Model) -> Work:
    """What a model makes of tokens."""
    joints = [joint for layer in model.layers for joint in (layer.query_key_value, layer.output, layer.gate_up, layer.down)]
    matrices = sum(part.weight.shape[0] * part.weight.shape[1] for joint in joints for part in joint.parts)
    pairs = sum(2 * layer.shape.heads * layer.shape.head_dim for layer in model.layers)
    return Work(matrices, pairs, model.head.weight.shape[0] * model.head.weight.shape[1])
