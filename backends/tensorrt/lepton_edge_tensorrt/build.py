"""Building: a graph to an engine, or to what a device makes one of."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.backend import (
    Aside,
    Compiled,
    Graph,
    Precision,
    Quantization,
    Setting,
    TensorSpec,
)
from lepton_edge.bundle import describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.errors import BackendError, LeptonWarning
from lepton_edge.generation.tensors import past_names, present_names
from lepton_edge.target import MIB
from lepton_edge_tensorrt import compile as compiling
from lepton_edge_tensorrt.library import Flavour, flavour, flavour_for
from lepton_edge_tensorrt.onnx_export import OPSET, OPSET_OF_BLOCKS, onnx_from_graph, save
from lepton_edge_tensorrt.plan import ENGINE, ONNX, PLAN, BuildPlan, profiles_of
from lepton_edge_tensorrt.proof import computable
from lepton_edge_tensorrt.typed import Half, product_types, write_precision

if TYPE_CHECKING:
    from lepton_edge.target import Target
    from lepton_edge_tensorrt.cuda import Gpu
    from lepton_edge_tensorrt.options import TensorRTOptions

_HALVES: dict[Precision, Half | None] = {"fp32": None, "bf16": "bf16"}  # all others: fp16
_WEIGHTS: dict[Precision, str] = {
    "auto": "fp16",
    "int8": "int8",
    "int8-weights": "int8",
    "int4-weights": "int4",
}
# For GPUs before Ampere, TensorRT for RTX (1.7) has matrix products in fp16 only.
_AMPERE = 8.0
_QUIET_SECONDS = 2.0
# Beside the graph: the library's own code and kernels, and CUDA's context; then the graph as it is
# read, as the builder folds it, the engine, and the engine as it is written.
_MEMORY_FIXED = 700 * MIB
_MEMORY_PER_BYTE = 4


def artifact_from_graph(
    graph: Graph,
    target: Target,
    precision: Precision,
    options: TensorRTOptions,
    directory: Path,
    quantization: Quantization | None,
    aside: Aside,
) -> Compiled:
    """Write ``plan.json`` with ``model.engine`` or, deferred, ``model.onnx``; and ``model.onnx``
    for ONNX Runtime into ``aside.scratch``.

    `rtx` is compiled ahead of time, with or without a GPU; `nvidia` on the GPU of this machine; a
    Jetson's engine only on such a Jetson, and everywhere else its graph is parsed with the plan's
    shapes by TensorRT for RTX.
    """
    # What can be refused now is, rather than after minutes of export and calibration.
    deferred, found = _flavour(target)
    gpu = None if deferred or target.name == "rtx" else _gpu_here()
    if target.name == "rtx":
        compiling.check_capabilities(found, options.capabilities())
    half = _HALVES.get(precision, "fp16")
    # A decoder's cache is in fp16 too. numpy has no bf16, in which a host could hold it.
    cache = _cache(graph) if half == "fp16" else ()
    named = Compiled("", graph.inputs, graph.outputs, "")
    opset = OPSET_OF_BLOCKS if precision == "int4-weights" else OPSET
    least = opset if precision.startswith("int") else 0
    model = onnx_from_graph(graph, opset, at_least=least)
    kept: tuple[str, ...] = ()
    if precision == "int8":
        from lepton_edge_tensorrt.quantize import in_eight_bits

        if quantization is None:
            raise BackendError("int8 needs inputs to calibrate on")
        model, kept = in_eight_bits(model, quantization, named, aside.say)
    elif precision in ("int8-weights", "int4-weights"):
        from lepton_edge_tensorrt.weights import with_small_weights

        model = with_small_weights(model, bits=4 if precision == "int4-weights" else 8)
    if half:
        write_precision(model, half, cache)
    file = directory / ONNX
    save(model, file)
    computed = product_types(model.graph) if half else {"FLOAT"}
    if precision == "int4-weights":
        computed.add("INT4")
    capabilities = _capabilities(options, computed, found) if target.name == "rtx" else ()
    plan = _plan(graph, precision, half, options, directory, capabilities)
    if aside.scratch:
        save(computable(model), aside.scratch / ONNX)
    settings: dict[str, Setting] = {
        "compute": half or "fp32",
        "flavour": "tensorrt" if deferred else found.name,
        "plan": plan.digest(),
    }
    if deferred:
        aside.say(f"parsing for {target.name} with {found}")
        compiling.parse(found, file, plan)
        _warn_of_memory(plan, target)
    else:
        del model  # the compiler has its own copy of the weights
        settings |= _compile(found, file, plan, directory, aside, gpu)
    (directory / PLAN).write_bytes(plan.encoded())
    return Compiled(
        precision=_WEIGHTS.get(precision, precision),
        inputs=_in_half(graph.inputs, cache),
        outputs=_in_half(graph.outputs, cache),
        requires="tensorrt 10.3 or later" if deferred else str(found),
        settings=settings,
        kept=kept,
        deferred=deferred,
    )


def _cache(graph: Graph) -> tuple[str, ...]:
    """The names of a decoder's keys and values, going in and coming out."""
    layers = sum("past" in spec.shape for spec in graph.inputs) // 2
    return (*past_names(layers), *present_names(layers))


