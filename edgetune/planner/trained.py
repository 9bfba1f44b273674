"""What is trained: how many numbers, in which layers, of which kinds."""

from edgetune.config import AdapterConfig
from edgetune.planner.facts import ModelShape

FLOAT = 4  # bytes


def trained_parameters(shape: ModelShape, adapter: AdapterConfig) -> int:
    """How many numbers are trained: those of the factors, and DoRA's magnitudes, or all."""
    if adapter.method == "full":
        return shape.parameters
    shapes = [shape.linears[kind] for kind in trained_kinds(shape, adapter)]
    magnitudes = sum(outputs for outputs, _ in shapes) if adapter.method == "dora" else 0
    return trained_layers(shape, adapter) * (magnitudes + sum(adapter.rank * (out + inputs) for out, inputs in shapes))


def trained_layers(shape: ModelShape, adapter: AdapterConfig) -> int:
    """How many layers, from the last one down, a backward passes through."""
    return shape.layers if adapter.method == "full" or adapter.layers == "all" else min(adapter.layers, shape.layers)


def trained_kinds(shape: ModelShape, adapter: AdapterConfig) -> set[str]:
    """The kinds of linear layers that have an adapter; all where every weight is trained."""
    return set(shape.linears) if adapter.method == "full" else {shape.names[target] for target in adapter.targets}
