"""What a figure depends on: the computer, its Python and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.results import Machine

_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)
_PACKAGES = (
    "lepton-edge",
    "lepton-edge-openvino",
    "openvino",
    "tokenizers",
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> Machine:
    processor = _fields("/proc/cpuinfo")
    flags = processor.get("flags", "").split()
    memory = int(_fields("/proc/meminfo").get("MemTotal", "0").split()[0])
    return Machine(
        processor=processor.get("model name", platform.machine()),
        cores=cores(),
        features=[name for name in _FEATURES if name in flags],
        virtual="hypervisor" in flags,
        memory_gib=round(memory / 2**20, 1),
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


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
        """A share of all processors' time, 0 to 1."""
        taken = (_busy_time() - self._all) - (_own_time() - self._own)
        whole = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return round(min(max(taken / whole, 0.0), 1.0), 3)


def _own_time() -> float:
    """Seconds of processor time of this process and of those that it started and waited for."""
    return sum(os.times()[:4])


def _busy_time() -> float:
    """Seconds of processor time of all processes, and what a hypervisor gave to other machines."""
    user, nice, system, _, _, irq, softirq, steal = map(int, _cpu_line()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_line() -> list[str]:
    with open("/proc/stat", encoding="ascii") as file:
        return file.readline().split()


def versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def commit(repository: Path) -> str:
    """The commit that was measured, with a note where files differ from it."""
    try:
        head = _git(repository, "rev-parse", "--short=12", "HEAD")
        changed = _git(repository, "status", "--porcelain", "--", "lepton_edge", "backends")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with changes" if changed else head


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def _fields(path: str) -> dict[str, str]:
    """The first value of each ``name: value`` line."""
    found: dict[str, str] = {}
    try:
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return found
