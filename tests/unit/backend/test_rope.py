"""How fast each pair of dimensions turns, against the published formulas written out."""

import math

import numpy as np
import pytest

from edgetune.backend.rope import Rope

DIM, BASE = 8, 10_000.0
PLAIN = np.array([1, 0.1, 0.01, 0.001])


def test_the_plain_rope() -> None:
    np.testing.assert_allclose(Rope(DIM).frequencies(100), PLAIN)
    assert Rope(DIM).frequencies(5) is Rope(DIM).frequencies(5000)  # one for all lengths


def test_linear_divides() -> None:
    np.testing.assert_allclose(Rope(DIM, kind="linear", factor=4).frequencies(9), PLAIN / 4)


def test_dynamic_grows_its_base_beyond_the_trained_length() -> None:
    rope = Rope(DIM, kind="dynamic", factor=2, max_positions=100)
    np.testing.assert_allclose(rope.frequencies(100), PLAIN)
    np.testing.assert_allclose(rope.frequencies(7), PLAIN)
    base = BASE * (2 * 300 / 100 - 1) ** (DIM / (DIM - 2))
    np.testing.assert_allclose(rope.frequencies(300), base ** (-np.arange(0, DIM, 2) / DIM))


def test_llama3_keeps_the_fast_divides_the_slow_and_mixes_between() -> None:
    rope = Rope(DIM, kind="llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_positions=1000)
    expected = list[float]()
    for frequency in PLAIN:
        length = 2 * math.pi / frequency
        if length < 1000 / 4:
            expected.append(frequency)
        elif length > 1000 / 1:
            expected.append(frequency / 8)
        else:
            smooth = (1000 / length - 1) / (4 - 1)
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    np.testing.assert_allclose(rope.frequencies(1), expected)
    assert expected[0] == PLAIN[0] and expected[3] == PLAIN[3] / 8 and PLAIN[2] / 8 < expected[2] < PLAIN[2]


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_ramps(truncate: bool) -> None:
    rope = Rope(64, kind="yarn", factor=4, original_positions=2048, truncate=truncate)
    ratio = rope.frequencies(1) / Rope(64).frequencies(1)
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(1 / 4) and (np.diff(ratio) <= 1e-12).all()
    between = ratio[(ratio < 1) & (ratio > 0.2501)]
    assert len(between) > 5
    low = 64 * math.log(2048 / (32 * 2 * math.pi)) / (2 * math.log(BASE))
    first = int(np.argmax(ratio < 1))
    assert first == math.floor(low) + 1


def test_longrope_divides_each_pair_by_what_the_length_asks_for() -> None:
    rope = Rope(DIM, kind="longrope", original_positions=64, short_factor=(1, 2, 3, 4), long_factor=(5, 6, 7, 8))
    np.testing.assert_allclose(rope.frequencies(64), PLAIN / [1, 2, 3, 4])
    np.testing.assert_allclose(rope.frequencies(65), PLAIN / [5, 6, 7, 8])
