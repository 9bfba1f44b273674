import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.units import count, duration, lap, parameters, percent, rate, size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (351e6, "351 MB"),
        (12_340_000, "12.3 MB"),
        (999.7e6, "1 GB"),
        (1.457e9, "1.46 GB"),
        (139e9, "139 GB"),
    ],
)
def test_size(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.8, "1 h 00 min"),
        (25_920, "7 h 12 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_other_numbers() -> None:
    assert rate(512.4, "tokens") == "512 tokens/s"
    assert rate(3.44, "rows") == "3.4 rows/s"
    assert count(1204) == "1,204"
    sizes = [16_384, 5_200_000, 134_515_008, 1_235_814_400]
    assert [parameters(each) for each in sizes] == ["16.4 k", "5.2 M", "135 M", "1.24 B"]
    assert percent(0.8734) == "87.3 %"


def test_laps_have_three_digits() -> None:
    assert [lap(each) for each in (0.0184, 0.9994, 0.99951, 9.871, 103.2, 1234.0)] == [
        "18.4 ms", "999 ms", "1 s", "9.87 s", "103 s", "1234 s",
    ]  # fmt: skip


@given(st.floats(0, 1e15))
def test_a_size_never_loses_more_than_a_twentieth(number: float) -> None:
    digits, unit = size(number).split()
    value = float(digits) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert abs(value - number) <= max(0.5, 0.51 * 1e3 if unit == "kB" else 0, 0.05 * number)
