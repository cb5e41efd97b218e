"""What `lepton-edge run` does, in stages: JSON of each one's seconds, and the peak MiB so far."""

import json
import sys
import time


def peak() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


bundle, text = sys.argv[1:]
stages: dict[str, tuple[float, float]] = {}
start = time.perf_counter()


def stage(name: str) -> None:
    global start  # noqa: PLW0603
    stages[name] = (time.perf_counter() - start, peak())
    start = time.perf_counter()


import lepton_edge.cli.run  # noqa: E402, F401
from lepton_edge.runtime import load  # noqa: E402

stage("importing lepton-edge")
import numpy  # noqa: E402, F401

stage("importing numpy")
from lepton_edge_openvino import library, session  # noqa: E402, F401

library.openvino()
stage("importing OpenVINO")
import tokenizers  # noqa: E402, F401

stage("importing tokenizers")
model = load(bundle)
stage("opening the bundle")
model(text)
stage("the first answer")
model.close()
stage("closing")
print(json.dumps(stages))
