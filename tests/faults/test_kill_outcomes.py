"""RELIABILITY.md, 53: what is merged, exported, converted or imported is whole under its name, or not there at all."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edgetune.adapters.lora import new_lora
from edgetune.adapters.open import open_adapter
from edgetune.adapters.peft import write_peft
from edgetune.architecture.spec import read_spec
from edgetune.config import AdapterConfig
from edgetune.export import merge as merging
from edgetune.export.certificate import Certificate, Hop
from edgetune.export.gguf_file import write_gguf
from edgetune.export.merge import merge
from edgetune.export.pipeline import Exported, hand_over
from edgetune.export.quantize import quantize
from edgetune.hub.library import import_folder, place_of, remove
from edgetune.workspace.adapters import convert_adapter
from tests.faults.forks import Child

pytestmark = pytest.mark.slow  # together


def of_file(name: str, *others: str) -> tuple[str, ...]:
    """The points of a file that is written whole."""
    return (*(f"{name}-{end}" for end in ("open", "written", "flushed", "renamed")), *others)


def of_folder(name: str, *others: str) -> tuple[str, ...]:
    """The points of a folder that is written whole."""
    return of_file(name, f"{name}-flush", *others)


POINTS = {
    "merge": of_folder("merge", "merge-trashed", "merge-block", "merge-index", "side-file", "model-config"),
    "gguf": of_file("gguf", "gguf-block"),
    "quantize": of_file("quantize", "quantize-tensor"),
    "gguf-adapter": of_file("gguf-adapter", "gguf-adapter-block"),
    "convert": of_folder("converted", "adapter-config", "adapter-weights"),
    "import": of_folder("import", "import-file", "record"),
}
HAND_OVER = of_file("certificate", "certificate-content", "export-flushed", "export-renamed")
REMOVE = ("remove-trashed",)
KILLED = (*(point for points in POINTS.values() for point in points), *HAND_OVER, *REMOVE)
LATER = {"merge-block": 12, "gguf-block": 9, "gguf-adapter-block": 7, "quantize-tensor": 6, "side-file": 2, "import-file": 2,
         "merge-flush": 2, "import-flush": 2, "adapter-weights": 5}  # fmt: skip
Job = Callable[[Path], object]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    lora = new_lora(read_spec(tiny_model), AdapterConfig(rank=4, alpha=8), 3, "someone/tiny")
    random = np.random.default_rng(5)
    arrays = {name: random.normal(0, 0.3, array.shape).astype(np.float32) for name, array in lora.trained_arrays().items()}
    write_peft(folder, lora.with_arrays(arrays))
    return folder


@pytest.fixture(scope="module")
def float16(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(wide_model, tmp_path_factory.mktemp("gguf") / "wide-F16.gguf", "F16").path


@pytest.fixture
def jobs(tiny_model: Path, adapter: Path, float16: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Job]:
    """What each job does, given the place that it fills."""
    monkeypatch.setattr(merging, "SHARDED_ABOVE", 0)
    monkeypatch.setattr(merging, "files_of", two_files)

    def convert(to: Literal["mlx", "gguf"]) -> Job:
        return lambda out: convert_adapter(adapter, to, out, str(tiny_model), lambda _: None)

    return {
        "merge": lambda out: merge(tiny_model, adapter, out),
        "gguf": lambda out: write_gguf(tiny_model, out, "F16"),
        "quantize": lambda out: quantize(float16, out, "Q8_0", threads=1),
        "gguf-adapter": convert("gguf"),
        "convert": convert("mlx"),
        "import": lambda out: import_folder(tiny_model, out.name, lambda _: None),
    }


def two_files(weights: object, total: int) -> dict[str, list[str]]:
    """The base is small and in one file: here it becomes two, as a large one would."""
    names = list(weights.tensors)  # type: ignore[attr-defined]
    return {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}


def place_for(job: str, folder: Path) -> Path:
    return place_of("imported") if job == "import" else folder / ("out.gguf" if "gguf" in job or job == "quantize" else "out")


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    return {file.name: file.read_bytes() for file in files}


def ended(action: Callable[[], object], fault: str = "") -> int:
    return Child(lambda: int(action() is ...), fault).wait().code


@pytest.mark.parametrize(("job", "point"), [(job, point) for job, points in POINTS.items() for point in points])
def test_53_kill_at_every_named_point(job: str, point: str, jobs: dict[str, Job], tmp_path: Path) -> None:
    place = place_for(job, tmp_path / "killed")
    if point == "merge-trashed":
        place.mkdir(parents=True)  # an empty folder may be filled
    assert ended(lambda: jobs[job](place), f"{point}:{LATER.get(point, 1)}:kill") == -signal.SIGKILL
    assert place.exists() is point.endswith("-renamed")
    if not place.exists():
        assert ended(lambda: jobs[job](place)) == 0
    assert [path.name for path in place.parent.iterdir()] == [place.name], "something is left behind"
    made, other = content(place), place_for(job, tmp_path / "whole")
    if job == "import":
        remove("imported")
    assert ended(lambda: jobs[job](other)) == 0
    assert content(other) == made


def test_53_a_name_that_is_taken_is_never_replaced_by_a_conversion(jobs: dict[str, Job], tmp_path: Path) -> None:
    """Why nothing of theirs is ever put to trash."""
    for job in ("convert", "import"):
        place = place_for(job, tmp_path)
        jobs[job](place)
        before = content(place)
        with pytest.raises(Exception, match="already"):
            jobs[job](place)
        assert content(place) == before


@pytest.mark.parametrize("point", HAND_OVER)
def test_53_kill_while_proved_files_are_handed_over(point: str, tmp_path: Path) -> None:
    """An older export lies there: each of its files is the old one or the new one, and the certificate whole."""
    kinds = ("F16", "Q8_0")
    hops = [Hop(name=f"GGUF {kind}", file=f"m-{kind}.gguf", loss=1.0, verdict="proved") for kind in kinds]

    def export(version: str) -> None:
        temporary = tmp_path / version
        temporary.mkdir(exist_ok=True)
        for hop in hops:
            (temporary / hop.file).write_text(version)
        files = [Exported(kind, tmp_path / "out" / hop.file, hop) for kind, hop in zip(kinds, hops, strict=True)]
        said = Certificate(
            edgetune=version, base="m", held_out=True, rows=1, tokens=1, base_loss=1.0, trained_on=None, hops=hops,
            tokenizer=None, turn_end=None,
        )  # fmt: skip
        hand_over(said, files, temporary, tmp_path / "out")

    (tmp_path / "out").mkdir()
    export("old")
    assert ended(lambda: export("new"), f"{point}:{2 if point == 'export-flushed' else 1}:kill") == -signal.SIGKILL
    found = {file.name: file.read_text() for file in (tmp_path / "out").glob("m-*.gguf")}
    assert found.keys() == {"m-F16.gguf", "m-Q8_0.gguf"} and set(found.values()) <= {"old", "new"}
    assert '"edgetune": "' in (tmp_path / "out" / "certificate.json").read_text()
    export("new")
    assert {file.read_text() for file in (tmp_path / "out").glob("m-*.gguf")} == {"new"}
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_53_kill_while_a_model_is_removed(jobs: dict[str, Job], tmp_path: Path) -> None:
    place = place_for("import", tmp_path)
    jobs["import"](place)
    assert ended(lambda: remove("imported"), "remove-trashed:1:kill") == -signal.SIGKILL
    assert not place.exists()
    jobs["import"](place)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_53_a_converted_adapter_is_the_adapter(jobs: dict[str, Job], adapter: Path, tmp_path: Path) -> None:
    jobs["convert"](tmp_path / "out")
    theirs, ours = open_adapter(adapter).factors, open_adapter(tmp_path / "out").factors
    assert all(np.array_equal(theirs[path].a, ours[path].a) for path in theirs)
