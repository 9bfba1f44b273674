"""What is trained: how many numbers, in which layers, of which kinds."""

from edgetune.config import AdapterConfig
from edgetune.planner.facts import ModelShape

FLOAT = 4  # bytes


def trained_parameters(shape: ModelShape, adapter: AdapterConfig) -> int:
    """How many numbers are trained: those of the factors, DoRA's magnitudes and rows of tokens, or all."""
    if adapter.method == "full":
        return shape.parameters
    shapes = [shape.linears[kind] for kind in trained_kinds(shape, adapter)]
    magnitudes = sum(outputs for outputs, _ in shapes) if adapter.method == "dora" else 0
    rows = len(adapter.train_tokens) * shape.dim * (1 if shape.tied else 2)
    return rows + adapted_layers(shape, adapter) * (magnitudes + sum(adapter.rank * (out + inputs) for out, inputs in shapes))


def adapted_layers(shape: ModelShape, adapter: AdapterConfig) -> int:
    """How many layers, from the last one down, learn."""
    return shape.layers if adapter.method == "full" or adapter.layers == "all" else min(adapter.layers, shape.layers)


def trained_layers(shape: ModelShape, adapter: AdapterConfig) -> int:
    """How many layers, from the last one down, a backward passes through: all where rows of the embedding are trained."""
    return shape.layers if adapter.train_tokens else adapted_layers(shape, adapter)


def trained_kinds(shape: ModelShape, adapter: AdapterConfig) -> set[str]:
    """The kinds of linear layers that have an adapter; all where every weight is trained."""
    return set(shape.linears) if adapter.method == "full" else {shape.names[target] for target in adapter.targets}
