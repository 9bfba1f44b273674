from pathlib import Path

from edgetune.events import AnyEvent, Progress, RunStopped, StepFinished, ValidationFinished, from_line, read, to_line


def test_an_event_comes_back_from_its_line() -> None:
    event = ValidationFinished(step=3, loss=1.25, tokens=80, seconds=0.5, best=True)
    line = to_line(event)
    assert b"\n" not in line and b'"event":"ValidationFinished"' in line
    assert from_line(line) == event


def test_text_with_new_lines_stays_on_its_line() -> None:
    event = RunStopped(step=1, reason="a\nb\u2028c")
    assert b"\n" not in to_line(event)
    assert from_line(to_line(event)) == event


def test_every_event_knows_its_time() -> None:
    assert Progress(stage="x", done=1, total=2, unit="rows").time > 1.7e9


def test_half_lines_and_events_of_newer_versions_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    whole = to_line(RunStopped(step=1, reason="asked to stop"))
    file.write_bytes(b'{"event":"FromTheFuture","x":1}\n' + whole + b"\nnoise\n[1]\n" + whole[: len(whole) // 2])
    assert [type(event) for event in read(file)] == [RunStopped]
    assert from_line(b'{"event":"RunStopped","step":"one","reason":""}') is None


def test_the_union_holds_every_event() -> None:
    from edgetune.events import Event

    assert set(AnyEvent.__args__) == set(Event.__subclasses__()) and StepFinished in AnyEvent.__args__
