"""Quantised weights are what MLX makes of them: codes, scales and biases bit for bit, and the floats that come back.

What MLX computed is stored (tests/parity/make_mlx_quantized_fixtures.py).
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from random_model import awkward_rows

from edgetune.architecture.weights import stored_as
from edgetune.backend.numpy_weights import Quantized, as_floats
from edgetune.backend.quantized import E2M1, E4M3, E8M0, PACKINGS, Packing, pack, quantize, unpack

MLX = np.load(Path(__file__).parents[2] / "parity" / "fixtures" / "mlx-quantized.npz")
SEED, INPUTS = 5, 128
CASES = sorted({name.rsplit(" ", 1)[0] for name in MLX.files})


def packing_of(case: str) -> tuple[Packing, str]:
    mode, bits, group, dtype = case.split(" ")
    return Packing(mode, int(bits), int(group)), dtype  # pyright: ignore[reportArgumentType]


def by_mlx(case: str) -> Quantized:
    names = [f"{case} {part}" for part in ("codes", "scales", "biases")]
    return Quantized(packing_of(case)[0], *(MLX[name] for name in names if name in MLX.files))


def test_the_fixture_holds_every_packing() -> None:
    assert {packing_of(case)[0] for case in CASES} == {packing for packings in PACKINGS.values() for packing in packings}


@pytest.mark.parametrize("case", CASES)
def test_what_mlx_packed_is_read_as_mlx_reads_it(case: str) -> None:
    matrix, floats = by_mlx(case), MLX[f"{case} floats"]
    assert matrix.shape == floats.shape == (8, INPUTS)
    np.testing.assert_array_equal(matrix.read(slice(None)), floats)
    np.testing.assert_array_equal(matrix.read(np.array([5, 0, 5])), floats[[5, 0, 5]])
    out = np.full((8, INPUTS), np.nan, np.float32)
    matrix.fill(slice(2, 7), out[2:7])
    np.testing.assert_array_equal(out[2:7], floats[2:7])
    assert np.isnan(out[[0, 1, 7]]).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("affine 4", "affine 8"))])
def test_what_we_pack_is_what_mlx_packs(case: str) -> None:
    packing, dtype = packing_of(case)
    weight = as_floats(stored_as(awkward_rows(SEED, INPUTS), dtype))
    codes, scales, biases = quantize(weight, packing)
    np.testing.assert_array_equal(codes, MLX[f"{case} codes"])
    np.testing.assert_array_equal(stored_as(scales, dtype), MLX[f"{case} scales"])
    np.testing.assert_array_equal(stored_as(biases, dtype), MLX[f"{case} biases"])


@pytest.mark.parametrize("shape", [(1, 64), (63, 64), (64, 128), (200, 192)])
def test_floats_go_where_they_are_asked_for(shape: tuple[int, int]) -> None:
    """Into a part of a wider array, into float64, over the border of a block."""
    weight = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    matrix = Quantized(Packing(), *quantize(weight, Packing()))
    floats = matrix.read(slice(None))
    wide = np.zeros((shape[0], shape[1] + 3), np.float32)
    matrix.fill(slice(0, shape[0]), wide[:, 2:-1])
    np.testing.assert_array_equal(wide[:, 2:-1], floats)
    assert not wide[:, :2].any() and not wide[:, -1].any()
    double = np.empty(shape)
    matrix.fill(slice(0, shape[0]), double)
    np.testing.assert_array_equal(double, floats)
    np.testing.assert_array_equal(matrix.read(slice(-1, None)), floats[-1:])


@given(arrays(np.float32, (2, 64), elements=st.floats(-1000, 1000, width=32)), st.sampled_from([4, 8]))
def test_no_weight_is_moved_by_more_than_a_step(weight: np.ndarray, bits: int) -> None:
    """Rounding takes half a step, and the end that is met exactly may push the other end out by one."""
    matrix = Quantized(Packing("affine", bits), *quantize(weight, Packing("affine", bits)))
    step = np.maximum((weight.max(-1, keepdims=True) - weight.min(-1, keepdims=True)) / (2**bits - 1), 1e-7)
    assert (np.abs(matrix.read(slice(None)) - weight) <= 1.001 * step + 1e-6 * np.abs(weight)).all()


@given(st.data(), st.sampled_from([1, 2, 3, 4, 5, 6, 8]))
def test_a_row_is_a_stream_of_bits_the_lowest_first(data: st.DataObject, bits: int) -> None:
    codes = data.draw(arrays(np.uint8, (2, 16), elements=st.integers(0, 2**bits - 1)))
    streams = [sum(int(code) << bits * index for index, code in enumerate(row)).to_bytes(2 * bits, "little") for row in codes]
    stored = np.frombuffer(b"".join(streams), np.uint8).reshape(2, -1)
    np.testing.assert_array_equal(unpack(stored, bits), codes)
    if bits in (4, 8):
        np.testing.assert_array_equal(pack(codes, bits), stored)


def test_the_small_floats_are_those_of_their_standards() -> None:
    """OCP Microscaling Formats 1.0, tables 5 and 7, and OCP 8-bit Floating Point 1.0, table 2."""
    assert E2M1.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert (E4M3[0x7E], E4M3[0x08], E4M3[0x07], E4M3[0x01], E4M3[0xFE]) == (448, 2**-6, 0.875 * 2**-6, 2**-9, -448)
    assert np.isnan(E4M3[[0x7F, 0xFF]]).all() and np.isfinite(E4M3).sum() == 254
    assert (E8M0[0], E8M0[127], E8M0[254]) == (2**-127, 1, 2.0**127) and np.isnan(E8M0[255])
    import ml_dtypes

    np.testing.assert_array_equal(E4M3, np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_memory_is_that_of_the_codes_and_scales() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (64, 256)).astype(np.float32)
    matrix = Quantized(Packing(), *quantize(weight, Packing()))
    assert matrix.nbytes == weight.size // 2 + 2 * 4 * weight.size // 64
