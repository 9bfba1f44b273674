"""GGUF export of a SmolLM2-360M-shaped model against a plain copy of the same bytes on the same disk, in turns.

    python tests/benchmarks/export_speed.py [--folder ON_THE_DISK_TO_MEASURE] [--rounds 4]

The model is random, its tokenizer a real one: `--tokenizer` is a folder with a tokenizer of at most 49152 tokens. Both
sides flush to the disk; both read a file that is in the page cache, as a model that was just merged is, or with `--cold`
from the disk, as one that was downloaded yesterday.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from big_model import SHAPES, write_model
from turns import Worker, machine_line, ratio, table, take_turns

HERE = Path(__file__).parent
TOKENIZER = HERE.parents[2] / "shared" / "assets" / "tokenizers" / "smollm2"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-360m")
    parser.add_argument("--stored", choices=["F32", "F16", "BF16"], default="BF16", help="the weights in the model folder")
    parser.add_argument("--kind", choices=["F32", "F16", "BF16", "Q8_0"], default="F16", help="the weights in the GGUF")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--cold", action="store_true", help="both sides read from the disk (Linux)")
    return parser.parse_args()


def main() -> None:
    """Writes the model, takes turns, prints the table."""
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        folder = Path(made)
        size = write_model(folder / "model", arguments.shape, arguments.stored)
        for file in arguments.tokenizer.glob("tokenizer*"):
            shutil.copyfile(file, folder / "model" / file.name)
        environment = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, HERE / "export_worker.py"]
        export = [*command, "--model", folder / "model", "--out", folder / "model.gguf", "--kind", arguments.kind]
        if arguments.cold:
            export += ["--forget", folder / "model", folder / "model.gguf"]  # both are on the disk by then
        exporter = Worker("export", export, environment)
        exporter.step()  # the copy needs a file of the size that comes out
        copier = Worker("copy", [*command, "--copy", folder / "model.gguf", "--out", folder / "copy.gguf"], environment)
        take_turns([exporter, copier], arguments.rounds)
        del exporter.seconds[:1]
        written = exporter.last["size"]
        for worker in (exporter, copier):
            worker.close()
    print(
        f"\n{arguments.shape}, {size / 1e6:,.0f} MB of {arguments.stored} to {written / 1e6:,.0f} MB of "
        f"{arguments.kind}, {'from the disk, ' if arguments.cold else ''}{arguments.rounds} rounds"
    )
    print(machine_line() + "\n")
    rows = []
    for worker in (exporter, copier):
        seconds = statistics.median(worker.seconds)
        above = worker.last["peak_bytes"] - worker.ready["peak_bytes"]
        rows.append(
            [
                worker.name,
                f"{seconds:.2f}",
                f"{written / 1e6 / seconds:,.0f}",
                f"{ratio(worker, copier):.2f}",
                f"{above / 1e6:,.0f}",
                f"{worker.last['own_bytes'] / 1e6:,.0f}",
            ]
        )
    head = ["", "seconds", "MB/s", "x copy", "peak MB above the interpreter", "of that its own, without mapped files"]
    print(table(head, rows))
    print(f"\n- export : copy = {ratio(exporter, copier):.2f} in speed (at least 0.5)")
    print(f"- peak above the interpreter with its libraries: {rows[0][4]} MB (below 1000)")


if __name__ == "__main__":
    main()
