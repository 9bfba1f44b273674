"""The faults that tests put in: every write, flush and rename of a file that must last is a named point.

`EDGETUNE_FAULT="point:nth:action"` makes the nth passage of a point fail: kill, sleep, or an error of the system (enospc,
eio, erofs). The fault tests kill at every point that the code has.
"""

import errno
import os
import signal
import time

passages: dict[str, int] = {}


def fault(point: str) -> None:
    """A named place where a test can make the process die or the disk fail."""
    plan = os.environ.get("EDGETUNE_FAULT", "")
    if not plan:
        return
    wanted, nth, action = plan.split(":")
    passages[point] = passages.get(point, 0) + 1
    if wanted != point or passages[point] != int(nth):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "sleep":
        time.sleep(3600)
    else:
        raise OSError(getattr(errno, action.upper()), os.strerror(getattr(errno, action.upper())), point)
