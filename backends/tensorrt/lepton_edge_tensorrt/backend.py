"""The backend class: what the core calls."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.backend import (
    Aside,
    Backend,
    Compiled,
    Device,
    Generation,
    Generator,
    Graph,
    Precision,
    Probe,
    Quantization,
    Session,
)
from lepton_edge.errors import BackendError, DeferredError, LeptonWarning, StorageError
from lepton_edge.memory import available_memory
from lepton_edge.storage import free_space
from lepton_edge.target import MIB
from lepton_edge_tensorrt.cache import EngineCache
from lepton_edge_tensorrt.library import Flavour, any_flavour, flavour, flavours
from lepton_edge_tensorrt.options import TensorRTOptions
from lepton_edge_tensorrt.plan import ENGINE, ONNX, BuildPlan, read_plan

if TYPE_CHECKING:
    from lepton_edge.generation.loop import Stepper
    from lepton_edge.target import Target
    from lepton_edge_tensorrt.cuda import Gpu
    from lepton_edge_tensorrt.engine import Engine
    from lepton_edge_tensorrt.session import TensorRTSession

# An engine has the graph's weights, and kernels.
_ENGINE_PER_BYTE = 1.25
_EDGE_LLM = "tensorrt_edgellm"


class TensorRTBackend(Backend):
    """TensorRT engines, on the NVIDIA GPUs of this machine."""

    name: ClassVar[str] = "tensorrt"
    Options = TensorRTOptions
    # TensorRT numbers a graph's inner tensors in the order in which its threads come by.
    unstable: ClassVar[tuple[str, ...]] = (ENGINE,)

    def probe(self) -> Probe:
        """Without a GPU there is no device, and a remark says why: graphs are compiled ahead of
        time all the same."""
        any_flavour()
        remarks = []
        try:
            found = _gpus()
        except BackendError as error:
            found = ()
            remarks.append(f"no GPU can be used: {error.message}")
        if find_spec(_EDGE_LLM) is not None:
            remarks.append(
                "NVIDIA's TensorRT Edge-LLM is installed; lepton-edge does not use it yet"
            )
        return Probe(
            ", ".join(map(str, flavours())),
            tuple(Device(gpu.label, gpu.name, (f"SM {gpu.capability}",)) for gpu in found),
            tuple(remarks),
        )

    def version(self) -> str:
        return str(any_flavour())

    def build(
        self,
        graph: Graph,
        target: Target,
        precision: Precision,
        options: TensorRTOptions,
        directory: Path,
        quantization: Quantization | None = None,
        aside: Aside = Aside(),
    ) -> Compiled:
        from lepton_edge_tensorrt.build import artifact_from_graph

        return artifact_from_graph(
            graph, target, precision, options, directory, quantization, aside
        )

    def prove(self, directory: Path, compiled: Compiled, aside: Aside) -> Session:
        """The engine, on a GPU that it was compiled for; else its graph through ONNX Runtime."""
        from lepton_edge_tensorrt.proof import ProofSession

        if aside.scratch is None or _is_for_this_gpu(directory, compiled):
            return self.load(directory, compiled)
        return ProofSession(aside.scratch / ONNX, compiled)

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> TensorRTSession:
        from lepton_edge_tensorrt.session import TensorRTSession

        return TensorRTSession(self._engine(directory, compiled, device, cache), compiled)

    def prove_steps(self, directory: Path, compiled: Compiled, aside: Aside) -> Stepper:
        """On a GPU that the engine was compiled for; else of its graph through ONNX Runtime."""
        from lepton_edge.generation.loop import SessionStepper
        from lepton_edge_tensorrt.proof import ProofSession
        from lepton_edge_tensorrt.stepper import TensorRTStepper

        if aside.scratch is None or _is_for_this_gpu(directory, compiled):
            return TensorRTStepper(self._engine(directory, compiled, None, None), compiled)
        length = read_plan(directory).max_length
        return SessionStepper(ProofSession(aside.scratch / ONNX, compiled), length)

    def load_generator(
        self,
        directory: Path,
        compiled: Compiled,
        generation: Generation,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Generator:
        from lepton_edge_tensorrt.generator import check_generation, open_generator
        from lepton_edge_tensorrt.stepper import TensorRTStepper

        check_generation(generation)
        engine = self._engine(directory, compiled, device, cache)
        return open_generator(TensorRTStepper(engine, compiled), compiled, generation)

    def _engine(
        self, directory: Path, compiled: Compiled, device: str | None, cache: Path | None
    ) -> Engine:
        plan, found = read_plan(directory), _flavour_of(compiled)
        gpu = _gpu(device)
        engine = directory / ENGINE
        if compiled.deferred:
            kept = _place(cache, plan, gpu, found).find() if cache else None
            if kept is None:
                raise DeferredError(
                    f"it was not compiled for {gpu.name} with {found} yet, or not by this user: "
                    f"there is no engine in {cache}",
                    hint="lepton-edge finalize BUNDLE compiles it, once",
                )
            engine = kept
        else:
            _check_gpu(plan, compiled, gpu)
        from lepton_edge_tensorrt.engine import open_engine

        return open_engine(engine, found, gpu.index)

    def finalize(
        self,
        directory: Path,
        compiled: Compiled,
        cache: Path,
        device: str | None = None,
        progress: Callable[[float, str], None] = lambda share, step: None,
    ) -> bool:
        if not compiled.deferred:
            return False
        from lepton_edge_tensorrt.compile import engine_from_onnx

        plan, found = read_plan(directory), _flavour_of(compiled)
        gpu = _gpu(device)
        place = _place(cache, plan, gpu, found)
        with place.locked(lambda: progress(0.0, "another process is compiling it: waiting")):
            if (kept := place.find()) and _opens(kept, found, gpu):
                return False
            _check_room(plan, directory / ONNX, place)
            data = engine_from_onnx(
                found, directory / ONNX, plan, progress, place.timings(), place.keep_timings, gpu
            )
            place.keep(data)
        return True


def _flavour_of(compiled: Compiled) -> Flavour:
    """The one that the artifact is for. Raises `BackendError`."""
    name: Any = compiled.settings.get("flavour")
    if name not in ("tensorrt", "tensorrt_rtx"):
        raise BackendError(
            f"this lepton-edge-tensorrt does not know the flavour {name!r}, as the manifest asks",
            hint="pip install --upgrade lepton-edge-tensorrt",
        )
    found = flavour(name)
    if not compiled.deferred and compiled.requires != str(found):
        raise BackendError(
            f"the engine was compiled with {compiled.requires}, and opens with no other version; "
            f"this is {found}",
            hint="install that version, or build the bundle again with this one",
        )
    return found


def _gpus() -> tuple[Gpu, ...]:
    from lepton_edge_tensorrt.cuda import gpus

    return gpus()


def _gpu(device: str | None) -> Gpu:
    """The GPU of that label, such as GPU or GPU.1; the first where none is named."""
    found = _gpus()
    wanted = found[0].label if device is None else device
    for gpu in found:
        if gpu.label == wanted or (wanted == "GPU" and gpu.index == 0):
            return gpu
    raise BackendError(
        f"TensorRT has no device {device!r} here",
        hint=f"available: {', '.join(gpu.label for gpu in found)}",
    )


def _is_for_this_gpu(directory: Path, compiled: Compiled) -> bool:
    if compiled.deferred:
        return False
    try:
        gpu = _gpu(None)
    except BackendError:
        return False
    return gpu.capability in _capabilities(read_plan(directory), compiled)


def _capabilities(plan: BuildPlan, compiled: Compiled) -> tuple[str, ...]:
    """That the engine was compiled for."""
    return plan.capabilities or (str(compiled.settings.get("compute_capabilities")),)


def _check_gpu(plan: BuildPlan, compiled: Compiled, gpu: Gpu) -> None:
    """Raise `BackendError` where the engine was compiled for other GPUs."""
    made_for = _capabilities(plan, compiled)
    if gpu.capability in made_for:
        return
    raise BackendError(
        f"the engine was compiled for compute capability {', '.join(made_for)}; {gpu.name} has "
        f"{gpu.capability}",
        hint=f"backends: {{tensorrt: {{compute_capabilities: [{gpu.capability}]}}}} in the recipe "
        "with --target rtx, or --target nvidia on this machine",
    )


def _opens(engine: Path, found: Flavour, gpu: Gpu) -> bool:
    """Whether an engine that is whole is still one for this machine: a driver's upgrade can end
    that, which no version of TensorRT's tells."""
    from lepton_edge_tensorrt.engine import open_engine

    try:
        open_engine(engine, found, gpu.index).release()
    except BackendError:
        return False
    return True


