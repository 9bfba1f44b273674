"""Every op's hand-written backward against central differences, in float64, in tiles so small that each has several."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from random_model import tokens, uniform

from edgetune.backend import numpy_attention, numpy_linear, numpy_loss, numpy_ops
from edgetune.backend.dora import row_lengths
from edgetune.backend.numpy_ops import NumpyOps
from edgetune.backend.numpy_stream import DropoutKey
from edgetune.backend.numpy_tape import Value
from edgetune.backend.numpy_weights import Plain
from edgetune.backend.ops import Adapter, HeadShape, Joint, Linear, Norm
from edgetune.backend.rope import Rope

TIME, DIM, VOCAB = 11, 6, 23
pytestmark = pytest.mark.slow  # together

SPANS = ((0, 7), (7, 8), (8, 11))
STEP = 1e-6
Arrays = dict[str, np.ndarray]
Play = Callable[[NumpyOps, list[Value]], Sequence[Value]]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_attention, "QUERIES", 3)
    monkeypatch.setattr(numpy_loss, "VOCABULARY", 5)
    for module in (numpy_ops, numpy_linear):
        monkeypatch.setattr(module, "BLOCK", 4)


def draw(name: str, *shape: int, mean: float = 0.0) -> np.ndarray:
    """Random float64 numbers that depend on the name alone."""
    return mean + uniform(5, name, shape).astype(np.float64)


def check(play: Play, inputs: Sequence[np.ndarray], parameters: Arrays | None = None, step: int = 0) -> None:
    """The gradients of a random combination of all outputs by every entry of every input and trained array."""
    parameters = parameters or {}
    ops = NumpyOps(parameters, np.float64)
    ops.dropout_key = DropoutKey(3, step, 1)

    def outcome(keep_tape: bool) -> tuple[float, list[Value], Sequence[Value]]:
        values = [Value(array) for array in inputs]
        outputs = play(ops, values)
        if not keep_tape:
            ops.tape.entries.clear()
        return sum(float(np.sum(y.data * weight(i, y.data))) for i, y in enumerate(outputs)), values, outputs

    _, values, outputs = outcome(keep_tape=True)
    for i, y in enumerate(outputs):
        y.gradient.array = weight(i, y.data)
    ops.tape.play_back()
    analytic = [value.gradient.array for value in values] + [ops.gradients[name] for name in parameters]
    for array, gradient in zip([*inputs, *parameters.values()], analytic, strict=True):
        assert gradient is not None and gradient.shape == array.shape
        measured = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            before = array[at]
            array[at] = before + STEP
            above = outcome(keep_tape=False)[0]
            array[at] = before - STEP
            measured[at] = (above - outcome(keep_tape=False)[0]) / (2 * STEP)
            array[at] = before
        np.testing.assert_allclose(gradient, measured, rtol=1e-6, atol=1e-7 * max(1, np.abs(measured).max()))


def weight(index: int, data: np.ndarray | float) -> np.ndarray | float:
    """How much each entry of an output counts. A scalar counts as it is: the loss op asks for a number."""
    return draw(f"weight {index}", *np.shape(data)) if np.ndim(data) else 0.7


def linear(name: str, outputs: int, inputs: int, bias: bool = False, adapter: Adapter | None = None) -> Linear:
    """A linear layer of random weights."""
    matrix = Plain(draw(f"{name}.weight", outputs, inputs))
    return Linear(name, matrix, draw(f"{name}.bias", outputs) if bias else None, adapter)


def factors(*layers: Linear, rank: int = 2) -> Arrays:
    """The trained arrays of those layers' adapters."""
    arrays: Arrays = {}
    for layer in layers:
        outputs, inputs = layer.weight.shape
        arrays[f"{layer.name}.lora_A"] = draw(f"{layer.name}.lora_A", rank, inputs)
        arrays[f"{layer.name}.lora_B"] = draw(f"{layer.name}.lora_B", outputs, rank)
    return arrays


def norm(name: str, size: int) -> Norm:
    return Norm(f"{name}.weight", draw(f"{name}.weight", size, mean=1.5), 1e-2)


def trained(*parts: Norm | Linear) -> Arrays:
    """The weights and biases of these layers, as trained arrays."""
    arrays: Arrays = {}
    for part in parts:
        if isinstance(part, Norm):
            arrays[part.name] = part.weight
        else:
            arrays[f"{part.name}.weight"] = part.weight.weight
            if part.bias is not None:
                arrays[f"{part.name}.bias"] = part.bias
    return arrays


def test_embed() -> None:
    table = linear("table", VOCAB, DIM)
    ids = np.array([3, 3, 22, 0, 3], np.int32)
    check(lambda ops, _: [ops.embed(table, ids, 1.7)], [], trained(table))


