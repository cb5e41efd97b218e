"""What this machine has, what is missing, and the command that fixes each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from lepton_edge import __version__, registry
from lepton_edge.errors import BackendError
from lepton_edge.memory import available_memory
from lepton_edge.storage import cache_directory

Status = Literal["ok", "warning", "missing"]

_GIB = 1024**3
_LOW_MEMORY = 1 * _GIB
_LOW_DISK = 1 * _GIB
_CPU_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
    "asimd": "NEON",
}
# The extras of pyproject.toml by what people install them for.
_EXTRAS = {
    "build": (
        "torch",
        "transformers",
        "safetensors",
        "onnx",
        "onnxruntime",
        "nncf",
        "huggingface-hub",
    ),
}


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. ``fix`` is a command, where one helps."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def examine() -> list[Finding]:
    """Look at the interpreter, processor, memory, disk, backends and extras. Changes nothing."""
    return [
        _python(),
        _processor(),
        _memory(),
        _disk(),
        _cache(),
        *_backends(),
        *(_extra(name, needed) for name, needed in _EXTRAS.items()),
    ]


def _python() -> Finding:
    detail = f"lepton-edge {__version__}, Python {platform.python_version()}, {platform.system()}"
    if sys.platform != "linux":
        return Finding("python", "warning", f"{detail}: tested on Linux only")
    return Finding("python", "ok", detail)


def _processor() -> Finding:
    info = _read("/proc/cpuinfo")
    flags: set[str] = set()
    model = platform.processor() or platform.machine()
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
        elif key.strip() == "model name":
            model = value.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    able = ", ".join(name for flag, name in _CPU_FLAGS.items() if flag in flags)
    detail = f"{model}, {cores} cores, {able or 'no vector extensions seen'}"
    slow = platform.machine() == "x86_64" and "avx2" not in flags
    return Finding("processor", "warning" if slow else "ok", detail)


def _memory() -> Finding:
    available = available_memory()
    if available is None:
        return Finding("memory", "warning", "cannot be read from /proc/meminfo")
    status: Status = "warning" if available < _LOW_MEMORY else "ok"
    return Finding("memory", status, f"{available / _GIB:.1f} GiB available")


def _disk() -> Finding:
    try:
        free = shutil.disk_usage(Path.cwd()).free
    except OSError as error:  # the folder was removed under us
        return Finding("disk", "warning", f"the current folder cannot be read: {error.strerror}")
    status: Status = "warning" if free < _LOW_DISK else "ok"
    return Finding("disk", status, f"{free / _GIB:.1f} GiB free in the current folder")


def _cache() -> Finding:
    path = cache_directory()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Finding("cache", "ok", str(path))
    except OSError as error:
        return Finding(
            "cache",
            "warning",
            f"{path} cannot be written ({error.strerror}): every start hashes the bundle again",
            fix="export XDG_CACHE_HOME=/a/writable/folder",
        )


def _backends() -> list[Finding]:
    try:
        entries = registry.entries()
    except BackendError as error:
        return [Finding("backends", "missing", error.message, error.hint)]
    findings = []
    for entry in entries:
        try:
            probe = registry.probe(entry.name)
        except BackendError as error:
            findings.append(Finding(entry.name, "missing", error.message, error.hint))
            continue
        devices = ", ".join(f"{device.name} ({device.description})" for device in probe.devices)
        detail = "; ".join((f"{probe.version}: {devices or 'no device'}", *probe.remarks))
        findings.append(Finding(entry.name, "ok" if probe.devices else "warning", detail))
    if not findings:
        findings.append(
            Finding(
                "backends", "missing", "none is installed", "pip install 'lepton-edge[openvino]'"
            )
        )
    return findings


def _extra(name: str, needed: tuple[str, ...]) -> Finding:
    missing = [package for package in needed if not _version(package)]
    if missing:
        detail = f"not installed: {', '.join(missing)}"
        return Finding(name, "warning", detail, f"pip install 'lepton-edge[{name}]'")
    return Finding(name, "ok", ", ".join(f"{package} {_version(package)}" for package in needed))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
