"""`data --lines`: the rows for a program to look through. Requests come on standard input, answers on standard output.

    told    {"report": {…as --json…, "total": 1204, "bins": [["≤64", rows], …],
                        "groups": [[kind, sign, rows, message, [row, …]], …], "template": "…"}}
    asked   {"rows": [first, count]}       {"rows": [first, [[words, tokens, trained, sign, file, line], …]]}
            {"row": 17}                    {"row": {"at", "file", "line", "held_out", "problems", "parts", "pieces", "raw"}}
            {"find": "parcel", "after": 3} {"found": 12}, or null
            {"places": [[file, line], …]}  {"places": [12, …]}, null for a line where no row begins
            anything that is wrong         {"error": {"kind", "message", "hint"}}; the next request may be better

Rows are numbered from 0. A piece is [text, flags, part]: flags 1 trained, 2 control token; part -1 is the template's own.
It ends with its input.
"""

import json
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
from msgspec import Struct

from edgetune.cli.output import builtins
from edgetune.errors import EdgeTuneError, InputError

if TYPE_CHECKING:
    from edgetune.workspace.row_browser import RowBrowser

LONGEST = 4 << 20  # characters of a request
MOST = 1000  # rows of a page


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of input."""

    rows: tuple[int, int] | None = None
    row: int | None = None
    find: str | None = None
    places: list[tuple[str, int]] | None = None
    after: int = -1


def serve(report: dict[str, Any], browser: "RowBrowser", source: TextIO, out: TextIO) -> None:
    """Tells the report, and answers until the input ends."""
    template = browser.found.template
    more = {"total": len(browser.entries), "bins": browser.bins(), "groups": browser.groups()}
    tell(out, report={**report, **more, "template": template.source if template else ""})
    while line := source.readline(LONGEST):
        try:
            tell(out, **answer(browser, line))
        except EdgeTuneError as error:
            tell(out, error={"kind": error.kind, "message": error.message, "hint": error.hint})


def answer(browser: "RowBrowser", line: str) -> dict[str, Any]:
    """The answer to one request.

    Raises:
        InputError: it is none.
        DataError: a file is not there any more, or has become another.
    """
    try:
        request = msgspec.json.decode(line, type=Request)
    except msgspec.MsgspecError as error:
        raise InputError(f"not a request: {error}", hint="one JSON object a line") from None
    if request.rows is not None:
        first, count = request.rows
        return {"rows": [first, browser.summaries(first, min(count, MOST))]}
    if request.row is not None:
        if not 0 <= request.row < len(browser.entries):
            raise InputError(f"there is no row {request.row}", hint=f"there are {len(browser.entries)}")
        return {"row": browser.detail(request.row)}
    if request.places is not None:
        return {"places": browser.places(request.places)}
    return {"found": browser.find(request.find or "", request.after)}


def tell(out: TextIO, **what: Any) -> None:
    """One line, at once."""
    out.write(json.dumps(builtins(what)) + "\n")
    out.flush()
