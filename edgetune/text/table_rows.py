"""CSV, TSV and Parquet as values with their lines: the header's names are the keys."""

import csv
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetune.errors import DataError
from edgetune.files import clean
from edgetune.text.json_rows import Parsed
from edgetune.text.lines import LONGEST, lines, text_of
from edgetune.text.rows import Problem

STRUCTURED = ("messages", "conversations", "tools", "history", "input_ids", "loss_mask", "preferred_output")


def table_values(path: Path) -> Iterator[Parsed | Problem]:
    """The rows of a CSV or TSV file. A cell that should hold a list is read as JSON.

    Raises:
        DataError: the header is missing or names a column twice, a quote never ends, or the file is not text.
    """
    csv.field_size_limit(LONGEST)
    numbered = (text_of(line, path) for line in lines(path))
    header = next((line for line in numbered if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    if len(set(names)) != len(names) or not all(names):
        raise DataError("the first line must name each column once", file=path, line=1, hint="prompt,completion for example")
    reader = csv.reader(numbered, delimiter=delimiter, strict=True)
    line = 2
    try:
        for cells in reader:
            if cells:
                yield table_row(dict(zip(names, cells, strict=False)), len(cells) - len(names), path, line)
            line = reader.line_num + 2
    except csv.Error as problem:
        raise DataError(str(problem), file=path, line=line, hint="a quote inside a cell is written twice") from None


def table_row(cells: dict[str, Any], surplus: int, path: Path, line: int) -> Parsed | Problem:
    """One row of a table."""
    if surplus:
        return Problem(str(path), line, "row", f"{abs(surplus)} cells too {'many' if surplus > 0 else 'few'}")
    written = sum(map(len, cells.values()))
    for name in STRUCTURED:
        if name in cells:
            try:
                cells[name] = json.loads(cells[name]) if cells[name].strip() else None
            except (ValueError, RecursionError):
                return Problem(str(path), line, "json", f"the cell `{clean(name)}` is not JSON")
    return Parsed(line, cells, written)


def parquet_values(path: Path) -> Iterator[Parsed | Problem]:
    """The rows of a Parquet file, some of them at a time; a row's number is its line.

    Raises:
        DataError: pyarrow is not installed, or the file is not Parquet.
    """
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError("Parquet needs pyarrow", file=path, hint="pip install 'edgetune[parquet]', or save as JSONL") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield Parsed(number, plain(row), batch.nbytes // max(1, batch.num_rows))
    except (arrow.ArrowException, OSError) as problem:
        raise DataError(f"is not a readable Parquet file: {problem}", file=path) from None


def plain(value: Any) -> Any:
    """The same without the keys that Parquet fills with nulls where rows differ."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list) else value
