"""What was measured, and on how many processors."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lepton_edge.benchmark.machine import allowed_cpus

PACKAGES = (
    "lepton-edge",
    "lepton-edge-openvino",
    "lepton-edge-tensorrt",
    "openvino",
    "tensorrt-rtx-cu13-bindings",
    "tokenizers",
    "numpy",
    "torch",
    "transformers",
    "onnxruntime",
)


def cores() -> int:
    """Processors that this process may use."""
    return len(allowed_cpus())


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
