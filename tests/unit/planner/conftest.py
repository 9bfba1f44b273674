"""What the planner's tests share."""

import pytest

from edgetune.planner import probe


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of a tiny model is enough of a probe where nobody looks at how exact its time is."""
    monkeypatch.setattr(probe, "LEAST_SECONDS", 0.0)
