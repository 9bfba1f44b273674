"""Linear layers and their adapters on NumPy: LoRA folded into the weight, DoRA, dropout, and what is learned of each."""

from collections.abc import Iterator
from zlib import crc32

import numpy as np

from edgetune.backend.dora import magnitude_gradient, row_lengths
from edgetune.backend.numpy_stream import StreamOps, blocks
from edgetune.backend.numpy_tape import Floats, Value
from edgetune.backend.ops import Adapter, Joint, Linear, Norm
from edgetune.backend.sizes import BLOCK


class LinearOps(StreamOps):
    """The linear layers of a worker's ops."""

    def project(self, x: Value, joint: Joint, norm: Norm | None = None) -> Value:
        """The joint layers of norm(x). The normed input is made again in the backward, as x is kept anyway."""
        h, _ = self.normed(x.data, norm)
        y = h @ self.weight(joint).T
        for part, outputs in outputs_of(joint):
            if part.bias is not None:
                y[:, outputs] += part.bias
            if part.adapter is not None and self.drops(part.adapter):
                y[:, outputs] += self.updated(self.dropped(h, part), part)
        kept = y if any(self.folds(part) and self.is_dora(part) for part in joint.parts) else None

        def backward(d: Floats) -> tuple[Floats | None]:
            h, back = self.normed(x.data, norm)
            self.learn(joint, h, d, kept)
            if not x.wanted and norm is None:
                return (None,)
            dh = d @ self.weight(joint)
            for part, outputs in outputs_of(joint):
                if part.adapter is not None and self.drops(part.adapter):
                    dh += self.updated_back(d[:, outputs], part) * self.dropout_mask(h, part)
            return (back(dh),)

        return self.record(y, [x], backward)

    def weight(self, joint: Joint) -> Floats:
        """(outputs, inputs): W + scale B A. Folded in, adapters cost the products of y and dx nothing."""
        if not any(self.folds(part) for part in joint.parts):
            if joint.stacked is not None:
                return joint.stacked
            if len(joint.parts) == 1 and (floats := joint.parts[0].weight.view) is not None:
                return floats
        if self.folded is not None:
            return self.folded.get(joint.parts[0].name, lambda before: self.fold(joint, before))
        return self.fold(joint, None)

    def fold(self, joint: Joint, before: Floats | None) -> Floats:
        """(outputs, inputs) as floats, block by block, in the array that it was in before or in a new one."""
        height = sum(part.weight.shape[0] for part in joint.parts)
        weight = np.empty((height, joint.parts[0].weight.shape[1]), self.dtype) if before is None else before
        for part, outputs in outputs_of(joint):
            own = weight[outputs]
            for rows in blocks(len(own), BLOCK):
                if self.folds(part):
                    self.fill_adapted(part, rows, own[rows])
                else:
                    part.weight.fill(rows, own[rows])
        return weight

    def folds(self, part: Linear) -> bool:
        """Whether this layer's adapter goes into its weight."""
        return part.adapter is not None and not self.drops(part.adapter)

    def fill_adapted(self, part: Linear, rows: slice, out: Floats) -> None:
        """Writes those rows of a layer's weight, its adapter folded in, to `out`."""
        self.fill_updated(part, rows, out)
        if self.is_dora(part):
            out *= (self.magnitude(part)[rows] / row_lengths(out))[:, None]

    def fill_updated(self, part: Linear, rows: slice, out: Floats) -> None:
        """Writes those rows of W + scale B A to `out`."""
        assert part.adapter is not None
        a, b = self.factors(part)
        part.weight.fill(rows, out)
        out += part.adapter.scale * b[rows] @ a

    def updated(self, h: Floats, part: Linear) -> Floats:
        """(time, inputs) -> (time, outputs): what an adapter adds that is not folded in."""
        assert part.adapter is not None
        if part.adapter.dora:
            return h @ self.change(part).T
        a, b = self.factors(part)
        return h @ a.T @ (part.adapter.scale * b).T

    def updated_back(self, d: Floats, part: Linear) -> Floats:
        """The gradient by the input of `updated`."""
        assert part.adapter is not None
        if part.adapter.dora:
            return d @ self.change(part)
        a, b = self.factors(part)
        return d @ (part.adapter.scale * b) @ a

    def learn(self, joint: Joint, h: Floats, d: Floats, y: Floats | None) -> None:
        """Adds up the gradients of what is trained in these layers, from their input h and their output's gradient d.

        y += scale h A.T B.T has the gradients scale (d B).T h by A, and scale d.T (h A.T) by B. DoRA also needs what came
        out, y, where its adapter was folded in.
        """
        for part, outputs in outputs_of(joint):
            own = d[:, outputs]
            if part.adapter is not None:
                a, b = self.factors(part)
                seen = self.dropped(h, part) if self.drops(part.adapter) else h
                direct = self.learn_magnitude(part, seen, own, y if y is None else y[:, outputs])
                self.gradients[f"{part.name}.lora_A"] += part.adapter.scale * ((direct @ b).T @ seen)
                self.gradients[f"{part.name}.lora_B"] += part.adapter.scale * (direct.T @ (seen @ a.T))
            if f"{part.name}.weight" in self.gradients:
                self.gradients[f"{part.name}.weight"] += own.T @ h
            if f"{part.name}.bias" in self.gradients:
                self.gradients[f"{part.name}.bias"] += own.sum(0)

    def factors(self, part: Linear) -> tuple[Floats, Floats]:
        """A (rank, inputs) and B (outputs, rank)."""
        return self.parameters[f"{part.name}.lora_A"], self.parameters[f"{part.name}.lora_B"]

    # ---- DoRA --------------------------------------------------------------------------------------------------------

    def is_dora(self, part: Linear) -> bool:
        """Whether the rows of this layer's adapted weight have lengths that are trained."""
        return part.adapter is not None and part.adapter.dora

    def magnitude(self, part: Linear) -> Floats:
        """(outputs,): those lengths."""
        return self.parameters[f"{part.name}.lora_magnitude_vector"]

    def gain(self, part: Linear) -> Floats:
        """(outputs,): what each row of W + scale B A is multiplied with; shared as weights are."""
        if self.folded is not None:
            return self.folded.get(f"{part.name}.gain", lambda before: self.new_gain(part))
        return self.new_gain(part)

    def new_gain(self, part: Linear) -> Floats:
        """The magnitude by the rows' lengths, for which the adapted weight is made once more, a block at a time."""
        gain, scratch = self.magnitude(part).copy(), np.empty((BLOCK, part.weight.shape[1]), self.dtype)
        for rows in blocks(len(gain), BLOCK):
            own = scratch[: rows.stop - rows.start]
            self.fill_updated(part, rows, own)
            gain[rows] /= row_lengths(own)
        return gain

    def learn_magnitude(self, part: Linear, seen: Floats, d: Floats, y: Floats | None) -> Floats:
        """Adds up the magnitude's gradient; gives the gradient of h (W + scale B A).T, from which A and B learn.

        Where dropout keeps the adapter from being folded in, y is made here: W' of what the adapter has seen.
        """
        if not self.is_dora(part):
            return d
        bias = part.bias
        if not self.folds(part):
            y, bias, scratch = np.empty_like(d), None, np.empty((BLOCK, seen.shape[1]), self.dtype)
            for rows in blocks(d.shape[1], BLOCK):
                own = scratch[: rows.stop - rows.start]
                self.fill_adapted(part, rows, own)
                y[:, rows] = seen @ own.T
        assert y is not None
        self.gradients[f"{part.name}.lora_magnitude_vector"] += magnitude_gradient(y, d, bias, self.magnitude(part))
        return d * self.gain(part)

    def change(self, part: Linear) -> Floats:
        """(outputs, inputs): W' - W. PEFT's rule for dropout: the base sees the whole input, this what is left of it."""
        change = np.empty(part.weight.shape, self.dtype)
        for rows in blocks(len(change), BLOCK):
            self.fill_adapted(part, rows, change[rows])
            change[rows] -= part.weight.read(rows)
        return change

    # ---- dropout -----------------------------------------------------------------------------------------------------

    def drops(self, adapter: Adapter) -> bool:
        """Whether dropout is at work: then the adapter cannot be folded into the weight."""
        return adapter.dropout > 0 and self.learning

    def dropped(self, h: Floats, part: Linear) -> Floats:
        """The adapter's input with some entries left out and the others raised to make up for them."""
        return h * self.dropout_mask(h, part)

    def dropout_mask(self, h: Floats, part: Linear) -> Floats:
        """0 or 1 / (1 - dropout) for each entry of h, from the key and the layer's name alone (arXiv:1207.0580)."""
        assert part.adapter is not None
        key = np.array([self.dropout_key.seed, self.dropout_key.step << 32 | self.dropout_key.row], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=crc32(part.name.encode()) << 64))
        kept = random.random(h.shape, np.float32) >= part.adapter.dropout
        return kept * self.dtype(1 / (1 - part.adapter.dropout))


def outputs_of(joint: Joint) -> Iterator[tuple[Linear, slice]]:
    """Each layer of a joint one, and where its outputs lie."""
    start = 0
    for part in joint.parts:
        stop = start + part.weight.shape[0]
        yield part, slice(start, stop)
        start = stop
