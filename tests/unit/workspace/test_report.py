"""What is told in the morning about recorded nights."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import nights
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from nights import CONFIG, Night

from edgetune.cli.output import builtins
from edgetune.events import CheckpointSaved, Event, RunStopped, Warned, to_line
from edgetune.workspace.report import report_of
from edgetune.workspace.report_facts import Report
from edgetune.workspace.report_pages import escaped, fenced, markdown, report_on, reporting, write_pages
from edgetune.workspace.report_svg import svg
from edgetune.workspace.run_state import Sample

GOLDEN = Path(__file__).parent / "golden"
NASTY = "](http://evil.example) <script>alert(1)</script> | ``` **x** \x1b[2J \u202e $y$ &#65; www.evil.example"


def told(night: Night, alive: bool = False) -> Report:
    return report_of(CONFIG, night.events, "~/runs/support-bot-1", alive)


def write_run(folder: Path, night: Night) -> Path:
    folder.mkdir()
    (folder / "run.toml").write_text('model = "m"\n[data]\ntrain = ["rows.jsonl"]\n')
    (folder / "events.jsonl").write_bytes(b"".join(to_line(event) + b"\n" for event in night.events))
    return folder


# ---- facts -------------------------------------------------------------------------------------------------------------


def test_a_hard_night_adds_up() -> None:
    report = told(nights.hard())
    times = report.times
    assert (times.slept, times.paused, times.down) == (1800.0, 1080.0, 7800.0)
    assert (times.resting, times.throttled, times.again) == (320.0, 2624.0, 11 * 36.0)
    assert times.training == pytest.approx(611 * 36.0 + 40 * 0.6 * 36.0)
    parts = times.training + times.checks + times.resting + times.paused + times.slept + times.down
    assert times.wall == pytest.approx(parts, abs=1), "the clock that was set back by an hour counts for nothing"
    assert (report.processes, report.step, report.slowest_percent) == (2, 600, 38)
    kinds = [incident.kind for incident in report.incidents]
    assert kinds == [
        "started", "throttled", "powerchanged", "paused", "slept", "powerchanged", "interrupted", "continued", "clockchanged",
        "finished",
    ]  # fmt: skip


def test_best_last_and_before() -> None:
    result = told(nights.learned_by_heart()).result
    assert (result.first, result.best, result.best_step, result.last, result.last_step) == (2.914, 1.482, 200, 1.66, 600)
    assert result.train == 0.41


def test_without_a_plan_the_first_steps_tell_the_time() -> None:
    night = nights.quiet()
    night.events = [
        replace(event, planned_seconds=0.0) if hasattr(event, "planned_seconds") else event for event in night.events
    ]
    assert told(night).planned_seconds == 600 * 36.0


def test_the_facts_of_every_night_are_a_json_document() -> None:
    for name, night in nights.all_nights():
        document = json.loads(json.dumps(builtins(told(night)), allow_nan=False))
        assert document["advice"]["what"] and document["total_steps"] == 600, name


def test_a_week_of_trouble_is_remembered_by_its_beginning_and_its_end() -> None:
    night = nights.quiet()
    end = night.events[-1]
    flood = [Warned(time=night.now, message=f"warning {number}") for number in range(1000)]
    report = report_of(CONFIG, [*night.events[:-1], *flood, end], "run")
    assert len(report.incidents) == 200
    assert report.incidents[0].kind == "started" and report.incidents[-1].kind == "finished"
    assert report.incidents[-2].text == "warning 999"


def test_a_run_that_never_began_is_told_as_one() -> None:
    report = report_of(None, [], "run")
    assert (report.state, report.step, report.result.best, report.curve) == ("interrupted", 0, None, [])
    assert "resume" in report.advice.command


# ---- the recommendation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("night", "what", "command"),
    [
        (nights.quiet, "Export it", "edgetune export ~/runs/support-bot-1 --to Q8_0,Q4_K_M --out ~/runs/support-bot-1/exports"),
        (nights.hard, "Export it", "edgetune export "),
        (nights.learned_by_heart, "Next time train 1 epoch", "--set training.epochs=1"),
        (nights.unfinished_business, "Train 3 epochs more", "--set adapter.init_from=. --set training.epochs=3"),
        (nights.killed, "Continue it", "edgetune resume ~/runs/support-bot-1"),
        (nights.stopped, "Continue it", "edgetune resume "),
        (nights.full_disk, "Free some disk space", "edgetune resume "),
        (nights.rolled_back, "Train at half the rate", "--set training.rate=0.0001"),
        (nights.left_out, "Look at the rows", "edgetune data train.jsonl --model "),
        (lambda: nights.left_out("dropped"), "Make room for the long rows", "--set data.max_tokens=2048"),
        (nights.nothing_held_out, "Hold some rows out", "--set data.valid=0.1"),
    ],
)
def test_each_night_has_its_one_recommendation(night: Callable[[], Night], what: str, command: str) -> None:
    advice = told(night()).advice
    assert advice.what.startswith(what) and advice.why
    assert advice.command.startswith(command) or advice.command.endswith(command)


def test_a_few_rows_left_out_are_no_reason_to_stop() -> None:
    assert told(nights.left_out(number=20)).advice.what == "Export it"


def test_rows_learned_by_heart_without_a_rise_ask_for_rows() -> None:
    night = nights.quiet()
    night.events[-1] = replace(night.events[-1], train_loss=0.4)
    advice = told(night).advice
    assert advice.what.startswith("Add rows") and "adapter.rank=8" in advice.command


def test_a_run_that_goes_on_is_waited_for() -> None:
    advice = told(nights.still_training(), alive=True).advice
    assert (advice.what, advice.command) == ("Wait for it", "edgetune watch ~/runs/support-bot-1")


def test_heat_that_cost_much_is_named() -> None:
    night = nights.Night()
    night.start()
    night.check(2.9)
    night.train(300)
    night.add(nights.Throttled(time=night.now, step=300, percent=40))
    night.train(600, slow=1.7)
    night.check(1.5)
    night.finish(1.4, 1.5, 600)
    assert "slowed by up to 40 % by heat" in told(night).advice.why


def test_paths_in_commands_are_quoted() -> None:
    report = report_of(CONFIG, nights.killed().events, "/tmp/my runs/$(reboot)")
    assert report.advice.command == "edgetune resume '/tmp/my runs/$(reboot)'"


# ---- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quiet", "hard", "killed"])
def test_the_page_of_a_night(name: str, in_utc: None) -> None:
    page = markdown(told(getattr(nights, name)()), "loss.svg")
    assert page == (GOLDEN / f"{name}.md").read_text("utf-8")


def hostile() -> Report:
    report = told(nights.hard())
    incidents = [replace(incident, text=NASTY) for incident in report.incidents]
    samples = [Sample(f"{NASTY}\n````\n# x", 0, NASTY, 5, f"~~~\n{NASTY}")]
    return replace(
        report,
        name=NASTY,
        model=NASTY,
        error=NASTY,
        first_left_out=NASTY,
        left_out={NASTY: 3},
        incidents=incidents,
        samples=samples,
    )


def test_nothing_untrusted_is_markup() -> None:
    page = markdown(hostile(), "loss.svg")
    assert "\x1b" not in page and "\u202e" not in page
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", page, flags=re.DOTALL | re.MULTILINE)
    plain = re.sub(r"\\.", "", outside.replace("![Training and held-out loss by step](<loss.svg>)", ""))
    assert "script" in plain and not re.search(r"[<>\[\]`$&]|https?:/|www\.", plain)
    assert all(line.count("|") == 3 for line in plain.splitlines() if line.startswith("|"))


@given(st.text(alphabet=st.sampled_from("`~ab\n\\ ")))
def test_a_fence_is_longer_than_any_inside(text: str) -> None:
    first, *middle, last = fenced(text, "text").split("\n")
    assert last == first.removesuffix("text") and all(not line.startswith(last) for line in middle)


@given(st.text())
def test_escaped_text_is_one_line(text: str) -> None:
    assert "\n" not in escaped(text) and not re.search(r"(?<!\\)[|<`]", re.sub(r"\\\\", "", escaped(text)))


def test_the_curve_is_a_small_image_with_every_validation() -> None:
    report = told(nights.quiet())
    image = svg(report)
    root = ElementTree.fromstring(image)
    paths = root.findall(".//{*}g/{*}path")
    assert len(paths) == len(report.validations) == 7 and len(image) < 20_000
    numbers = [float(each) for each in re.findall(r"[ML](-?[\d.]+) ", image)]
    assert all(0 <= number <= 720 for number in numbers)
    assert svg(report_of(None, [], "run")) == ""


# ---- in the run folder -------------------------------------------------------------------------------------------------


def test_the_report_is_written_when_a_run_ends(tmp_path: Path) -> None:
    run, heard = write_run(tmp_path / "run", nights.stopped()), list[Event]()
    follow = reporting(run, heard.append)
    follow(CheckpointSaved(step=1, folder="x", seconds=1))
    assert not (run / "report.md").exists()
    follow(RunStopped(step=42, reason="asked to stop"))
    assert (run / "report.md").read_text("utf-8").startswith("# run stopped on ")
    assert "![Training" in (run / "report.md").read_text("utf-8") and (run / "loss.svg").read_text().startswith("<svg ")
    assert [type(event) for event in heard] == [CheckpointSaved, RunStopped]
    assert sorted(path.name for path in run.iterdir()) == ["events.jsonl", "loss.svg", "report.md", "run.toml"]


@pytest.mark.parametrize("point", ["report-open", "report-written", "report-flushed"])
def test_a_report_that_cannot_be_written_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    run, heard = write_run(tmp_path / "run", nights.stopped()), list[Event]()
    monkeypatch.setenv("EDGETUNE_FAULT", f"{point}:1:enospc")
    reporting(run, heard.append)(RunStopped(step=42, reason="asked to stop"))
    assert isinstance(heard[-1], Warned) and "the report was not written" in heard[-1].message
    assert sorted(path.name for path in run.iterdir()) == ["events.jsonl", "run.toml"]


def test_a_damaged_run_is_still_told_about(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", nights.killed())
    (run / "run.toml").write_bytes(b"\xff\x00 not toml")
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"StepFin')
    report = report_on(run)
    assert (report.state, report.model, report.step) == ("interrupted", "", 311)
    write_pages(report, tmp_path / "page.md")
    assert (tmp_path / "page.svg").is_file() and "page.svg" in (tmp_path / "page.md").read_text("utf-8")
