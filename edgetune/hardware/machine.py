"""What this machine is: its chip, cores, memory, power and temperature, as far as it tells."""

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct

from edgetune.hardware.limits import available_memory, logical_cores, total_memory, usable_memory, worker_count

CPU_INFO = Path("/proc/cpuinfo")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")
Power = Literal["mains", "battery", "unknown"]


class Machine(Struct, frozen=True):
    """One look at the machine. Cores and memory are those that this process may use."""

    chip: str
    architecture: str
    system: str
    physical_cores: int
    logical_cores: int
    total_memory_bytes: int
    available_memory_bytes: int
    usable_memory_bytes: int
    power: Power
    battery_percent: float | None
    temperature_celsius: float | None
    flags: frozenset[str]


def this_machine() -> Machine:
    """What it is like now."""
    power, battery = power_source()
    return Machine(
        chip=chip(),
        architecture=platform.machine(),
        system=system(),
        physical_cores=worker_count(),
        logical_cores=logical_cores(),
        total_memory_bytes=total_memory(),
        available_memory_bytes=available_memory(),
        usable_memory_bytes=usable_memory(),
        power=power,
        battery_percent=battery,
        temperature_celsius=temperature(),
        flags=cpu_flags(),
    )


def chip() -> str:
    """The processor's name."""
    if sys.platform == "darwin":
        return mac_value("machdep.cpu.brand_string") or platform.machine()
    described = cpu_info()
    return described.get("model name") or described.get("Model") or platform.processor() or platform.machine()


def system() -> str:
    """The operating system and its version."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


@cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the names of Linux: avx2, avx512f, neon as asimd, ..."""
    if sys.platform == "darwin":
        spoken = mac_value("machdep.cpu.features") + " " + mac_value("machdep.cpu.leaf7_features")
        return frozenset(spoken.lower().replace(".", "_").split())
    described = cpu_info()
    return frozenset((described.get("flags") or described.get("Features") or "").split())


@cache
def cpu_info() -> dict[str, str]:
    """Linux's description of the processor: the first core's values, and those that stand once at the end."""
    try:
        lines = CPU_INFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {key.strip(): value.strip() for key, value in reversed(list(pairs))}


def mac_value(name: str) -> str:
    """One of macOS's system values; empty where it has none of that name."""
    try:
        asked = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()


def power_source() -> tuple[Power, float | None]:
    """Where the power comes from, and the battery's charge in percent."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError):  # no such reading on this system
        return "unknown", None
    if battery is None:
        return "unknown", None
    return ("mains" if battery.power_plugged else "battery"), round(float(battery.percent), 1)


def temperature() -> float | None:
    """The processor's temperature in degrees Celsius, its hottest place; macOS tells none without a password."""
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError):
        return None
    found = next((sensors[name] for name in CPU_SENSORS if sensors.get(name)), [])
    return max((reading.current for reading in found), default=None)
