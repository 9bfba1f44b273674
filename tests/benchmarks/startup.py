"""How long `edgetune --help` takes, in turns with an interpreter that does nothing.

    python tests/benchmarks/startup.py [--rounds 15]

Byte code is kept in a folder of its own, as an installation keeps it; the first round, which makes it, does not count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns import machine_line, table

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Runs the commands in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "edgetune --help": [sys.executable, "-m", "edgetune", "--help"],
        "edgetune --version": [sys.executable, "-m", "edgetune", "--version"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as cache:
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**inherited, "PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": path}
        for turn in range(arguments.rounds + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    print(machine_line() + "\n")
    rows = [
        [name, f"{statistics.median(times):.3f}", f"{min(times):.3f}", f"{max(times):.3f}"] for name, times in seconds.items()
    ]
    print(table(["", "seconds, median", "fastest", "slowest"], rows))
    print(f"\n- edgetune --help = {statistics.median(seconds['edgetune --help']):.3f} s (at most 0.3)")


if __name__ == "__main__":
    main()
