import os
import signal

import pytest

from edgetune.cli.output import Output
from edgetune.cli.signals import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_once_the_run_has_begun(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with StopSignals(Output()) as stop:
        assert [signal.getsignal(each) for each in SIGNALS] == before
        stop.begin()
        stop.begin()
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert "stopping after this step" in capfd.readouterr().err


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(Output()) as stop:
            stop.begin()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
