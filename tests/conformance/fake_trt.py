"""TensorRT over the GPU of `fake_gpu`, as far as running engines goes.

An engine computes with ONNX Runtime on the bytes at the addresses that it was given, when the
stream gets to it. It refuses what TensorRT refuses: shapes outside of its profile, a tensor without
an address, a capture without a launch before. What TensorRT leaves undefined, such as replaying a
graph after its context was given another shape, is an `IllegalError`.
"""

from __future__ import annotations

import base64
import enum
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from lepton_edge_tensorrt.library import Flavour
from numpy.typing import NDArray

from tests.conformance.fake_gpu import FakeGpu, IllegalError

_MAGIC = b"FAKE ENGINE "
Range = tuple[Sequence[int], Sequence[int], Sequence[int]]


def engine_bytes(onnx: bytes, profiles: Sequence[dict[str, Range]], version: str = "1") -> bytes:
    """An engine that the fake opens: the graph, and its optimization profiles."""
    content = {"onnx": base64.b64encode(onnx).decode(), "profiles": profiles, "version": version}
    return _MAGIC + json.dumps(content).encode()


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT64 = "int64"
    INT32 = "int32"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING


class RuntimeConfig:
    """TensorRT for RTX's own: how contexts are made."""

    def __init__(self) -> None:
        self.strategy: Strategy | None = None
        self.cuda_graph_strategy = "DISABLED"
        self.dynamic_shapes_kernel_specialization_strategy = "LAZY"
        self.cache: object = None

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy


