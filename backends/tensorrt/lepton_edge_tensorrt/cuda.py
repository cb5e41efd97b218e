"""CUDA, as far as running engines needs it: GPUs, memory, streams and graphs.

A call that fails raises `CudaError`; `failures` around it makes that an error of lepton-edge.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError, LeptonError
from lepton_edge.target import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

_OUT_OF_MEMORY = 2
_OLD_DRIVER, _NO_DEVICE = 35, 100
# After one of these every call of the process fails with it: hardware, and kernels that went wrong.
_LOST = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720})
_CONTAINER = "in a container: docker run --gpus all …, on a Jetson --runtime nvidia"


class CudaError(Exception):
    """A call of CUDA or TensorRT that did not work. It never leaves this package."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@contextmanager
def failures(kind: type[LeptonError], doing: str) -> Iterator[None]:
    """Turn `CudaError` into ``kind``; ``doing`` says what was tried."""
    try:
        yield
    except CudaError as error:
        raise kind(f"cannot {doing}: {error.message}", hint=error.hint) from error


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    """CUDA's number for it."""
    label: str
    """What a user calls it: GPU, or GPU.0, GPU.1 where there are several."""
    name: str
    capability: str
    """Its compute capability, such as 8.7."""
    memory: int
    """All of its memory, in bytes; on a Jetson it is the machine's."""


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA finds, at least one. Raises `BackendError` that says why there is none."""
    rt = _runtime()
    code, count = rt.cudaGetDeviceCount()
    if int(code) or not count:
        raise _no_gpu(rt, int(code))
    found = []
    with failures(BackendError, "ask for the GPUs"):
        for index in range(count):
            facts = _call(rt, "cudaGetDeviceProperties", index)
            found.append(
                Gpu(
                    index=index,
                    label="GPU" if count == 1 else f"GPU.{index}",
                    name=_text(facts.name),
                    capability=f"{facts.major}.{facts.minor}",
                    memory=int(facts.totalGlobalMem),
                )
            )
    return tuple(found)


def first_gpu() -> Gpu:
    """Raises `BackendError`."""
    return gpus()[0]


@dataclass(frozen=True)
class Live:
    """Bytes that this process has allocated here and not given back: not TensorRT's own."""

    device: int
    pinned: int


def live() -> Live:
    """Of all GPUs."""
    with _COUNTING:
        return Live(_allocated[False], _allocated[True])


class Device:
    """One GPU, and the calls that are made for it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.runtime = _runtime()

    def call(self, name: str, *arguments: Any) -> Any:
        """What CUDA's function gives. Raises `CudaError`."""
        return _call(self.runtime, name, *arguments)

    def release(self, name: str, handle: Any) -> None:
        """Give a handle back. An error then is an earlier launch's, and whoever waited for that
        launch was told: CUDA repeats it to whoever calls next."""
        getattr(self.runtime, name)(handle)

    @contextmanager
    def current(self, closing: bool = False) -> Iterator[None]:
        """Make it the calling thread's GPU inside the block.

        Raises `CudaError`, except for ``closing``: what is given back goes in any case.
        """
        code, before = self.runtime.cudaGetDevice()
        if closing:
            self.release("cudaSetDevice", self.gpu.index)
        elif int(code):
            raise _failure(self.runtime, "cudaGetDevice", int(code))
        else:
            self.call("cudaSetDevice", self.gpu.index)
        try:
            yield
        finally:
            if not int(code) and before != self.gpu.index:
                self.release("cudaSetDevice", before)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes. Raises `CudaError`."""
        free, total = self.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int, pinned: bool) -> int:
        """The address of ``size`` bytes. Raises `CudaError`, which says how much was free."""
        code, address = (
            self.runtime.cudaMallocHost(size) if pinned else self.runtime.cudaMalloc(size)
        )
        if int(code) == _OUT_OF_MEMORY:
            raise self._no_room(size, pinned)
        if int(code):
            raise _failure(self.runtime, "cudaMallocHost" if pinned else "cudaMalloc", int(code))
        _count(size, pinned)
        return int(address)

    def free(self, address: int, size: int, pinned: bool) -> None:
        self.release("cudaFreeHost" if pinned else "cudaFree", address)
        _count(-size, pinned)

    def _no_room(self, size: int, pinned: bool) -> CudaError:
        where = "page-locked host memory" if pinned else f"{self.gpu.name}'s memory"
        message = f"{_mib(size)} of {where} were asked for"
        if not pinned:
            free, total = self.memory()
            message += f", and {_mib(free)} of {_mib(total)} are free"
        return CudaError(
            f"{message} (cudaErrorMemoryAllocation)",
            "close other models and programs that use the GPU, give fewer texts at once, or build "
            "with backends: {tensorrt: {max_batch: 8}} in the recipe",
        )


class Buffer:
    """Memory on the GPU, or page-locked memory of the host, that is used again and again.

    Use it inside `Device.current`.
    """

    def __init__(self, device: Device, pinned: bool = False) -> None:
        self.address = 0
        self.size = 0
        self._device = device
        self._pinned = pinned
        self._bytes: ctypes.Array[ctypes.c_char] | None = None

    def reserve(self, size: int) -> bool:
        """Have at least ``size`` bytes; what was in them is lost where it moves, which is then
        True. Raises `CudaError`, and then has none."""
        if self.address and size <= self.size:
            return False
        self.close()
        size = max(size, 1)  # TensorRT wants an address of an empty tensor too
        self.address = self._device.allocate(size, self._pinned)
        self.size = size
        if self._pinned:
            self._bytes = (ctypes.c_char * size).from_address(self.address)
        return True

    def array(self, dtype: DTypeLike, shape: Sequence[int]) -> NDArray[Any]:
        """Page-locked memory as an array. It is gone when the buffer moves or is closed."""
        import numpy as np

        assert self._bytes is not None
        view: NDArray[Any] = np.ndarray(tuple(shape), dtype, buffer=memoryview(self._bytes))
        return view

    def close(self) -> None:
        if self.address:
            address, self.address, self._bytes = self.address, 0, None
            self._device.free(address, self.size, self._pinned)
        self.size = 0


class Stream:
    """Work for a GPU, in order. Use it inside `Device.current`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        rt = device.runtime
        self._handle = device.call("cudaStreamCreateWithFlags", rt.cudaStreamNonBlocking)

    @property
    def number(self) -> int:
        """The handle as TensorRT takes it."""
        return int(self._handle)

    def to_device(self, target: Buffer, source: Buffer, size: int) -> None:
        """Copy ``size`` bytes. Both stay as they are until the stream was waited for."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice")

    def to_host(self, target: Buffer, source: Buffer, size: int) -> None:
        """As `to_device`, the other way."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost")

    def wait(self) -> None:
        """Until all its work is done. Raises `CudaError` for whatever of it failed."""
        self._device.call("cudaStreamSynchronize", self._handle)

    def settle(self) -> None:
        """Wait after an error, so that nothing still uses memory that is given back."""
        self._device.release("cudaStreamSynchronize", self._handle)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """What ``work`` gives the stream, as a graph; nothing of it runs. Raises `CudaError`."""
        rt = self._device.runtime
        # Other threads may allocate meanwhile: only this one's calls are captured.
        mode = rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._device.call("cudaStreamBeginCapture", self._handle, mode)
        try:
            work()
        except BaseException:
            code, graph = rt.cudaStreamEndCapture(self._handle)
            if not int(code):
                self._device.release("cudaGraphDestroy", graph)
            raise
        graph = self._device.call("cudaStreamEndCapture", self._handle)
        try:
            return CudaGraph(self._device, self._device.call("cudaGraphInstantiate", graph, 0))
        finally:
            self._device.release("cudaGraphDestroy", graph)

    def launch(self, graph: CudaGraph) -> None:
        self._device.call("cudaGraphLaunch", graph.handle, self._handle)

    def close(self) -> None:
        """Once."""
        self._device.release("cudaStreamDestroy", self._handle)

    def _copy(self, target: Buffer, source: Buffer, size: int, kind: str) -> None:
        if size:
            kinds = self._device.runtime.cudaMemcpyKind
            self._device.call(
                "cudaMemcpyAsync",
                target.address,
                source.address,
                size,
                getattr(kinds, kind),
                self._handle,
            )


