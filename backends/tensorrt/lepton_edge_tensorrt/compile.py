"""Compiling: a typed ONNX graph to an engine."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError, LeptonError, LeptonWarning
from lepton_edge_tensorrt.library import messages, strongly_typed

if TYPE_CHECKING:
    from lepton_edge_tensorrt.cuda import Gpu
    from lepton_edge_tensorrt.library import Flavour
    from lepton_edge_tensorrt.plan import BuildPlan

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Parsed:
    """A graph that the parser took, and how it will be compiled."""

    builder: Any
    network: Any
    config: Any
    log: Any
    parser: Any  # owns the weights that the network points to


def parse(flavour: Flavour, file: Path, plan: BuildPlan) -> Parsed:
    """Give the graph to TensorRT with the plan's shapes. Needs no GPU with TensorRT for RTX.

    Raises `BackendError` that names the operator and its node where it has none such.
    """
    trt = flavour.trt
    log = messages(trt)
    try:
        builder = trt.Builder(log)
    except Exception as error:  # without a driver pybind raises a TypeError
        raise BackendError(
            f"{flavour} cannot compile here: {_last(log) or error}",
            hint="TensorRT compiles on the GPU that the engine is for; is its driver installed?",
        ) from error
    network = builder.create_network(strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):
        raise BackendError(
            f"{flavour} cannot take this model: {_parser_errors(parser) or _last(log)}",
            hint="is there a newer TensorRT for the device? Another target works without it: "
            "--target intel-cpu",
        )
    config = builder.create_builder_config()
    _configure(flavour, builder, config, plan)
    if not builder.is_network_supported(network, config):
        raise BackendError(f"{flavour} does not support this network: {_last(log)}")
    return Parsed(builder, network, config, log, parser)


def engine_from_onnx(
    flavour: Flavour,
    file: Path,
    plan: BuildPlan,
    progress: Progress = lambda share, step: None,
    timings: bytes | None = None,
    keep_timings: Callable[[bytes], None] = lambda data: None,
    gpu: Gpu | None = None,
) -> bytes:
    """The serialized engine, for ``gpu``, or ahead of time where that is None.

    ``timings`` is a timing cache of an earlier try; ``keep_timings`` is given what was measured,
    also where the work is ended early. An exception of ``progress``, and Ctrl-C, end it within a
    step. Raises `BackendError`.
    """
    monitor = _monitor(flavour.trt, progress)
    with _on(gpu):
        parsed = parse(flavour, file, plan)
        if gpu and flavour.name == "tensorrt_rtx":
            parsed.config.num_compute_capabilities = 1
            parsed.config.set_compute_capability(flavour.trt.ComputeCapability.CURRENT, 0)
        cache = _timing_cache(flavour, parsed.config, timings)
        parsed.config.progress_monitor = monitor

    def build() -> Any:
        with _on(gpu):  # CUDA's choice of a GPU is a thread's own
            return parsed.builder.build_serialized_network(parsed.network, parsed.config)

    try:
        data = _in_thread(build, monitor)
    finally:
        if cache is not None:
            _keep(cache, keep_timings)
    if monitor.failure is not None:
        raise monitor.failure
    if data is None:
        reason = _last(parsed.log)
        raise BackendError(
            f"{flavour} could not compile the model: {reason or 'it did not say why'}",
            hint="in a recipe, backends: {tensorrt: {workspace: 256, max_batch: 8}} needs less"
            if "memory" in reason.lower()
            else "another precision may work, or other compute_capabilities in a recipe, under "
            "backends: {tensorrt: …}",
        )
    return bytes(data)


def known_capabilities(flavour: Flavour) -> tuple[str, ...]:
    """The compute capabilities that TensorRT for RTX compiles for ahead of time, such as 8.6."""
    found = [name[2:] for name in dir(flavour.trt.ComputeCapability) if name.startswith("SM")]
    return tuple(sorted((f"{sm[:-1]}.{sm[-1]}" for sm in found), key=float))


def _configure(flavour: Flavour, builder: Any, config: Any, plan: BuildPlan) -> None:
    trt = flavour.trt
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    if not plan.tf32 and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if plan.optimization_level is not None:
        config.builder_optimization_level = plan.optimization_level
    if plan.capabilities:
        _set_capabilities(flavour, config, plan.capabilities)
    for ranges in plan.profiles:
        profile = builder.create_optimization_profile()
        for name, each in ranges.items():
            profile.set_shape(name, each.smallest, each.best, each.largest)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"{flavour} refuses the profile {ranges}")


def check_capabilities(flavour: Flavour, wanted: tuple[str, ...]) -> None:
    """Raise `BackendError` where TensorRT for RTX does not compile for one of them."""
    known = known_capabilities(flavour)
    if unknown := [each for each in wanted if each not in known]:
        raise BackendError(
            f"{flavour} does not compile for compute capability {', '.join(unknown)}; "
            f"it does for {', '.join(known)}",
            hint="backends: {tensorrt: {compute_capabilities: […]}} in the recipe, or --target "
            "nvidia on a machine with that GPU",
        )


def _set_capabilities(flavour: Flavour, config: Any, wanted: tuple[str, ...]) -> None:
    check_capabilities(flavour, wanted)
    config.num_compute_capabilities = len(wanted)
    for index, each in enumerate(wanted):
        name = f"SM{each.replace('.', '')}"
        config.set_compute_capability(getattr(flavour.trt.ComputeCapability, name), index)


def _on(gpu: Gpu | None) -> AbstractContextManager[None]:
    """Inside, that GPU is the calling thread's."""
    if gpu is None:
        return nullcontext()
    from lepton_edge_tensorrt.cuda import Device

    return Device(gpu).current()


