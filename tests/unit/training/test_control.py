"""What a person asks of a run that trains arrives, once, and in its order."""

from pathlib import Path

from edgetune.training.control import Control, Pause, Resume, Sample, Save, Stop, control_file, send


def test_commands_arrive_once_in_their_order(tmp_path: Path) -> None:
    control = Control(tmp_path)
    assert control.poll() == []
    wishes = [Pause(), Resume(), Save(), Sample(prompt="Who are you?"), Sample(), Stop()]
    for wish in wishes:
        send(tmp_path, wish)
    assert control.poll() == wishes
    assert control.poll() == []


def test_what_an_earlier_process_was_told_is_not_obeyed_again(tmp_path: Path) -> None:
    send(tmp_path, Stop())
    control = Control(tmp_path)
    send(tmp_path, Pause())
    assert control.poll() == [Pause()]


def test_lines_that_are_no_commands_are_passed_over(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control_file(tmp_path).write_bytes(
        b'\xff\n{"command": "dance"}\n[]\n{"command": "sample", "prompt": 3}\n{"command":"save"}\n{"comm'
    )
    assert control.poll() == [Save()]
    with control_file(tmp_path).open("ab") as file:
        file.write(b'and": "stop"}\n')
    assert control.poll() == [Stop()]


def test_a_file_that_is_gone_or_a_flood_without_a_line_says_nothing(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control_file(tmp_path).write_bytes(b"x" * (3 << 20))
    assert [control.poll() for _ in range(4)] == [[], [], [], []]
    control_file(tmp_path).unlink()
    assert control.poll() == []