def fake_trt(gpu: FakeGpu, rtx: bool = False) -> Any:
    """The module `tensorrt`, as far as running engines goes; ``rtx`` is the other flavour."""

    class Runtime:
        def __init__(self, log: Any) -> None:
            if gpu.fails("Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = log

        def deserialize_cuda_engine(self, data: Any) -> FakeEngine | None:
            raw = bytes(memoryview(data))
            if gpu.fails("deserialize_cuda_engine"):
                self._log.log(Severity.ERROR, "Error Code 1: Cuda Runtime (no room)")
                self._log.log(Severity.ERROR, "Error Code 1: as a consequence")
                return None
            try:
                content = json.loads(raw.removeprefix(_MAGIC))
            except ValueError:
                self._log.log(Severity.ERROR, "readHeader: Assertion bufferSize failed")
                return None
            if content["version"] != "1":
                self._log.log(Severity.ERROR, "The engine plan file is not compatible: version")
                return None
            return FakeEngine(gpu, content, self._log, rtx)

    module = SimpleNamespace(
        __version__="10.3.0",
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation,
        ExecutionContextAllocationStrategy=Strategy,
    )
    if rtx:
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(NONE="NONE")
    return _Hashable(module)


class _Hashable:
    """A namespace that can be a key of the cache of logger classes, as a module can."""

    def __init__(self, module: SimpleNamespace) -> None:
        self.__dict__.update(vars(module))


class FakeEngine:
    """Its weights take as much of the device's memory as its file has bytes."""

    def __init__(self, gpu: FakeGpu, content: dict[str, Any], log: Any, rtx: bool) -> None:
        self.gpu, self.log, self.rtx = gpu, log, rtx
        self.profiles: list[dict[str, list[tuple[int, ...]]]] = [
            {name: [tuple(shape) for shape in ranges] for name, ranges in profile.items()}
            for profile in content["profiles"]
        ]
        self.num_optimization_profiles = len(self.profiles)
        self.session = _computed(content["onnx"])
        self.ports: dict[str, tuple[TensorIOMode, DataType, list[Any]]] = {
            port.name: (mode, _DTYPES[port.type], port.shape)
            for mode, ports in (
                (TensorIOMode.INPUT, self.session.get_inputs()),
                (TensorIOMode.OUTPUT, self.session.get_outputs()),
            )
            for port in ports
        }
        self.num_io_tensors = len(self.ports)
        self.configs: list[RuntimeConfig] = []
        weights = gpu.memory.allocate(len(content["onnx"]))
        weakref.finalize(self, gpu.memory.release, weights)

    def get_tensor_name(self, index: int) -> str:
        return [*self.ports][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.ports[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.ports[name][1]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return self.profiles[profile_index][name]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """More for larger shapes, as with the real one."""
        largest = self.profiles[profile_index].values()
        return 1024 + 16 * sum(int(np.prod(ranges[2])) for ranges in largest)

    def create_runtime_config(self) -> RuntimeConfig:
        if not self.rtx:
            raise IllegalError("TensorRT 10.3 has no runtime config")
        self.configs.append(RuntimeConfig())
        return self.configs[-1]

    def create_execution_context(self, how: Any) -> FakeContext | None:
        if self.gpu.fails("create_execution_context"):
            self.log.log(Severity.ERROR, "IExecutionContext: out of memory")
            return None
        strategy = how.strategy if self.rtx else how
        if strategy is not Strategy.USER_MANAGED:
            raise IllegalError(f"a context with {strategy} has scratch memory that nobody counts")
        return FakeContext(self)


@dataclass(frozen=True)
class _Snapshot:
    """What a launch works with, as it was when it was launched."""

    shapes: dict[str, tuple[int, ...]]
    addresses: dict[str, int]
    scratch: tuple[int, int]
    version: int


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._gpu = engine.gpu
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._version = 0
        self._launched = -1
        self._gpu.contexts += 1
        own = self._gpu.memory.allocate(512)
        weakref.finalize(self, _free_context, self._gpu, own)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._gpu.fails("set_optimization_profile_async"):
            return False
        self._gpu.stream(stream_handle).push(lambda: None)
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._profile is not None
        if size < self._engine.get_device_memory_size_for_profile_v2(self._profile):
            raise IllegalError("less scratch memory than the profile needs")
        self._scratch = (memory, size)
        self._version += 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        if self._gpu.fails("set_input_shape"):
            return False
        least, _, most = self._engine.profiles[self._profile][name]
        if len(shape) != len(least) or any(
            not low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        ):
            self._say(f"setInputShape: {name} {shape} is outside of the profile")
            return False
        if self._shapes.get(name) != tuple(shape):
            self._shapes[name] = tuple(shape)
            self._version += 1
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        mode, _, dims = self._engine.ports[name]
        if mode is TensorIOMode.INPUT:
            return self._shapes[name]
        if len(self._shapes) < len(self._engine.session.get_inputs()):
            return tuple(size if isinstance(size, int) else -1 for size in dims)
        sizes = self._sizes()
        return tuple(size if isinstance(size, int) else _size(size, sizes) for size in dims)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._gpu.fails("set_tensor_address"):
            return False
        if memory not in self._gpu.memory.device:
            raise IllegalError(f"{name} at {memory:#x}, which is not on the device")
        if self._addresses.get(name) != memory:
            self._addresses[name] = memory
            self._version += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._gpu.fails("execute_async_v3"):
            self._say("enqueueV3: Error Code 1: Cuda Runtime (launch failed)")
            return False
        if missing := set(self._engine.ports) - set(self._addresses):
            self._say(f"enqueueV3: no address for {sorted(missing)}")
            return False
        stream = self._gpu.stream(stream_handle)
        if stream.captured is not None and self._launched != self._version:
            self._say("enqueueV3: captured before a launch with these shapes")
            return False
        self._launched = self._version
        snapshot = _Snapshot(
            dict(self._shapes), dict(self._addresses), self._scratch, self._version
        )
        captured = stream.captured is not None
        # A graph does not keep its context alive, and neither does a launch.
        me = weakref.ref(self)
        stream.push(lambda: _run(me, snapshot, captured))
        return True

    def _sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, shape in self._shapes.items():
            for dimension, size in zip(self._engine.ports[name][2], shape, strict=True):
                known = found.setdefault(dimension, size) if isinstance(dimension, str) else size
                if known != size:
                    raise IllegalError(f"{dimension} is {known} and {size}")
        return found

    def _say(self, text: str) -> None:
        self._engine.log.log(Severity.ERROR, text)


def _size(dimension: str, sizes: dict[str, int]) -> int:
    """Of a named dimension, or of a sum of them, as torch names it: s17 + s70."""
    if dimension in sizes:
        return sizes[dimension]
    return sum(sizes[part] for part in dimension.split(" + "))


def _free_context(gpu: FakeGpu, own: int) -> None:
    gpu.contexts -= 1
    gpu.memory.release(own)


def _run(reference: weakref.ref[FakeContext], snapshot: _Snapshot, captured: bool) -> None:
    """A launch, when its turn comes."""
    context = reference()
    if context is None:
        raise IllegalError("a launch of a context that is gone")
    if captured and context._version != snapshot.version:
        raise IllegalError("a graph is replayed after its context was changed")
    gpu, engine = context._gpu, context._engine
    memory = gpu.memory
    feeds: dict[str, NDArray[Any]] = {}
    for port in engine.session.get_inputs():
        dtype, shape = np.dtype(_DTYPES[port.type].value), snapshot.shapes[port.name]
        raw = memory.read(snapshot.addresses[port.name], int(np.prod(shape)) * dtype.itemsize)
        feeds[port.name] = np.frombuffer(raw, dtype).reshape(shape)
    names = [port.name for port in engine.session.get_outputs()]
    found = engine.session.run(names, feeds)
    memory.write(snapshot.scratch[0], bytes([gpu.runs % 251]) * snapshot.scratch[1])
    for name, array in zip(names, found, strict=True):
        memory.write(snapshot.addresses[name], np.ascontiguousarray(array).tobytes())
    gpu.runs += 1


_DTYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int64)": DataType.INT64,
    "tensor(int32)": DataType.INT32,
}
_sessions: dict[str, Any] = {}


def _computed(encoded: str) -> Any:
    import onnxruntime

    if encoded not in _sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _sessions[encoded] = onnxruntime.InferenceSession(
            base64.b64decode(encoded), options, providers=["CPUExecutionProvider"]
        )
    return _sessions[encoded]


def flavour(gpu: FakeGpu, rtx: bool = False) -> Flavour:
    trt = fake_trt(gpu, rtx)
    return Flavour("tensorrt_rtx" if rtx else "tensorrt", "10.3.0", trt)
