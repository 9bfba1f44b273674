"""Bars that carry a share with an eighth of a cell, in colour by meaning."""

from textual.content import Content

EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int, style: str = "$primary", rest: str = "·") -> Content:
    """A bar of `width` cells, filled to `share` of it; what is left is dotted."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    full, part = divmod(eighths, 8)
    text = "█" * full + (EIGHTHS[part] if part else "")
    return Content.styled(text, style) + Content.styled(rest * (width - len(text)), "$line")


def amount(value: float, most: float, width: int, style: str = "$primary") -> Content:
    """A bar without a dotted rest: a list of amounts, the largest `width` cells long. What is there shows at least a sliver."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    full, part = divmod(max(eighths, 1 if value > 0 else 0), 8)
    return Content.styled("█" * full + (EIGHTHS[part] if part else ""), style)


def track(share: float, width: int, style: str = "$primary") -> Content:
    """A thin line that fills: calmer than a bar where nothing is compared."""
    halves = round(2 * width * min(max(share, 0.0), 1.0))
    full, half = divmod(halves, 2)
    text = "━" * full + "╸" * half
    return Content.styled(text, style) + Content.styled("─" * (width - len(text)), "$line")
