"""`doctor`: what this machine has, what is wrong, and how to mend it."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from edgetune.cli.options import Job
from edgetune.cli.output import Styled
from edgetune.errors import EdgeTuneError, InputError
from edgetune.units import percent, size

LEAST_MEMORY, LEAST_DISK = 500_000_000, 1_000_000_000  # bytes
CHILD_SECONDS = 60
NUMPY = """
import numpy, threadpoolctl
numpy.ones((8, 8), numpy.float32) @ numpy.ones((8, 8), numpy.float32)
used = [f'{one["internal_api"]} {one.get("architecture", "")}'.strip() + f', {one["num_threads"]} threads'
        for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]
print(f"NumPy {numpy.__version__}, {used[0] if used else 'a BLAS of its own'}")
"""
LLAMA = """
import sys, llama_cpp
missing = [name for name in sys.argv[1:] if not hasattr(llama_cpp.llama_cpp, name)]
if missing:
    sys.exit(f"llama-cpp-python {llama_cpp.__version__} lacks {', '.join(missing)}")
print(f"llama-cpp-python {llama_cpp.__version__}, all {len(sys.argv) - 1} functions that are used")
"""
MLX = """
from importlib.metadata import version
import mlx.core as mx
mx.eval(mx.ones((8, 8)) @ mx.ones((8, 8)))
on = next((name for name in ("Metal", "CUDA") if hasattr(mx, name.lower()) and getattr(mx, name.lower()).is_available()), "")
name = mx.device_info().get("device_name", "")
use = "trains unless --backend numpy is given" if on else "slow on a processor, so only used with --backend mlx"
print(f"MLX {version('mlx')} on {on or 'the CPU'}{f', {name}' if on and name else ''}: {use}")
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `needed`: without it, training or chat cannot work."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = False


def doctor(job: Job) -> None:
    """Show what this machine has, what is wrong, and how to mend it."""
    checks: list[Check] = []
    for check in all_checks():
        checks.append(check)
        mark = Styled("✓", "green") if check.ok else Styled("✗", "red") if check.needed else Styled("!", "yellow")
        job.output.say(mark, f" {check.name:<10} {check.detail}")
        if check.hint and not check.ok:
            job.output.say("  ", Styled("hint:", "cyan"), f" {check.hint}")
    broken = [check.name for check in checks if check.needed and not check.ok]
    job.output.say()
    job.output.say(f"cannot work yet: {', '.join(broken)}" if broken else "ready to train and to chat")
    job.output.document({"checks": checks})
    if broken:
        raise typer.Exit(InputError.exit_code)


def all_checks() -> Iterator[Check]:
    """Every check, one after the other."""
    looks: list[Callable[[], Check]] = [
        python, chip, memory, home, disk, arithmetic, mlx, llama_cpp, packages, power, starter, token,
    ]  # fmt: skip
    for look in looks:
        yield look()


def python() -> Check:
    """The interpreter."""
    return Check("python", True, f"{platform.python_version()} on {sys.platform}, {sys.executable}")


def chip() -> Check:
    """The processor."""
    from edgetune.hardware import this_machine

    here = this_machine()
    heat = f", {here.temperature_celsius:.0f} °C" if here.temperature_celsius is not None else ""
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in here.flags), "")
    wide = f", {widest}" if widest else ""
    cores = f"{here.physical_cores} cores, {here.logical_cores} threads"
    return Check("chip", True, f"{here.chip} ({here.architecture}), {cores}{wide}{heat}; {here.system}")


def memory() -> Check:
    """What a job may plan with."""
    from edgetune.hardware import this_machine

    here = this_machine()
    total, usable = here.total_memory_bytes, here.usable_memory_bytes
    detail = f"{size(usable)} usable of {size(total)}"
    return Check("memory", usable >= LEAST_MEMORY, detail, "close other programs before you train")


def home() -> Check:
    """The place of runs and models."""
    from edgetune import files

    place = files.home()
    try:
        with files.whole_file(place / "doctor", "doctor") as part:
            files.write_file(part, b"", "doctor-content")
        (place / "doctor").unlink()
    except EdgeTuneError as error:
        return Check("home", False, error.message, "set EDGETUNE_HOME to a folder that you can write", needed=True)
    return Check("home", True, str(place), needed=True)


