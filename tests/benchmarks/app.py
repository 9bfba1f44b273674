"""How quick the app is: the first paint, a frame of the dashboard, and the opening of a long run.

python tests/benchmarks/app.py [--runs 5] [--steps 100000]: a JSON line with the median of each. Targets: first paint under
0.45 s, a frame under 20 ms, 100,000 steps under 0.5 s.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tui")]
FIRST_PAINT = """
import asyncio, os
from tui.app import EdgeTune
async def go():
    app = EdgeTune()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "EdgeTune" in app.screen._compositor.render_strips()[0].text
        os._exit(0)
asyncio.run(go())
"""


def first_paint(home: str) -> float:
    """Seconds from a new process to a painted home screen."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_PAINT], check=True, cwd=ROOT, env={**os.environ, "EDGETUNE_HOME": home})
    return time.perf_counter() - start


async def dashboard(run: Path) -> tuple[float, float]:
    """Seconds until a run is read and painted, and the median seconds of a frame after that."""
    from tui.app import EdgeTune

    app = EdgeTune()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        start = time.perf_counter()
        app.desk.open_run(run)
        app.open_screen("train")
        while app.desk.follower and app.desk.follower.poll():
            pass
        app.show_desk()
        await pilot.pause()
        opening = time.perf_counter() - start
        frames: list[float] = []
        for _ in range(30):
            start = time.perf_counter()
            app.desk.touch()
            app.show_desk()
            app.screen._compositor.render_strips()
            frames.append(time.perf_counter() - start)
    return opening, statistics.median(frames)


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    import recorded

    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGETUNE_HOME"] = folder
        paints = [first_paint(folder) for _ in range(options.runs)]
        run = recorded.record(Path(folder) / "run-3", recorded.told(options.steps, options.steps))
        opened = [asyncio.run(dashboard(run)) for _ in range(options.runs)]
    print(
        json.dumps(
            {
                "first_paint_seconds": statistics.median(paints),
                "steps": options.steps,
                "open_seconds": statistics.median(each for each, _ in opened),
                "frame_seconds": statistics.median(each for _, each in opened),
            }
        )
    )


if __name__ == "__main__":
    main()
