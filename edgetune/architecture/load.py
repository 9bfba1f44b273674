"""A model folder becomes a Model: names checked against shapes, norms and biases read, matrices left where they are.

For full training every weight is copied to float32 arrays instead, laid out so that joint layers lie behind each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetune.architecture.quantized_base import QuantizedBase
from edgetune.architecture.spec import ModelSpec, read_spec
from edgetune.architecture.transformer import Layer, Model
from edgetune.architecture.weights import WeightFolder
from edgetune.backend.numpy_weights import FrozenMatrix, Plain
from edgetune.backend.ops import Adapter, Joint, Linear, Norm, Place
from edgetune.backend.trained_rows import TrainedRows
from edgetune.errors import ModelError

Parameters = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from: a folder, float32 arrays by Hugging Face name, or the first overlaid by the second.

    Norms in the arrays are what the input is multiplied with, whatever the family stores.
    """

    spec: ModelSpec
    folder: WeightFolder | None = None
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=lambda: dict[str, NDArray[np.float32]]())
    packed: QuantizedBase | None = None  # gives the folder's matrices in fewer bits

    def matrix(self, name: str) -> FrozenMatrix:
        """A matrix of the folder, as it is kept in memory."""
        assert self.folder is not None
        return (self.packed or self.folder).matrix(name)


def load_model(folder: Path, places: Mapping[str, Place] | None = None) -> Model:
    """The model of a folder, its matrices frozen, with what is trained at the named modules.

    Raises:
        ModelError: config.json or the weights are absent or damaged, or do not belong together.
    """
    spec = read_spec(folder)
    weights = WeightFolder(folder)
    check_shapes(spec, weights, folder)
    return build_model(Source(spec, weights), places or {})


def check_shapes(spec: ModelSpec, weights: WeightFolder, folder: Path) -> None:
    """Every tensor that the spec names must be there, in its shape, and no layer may hold more: it would be left out.

    Raises:
        ModelError: one is missing, of another shape, or too many; vocabulary and embedding that disagree are named as such.
    """
    shapes = parameter_shapes(spec)
    for name, shape in shapes.items():
        info = weights.tensors.get(name)
        if info is None and any("language_model." in stored for stored in weights.tensors):
            message = "is a multimodal model: its text part lies under language_model"
            raise ModelError(message, file=folder, hint="take a text-only model of the family")
        if info is None:
            raise ModelError(f"has no tensor {name}", file=folder, hint="the weights do not belong to this config.json")
        if info.shape != shape:
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                message = f"config.json says {spec.vocab} tokens of {spec.dim}, {name} is {info.shape}"
                raise ModelError(message, file=folder, hint="the weights do not belong to this config.json")
            raise ModelError(f"{name} is {info.shape}, config.json says {shape}", file=folder, hint="get the model again")
    for name in sorted(weights.tensors.keys() - shapes.keys()):
        # Old checkpoints store the rotation's frequencies, which follow from config.json.
        if name.startswith("model.layers.") and ".rotary_emb." not in name:
            message = f"holds {name[:100]}, of which config.json does not know"
            raise ModelError(message, file=folder, hint="the weights do not belong to this config.json")


@lru_cache(maxsize=4)
def parameter_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model by its Hugging Face name, in the model's order."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab, spec.dim)}
    biased = {"q_proj": spec.qkv_bias, "k_proj": spec.qkv_bias, "v_proj": spec.qkv_bias, "o_proj": spec.output_bias}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if spec.post_norms:
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for layer in range(spec.layers):
        for kind in spec.linear_kinds:
            path, shape = spec.module_path(layer, kind), spec.linear_shape(kind)
            shapes[f"{path}.weight"] = shape
            if biased.get(kind, spec.mlp_bias):
                shapes[f"{path}.bias"] = shape[:1]
        for norm in norms:
            shapes[f"model.layers.{layer}.{norm}.weight"] = (spec.dim,)
        if spec.query_key_norm:
            for norm in ("q_norm", "k_norm"):
                shapes[f"model.layers.{layer}.self_attn.{norm}.weight"] = (spec.head_dim,)
    shapes["model.norm.weight"] = (spec.dim,)
    if not spec.tied:
        shapes["lm_head.weight"] = (spec.vocab, spec.dim)
    return shapes


def build_model(source: Source, places: Mapping[str, Place]) -> Model:
    """A Model over those weights. Layers before the first that anything is trained in, or before, are marked as frozen."""
    spec = source.spec
    embedding = linear(source, "model.embed_tokens", places)
    trained = ((path, place) for path, place in places.items() if path != "lm_head")
    first = min((int(path.split(".")[2]) if isinstance(place, Adapter) else 0 for path, place in trained), default=0)
    return Model(
        embedding=embedding,
        embedding_scale=spec.embedding_scale,
        layers=tuple(build_layer(source, layer, places) for layer in range(spec.layers)),
        final_norm=read_norm(source, "model.norm.weight")._replace(scale=spec.logit_scale),
        head=embedding if spec.tied else linear(source, "lm_head", places),
        logit_cap=spec.logit_cap,
        frozen_layers=first,
    )


