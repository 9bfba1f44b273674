"""The loss curve as a small SVG image, in mid tones that can be read on light and on dark pages alike."""

import math
from collections.abc import Sequence

from edgetune.units import count
from edgetune.workspace.curve import Scale, finite, number, scale_of
from edgetune.workspace.report_facts import Report
from edgetune.workspace.run_state import Point

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 32
GREY, BLUE, ORANGE = "#848d97", "#3b82f6", "#e8590c"
TICKS = 4


def svg(report: Report) -> str:
    """The image; empty where there is no loss to draw."""
    window = (0, max(report.total_steps, report.step))
    train, valid = finite(report.curve, window), finite(report.validations, window)
    if not (train or valid):
        return ""
    scale = scale_of([*train, *valid], window)
    line = "".join(f"{'M' if place == 0 else 'L'}{x(point, scale)} {y(point, scale)}" for place, point in enumerate(train))
    marks = "".join(mark(point, scale) for point in valid)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="{GREY}">',
            "<title>Training and held-out loss by step</title>",
            *axes(scale),
            f'<path d="{line}" fill="none" stroke="{BLUE}" stroke-width="1.6" stroke-linejoin="round"/>',
            f'<g fill="{ORANGE}">{marks}</g>',
            legend(),
            "</svg>\n",
        ]
    )


def x(point: Point, scale: Scale) -> str:
    """Across, in the image's units."""
    return f"{LEFT + scale.across(point.step) * (WIDTH - LEFT - RIGHT):.1f}"


def y(point: Point, scale: Scale) -> str:
    """Down, in the image's units."""
    return f"{TOP + min(max(scale.down(point.loss), 0.0), 1.0) * (HEIGHT - TOP - BOTTOM):.1f}"


def mark(point: Point, scale: Scale) -> str:
    """A diamond."""
    return f'<path d="M{x(point, scale)} {y(point, scale)}m0 -5l5 5l-5 5l-5 -5z"/>'


def axes(scale: Scale) -> list[str]:
    """Faint lines with their losses, and steps below."""
    lines: list[str] = []
    for tick in range(TICKS + 1):
        share = tick / TICKS
        loss = scale.high * (1 - share) + scale.low * share
        height = TOP + share * (HEIGHT - TOP - BOTTOM)
        lines.append(
            f'<path d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.25"/>'
            f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{number(loss, scale, TICKS + 1)}</text>'
        )
    steps = sorted({scale.first + (scale.last - scale.first) * tick // TICKS for tick in range(TICKS + 1)})
    return [*lines, *(step_text(step, scale) for step in steps)]


def step_text(step: int, scale: Scale) -> str:
    """A step below the picture; the outermost two stay inside it."""
    anchor = "start" if step == scale.first else "end" if step == scale.last else "middle"
    return f'<text x="{x(Point(step, math.nan), scale)}" y="{HEIGHT - 10}" text-anchor="{anchor}">{count(step)}</text>'


def legend() -> str:
    """What the two signs mean, at the top right."""
    parts: Sequence[str] = (
        f'<path d="M{WIDTH - 204} 11h22" stroke="{BLUE}" stroke-width="2"/><text x="{WIDTH - 176}" y="15">training</text>',
        f'<path d="M{WIDTH - 98} 6l5 5l-5 5l-5 -5z" fill="{ORANGE}"/><text x="{WIDTH - 86}" y="15">held-out</text>',
    )
    return "".join(parts)
