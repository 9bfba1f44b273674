"""A download, which is a job of the workspace, as the model screen shows it."""

from collections import deque

from edgetune.events import Progress, Warned
from edgetune.workspace import jobs
from edgetune.workspace.follow import Follower
from edgetune.workspace.job import Job
from tui.child import ChildError
from tui.work import outcome, running

GET = ("models", "get")
SPAN = 10.0  # seconds that the rate is taken over


class Fetch:
    """One download. `poll` reads what is new; `error` says what went wrong, once it is done."""

    def __init__(self, name: str, job: Job):
        self.name, self.job = name, job
        self.told = Follower(job.events, with_snapshot=False)
        self.progress: Progress | None = None
        self.warning = ""
        self.error: ChildError | None = None
        self.done = self.cancelled = False
        self.seen: deque[tuple[float, float]] = deque()

    @classmethod
    def start(cls, name: str, repository: str) -> "Fetch":
        """Begins a download, or goes on with it where it was broken off.

        Raises:
            DiskFull, InputError: the job cannot be written down.
        """
        return cls(name, jobs.start([*GET, repository]))

    @classmethod
    def at_work(cls) -> "Fetch | None":
        """The download that goes on since the app, or another terminal, started it."""
        job = running(*GET)
        return cls(job.record.arguments[len(GET)], job) if job and len(job.record.arguments) > len(GET) else None

    def poll(self) -> None:
        """Reads the events since the last call, and looks whether the process lives."""
        status = self.job.poll()
        for event in self.told.poll():
            if isinstance(event, Progress):
                self.progress = event
                if not self.seen or event.time > self.seen[-1][0]:
                    self.seen.append((event.time, event.done))
            elif isinstance(event, Warned):
                self.warning = event.message
        while len(self.seen) > 2 and self.seen[-1][0] - self.seen[0][0] > SPAN:
            self.seen.popleft()
        if status.state == "running" or self.done:
            return
        self.done, self.cancelled = True, status.state == "cancelled"
        try:
            outcome(status)
        except ChildError as error:
            self.error = None if self.cancelled else error

    @property
    def share(self) -> float:
        """How much is done."""
        return self.progress.done / self.progress.total if self.progress and self.progress.total else 0.0

    @property
    def rate(self) -> float:
        """Bytes a second, lately."""
        if len(self.seen) < 2:
            return 0.0
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return max(last - first, 0.0) / max(end - start, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        """Until the end at that rate."""
        if self.progress is None or not self.rate:
            return None
        return (self.progress.total - self.progress.done) / self.rate

    def cancel(self) -> None:
        """Ends it; what has come stays, and the next download goes on from there."""
        self.job.cancel()