def build_layer(source: Source, layer: int, places: Mapping[str, Place]) -> Layer:
    """One block."""
    spec, at = source.spec, f"model.layers.{layer}"
    qkv, output, gate_up, down = (
        joint(source, [linear(source, spec.module_path(layer, kind), places) for kind in kinds]) for kinds in spec.joints
    )
    # Where there are four norms, the one behind attention has the name that is elsewhere that of the one before the MLP.
    mlp_norm = "pre_feedforward_layernorm" if spec.post_norms else "post_attention_layernorm"
    behind = ("post_attention_layernorm", "post_feedforward_layernorm") if spec.post_norms else ()
    post_norms = [read_norm(source, f"{at}.{name}.weight") for name in behind] or [None, None]
    return Layer(
        query_key_value=qkv,
        output=output,
        gate_up=gate_up,
        down=down,
        shape=spec.head_shape(layer),
        window=spec.windows[layer],
        attention_cap=spec.attention_cap,
        activation=spec.activation,
        attention_norm=read_norm(source, f"{at}.input_layernorm.weight"),
        mlp_norm=read_norm(source, f"{at}.{mlp_norm}.weight"),
        attention_post_norm=post_norms[0],
        mlp_post_norm=post_norms[1],
        query_norm=read_norm(source, f"{at}.self_attn.q_norm.weight") if spec.query_key_norm else None,
        key_norm=read_norm(source, f"{at}.self_attn.k_norm.weight") if spec.query_key_norm else None,
        residual_scale=spec.residual_scale,
    )


def linear(source: Source, path: str, places: Mapping[str, Place]) -> Linear:
    """One linear layer, from the arrays where they have it, else from the folder."""
    weight, bias, place = f"{path}.weight", f"{path}.bias", places.get(path)
    adapter, rows = (None, place) if isinstance(place, TrainedRows) else (place, None)
    if weight in source.arrays:
        return Linear(path, Plain(source.arrays[weight]), source.arrays.get(bias), adapter, rows)
    assert source.folder is not None
    has_bias = bias in parameter_shapes(source.spec)
    return Linear(path, source.matrix(weight), source.folder.floats(bias) if has_bias else None, adapter, rows)


def joint(source: Source, parts: list[Linear]) -> Joint:
    """Layers as one; their weights' common base is the stack where `trained_copy` laid them behind each other."""
    owners = [array.base for part in parts if (array := source.arrays.get(f"{part.name}.weight")) is not None]
    stack = owners[0] if len(owners) == len(parts) and all(owner is owners[0] for owner in owners) else None
    height = sum(part.weight.shape[0] for part in parts)
    return Joint(tuple(parts), stack if stack is not None and stack.shape == (height, parts[0].weight.shape[1]) else None)


def read_norm(source: Source, name: str) -> Norm:
    """An RMS norm's weight, in float32: what the input is multiplied with."""
    if name in source.arrays:
        return Norm(name, source.arrays[name], source.spec.norm_eps)
    assert source.folder is not None
    return Norm(name, source.folder.floats(name) + offset_of(source.spec, name), source.spec.norm_eps)


def offset_of(spec: ModelSpec, name: str) -> np.float32:
    """What is added to a parameter as a folder stores it, and taken off again when it is stored."""
    return np.float32(spec.norm_offset if name.endswith("norm.weight") else 0)


def as_stored(spec: ModelSpec, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A parameter as a folder holds it, of one as `trained_copy` gives it."""
    offset = offset_of(spec, name)
    return array - offset if offset else array


def trained_copy(spec: ModelSpec, initial: WeightFolder | None, seed: int) -> Parameters:
    """Every parameter as a float32 array that training may change: copied from a folder, or drawn anew where there is none.

    Drawn weights are normal with deviation 0.02, those that write to the stream divided by sqrt(2 layers) (GPT-2's rule);
    norms are one and biases zero. Each depends on the seed and its place among the parameters alone.
    """
    parameters: Parameters = {}
    shapes = parameter_shapes(spec)
    for layer in range(spec.layers):
        for kinds in spec.joints:
            paths = [f"{spec.module_path(layer, kind)}.weight" for kind in kinds]
            stack = np.empty((sum(shapes[path][0] for path in paths), shapes[paths[0]][1]), np.float32)
            start = 0
            for path in paths:
                parameters[path] = stack[start : start + shapes[path][0]]
                start += shapes[path][0]
    for index, (name, shape) in enumerate(shapes.items()):
        array = parameters.setdefault(name, np.empty(shape, np.float32))
        if initial is not None:
            np.add(initial.floats(name), offset_of(spec, name), out=array)
        else:
            array[...] = drawn(
                name, shape, spec.layers, np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
            )
    return {name: parameters[name] for name in shapes}


def drawn(name: str, shape: tuple[int, ...], layers: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A new parameter."""
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    deviation = 0.02 / (np.sqrt(2 * layers) if name.endswith((".o_proj.weight", ".down_proj.weight")) else 1)
    return random.standard_normal(shape, np.float32) * np.float32(deviation)