class CudaGraph:
    """Captured work, with the addresses that it had then."""

    def __init__(self, device: Device, handle: Any) -> None:
        self.handle = handle
        self._device = device

    def close(self) -> None:
        """Once."""
        self._device.release("cudaGraphExecDestroy", self.handle)


_COUNTING = threading.Lock()
_allocated = {False: 0, True: 0}  # by whether it is page-locked


def _count(size: int, pinned: bool) -> None:
    with _COUNTING:
        _allocated[pinned] += size


def _runtime() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            f"cuda-bindings cannot be imported: {error}",
            hint="pip install --force-reinstall lepton-edge-tensorrt",
        ) from error


def _call(rt: Any, name: str, *arguments: Any) -> Any:
    """Each of CUDA's functions gives a tuple: its error, then what it has to give."""
    code, *given = getattr(rt, name)(*arguments)
    if int(code):
        raise _failure(rt, name, int(code))
    return given[0] if len(given) == 1 else given


def _failure(rt: Any, name: str, code: int) -> CudaError:
    hint = None
    if code in _LOST:
        hint = "this process cannot use the GPU any more: start it again; dmesg may say why"
    return CudaError(f"{name} failed with {_named(rt, code)}", hint)


def _named(rt: Any, code: int) -> str:
    """Such as cudaErrorInvalidValue (invalid argument)."""
    error = rt.cudaError_t(code)
    return f"{_text(rt.cudaGetErrorName(error)[1])} ({_text(rt.cudaGetErrorString(error)[1])})"


def _no_gpu(rt: Any, code: int) -> BackendError:
    """Why CUDA counts no GPU."""
    driver, runtime = _version(rt.cudaDriverGetVersion()), _version(rt.cudaRuntimeGetVersion())
    if driver == (0, 0):
        return BackendError(
            "this machine has no NVIDIA driver",
            hint=f"install it: nvidia-smi then lists the GPUs ({_CONTAINER})",
        )
    if code == _OLD_DRIVER and driver[0] < runtime[0]:
        return BackendError(
            f"the NVIDIA driver is for CUDA {driver[0]}.{driver[1]}, and cuda-bindings is for "
            f"CUDA {runtime[0]}",
            hint="pip install 'cuda-bindings<13', or install a newer driver"
            if driver[0] == 12
            else "install a driver for CUDA 12 or later",
        )
    if code in (0, _NO_DEVICE):
        return BackendError(
            "the NVIDIA driver finds no GPU",
            hint=f"nvidia-smi lists those that it has; is CUDA_VISIBLE_DEVICES set? ({_CONTAINER})",
        )
    return BackendError(f"CUDA cannot count the GPUs: {_named(rt, code)}", hint="nvidia-smi")


def _version(answer: tuple[Any, int]) -> tuple[int, int]:
    """(12, 6) of 12060; (0, 0) of 0, which a missing driver has."""
    code, number = answer
    return (0, 0) if int(code) else (number // 1000, number % 1000 // 10)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace").rstrip("\0") if isinstance(value, bytes) else value


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= MIB else f"{size:,} bytes"
