import pytest

from edgetune.cli.event_view import EventView
from edgetune.cli.output import Output, render
from edgetune.events import (
    CheckpointRejected,
    ClockChanged,
    Diverged,
    Event,
    HopScored,
    KeptAwake,
    MemoryShort,
    PowerChanged,
    Progress,
    Recovered,
    RolledBack,
    RowsLeftOut,
    RunPaused,
    RunStarted,
    SampleWritten,
    Slept,
    StepFinished,
    StepSkipped,
    Throttled,
    ValidationFinished,
    Warned,
)


class Clock:
    """Time that passes only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


STARTED = RunStarted(
    run="r", first_step=0, total_steps=40, backend="numpy", trained_parameters=2_442_240, train_rows=412, valid_rows=22,
    train_tokens=48_000, trained_tokens=31_204, planned_peak_bytes=1_570_000_000,
)  # fmt: skip


def step(number: int, seconds: float = 4.0) -> StepFinished:
    return StepFinished(
        step=number,
        loss=3.5 / number,
        rate=1e-4,
        gradient_norm=1,
        tokens=2048,
        trained_tokens=900,
        seconds=seconds,
        memory_bytes=1,
    )


def shown(events: list[Event], capsys: pytest.CaptureFixture[str]) -> list[str]:
    view = EventView(Output(), Clock())
    for event in events:
        view.show(event)
    return capsys.readouterr().err.splitlines()


def test_a_run_reads_calmly(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [STARTED, ValidationFinished(step=0, loss=3.9, tokens=9, seconds=1, best=True)]
    for number in range(1, 41):
        events.append(step(number))
        if number == 20:
            events += [
                ValidationFinished(step=20, loss=1.9124, tokens=9, seconds=1, best=False),
                SampleWritten(step=20, prompt="Who are you?", reply="The desk."),
            ]
    lines = shown(events, capsys)
    assert lines[:6] == [
        "2.44 M parameters learn 412 rows (31,204 trained tokens); 22 rows are held out",
        "40 steps · numpy · memory at most 1.57 GB",
        "    step      loss   tokens/s   left",
        "       0    3.9000   held-out rows · best so far",
        "       2    1.7500        512   2 min 32 s",
        "       4    0.8750        512   2 min 24 s",
    ]
    assert "      20    1.9124   held-out rows · best 3.9000" in lines
    assert lines[-1] == "      40    0.0875        512   0.0 s"
    assert "          › Who are you?" in lines and "            The desk." in lines
    assert len(lines) == 3 + 2 + 20 + 2 and all(len(line) <= 80 for line in lines)


def test_a_continued_run_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    import msgspec

    lines = shown([msgspec.structs.replace(STARTED, first_step=20, planned_peak_bytes=0)], capsys)
    assert lines[1] == "after step 20 of 40 steps · numpy"


def test_rows_left_out_are_counted_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = [
        RowsLeftOut(file="a.jsonl", line=n, kind="too long" if n % 2 else "broken", message="1,300 tokens") for n in range(1, 6)
    ]
    lines = shown([*left_out, STARTED], capsys)
    assert lines[0] == "warning: rows not learned as they are: 5 (3 too long, 2 broken)"
    assert lines[1] == "hint: the first is a.jsonl:1: 1,300 tokens; `edgetune data` lists them all"
    assert len(lines) == 4


def test_what_is_rare_stands_out(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [
        Warned(message="the template differs", hint="look at it"),
        StepSkipped(step=7, reason="the loss is nan", rows=["a.jsonl:3"]),
        CheckpointRejected(folder="step-000010", reason="state.json is not what was written"),
        RunPaused(step=8),
        HopScored(hop="Q8_0", loss=1.2, loss_delta=0.001, kl=0.0002, top1_agreement=0.995),
    ]
    assert shown(events, capsys) == [
        "warning: the template differs",
        "hint: look at it",
        "warning: step 7 changed nothing: the loss is nan",
        "hint: rows a.jsonl:3",
        "warning: step-000010 is not used: state.json is not what was written",
        "paused after step 8",
        "  Q8_0       loss 1.2000 (+0.0010) · KL 0.0002 · same token 99.5 %",
    ]


def test_a_night_reads_calmly(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [
        KeptAwake(method="caffeinate", has_lid=True),
        PowerChanged(step=3, source="battery", percent=81.4),
        RunPaused(step=4, reason="on battery, 20 % left"),
        PowerChanged(step=4, source="mains"),
        Throttled(step=9, percent=38.2, celsius=97.0, rest_share=0.1),
        Throttled(step=9, percent=0, celsius=97.0),
        Recovered(step=20, seconds=754),
        Slept(step=21, seconds=7201),
        Slept(step=21, seconds=31, kind="held"),
        ClockChanged(step=22, seconds=-86400),
        MemoryShort(step=23, available_bytes=410_000_000, swapped_bytes=0, recomputes=True, servers=["ollama 8.1 GB"]),
        RolledBack(step=30, to_step=25, rate_factor=0.25, rows=["a.jsonl:3"], reason="the loss is nan"),
        Diverged(step=40, loss=3.25, best_loss=1.5, best_step=20),
    ]
    lines = shown(events, capsys)
    assert lines == [
        "the machine stays awake while it trains, the display may sleep",
        "hint: a closed lid puts it to sleep all the same: leave it open",
        "on battery, 81 % charged",
        "paused after step 4: on battery, 20 % left",
        "on mains again",
        "the machine is 38 % slower than it was at 97 °C: it rests 10% of each step",
        "the machine is too hot at 97 °C",
        "the machine is back at its pace after 12 min 34 s",
        "the machine slept for 2 h 00 min",
        "the run was held for 31 s",
        "the clock was set back by 24 h 00 min",
        "memory is short, 410 MB left: activations are recomputed from now on",
        "hint: other programs hold models: ollama 8.1 GB",
        "warning: after step 30 the run went back to step 25, at 0.25 times the rate",
        "hint: the loss is nan; rows a.jsonl:3",
        "warning: the held-out loss 3.2500 is far above the best, 1.5000 at step 20",
        "hint: the best is kept; checks.patience ends such runs",
    ]
    assert all(len(line) <= 80 for line in lines)


def progress(done: float, unit: str = "bytes") -> Progress:
    return Progress(stage="hashing", done=done, total=100e6, unit=unit)


def test_what_is_quick_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown([progress(0), progress(50e6), progress(100e6)], capsys) == []


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = EventView(Output(), clock)
    for second in range(51):
        clock.now = 100.0 + second
        view.show(progress(2e6 * second))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "hashing 20.0 % · 2 MB/s · 40 s left"
    assert lines[-1] == "hashing took 50 s" and len(lines) == 5


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    output, clock, drawn = Output(), Clock(), list[str]()
    output.live = True
    monkeypatch.setattr(output, "status", lambda *parts: drawn.append(render(parts, False)))
    view = EventView(output, clock)
    for second in range(5):
        clock.now = 100.0 + second
        view.show(progress(10 * second, unit="rows") if second else progress(0, unit="rows"))
    assert drawn[-1] == "hashing ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 0.0 % · 10 rows/s · 2777 h 46 min left"
    view.show(STARTED)
    clock.now += 1
    view.show(step(10))
    assert drawn[-1] == "━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 10/40 · loss 0.3500 · 512 tokens/s · 2 min 00 s left"


def test_a_slow_step_in_a_log_is_told_every_minute(capsys: pytest.CaptureFixture[str]) -> None:
    import msgspec

    clock = Clock()
    view = EventView(Output(), clock)
    view.show(msgspec.structs.replace(STARTED, total_steps=4000))
    for number in range(1, 11):
        clock.now += 30
        view.show(step(number, seconds=30))
    numbers = [int(line.split()[0]) for line in capsys.readouterr().err.splitlines()[3:]]
    assert numbers == [1, 3, 5, 7, 9]
