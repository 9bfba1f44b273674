"""Reading the Markdown files: word lists, and tables of things."""

from pathlib import Path

HERE = Path(__file__).parent
NOTHING = "–"


def load_lists(file: Path = HERE / "lists.md") -> dict[str, dict[str, list[str]]]:
    """Every list of every section, in the file's order."""
    sections: dict[str, dict[str, list[str]]] = {}
    lists: dict[str, list[str]] = {}
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("## "):
            lists = sections.setdefault(line[3:], {})
        elif line.startswith("- "):
            name, _, words = line[2:].partition(": ")
            lists[name] = [word.replace(NOTHING, "") for word in words.split(" | ")]
    return sections


def load_table_rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    """Every row of every table with its section's name; cells where nothing is said are left out."""
    rows: list[tuple[str, dict[str, str]]] = []
    section, columns = "", list[str]()
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section, columns = line[3:], []
        elif line.startswith("|") and not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if columns:
                told = zip(columns, cells, strict=True)
                rows.append((section, {column: cell for column, cell in told if cell != NOTHING}))
            else:
                columns = cells
    return rows


LISTS = load_lists()


def words(name: str) -> list[str]:
    """The list of this name, whichever section it stands in."""
    return next(lists[name] for lists in LISTS.values() if name in lists)
