"""How long a week of events takes to open, and what following a live run costs.

    python tests/benchmarks/follow.py [--steps 600000] [--seconds 20]

A run of one step a second for a week: its file is written as a trainer writes it, with snapshots, and opened in a new process;
then, once more without its snapshot. After that a writer adds ten events a second while `Follower` looks four times a second,
as `watch` and the app do, and the processor's seconds of the follower are counted.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from turns import machine_line, table

from edgetune.events import CheckpointSaved, Event, RunStarted, StepFinished, ValidationFinished, to_line
from edgetune.files import append_line
from edgetune.workspace import follow
from edgetune.workspace.follow import Follower

ROOT = Path(__file__).parents[2]
OPEN = """
import sys, time
from pathlib import Path
from edgetune.workspace.follow import Follower
began = time.perf_counter()
state = Follower(Path(sys.argv[1])).catch_up()
print(time.perf_counter() - began, state.step)
"""
STARTED = RunStarted(
    run="/home/someone/.local/share/edgetune/runs/SmolLM2-135M-Instruct-20261120-1", first_step=0, total_steps=600_000,
    backend="numpy", trained_parameters=1, train_rows=1, valid_rows=1, train_tokens=1, trained_tokens=1, planned_peak_bytes=1,
)  # fmt: skip


def events_of(step: int) -> list[Event]:
    """What a trainer tells of one step."""
    found: list[Event] = [
        StepFinished(
            step=step,
            loss=1.2345678901 / step,
            rate=1.234567e-4,
            gradient_norm=0.987654321,
            tokens=2048,
            trained_tokens=1024,
            seconds=1.0123456,
            memory_bytes=1_234_567_890,
        )
    ]
    if step % 100 == 0:
        found.append(ValidationFinished(step=step, loss=1 / step, tokens=1000, seconds=3.2, best=True))
    if step % 50 == 0:
        found.append(CheckpointSaved(step=step, folder=f"checkpoints/step-{step:06d}", seconds=0.2))
    return found


def write(file: Path, steps: int) -> int:
    """The file of a run of so many steps and its last snapshot, at most DUE events old; the events."""
    count = 1
    with file.open("wb") as out:
        out.write(to_line(STARTED) + b"\n")
        for step in range(1, steps + 1):
            for event in events_of(step):
                out.write(to_line(event) + b"\n")
                count += 1
            if step == steps - follow.DUE:
                out.flush()
                follower = Follower(file)
                follower.catch_up()
                follow.keep_snapshot(follower)
    return count


def opened(file: Path) -> float:
    """Seconds that a new process needs for it, without the start of Python."""
    done = subprocess.run([sys.executable, "-c", OPEN, str(file)], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[0])


def followed(file: Path, seconds: float) -> float:
    """The share of one core that following takes."""
    done = threading.Event()
    follower = Follower(file)
    follower.catch_up()

    def grow() -> None:
        step = follower.state.step
        while not done.wait(0.1):
            step += 1
            for event in events_of(step):
                append_line(file, to_line(event))

    writer = threading.Thread(target=grow)
    writer.start()
    began, busy = time.monotonic(), 0.0
    while time.monotonic() - began < seconds:
        start = time.thread_time()
        follower.poll()
        busy += time.thread_time() - start
        time.sleep(0.25)
    done.set()
    writer.join()
    return busy / (time.monotonic() - began)


def main() -> None:
    """Makes the file, opens it, follows it, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.jsonl"
        count = write(file, arguments.steps)
        with_snapshot = [opened(file) for _ in range(5)]
        share = followed(file, arguments.seconds)
        follow.snapshot_file(file).unlink()
        without = opened(file)
        rows = [
            [f"open {count:,} events ({file.stat().st_size / 1e6:.0f} MB)", f"{sorted(with_snapshot)[2]:.3f} s"],
            ["the same, its snapshot lost", f"{without:.1f} s"],
            ["follow ten steps a second", f"{100 * share:.2f} % of a core"],
        ]
    print(machine_line())
    print(table(["what", "takes"], rows))


if __name__ == "__main__":
    main()