def _in_half(specs: tuple[TensorSpec, ...], names: Collection[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        msgspec.structs.replace(spec, dtype="float16") if spec.name in names else spec
        for spec in specs
    )


def _flavour(target: Target) -> tuple[bool, Flavour]:
    """Whether a device has to compile, and the flavour that compiles, or that checks meanwhile."""
    if not target.name.startswith("jetson") or _is_this_machine(target):
        return False, flavour_for(target)
    try:
        return True, flavour("tensorrt_rtx")
    except BackendError:
        if platform.machine() == "x86_64":
            raise
    return True, flavour("tensorrt")  # RTX is for x86-64: on another Jetson, its own parser


def _is_this_machine(target: Target) -> bool:
    from lepton_edge.target import this_machine

    return this_machine() == target.name


def _plan(
    graph: Graph,
    precision: Precision,
    half: Half | None,
    options: TensorRTOptions,
    directory: Path,
    capabilities: tuple[str, ...],
) -> BuildPlan:
    files = describe_files(directory)
    size = sum(each.size for each in files.values())
    return BuildPlan(
        graph=digest_of(files),
        precision=f"{half or 'fp32'}{f'+{precision}' if precision.startswith('int') else ''}",
        profiles=profiles_of(graph.inputs, graph.largest, options),
        workspace=options.workspace * MIB,
        optimization_level=options.optimization_level,
        capabilities=capabilities,
        memory=_MEMORY_FIXED + _MEMORY_PER_BYTE * size,
    )


def _capabilities(
    options: TensorRTOptions, computed: Collection[str], found: Flavour
) -> tuple[str, ...]:
    """The recipe's, else all with the matrix products that the graph has, ``computed`` in those."""
    least = 0.0 if set(computed) <= {"FLOAT16"} else _AMPERE
    if not options.compute_capabilities:
        return tuple(each for each in compiling.known_capabilities(found) if float(each) >= least)
    wanted = options.capabilities()
    if old := [each for each in wanted if float(each) < least]:
        raise BackendError(
            f"the recipe asks for compute capability {', '.join(old)}, for which {found} has "
            f"matrix products in fp16 only; this model has some in {_spoken(computed)}",
            hint="build with precision: auto, or leave it out of compute_capabilities",
        )
    return wanted


def _spoken(computed: Collection[str]) -> str:
    names = {"FLOAT": "fp32", "BFLOAT16": "bf16", "FLOAT16": "fp16", "INT4": "int4"}
    return " and ".join(sorted(names.get(each, each) for each in computed))


def _compile(
    found: Flavour,
    file: Path,
    plan: BuildPlan,
    directory: Path,
    aside: Aside,
    gpu: Gpu | None,
) -> dict[str, Setting]:
    """Write the engine in place of the graph."""
    shown = _Shares(aside)
    facts: dict[str, Setting] = (
        {"gpu": gpu.name, "compute_capabilities": gpu.capability}
        if gpu
        else {"compute_capabilities": ", ".join(plan.capabilities)}
    )
    data = compiling.engine_from_onnx(found, file, plan, shown, gpu=gpu)
    for left in directory.iterdir():
        left.unlink()
    (directory / ENGINE).write_bytes(data)
    return facts


def _gpu_here() -> Gpu:
    from lepton_edge_tensorrt.cuda import first_gpu

    try:
        return first_gpu()
    except BackendError as error:
        raise BackendError(
            f"this target is compiled on the GPU that it is for: {error.message}",
            hint="--target rtx is compiled ahead of time, without a GPU",
        ) from error


class _Shares:
    """Tells how far a compilation is, every two seconds."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._told = time.monotonic()

    def __call__(self, share: float, step: str) -> None:
        if time.monotonic() - self._told >= _QUIET_SECONDS:
            self._told = time.monotonic()
            self._aside.say(f"compiling: {share:.0%}")


def _warn_of_memory(plan: BuildPlan, target: Target) -> None:
    if plan.memory > target.memory_budget:
        warnings.warn(
            f"compiling on {target.name} is estimated to take {plan.memory // MIB:,} MiB at its "
            f"peak; the target's budget is {target.memory_budget // MIB:,} MiB",
            LeptonWarning,
            stacklevel=2,
        )
