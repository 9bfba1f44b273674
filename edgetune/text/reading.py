"""Files of rows, whatever their form, as one stream of checked rows and of problems with file and line."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgetune.errors import DataError
from edgetune.text.json_rows import Parsed, json_values
from edgetune.text.lines import check_file
from edgetune.text.rows import Problem, RawRow, row_of
from edgetune.text.table_rows import parquet_values, table_values
from edgetune.text.text_rows import text_values

READERS: dict[str, Callable[[Path], Iterator[Parsed | Problem]]] = {
    ".jsonl": json_values,
    ".ndjson": json_values,
    ".json": json_values,
    ".csv": table_values,
    ".tsv": table_values,
    ".txt": text_values,
    ".md": text_values,
    ".parquet": parquet_values,
}


def read_rows(files: Sequence[Path]) -> Iterator[RawRow | Problem]:
    """The rows of the files, in order; what is wrong with a row comes in its place. A row's kind is found per row.

    Raises:
        DataError: a file is absent, not a regular file, of an unknown form, holds no row, or cannot be read on.
    """
    for file in files:
        check_file(file)
        if file.suffix.lower() not in READERS:
            raise DataError("is of an unknown form", file=file, hint=f"rows are read from {', '.join(READERS)}")
    for file in files:
        empty = True
        for row in rows_of(file):
            empty = False
            yield row
        if empty:
            raise DataError("holds no rows", file=file)


def rows_of(file: Path) -> Iterator[RawRow | Problem]:
    """The rows of one file. The first row of another kind than the first of all is noted."""
    kinds: dict[str, int] = {}
    for found in READERS[file.suffix.lower()](file):
        row = row_of(found.value, str(file), found.line, found.size) if isinstance(found, Parsed) else found
        yield row
        if isinstance(row, RawRow) and row.kind not in kinds:
            if kinds:
                before = " and ".join(f"{kind} (from line {line})" for kind, line in kinds.items())
                yield Problem(str(file), row.line, "kinds", f"a row of kind {row.kind}; the file has rows of kind {before}")
            kinds[row.kind] = row.line
