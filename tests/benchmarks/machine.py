"""What a figure depends on: the computer, its Python and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import subprocess
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


def load() -> float:
    """Processes that ran or waited to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


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
