"""A target is a value: it names a class of devices and what a build for it aims at."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from lepton_edge.errors import RecipeError

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True)
class Target:
    """A class of devices.

    ``memory_budget`` is what a model may use on the device, in bytes. ``alias_of`` names the
    target that this one stands for.
    """

    name: str
    backend: str
    device: str
    architecture: str
    memory_budget: int
    description: str
    alias_of: str | None = None


_BUILT_IN = (
    Target("intel-cpu", "openvino", "CPU", "x86-64", 4 * GIB, "Intel and other x86-64 CPUs"),
    Target("jetson-orin", "tensorrt", "GPU", "aarch64", 4 * GIB, "NVIDIA Jetson Orin, SM 8.7"),
    Target("jetson-thor", "tensorrt", "GPU", "aarch64", 32 * GIB, "NVIDIA Jetson Thor, SM 11.0"),
    Target(
        "jetson",
        "tensorrt",
        "GPU",
        "aarch64",
        32 * GIB,
        "the newest NVIDIA Jetson",
        alias_of="jetson-thor",
    ),
    Target("rtx", "tensorrt", "GPU", "x86-64", 6 * GIB, "NVIDIA RTX GPUs, compiled ahead of time"),
    Target("nvidia", "tensorrt", "GPU", "x86-64", 6 * GIB, "the NVIDIA GPU in this machine"),
)

TARGETS = {target.name: target for target in _BUILT_IN}


def parse_targets(text: str) -> tuple[Target, ...]:
    """The targets that a comma-separated list names, in order, each once.

    Raises `RecipeError` for a name that is not a target, or an empty list.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise RecipeError("no target given", hint="lepton-edge targets lists them")
    for name in names:
        if name not in TARGETS:
            near = get_close_matches(name, TARGETS, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise RecipeError(
                f"unknown target {name!r}",
                hint=f"{guess}lepton-edge targets lists them: {', '.join(TARGETS)}",
            )
    return tuple(TARGETS[name] for name in dict.fromkeys(names))
