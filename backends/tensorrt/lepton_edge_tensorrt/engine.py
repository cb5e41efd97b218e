"""Engines: opening one, what it takes, and the contexts that run it."""

from __future__ import annotations

import math
import mmap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge_tensorrt.cuda import CudaError, Device, Gpu, failures, gpus
from lepton_edge_tensorrt.library import messages
from lepton_edge_tensorrt.plan import Range, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_edge.backend import Compiled, TensorSpec
    from lepton_edge_tensorrt.cuda import Buffer, Stream
    from lepton_edge_tensorrt.library import Flavour

# TensorRT's types: what numpy calls them, and bytes of an element.
_DTYPES = {
    "FLOAT": ("float32", 4),
    "HALF": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "INT64": ("int64", 8),
    "INT32": ("int32", 4),
    "INT8": ("int8", 1),
    "UINT8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_LONGEST_REASON = 400

Shapes = dict[str, Shape]
_Key = tuple[object, ...]


@dataclass(frozen=True)
class Port:
    """A tensor that an engine takes or gives."""

    name: str
    dtype: str
    """numpy's name, or bfloat16."""
    item: int
    """Bytes of an element."""


class Engine:
    """An engine on a GPU, shared by all that run it. Safe from many threads.

    Whoever got it from `open_engine` calls `release` once, after its own contexts are gone.
    """

    def __init__(self, data: Any, label: str, flavour: Flavour, gpu: Gpu, key: _Key | None) -> None:
        self.flavour = flavour
        self.device = Device(gpu)
        self.users = 1
        self.key = key
        self._log = messages(flavour.trt)
        self._lock = threading.Lock()
        self._configs: dict[bool, Any] = {}
        with failures(BackendError, f"open {label}"), self.device.current():
            self._runtime, self._engine = self._deserialize(data)
            try:
                self.inputs, self.outputs = self._ports()
                self.profiles = self._profiles()
            except BaseException:
                self._engine = self._runtime = None  # the error's traceback has a reference to us
                raise

    @property
    def captures_itself(self) -> bool:
        """Whether it makes CUDA graphs of its own accord: TensorRT for RTX does, once it has
        compiled kernels for a shape, a moment that only it knows."""
        return hasattr(self.flavour.trt, "CudaGraphStrategy")

    def check(self, compiled: Compiled) -> None:
        """Raise `BackendError` unless it has the tensors that the manifest names."""
        for ports, specs, what in (
            (self.inputs, compiled.inputs, "takes"),
            (self.outputs, compiled.outputs, "gives"),
        ):
            found = {(port.name, port.dtype) for port in ports.values()}
            if found != {(spec.name, spec.dtype) for spec in specs}:
                raise BackendError(
                    f"the engine {what} {_listed(found)}; the manifest says "
                    f"{_listed((spec.name, spec.dtype) for spec in specs)}",
                    hint="build the bundle again",
                )

    def profiles_for(self, shapes: Mapping[str, Shape], free: int | None = None) -> list[int]:
        """The optimization profiles that such inputs fit, the nearest first; dimension ``free`` of
        an input fits always.

        Kernels are chosen for a profile's best shape, and their cost goes by ratios of sizes, so
        the nearest is that with the smallest sum of the logarithms of those ratios.
        """

        def distance(index: int) -> float:
            ranges = self.profiles[index]
            return sum(
                abs(math.log((size + 1) / (best + 1)))
                for name, shape in shapes.items()
                for size, best in zip(shape, ranges[name].best, strict=True)
            )

        def fits(ranges: dict[str, Range]) -> bool:
            return all(
                axis == free or ranges[name].smallest[axis] <= size <= ranges[name].largest[axis]
                for name, shape in shapes.items()
                for axis, size in enumerate(shape)
            )

        found = [index for index, ranges in enumerate(self.profiles) if fits(ranges)]
        return sorted(found, key=distance)

    def misfit(self, shapes: Mapping[str, Shape], specs: tuple[TensorSpec, ...]) -> str:
        """Why no profile takes such inputs, with both numbers; rows last, which can be split."""
        for spec in specs:
            for axis, size in reversed([*enumerate(shapes[spec.name])]):
                ranges = [profile[spec.name] for profile in self.profiles]
                least = min(each.smallest[axis] for each in ranges)
                most = max(each.largest[axis] for each in ranges)
                if not least <= size <= most:
                    return (
                        f"{spec.name} has {spec.shape[axis]} {size}, and the engine takes "
                        f"{least} to {most}"
                    )
        return f"no optimization profile of the engine takes {dict(shapes)}"

    def scratch(self, profile: int) -> int:
        """Bytes of scratch memory that a context with that profile needs."""
        return int(self._engine.get_device_memory_size_for_profile_v2(profile))

    def context(self, shapes_repeat: bool) -> Any:
        """A new execution context, whose scratch memory its owner gives. Raises `CudaError`."""
        strategy = self.flavour.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with self._lock:
            how = self._config(shapes_repeat) if self.captures_itself else strategy
            context = self._engine.create_execution_context(how)
        if context is None:
            free, total = self.device.memory()
            raise self.failure(f"make an execution context ({free:,} of {total:,} bytes are free)")
        return context

    def failure(self, doing: str) -> CudaError:
        """What TensorRT said last; its first message names the cause."""
        said = [" ".join(str(text).split()) for text in self._log.errors()]
        self._log.lines.clear()
        reason = said[0][:_LONGEST_REASON] if said else "it did not say why"
        return CudaError(f"{self.flavour} could not {doing}: {reason}")

    def release(self) -> None:
        """For the last user: free its memory."""
        with _OPENING:
            self.users -= 1
            if self.users:
                return
            if self.key is not None:
                del _open[self.key]
        with self.device.current(closing=True):
            self._configs.clear()
            self._engine = None
            self._runtime = None

    def _deserialize(self, data: Any) -> tuple[Any, Any]:
        free, total = self.device.memory()
        try:
            runtime = self.flavour.trt.Runtime(self._log)
        except Exception as error:  # where it cannot, pybind raises a TypeError
            raise self.failure("start") from error
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            gpu = self.device.gpu
            failure = self.failure(
                f"load it on {gpu.name} (compute capability {gpu.capability}; {free:,} of "
                f"{total:,} bytes of its memory are free)"
            )
            raise CudaError(
                failure.message,
                "an engine is for one version of the library, for GPUs of the compute capability "
                "that it was compiled for, and for a driver that is new enough: build it again "
                "for this device, or run lepton-edge finalize BUNDLE on it",
            )
        return runtime, engine

    def _ports(self) -> tuple[dict[str, Port], dict[str, Port]]:
        trt, engine = self.flavour.trt, self._engine
        inputs: dict[str, Port] = {}
        outputs: dict[str, Port] = {}
        for index in range(engine.num_io_tensors):
            name = str(engine.get_tensor_name(index))
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise CudaError(f"its tensor {name} is not on the GPU")
            kind = engine.get_tensor_dtype(name).name
            if kind not in _DTYPES:
                raise CudaError(f"its tensor {name} is of the type {kind}, which numpy lacks")
            port = Port(name, *_DTYPES[kind])
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = port
        return inputs, outputs

    def _profiles(self) -> tuple[dict[str, Range], ...]:
        return tuple(
            {
                name: Range(*map(tuple, self._engine.get_tensor_profile_shape(name, profile)))
                for name in self.inputs
            }
            for profile in range(self._engine.num_optimization_profiles)
        )

    def _config(self, shapes_repeat: bool) -> Any:
        """TensorRT for RTX compiles kernels as it runs, and keeps them for further contexts. Where
        no shape comes twice, those for one shape alone would be compiled in vain."""
        if shapes_repeat not in self._configs:
            trt = self.flavour.trt
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            config.set_runtime_cache(config.create_runtime_cache())
            if shapes_repeat:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            else:
                config.dynamic_shapes_kernel_specialization_strategy = (
                    trt.DynamicShapesKernelSpecializationStrategy.NONE
                )
            self._configs[shapes_repeat] = config
        return self._configs[shapes_repeat]


class Execution:
    """An execution context with one profile, on one stream. Its methods raise `CudaError`.

    ``scratch`` is memory that it shares with others of the same stream. ``shapes_repeat`` is
    whether a shape is likely to come again.
    """

    def __init__(
        self,
        engine: Engine,
        profile: int,
        stream: Stream,
        scratch: Buffer,
        shapes_repeat: bool = True,
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._scratch = scratch
        self._scratch_at = 0
        self._context = engine.context(shapes_repeat)
        try:
            if not self._context.set_optimization_profile_async(profile, stream.number):
                raise engine.failure(f"choose the optimization profile {profile}")
            stream.wait()
        except BaseException:
            self.close()
            raise

    def reshape(self, shapes: Mapping[str, Shape]) -> Shapes:
        """Set the inputs' shapes; gives the outputs'."""
        if self._scratch.address != self._scratch_at:
            self._context.set_device_memory(self._scratch.address, self._scratch.size)
            self._scratch_at = self._scratch.address
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._engine.failure(f"take {name} of shape {list(shape)}")
        found: Shapes = {}
        for name in self._engine.outputs:
            found[name] = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if any(size < 0 for size in found[name]):
                raise self._engine.failure(f"say what shape {name} will have")
        return found

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where tensors are on the GPU."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._engine.failure(f"take the address of {name}")

    def launch(self) -> None:
        """Give its work to the stream."""
        if not self._context.execute_async_v3(self._stream.number):
            raise self._engine.failure("run the model")

    def close(self) -> None:
        """Free the context's own memory, after the stream was waited for."""
        self._context = None


_OPENING = threading.Lock()
_open: dict[_Key, Engine] = {}


def open_engine(source: Path | bytes, flavour: Flavour, index: int = 0) -> Engine:
    """An engine on CUDA's GPU ``index``. A file that is open already is shared.

    Raises `BackendError`: no GPU, no file, or one that this library does not take on this GPU.
    """
    found = gpus()
    if index >= len(found):
        raise BackendError(f"there is no GPU {index}: CUDA finds {len(found)}")
    if isinstance(source, bytes):
        return Engine(source, "the engine", flavour, found[index], None)
    try:
        with source.open("rb") as file, _OPENING:
            facts = source.stat()
            which = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)
            key = (*which, flavour.name, index)
            if key in _open:
                _open[key].users += 1
                return _open[key]
            if not facts.st_size:
                raise BackendError(f"{source} is empty", hint="build or install the bundle again")
            # The engine is read as it is needed: it is in memory once, on a Jetson the GPU's too.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _open[key] = Engine(data, str(source), flavour, found[index], key)
            return _open[key]
    except OSError as error:
        raise BackendError(
            f"{source} cannot be read: {error.strerror}", hint="build or install the bundle again"
        ) from error


def elements(shape: Shape) -> int:
    return math.prod(shape)


def _listed(ports: Any) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in sorted(ports))
