"""OpenVINO's own cache of compiled models, made safe for processes that start at once."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lepton_edge.backend import Setting


@contextmanager
def model_cache(
    core: Any, device: str, version: str, cache: Path | None, model: str
) -> Iterator[dict[str, Setting]]:
    """The properties that let OpenVINO use its cache below ``cache`` inside the block; none where
    it cannot be used just now, which only makes opening slower.

    Each library version, processor and ``model``, which names the file and the settings that it
    is compiled with, has a folder of its own. OpenVINO keeps one file there, the compiled graph
    without the weights, which stay in the artifact, and compiles again by itself where that file
    is damaged. It takes a graph that was compiled for fp32 for one that computes in bf16, which
    then answers with nothing (2026.4.1): hence the settings.

    It writes the file under its final name and removes one that it cannot read, so a process that
    reads what another is still writing takes it away from under it, and the writer fails
    (2026.4.1). Hence a lock: one process writes, or many read. Nobody waits for it.
    """
    if cache is None:
        yield {}
        return
    folder = cache / _name(core, device, version, model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield {}
        return
    try:
        if _lock(handle, fcntl.LOCK_SH if any(folder.glob("*.blob")) else fcntl.LOCK_EX):
            yield {"CACHE_DIR": str(folder), "CACHE_MODE": "OPTIMIZE_SIZE"}
        else:
            yield {}
    finally:
        os.close(handle)


def _name(core: Any, device: str, version: str, model: str) -> str:
    abilities = ",".join(sorted(core.get_property(device, "OPTIMIZATION_CAPABILITIES")))
    processor = f"{core.get_property(device, 'FULL_DEVICE_NAME')} {abilities} {_processor_flags()}"
    # A version ends in a branch, which has slashes.
    return f"openvino-{version.replace('/', '-')}-{crc32((processor + model).encode()):08x}"


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: most starts are not at once
    return True


def _processor_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""
