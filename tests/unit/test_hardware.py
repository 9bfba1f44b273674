import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edgetune import hardware
from edgetune.hardware import limits, machine, speed
from edgetune.hardware.speed import Probe

GB = 1_000_000_000


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux of 16 GB, 12 of them available, and 8 cores with 16 threads, without control groups."""
    monkeypatch.setattr(limits, "PROCESS", tmp_path / "proc")
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GB, available=12 * GB))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (tmp_path / "proc").mkdir()
    return tmp_path


def group(root: Path, line: str, folder: str, **files: str) -> None:
    (root / "proc" / "cgroup").write_text(line + "\n")
    (root / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "cgroup" / folder / name.replace("__", ".")).write_text(text + "\n")


def test_without_a_container_all_of_the_machine_is_ours(groups: Path) -> None:
    assert (limits.worker_count(), limits.logical_cores()) == (8, 16)
    assert (limits.total_memory(), limits.available_memory()) == (16 * GB, 12 * GB)
    assert limits.usable_memory() == 12 * GB - int(0.05 * 16 * GB)


def test_a_container_of_version_2_limits_memory_and_cores(groups: Path) -> None:
    used = {"memory__current": f"{3 * GB}", "memory__stat": f"anon 5\ninactive_file {1 * GB}"}
    group(groups, "0::/pod/box", "pod/box", memory__max="max", cpu__max="max 100000", **used)
    group(groups, "0::/pod/box", "pod", memory__max=f"{8 * GB}", cpu__max="350000 100000", **used)
    assert (limits.total_memory(), limits.available_memory()) == (8 * GB, 6 * GB)
    assert (limits.worker_count(), limits.logical_cores()) == (3, 3)


def test_a_container_of_version_1_limits_memory_and_cores(groups: Path) -> None:
    lines = "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n1:name=systemd:/"
    memory = {"memory__limit_in_bytes": f"{4 * GB}", "memory__usage_in_bytes": f"{GB}"}
    group(groups, lines, "memory", **memory, memory__stat="total_inactive_file 0")
    group(groups, lines, "cpu,cpuacct", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert (limits.total_memory(), limits.available_memory()) == (4 * GB, 3 * GB)
    assert limits.worker_count() == 1


def test_a_container_without_limits_changes_nothing(groups: Path) -> None:
    group(groups, "4:memory:/\n1:cpu:/", "memory", memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="5")
    group(groups, "4:memory:/\n1:cpu:/", "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert limits.total_memory() == 16 * GB and limits.logical_cores() == 16


def test_cores_follow_the_affinity(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert limits.worker_count() == limits.logical_cores() == 1


def in_child(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold a process to its address space")
def test_a_process_with_a_memory_limit_plans_within_it() -> None:
    code = (
        "import resource; from edgetune.hardware import usable_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, resource.RLIM_INFINITY)); print(usable_memory())"
    )
    assert int(in_child(code)) < 2_000_000_000


def test_peak_memory_sees_what_is_gone_and_not_what_the_parent_had() -> None:
    ballast = b"1" * 300_000_000
    code = (
        "from edgetune.hardware import peak_memory\nbefore = peak_memory()\n"
        "x = b'1' * 100_000_000; del x\nprint(before, peak_memory())"
    )
    before, after = map(int, in_child(code).split())
    assert before < len(ballast)
    assert 90_000_000 < after - before < 120_000_000


def test_this_machine_is_described() -> None:
    here = hardware.this_machine()
    assert here.chip and here.system and here.architecture
    assert 1 <= here.physical_cores <= here.logical_cores
    assert 0 < here.usable_memory_bytes < here.available_memory_bytes < here.total_memory_bytes
    assert here.power in ("mains", "battery", "unknown")


def test_a_chip_is_read_from_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    core = "processor\t: {}\nmodel name\t: Ryzen {}\nflags\t\t: avx2 fma\n\n"
    (tmp_path / "cpuinfo").write_text(core.format(0, "first") + core.format(1, "second"))
    machine.cpu_info.cache_clear()
    machine.cpu_flags.cache_clear()
    try:
        assert machine.chip() == "Ryzen first" and machine.cpu_flags() == {"avx2", "fma"}
    finally:
        machine.cpu_info.cache_clear()
        machine.cpu_flags.cache_clear()


def test_power_and_temperature_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {}, raising=False)
    assert machine.power_source() == ("unknown", None) and machine.temperature() is None
    battery = SimpleNamespace(percent=81.26, power_plugged=False)
    hot = {"nvme": [SimpleNamespace(current=90.0)], "k10temp": [SimpleNamespace(current=t) for t in (40.0, 61.5)]}
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: hot, raising=False)
    assert machine.power_source() == ("battery", 81.3) and machine.temperature() == 61.5
    monkeypatch.delattr(psutil, "sensors_battery")
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert machine.power_source() == ("unknown", None) and machine.temperature() is None


@pytest.fixture
def avx512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An AVX-512 processor whose OpenBLAS takes other kernels at 250 GFLOP/s, and AVX-512 ones at 460."""
    monkeypatch.setenv("EDGETUNE_HOME", str(tmp_path))
    for name in ("OPENBLAS_CORETYPE", "EDGETUNE_REEXECUTED", *speed.MALLOC):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(speed, "cpu_flags", lambda: frozenset(speed.KERNEL_FLAGS))
    monkeypatch.setattr(speed, "probe", lambda env: Probe("SkylakeX", 460e9) if env else Probe("Zen", 250e9))
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    return monkeypatch