def _place(cache: Path, plan: BuildPlan, gpu: Gpu, found: Flavour) -> EngineCache:
    return EngineCache(cache, plan.digest(), gpu.name, gpu.capability, str(found))


def _check_room(plan: BuildPlan, graph: Path, place: EngineCache) -> None:
    """Raise, before minutes of work, where memory or disk will not do; the plan's memory is an
    estimate, so it takes half of it to refuse, and all of it not to warn."""
    free = available_memory(with_swap=True)
    if free is not None and plan.memory > free:
        message = (
            f"compiling takes about {plan.memory // MIB:,} MiB of memory; {free // MIB:,} MiB are "
            "free, swap included"
        )
        if plan.memory > 2 * free:
            raise BackendError(
                message, hint="stop other programs, add swap, or build with a smaller precision"
            )
        warnings.warn(message, LeptonWarning, stacklevel=3)
    size = sum(each.stat().st_size for each in graph.parent.glob(f"{graph.name}*"))
    needed = int(size * _ENGINE_PER_BYTE)
    if shutil.disk_usage(place.folder).free < needed:
        raise StorageError(
            f"the engine takes about {needed // MIB:,} MiB in {place.folder}: "
            f"{free_space(place.folder)}",
            hint="free some space, or: export XDG_CACHE_HOME=/a/folder/with/more",
        )