def disk() -> Check:
    """The room that is left there."""
    from edgetune import files

    free = files.free_space(files.home())
    return Check("disk", free >= LEAST_DISK, f"{size(free)} free", "free some: a model, its runs and exports lie there")


def arithmetic() -> Check:
    """NumPy and the kernels that a training process would get, tried in a process of their own."""
    from edgetune.hardware import child_environment

    extra = child_environment()
    worked, told = in_child(NUMPY, extra)
    faster = "; AVX-512 kernels are asked for, as they are faster here" if "OPENBLAS_CORETYPE" in extra else ""
    return Check("numpy", worked, told + faster, "install it again: pip install --force-reinstall numpy", needed=True)


def mlx() -> Check:
    """MLX, tried in a process of its own where it is installed."""
    from importlib.util import find_spec

    from edgetune.backend.choice import INSTALL

    if find_spec("mlx") is None:
        return Check("mlx", True, "not installed: NumPy computes", INSTALL)
    return Check("mlx", *in_child(MLX, {}), INSTALL)


def llama_cpp() -> Check:
    """llama.cpp, in a process of its own: every function that we call must be there."""
    import re

    from edgetune import llamacpp

    sources = Path(str(llamacpp.__file__)).parent.glob("*.py")
    used = {name for file in sources for name in re.findall(r"\blib\.(llama_\w+)", file.read_text("utf-8"))}
    worked, told = in_child(LLAMA, {}, *sorted(used))
    hint = 'install it again: pip install --force-reinstall "llama-cpp-python>=0.3.16,<0.4" (it compiles for minutes)'
    return Check("llama.cpp", worked, told, hint, needed=True)


def in_child(code: str, environment: dict[str, str], *arguments: str) -> tuple[bool, str]:
    """Runs code in a process of its own: whether it worked, and its one line."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"could not be tried ({type(error).__name__})"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}"]
        return False, last[0]
    return True, done.stdout.strip()


def packages() -> Check:
    """The installed versions against those that EdgeTune is made for."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        needs = [Requirement(text) for text in requires("edgetune") or []]
    except PackageNotFoundError:
        return Check("packages", True, "EdgeTune runs from its sources; versions are not compared")
    wrong: list[str] = []
    needs = [need for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    for need in needs:
        try:
            found = version(need.name)
        except PackageNotFoundError:
            found = ""
        if not need.specifier.contains(found or "0", prereleases=True):
            wrong.append(f"{need.name} {found or 'is not there'} (wanted: {need.specifier})")
    detail = "; ".join(wrong) or f"all {len(needs)} are of the versions asked for"
    return Check("packages", not wrong, detail, "install EdgeTune again, in an environment of its own")


def power() -> Check:
    """Mains or battery."""
    from edgetune.hardware import this_machine

    here = this_machine()
    charge = f", charged to {percent(here.battery_percent / 100)}" if here.battery_percent is not None else ""
    names = {"mains": "mains", "battery": "battery", "unknown": "no battery is seen"}
    return Check("power", here.power != "battery", names[here.power] + charge, "plug it in for a night's run")


def starter() -> Check:
    """Our own small model, whole."""
    from edgetune.cli.models import row_of
    from edgetune.hub import catalog

    entry, folder = catalog.find("starter"), catalog.starter()
    absent = [name for name in (entry.files if entry else []) if not (folder / name).is_file()]
    if entry is None or absent:
        problem = f"{absent[0]} is not there" if absent else "is not in the catalogue"
    else:
        problem = row_of("starter", folder).problem
    return Check("starter", not problem, problem or str(folder), "install EdgeTune again; `demo` needs it")


def token() -> Check:
    """Whether a hub token is set; never which."""
    cache = Path(os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"))
    there = bool(os.environ.get("HF_TOKEN")) or (cache / "token").is_file()
    detail = "there" if there else "none: only private models, and some licences, ask for one"
    return Check("hub token", True, detail)