def test_faster_kernels_are_asked_for_where_they_are_faster(avx512: pytest.MonkeyPatch) -> None:
    assert hardware.child_environment() == {"OPENBLAS_CORETYPE": "SKYLAKEX", **speed.MALLOC}


@pytest.mark.parametrize("missing", sorted(speed.KERNEL_FLAGS))
def test_kernels_that_this_processor_lacks_are_never_tried(avx512: pytest.MonkeyPatch, missing: str) -> None:
    def never(environment: dict[str, str]) -> Probe:
        raise AssertionError("tried")

    avx512.setattr(speed, "cpu_flags", lambda: frozenset(speed.KERNEL_FLAGS - {missing}))
    avx512.setattr(speed, "probe", never)
    assert "OPENBLAS_CORETYPE" not in hardware.child_environment()


@pytest.mark.parametrize(
    ("plain", "forced"),
    [
        (Probe("SkylakeX", 460e9), Probe("SkylakeX", 900e9)),  # nothing to mend
        (Probe("", 250e9), Probe("", 460e9)),  # no OpenBLAS
        (Probe("Zen", 250e9), Probe("SkylakeX", 260e9)),  # no gain
        (Probe("Zen", 250e9), None),  # it dies
        (None, Probe("SkylakeX", 460e9)),
    ],
)
def test_kernels_stay_as_they_are_without_a_gain(avx512: pytest.MonkeyPatch, plain: Probe | None, forced: Probe | None) -> None:
    avx512.setattr(speed, "probe", lambda env: forced if env else plain)
    assert "OPENBLAS_CORETYPE" not in hardware.child_environment()


def test_what_a_person_has_set_stays(avx512: pytest.MonkeyPatch) -> None:
    avx512.setenv("OPENBLAS_CORETYPE", "HASWELL")
    avx512.setenv("MALLOC_ARENA_MAX", "4")
    assert set(hardware.child_environment()) == {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"}


def test_malloc_is_left_alone_where_it_is_not_glibc(avx512: pytest.MonkeyPatch) -> None:
    avx512.setattr("platform.libc_ver", lambda: ("", ""))
    assert set(hardware.child_environment()) == {"OPENBLAS_CORETYPE"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": "y"}', None])
def test_a_gain_is_measured_once_and_a_damaged_note_measured_anew(
    avx512: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "machine.json").write_text(text)
    assert speed.known_gain() == 1.84
    avx512.setattr(speed, "measure_gain", lambda: 0.0)
    assert speed.known_gain() == 1.84
    assert list(json.loads((tmp_path / "machine.json").read_text()).values()) == [1.84]


def test_a_home_that_cannot_be_written_only_costs_the_note(avx512: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    avx512.setenv("EDGETUNE_HOME", str(tmp_path / "file"))
    assert speed.known_gain() == 1.84


def test_a_probe_tells_kernels_and_speed_and_survives_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    found = speed.probe({})
    assert found and found.speed > 1e8
    monkeypatch.setattr(speed, "PROBE", "import os; os.abort()")
    assert speed.probe({}) is None
    monkeypatch.setattr(speed, "PROBE", "print('no JSON')")
    assert speed.probe({}) is None


def test_a_command_begins_again_once_with_its_own_arguments() -> None:
    code = (
        "import os, sys; from edgetune.hardware import reexec_for_speed, speed\n"
        "print('start', os.getpid(), sys.argv[1:], flush=True)\n"
        "speed.child_environment = lambda: {'MALLOC_ARENA_MAX': '1'}\n"
        "reexec_for_speed(); print(os.environ['MALLOC_ARENA_MAX'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != speed.ALREADY}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "a b.toml"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    first, second, last = done.stdout.splitlines()
    assert first == second and first.endswith("['train', 'a b.toml']") and last == "1"


def test_a_machine_is_looked_at_without_loading_numpy() -> None:
    assert (
        in_child("import sys; from edgetune.hardware import this_machine; this_machine(); print('numpy' in sys.modules)")
        == "False\n"
    )
