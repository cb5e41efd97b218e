"""Compile a deferred artifact with TensorRT for RTX, alone in a process; print what it took.

Usage: compile_engine.py FOLDER, the folder with model.onnx and plan.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from lepton_edge_tensorrt.compile import engine_from_onnx
from lepton_edge_tensorrt.library import flavour
from lepton_edge_tensorrt.plan import ONNX, read_plan

folder = Path(sys.argv[1])
plan, rtx = read_plan(folder), flavour("tensorrt_rtx")
start = time.perf_counter()
engine = engine_from_onnx(rtx, folder / ONNX, plan)
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - start,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "estimate": plan.memory,
            "size": len(engine),
        }
    )
)
