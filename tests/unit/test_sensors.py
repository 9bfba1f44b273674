"""What the guards see of a machine: the files and processes that it is read from, and what is made of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgetune.hardware import awake, energy, sensors, servers
from edgetune.hardware.awake import SystemAwake
from edgetune.hardware.energy import EnergyMeter
from edgetune.hardware.sensors import Heat, these_sensors
from edgetune.hardware.servers import model_servers, server_name


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Linux tells of energy; empty."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(energy, "SUPPLIES", tmp_path / "power_supply")
    return tmp_path


def write(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def test_processors_count_their_energy_and_the_count_turns_over(power: Path) -> None:
    package, core = power / "powercap" / "intel-rapl:0", power / "powercap" / "intel-rapl:0:0"
    write(package, energy_uj=9_000_000, max_energy_range_uj=10_000_000)
    write(core, energy_uj=5_000_000, max_energy_range_uj=10_000_000)  # is counted in the package
    meter = EnergyMeter()
    assert meter() == 0
    write(package, energy_uj=9_500_000)
    assert meter() == pytest.approx(0.5)
    write(package, energy_uj=2_000_000)
    assert meter() == pytest.approx(3.0)


@pytest.mark.parametrize("told", [{"energy_now": 50_000_000}, {"charge_now": 4_000_000, "voltage_now": 12_500_000}])
def test_a_battery_that_gives_power_tells_it_and_one_that_is_charged_does_not(told: dict[str, int], power: Path) -> None:
    """50 Wh are 180 kJ; a hundredth of them is 1800 J."""
    battery = power / "power_supply" / "BAT0"
    write(battery, status="Discharging", **told)
    meter = EnergyMeter()
    meter()
    first = next(iter(told))
    write(battery, **{first: told[first] * 99 // 100})
    assert meter() == pytest.approx(1800)
    write(battery, status="Charging", **told)
    assert meter() == pytest.approx(1800)
    write(battery, status="Discharging")
    assert meter() == pytest.approx(1800)


def test_a_machine_that_tells_nothing_of_energy(power: Path) -> None:
    write(power / "powercap" / "intel-rapl:0", max_energy_range_uj=1)  # without a password, the counter is not there
    assert EnergyMeter()() is None


@pytest.mark.parametrize(
    ("process", "command", "name"),
    [
        ("ollama", ["ollama", "serve"], "Ollama"),
        ("ollama_llama_server", [], "Ollama"),
        ("LM Studio Helper", [], "LM Studio"),
        ("llama-server", ["/opt/bin/llama-server", "-m", "x.gguf"], "llama-server"),
        ("python3.12", ["/usr/bin/python3.12", "/venv/bin/mlx_lm.server", "--model", "x"], "mlx_lm.server"),
        ("python3.12", ["python3.12", "-m", "mlx_lm.server"], "mlx_lm.server"),
        ("python", ["python", "-m", "mlx_lm", "server"], "mlx_lm.server"),
        ("python", ["python", "-m", "llama_cpp.server"], "llama-cpp-python's server"),
        ("python", ["python", "-m", "edgetune", "chat"], ""),
        ("java", [], ""),
        ("janitor", [], ""),
    ],
)
def test_programs_that_hold_models_are_known_by_name(process: str, command: list[str], name: str) -> None:
    assert server_name(process, command) == name


def test_a_server_that_runs_is_found_with_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mlx_lm.server"
    script.write_text("held = b'x' * 60_000_000\nprint('ready', flush=True)\ninput()\n")
    monkeypatch.setattr(servers, "LEAST", 50_000_000)
    child = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        (found,) = [each for each in model_servers() if each.name == "mlx_lm.server"]
        assert found.memory_bytes > 60_000_000
    finally:
        child.communicate("\n")


def test_no_method_to_stay_awake_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no desktop session to ask."""
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    system = SystemAwake()
    assert sys.platform == "darwin" or system.hold() == ""
    system.release()
    system.release()


def test_the_display_is_never_forced_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx issue 3267: some Macs crash under load with their display on."""
    from wakepy import keep

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError

    asked: list[object] = []
    running = keep.running
    monkeypatch.setattr(keep, "presenting", forbidden)
    monkeypatch.setattr(keep, "running", lambda **options: asked.append(options) or running(**options))
    SystemAwake().hold()
    assert asked == [{"on_fail": "pass"}]


@pytest.mark.parametrize(("desktop", "battery", "sleeps"), [(None, None, False), ("GNOME", None, True), (None, 80.0, True)])
def test_a_server_does_not_go_to_sleep_by_itself(
    desktop: str | None, battery: float | None, sleeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(awake, "power_source", lambda: ("unknown", battery))
    monkeypatch.delenv("XDG_CURRENT_DESKTOP", raising=False)
    if desktop:
        monkeypatch.setenv("XDG_CURRENT_DESKTOP", desktop)
    assert awake.may_sleep() is sleeps and awake.has_battery() is (battery is not None)


def test_this_machine_answers_all_that_guards_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGETUNE_SENSORS")
    these = these_sensors()
    memory, (source, percent) = these.memory(), these.power()
    assert 0 < memory.available <= memory.total and memory.swapped >= 0
    assert source in ("mains", "battery", "unknown") and (percent is None or 0 <= percent <= 100)
    assert these.free_space(Path()) > 0 and isinstance(these.servers(), list)
    heat = these.heat()
    assert heat.celsius is None or 0 < heat.celsius < 150
    assert sensors.thermal_pressure() is None or sys.platform == "darwin"


def test_a_calm_machine_is_asked_for_by_name() -> None:
    assert os.environ["EDGETUNE_SENSORS"] == "calm"
    calm = these_sensors()
    assert (calm.power(), calm.heat(), calm.servers(), calm.energy()) == (("unknown", None), Heat(), [], None)
