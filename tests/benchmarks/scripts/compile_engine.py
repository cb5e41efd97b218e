"""Compile a deferred artifact with TensorRT for RTX, alone in a process; print what it took.

Usage: compile_engine.py FOLDER, the folder with model.onnx and plan.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lepton_edge_tensorrt.compile import engine_from_onnx
from lepton_edge_tensorrt.library import flavour
from lepton_edge_tensorrt.plan import ONNX, read_plan


def peak() -> int:
    """Resident bytes at the most. Not of getrusage, which begins with the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


folder = Path(sys.argv[1])
plan, rtx = read_plan(folder), flavour("tensorrt_rtx")
start = time.perf_counter()
engine = engine_from_onnx(rtx, folder / ONNX, plan)
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - start,
            "peak": peak(),
            "estimate": plan.memory,
            "size": len(engine),
        }
    )
)
