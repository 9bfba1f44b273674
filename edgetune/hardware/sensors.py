"""What the guards of a run can see and do, in one place: tests put another machine, and another night, in its stead.

EDGETUNE_SENSORS=calm makes a machine of which nothing but time and disk is read: always on mains, cool and awake.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from edgetune.files import free_space
from edgetune.hardware.awake import Awake, SystemAwake, has_battery, may_sleep
from edgetune.hardware.clock import Clock, SystemClock
from edgetune.hardware.energy import EnergyMeter
from edgetune.hardware.limits import available_memory, total_memory
from edgetune.hardware.machine import Power, power_source, temperature
from edgetune.hardware.servers import Server, model_servers

PRESSURE = b"com.apple.system.thermalpressurelevel"


class Heat(NamedTuple):
    """How hot the processor is, and whether the system slows it down because of that; None: it does not tell."""

    celsius: float | None = None
    is_slowed: bool | None = None


class Memory(NamedTuple):
    """Bytes of memory that can be had now, that this process could ever have, and that are swapped to the disk."""

    available: int
    total: int
    swapped: int


@dataclass(frozen=True)
class Sensors:
    """Each is asked between two steps, or every few seconds, and must answer in milliseconds."""

    clock: Clock
    awake: Awake
    sleep: Callable[[float], None]
    power: Callable[[], tuple[Power, float | None]]  # where it comes from, and the battery's charge in percent
    heat: Callable[[], Heat]
    memory: Callable[[], Memory]
    servers: Callable[[], list[Server]]
    free_space: Callable[[Path], int]
    energy: Callable[[], float | None]  # joules since the first look
    has_lid: bool = False
    may_sleep: bool = False


def these_sensors() -> Sensors:
    """Those of this machine."""
    if os.environ.get("EDGETUNE_SENSORS") == "calm":
        return calm_sensors()
    return Sensors(
        clock=SystemClock(),
        awake=SystemAwake(),
        sleep=time.sleep,
        power=power_source,
        heat=heat,
        memory=memory,
        servers=model_servers,
        free_space=free_space,
        energy=EnergyMeter(),
        has_lid=has_battery(),
        may_sleep=may_sleep(),
    )


class AwakeAnyway:
    """A machine that never sleeps."""

    def hold(self) -> str:
        """Nobody does anything."""
        return ""

    def release(self) -> None:
        """Nor now."""


def calm_sensors() -> Sensors:
    """A machine that nothing happens to."""
    return Sensors(
        clock=SystemClock(),
        awake=AwakeAnyway(),
        sleep=time.sleep,
        power=lambda: ("unknown", None),
        heat=Heat,
        memory=lambda: Memory(1 << 40, 1 << 40, 0),
        servers=list,
        free_space=free_space,
        energy=lambda: None,
    )


def heat() -> Heat:
    """The processor's temperature on Linux; on a Mac, whether the system slows it down."""
    pressure = thermal_pressure()
    return Heat(temperature(), None if pressure is None else pressure > 0)


def thermal_pressure() -> int | None:
    """A Mac's thermal pressure, from 0, nominal, to 4 (OSThermalNotification.h); None elsewhere."""
    if sys.platform != "darwin":
        return None
    with suppress(OSError, AttributeError):
        system = ctypes.CDLL("/usr/lib/libSystem.B.dylib")
        token, state = ctypes.c_int(), ctypes.c_uint64()
        if system.notify_register_check(PRESSURE, ctypes.byref(token)) == 0:
            status = system.notify_get_state(token, ctypes.byref(state))
            system.notify_cancel(token)
            return int(state.value) if status == 0 else None
    return None


def memory() -> Memory:
    """This machine's, or its container's where that is less."""
    with suppress(OSError, RuntimeError):  # no such reading on this system
        return Memory(available_memory(), total_memory(), psutil.swap_memory().used)
    return Memory(available_memory(), total_memory(), 0)
