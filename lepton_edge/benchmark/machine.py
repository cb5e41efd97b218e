"""What a figure depends on: the computer, its Python, and what else it was doing meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lepton_edge.errors import InputError

_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
)
_GOVERNOR = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Machine:
    """The computer and its Python."""

    processor: str
    cores: int
    """Processors that the process may use."""
    features: tuple[str, ...]
    """The instruction sets that matter here."""
    virtual: bool
    """Whether a hypervisor runs it."""
    memory_gib: float
    system: str
    python: str
    governor: str | None = None
    """How Linux chooses the processor's frequency; None where it does not say."""


def describe() -> Machine:
    """This machine."""
    processor = _fields("/proc/cpuinfo")
    flags = (processor.get("flags") or processor.get("Features", "")).split()
    memory = int(_fields("/proc/meminfo").get("MemTotal", "0").split()[0])
    return Machine(
        processor=processor.get("model name", platform.machine()),
        cores=len(allowed_cpus()),
        features=tuple(name for name in _FEATURES if name in flags),
        virtual="hypervisor" in flags,
        memory_gib=round(memory / 2**20, 1),
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        governor=_governor(),
    )


def allowed_cpus() -> tuple[int, ...]:
    """The numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@contextmanager
def pinned(cpus: Collection[int] | None) -> Iterator[tuple[int, ...]]:
    """Inside, every thread of this process runs on these processors only, and so do the threads
    and processes that it starts; by default on those that it may use anyway. Gives their numbers.

    Libraries count the processors when they are first loaded: pin before. Raises `InputError` for
    a processor that the process may not use.
    """
    before = allowed_cpus()
    wanted = tuple(sorted(set(before if cpus is None else cpus)))
    if not wanted or not set(wanted) <= set(before):
        listed = ", ".join(map(str, wanted)) or "none"
        raise InputError(
            f"this process cannot be pinned to the processors {listed}",
            hint=f"it may use {', '.join(map(str, before))}",
        )
    if wanted != before:
        _pin(wanted)
    try:
        yield wanted
    finally:
        if wanted != before:
            _pin(before)


def _pin(cpus: Iterable[int]) -> None:
    """Linux keeps an affinity for each thread; a new one takes that of the thread that made it."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread), cpus)


class Watch:
    """How long something took, and what other processes took of the processors meanwhile."""

    def __init__(self) -> None:
        self.load = round(os.getloadavg()[0], 2)
        self._start, self._own, self._all = time.perf_counter(), _own_time(), _busy_time()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._start, 1)

    @property
    def others(self) -> float:
        """A share of all processors' time, 0 to 1; 0 where the system does not tell."""
        taken = (_busy_time() - self._all) - (_own_time() - self._own)
        whole = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return round(min(max(taken / whole, 0.0), 1.0), 3)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions; ``absent`` for one that is not."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _own_time() -> float:
    """Seconds of processor time of this process and of those that it started and waited for."""
    return sum(os.times()[:4])


def _busy_time() -> float:
    """Seconds of processor time of all processes, and what a hypervisor gave to other machines."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _governor() -> str | None:
    """Of the processors that may be used: the governor, or several."""
    found = set()
    for cpu in allowed_cpus():
        try:
            found.add(Path(_GOVERNOR.format(cpu)).read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            return None
    return ", ".join(sorted(found))


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def _fields(path: str) -> dict[str, str]:
    """The first value of each ``name: value`` line."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found
