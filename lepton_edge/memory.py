"""How much memory this machine has left."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_memory(*, with_swap: bool = False) -> int | None:
    """Bytes that programs can still have, without swapping unless that is asked for; None where
    Linux does not say."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = {line.partition(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    if "MemAvailable" not in found:
        return None
    kibibytes = int(found["MemAvailable"]) + (int(found.get("SwapFree", 0)) if with_swap else 0)
    return kibibytes * 1024