def _keep(cache: Any, keep_timings: Callable[[bytes], None]) -> None:
    """Without them a next try only takes longer, so they must not end this one."""
    try:
        keep_timings(bytes(cache.serialize()))
    except (LeptonError, OSError) as error:
        warnings.warn(f"timings of kernels could not be kept: {error}", LeptonWarning, stacklevel=3)


def _timing_cache(flavour: Flavour, config: Any, timings: bytes | None) -> Any:
    """None for TensorRT for RTX, which measures nothing: it chooses kernels on the device, as it
    runs."""
    if flavour.name == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(timings or b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another GPU or version
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _in_thread(call: Callable[[], Any], monitor: Any) -> Any:
    """The call in a thread of its own, so that Ctrl-C is seen meanwhile: TensorRT only gives the
    interpreter back between steps."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:  # raised again below
            failure.append(error)

    thread = threading.Thread(target=run, name="lepton-edge-compile")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        monitor.stop()
        thread.join()
        raise
    if failure:
        raise failure[0]
    return result[0]


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # depends on the flavour
        """Phases nest: a step of one may be a phase of its own."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._phases: dict[str, tuple[str | None, int, int]] = {}
            self._stopped = False
            self._furthest = 0.0
            self._lock = threading.Lock()

        def stop(self) -> None:
            self._stopped = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, max(num_steps, 1), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """False ends the build."""
            with self._lock:
                parent, steps, _ = self._phases.get(phase_name, (None, 1, 0))
                self._phases[phase_name] = (parent, steps, step + 1)
                share = self._share()
            try:
                progress(share, phase_name)
            except BaseException as error:  # TensorRT could not carry it: raised by our caller
                self.failure = error
            return not self._stopped and self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _share(self) -> float:
            """Of the outermost phase. It never falls: phases follow each other under one name."""
            share, name = 0.0, next((n for n, phase in self._phases.items() if not phase[0]), None)
            part = 1.0
            while name is not None:
                _, steps, done = self._phases[name]
                share += part * min(done, steps) / steps
                part /= steps
                outer = name
                name = next((n for n, p in self._phases.items() if p[0] == outer), None)
            self._furthest = max(self._furthest, min(share, 1.0))
            return self._furthest

    return Monitor()


def _parser_errors(parser: Any) -> str:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator, node = error.node_operator(), error.node_name()
        where = f"{operator} (node {node}): " if operator else ""
        found.append(f"{where}{' '.join(str(error.desc()).split())}")
    return "; ".join(dict.fromkeys(found))


def _last(log: Any) -> str:
    errors = log.errors()
    return " ".join(str(errors[-1]).split()) if errors else ""