@pytest.mark.parametrize("normed", [False, True])
def test_project_frozen(normed: bool) -> None:
    joint = Joint((linear("a", 5, DIM, bias=True), linear("b", 3, DIM)))
    check(lambda ops, x: [ops.project(x[0], joint, norm("n", DIM) if normed else None)], [draw("x", TIME, DIM)])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("normed", [False, True])
def test_project_adapted(normed: bool, dropout: float) -> None:
    """Two of three layers carry an adapter, of different scales."""
    a, b = (
        linear("a", 5, DIM, bias=True, adapter=Adapter(0.5, dropout)),
        linear("b", 6, DIM, adapter=Adapter(2.0, dropout)),
    )
    joint = Joint((a, linear("c", 2, DIM), b))
    check(
        lambda ops, x: [ops.project(x[0], joint, norm("n", DIM) if normed else None)],
        [draw("x", TIME, DIM)],
        factors(a, b),
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("normed", [False, True])
def test_project_dora(normed: bool, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """DoRA, LoRA and no adapter side by side. The lengths of rows are constants in the backward, so here they stay as they are."""
    a, b = (
        linear("a", 5, DIM, bias=True, adapter=Adapter(0.5, dropout, dora=True)),
        linear("b", 6, DIM, adapter=Adapter(2.0, dropout)),
    )
    joint, parameters = Joint((a, linear("c", 2, DIM), b)), factors(a, b)
    parameters["a.lora_magnitude_vector"] = draw("a.lora_magnitude_vector", 5, mean=1.5)
    fixed = row_lengths(a.weight.read(slice(None)) + 0.5 * parameters["a.lora_B"] @ parameters["a.lora_A"])
    monkeypatch.setattr(numpy_linear, "row_lengths", lambda rows: fixed[:4] if len(rows) == 4 else fixed[4:])  # in blocks of 4
    check(lambda ops, x: [ops.project(x[0], joint, norm("n", DIM) if normed else None)], [draw("x", TIME, DIM)], parameters)


def test_project_trained() -> None:
    a, b, n = linear("a", 5, DIM, bias=True), linear("b", 3, DIM), norm("n", DIM)
    check(lambda ops, x: [ops.project(x[0], Joint((a, b)), n)], [draw("x", TIME, DIM)], trained(a, b, n))


def test_project_trained_where_the_weights_lie_behind_each_other() -> None:
    stack = draw("stack", 8, DIM)
    a, b = Linear("a", Plain(stack[:5])), Linear("b", Plain(stack[5:]))
    joint = Joint((a, b), stacked=stack)
    check(lambda ops, x: [ops.project(x[0], joint)], [draw("x", TIME, DIM)], trained(a, b))


ROPES = {
    "plain": Rope(4),
    "none": None,
    "partial": Rope(2),
    "yarn": Rope(4, 100.0, "yarn", 4.0, original_positions=8, scale=1.2),
}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("normed", ["no", "each head", "all heads"])
def test_heads(rope: str, normed: str) -> None:
    shape = HeadShape(heads=4, kv_heads=2, head_dim=4, query_scale=0.3, rope=ROPES[rope])
    norms = {"no": (None, None), "each head": (norm("q", 4), norm("k", 4)), "all heads": (norm("q", 16), norm("k", 8))}[normed]
    parameters = {} if norms[0] is None else trained(*norms)
    check(lambda ops, x: ops.heads(x[0], shape, *norms, SPANS), [draw("qkv", TIME, 32)], parameters)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("window", [None, 1, 2, 5])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_attention(group: int, window: int | None, cap: float | None) -> None:
    q, k, v = draw("q", 2, TIME, group, 4), draw("k", 2, TIME, 4), draw("v", 2, TIME, 4)
    check(lambda ops, x: [ops.attention(x[0], x[1], x[2], SPANS, window, cap)], [q, k, v])


@pytest.mark.parametrize("window", [None, 1, 2, 5])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_attention_is_what_its_definition_says(window: int | None, cap: float | None, scale: float) -> None:
    """Softmax over the seen keys of the own span, also where scores are far beyond what exp can take."""
    q, k, v = scale * draw("q", 2, TIME, 3, 4), draw("k", 2, TIME, 4), draw("v", 2, TIME, 4)
    mixed = NumpyOps({}, np.float64).attention(Value(q), Value(k), Value(v), SPANS, window, cap).data.reshape(TIME, 2, 3, 4)
    for start, stop in SPANS:
        for t in range(start, stop):
            first = start if window is None else max(start, t + 1 - window)
            s = np.einsum("kge,kte->kgt", q[:, t], k[:, first : t + 1])
            s = s if cap is None else cap * np.tanh(s / cap)
            p = np.exp(s - s.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            np.testing.assert_allclose(mixed[t], np.einsum("kgt,kte->kge", p, v[:, first : t + 1]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", numpy_ops.ACTIVATIONS)
def test_gated(activation: str) -> None:
    check(lambda ops, x: [ops.gated(x[0], activation)], [2 * draw("gate_up", TIME, 10)])


def test_add() -> None:
    n = norm("n", DIM)
    inputs = [draw("x", TIME, DIM), draw("y", TIME, DIM)]
    check(lambda ops, x: [ops.add(x[0], x[1])], inputs)
    check(lambda ops, x: [ops.add(x[0], x[1], n)], inputs, trained(n))


def test_keep() -> None:
    check(lambda ops, x: [ops.keep(x[0], np.array([0, 4, 10]))], [draw("x", TIME, DIM)])


def test_a_value_used_twice_gets_both_gradients() -> None:
    def play(ops: NumpyOps, x: list[Value]) -> list[Value]:
        y = ops.gated(x[0], "silu")
        return [ops.add(y, ops.project(y, Joint((linear("a", DIM, DIM),)))), y]

    check(play, [draw("x", TIME, 2 * DIM)])


@pytest.mark.parametrize("trains", ["nothing", "norm", "head", "both"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_loss(trains: str, cap: float | None) -> None:
    head, n = linear("head", VOCAB, DIM), norm("n", DIM)
    targets = tokens(5, "targets", TIME, VOCAB)
    parameters = {"nothing": {}, "norm": trained(n), "head": trained(head), "both": trained(n, head)}[trains]
    check(lambda ops, x: [ops.loss(x[0], n, head, targets, cap)], [draw("x", TIME, DIM)], parameters)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_loss_log_probabilities_and_logits_say_the_same(cap: float | None, scale: float) -> None:
    head, n = Linear("head", Plain(scale * draw("head", VOCAB, DIM))), norm("n", DIM)
    targets, x, ops = tokens(5, "targets", TIME, VOCAB), Value(draw("x", TIME, DIM)), NumpyOps({}, np.float64)
    logits = ops.logits(x, n, head, cap)
    expected = logits - logits.max(-1, keepdims=True)
    expected = (expected - np.log(np.exp(expected).sum(-1, keepdims=True)))[np.arange(TIME), targets]
    np.testing.assert_allclose(ops.log_probabilities(x, n, head, targets, cap), expected, rtol=1e-9, atol=1e-9)
    assert ops.loss(x, n, head, targets, cap).data == pytest.approx(-expected.sum(), rel=1e-9)


def test_recompute_and_frozen() -> None:
    a, b = linear("a", DIM, DIM, adapter=Adapter(0.5, 0.3)), linear("b", DIM, DIM)

    def block(ops: NumpyOps, x: Value) -> Value:
        return ops.add(x, ops.project(x, Joint((a,)), norm("n", DIM)))

    check(lambda ops, x: [ops.recompute(block, ops.project(x[0], Joint((b,))))], [draw("x", TIME, DIM)], factors(a))

    ops = NumpyOps(factors(a), np.float64)
    y = ops.frozen(block, Value(draw("x", TIME, DIM)))
    assert not y.wanted and not ops.tape.entries


def test_dropout_is_a_function_of_seed_step_row_and_layer() -> None:
    a, b = linear("a", 5, DIM, adapter=Adapter(1.0, 0.5)), linear("b", 5, DIM, adapter=Adapter(1.0, 0.5))
    x, ops = np.ones((200, DIM)), NumpyOps(factors(a, b), np.float64)
    ops.dropout_key = key = DropoutKey(1, 2, 3)
    masks = [ops.dropout_mask(x, a), ops.dropout_mask(x, b)]
    for other in (key._replace(seed=2), key._replace(step=3), key._replace(row=4)):
        ops.dropout_key = other
        masks.append(ops.dropout_mask(x, a))
    assert len({mask.tobytes() for mask in masks}) == 5
    assert all(set(np.unique(mask)) == {0.0, 2.0} and 0.4 < (mask > 0).mean() < 0.6 for mask in masks)
    again = NumpyOps(factors(a, b), np.float64)
    again.dropout_key = key
    assert np.array_equal(again.dropout_mask(x, a), masks[0])


def test_without_learning_nothing_is_dropped_and_nothing_recorded() -> None:
    a = linear("a", 5, DIM, adapter=Adapter(0.5, 0.5))
    parameters, x = factors(a), draw("x", TIME, DIM)
    ops = NumpyOps(parameters, np.float64)
    ops.learning = False
    y = ops.project(Value(x), Joint((a,))).data
    update = 0.5 * parameters["a.lora_B"] @ parameters["a.lora_A"]
    np.testing.assert_allclose(y, x @ (a.weight.weight + update).T, rtol=1e-12)
    assert not ops.tape.entries
