"""The only formatting of numbers: bytes, durations, rates, counts, losses."""


def size(count: float) -> str:
    """Bytes for people: 351 MB, 1.46 GB (decimal, as disks and files are labelled)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 99.95 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people: 0.8 s, 42 s, 3 min 05 s, 7 h 12 min."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def lap(seconds: float) -> str:
    """A measured time, three digits of it: 18.4 ms, 9.87 s, 103 s."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def rate(per_second: float, unit: str) -> str:
    """A rate for people: 512 tokens/s, 3.4 rows/s."""
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.2g} {unit}/s"


def count(number: float) -> str:
    """A count for people, with thousands apart: 1,204."""
    return f"{number:,.0f}"


def parameters(number: int) -> str:
    """A model's size: 16.4 k, 5.2 M, 135 M, 1.24 B."""
    if number < 999.5e3:
        return f"{number / 1e3:.3g} k"
    return f"{number / 1e9:.3g} B" if number >= 999.5e6 else f"{number / 1e6:.3g} M"


def percent(share: float) -> str:
    """A share of one: 0.873 is 87.3 %."""
    return f"{100 * share:.1f} %"
