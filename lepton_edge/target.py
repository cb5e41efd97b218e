"""A target is a value: it names a class of devices and what a build for it aims at."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lepton_edge.errors import RecipeError

_DEVICE_TREE = Path("/proc/device-tree/compatible")
# NVIDIA's names of the chips: boards of other makers have models of any name.
_CHIPS = {"nvidia,tegra234": "jetson-orin", "nvidia,tegra264": "jetson-thor"}

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True)
class Target:
    """A class of devices.

    ``memory_budget`` is what a model may use on the device, in bytes. ``alias_of`` names the
    targets that this one may stand for: the one that this machine is, else the last.
    """

    name: str
    backend: str
    device: str
    architecture: str
    memory_budget: int
    description: str
    alias_of: tuple[str, ...] = ()


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
        "this NVIDIA Jetson, else the newest",
        alias_of=("jetson-orin", "jetson-thor"),
    ),
    Target("rtx", "tensorrt", "GPU", "x86-64", 6 * GIB, "NVIDIA RTX GPUs, compiled ahead of time"),
    Target("nvidia", "tensorrt", "GPU", "x86-64", 6 * GIB, "the NVIDIA GPU in this machine"),
)

TARGETS = {target.name: target for target in _BUILT_IN}


def parse_targets(text: str) -> tuple[Target, ...]:
    """The targets that a comma-separated list names, in order, each once; an alias is replaced by
    the target that it stands for here.

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
    return tuple(dict.fromkeys(resolved(TARGETS[name]) for name in names))


def resolved(target: Target) -> Target:
    """The target that an alias stands for on this machine; any other is itself."""
    if not target.alias_of:
        return target
    host = this_machine()
    return TARGETS[host if host in target.alias_of else target.alias_of[-1]]


def this_machine() -> str | None:
    """The target that this machine is, where it says so: a Jetson, by its device tree."""
    try:
        found = _DEVICE_TREE.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    chips = found.split("\0")
    return next((target for chip, target in _CHIPS.items() if chip in chips), None)
