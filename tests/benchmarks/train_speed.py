"""LoRA of rank 8 on all linear layers of a SmolLM2-135M: ours and PyTorch + PEFT on the same cores, stepped in turns.

    python tests/benchmarks/train_speed.py --peer-python PATH/TO/python [--engine FOLDER] [--rounds 4]

Every round each process makes one optimiser step on the same rows; ratios are taken within a round, and their median
is told. Peak memory is the process's whole resident set: interpreter, libraries and mapped weights included. With
`--engine` the folder of an earlier NumPy engine of this project takes its turn too.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from big_model import SHAPES, random_rows, write_model
from turns import Worker, machine_line, ratio, table, take_turns

from edgetune.hardware import child_environment, worker_count

HERE = Path(__file__).parent
WITHOUT = ("peft-float32", "peft-bfloat16", "recompute", "half-masked")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="an interpreter with torch, transformers and peft; without: ours alone")
    parser.add_argument("--engine", type=Path, help="the folder of an earlier engine of ours")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--stored", choices=["F32", "F16", "BF16"], default="F32", help="the weights in the model folder")
    parser.add_argument("--workers", type=int, default=worker_count())
    parser.add_argument("--without", nargs="*", choices=WITHOUT, default=[], help="leave these out, for their memory")
    return parser.parse_args()


def start(arguments: argparse.Namespace, folder: Path) -> list[Worker]:
    """Every process, its model loaded."""
    write_model(folder / "model", arguments.shape, arguments.stored)
    for masked, name in ((0.0, "rows"), (0.5, "half")):
        ids, labels = random_rows(arguments.rows, arguments.tokens, int(SHAPES[arguments.shape]["vocab_size"]), masked)
        np.savez(folder / f"{name}.npz", ids=ids, labels=labels)
    ours = [sys.executable, HERE / "train_worker.py", "--model", folder / "model", "--workers", str(arguments.workers)]
    all_rows, half = ["--rows", folder / "rows.npz"], ["--rows", folder / "half.npz"]
    environment = {
        **child_environment(),
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    commands = {
        "ours": [*ours, *all_rows],
        "ours, half-masked": [*ours, *half],
        "ours, recompute": [*ours, *all_rows, "--recompute"],
    }
    if arguments.engine:
        commands["earlier engine"] = [*ours, *all_rows, "--engine", arguments.engine.absolute()]
    workers = [
        Worker(name, command, environment)
        for name, command in commands.items()
        if name.removeprefix("ours, ") not in arguments.without
    ]
    for dtype in ("float32", "bfloat16") if arguments.peer_python else ():
        if f"peft-{dtype}" not in arguments.without:
            peer = [arguments.peer_python, HERE / "peer_peft.py", "--model", folder / "model", *all_rows]
            peer += ["--dtype", dtype, "--threads", str(arguments.workers)]
            workers.append(Worker(f"PyTorch + PEFT {dtype}", peer, {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}))
    return workers


def report(workers: list[Worker], tokens: int) -> str:
    """The table, and the figures that are promised."""
    by_name = {worker.name: worker for worker in workers}
    ours, peer = by_name["ours"], by_name.get("PyTorch + PEFT float32")
    lines = []
    for worker in workers:
        speed, peak = tokens / statistics.median(worker.seconds), worker.last["peak_bytes"]
        spread = f"{tokens / max(worker.seconds):.0f} to {tokens / min(worker.seconds):.0f}"
        shares = ("–", "–") if peer is None else (f"{ratio(worker, peer):.2f}", f"{peak / peer.last['peak_bytes']:.3f}")
        lines.append([worker.name, f"{speed:.0f}", spread, shares[0], f"{peak / 1e6:,.0f}", shares[1]])
    head = ["", "tokens/s, median", "slowest to fastest round", "x PEFT float32", "peak MB", "x PEFT float32's"]
    said = [table(head, lines), ""]
    promised = [
        ("PyTorch + PEFT float32", "at least 2.2"),
        ("PyTorch + PEFT bfloat16", "more than 1"),
        ("earlier engine", "at least 0.95"),
    ]
    said += [
        f"- ours : {name} = {ratio(ours, by_name[name]):.2f} in speed ({goal})" for name, goal in promised if name in by_name
    ]
    if peer is not None:
        share = ours.last["peak_bytes"] / peer.last["peak_bytes"]
        said.append(f"- ours : {peer.name} = {share:.3f} in peak memory (at most 0.3)")
    if "ours, half-masked" in by_name:
        said.append(f"- half masked : all trained = {ratio(by_name['ours, half-masked'], ours):.2f} in speed (at least 1.15)")
    return "\n".join(said)


def main() -> None:
    """Writes the model, takes turns, prints the table."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        workers = start(arguments, Path(folder))
        take_turns(workers, arguments.rounds)
        peaks = [worker.last["peak_bytes"] for worker in workers]
        for worker in workers:
            worker.close()
    print(
        f"\n{arguments.shape}, weights in {arguments.stored}, LoRA r = 8 on all linear layers, {arguments.rows} x "
        f"{arguments.tokens} tokens, {arguments.rounds} rounds, {arguments.workers} workers, all processes together "
        f"{sum(peaks) / 1e9:.1f} GB"
    )
    print(machine_line() + "\n")
    print(report(workers, arguments.rows * arguments.tokens))


if __name__ == "__main__":
    main()
