"""A GPU that is not there: a fake of CUDA's runtime, strict where a real one is silent.

Memory on the device is bytes at made-up addresses; touching what is not allocated, or no longer, is
an `IllegalError`. A stream does nothing until it is waited for, so a copy that is read too early
holds rubbish. A captured graph has the addresses of its capture.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

SUCCESS, INVALID, OUT_OF_MEMORY, CAPTURE_UNSUPPORTED = 0, 1, 2, 900
_MIB = 1024 * 1024
_RUBBISH = 0xA5
_ALIGNMENT = 256
# CUDA repeats an earlier launch's error to whoever calls next: what releases works all the same.
_RELEASING = frozenset(
    {
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamDestroy",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
    }
)


class IllegalError(AssertionError):
    """What a real GPU would punish with a wrong answer, a crash, or not at all."""


class Memory:
    """Bytes at addresses; page-locked memory is the host's own, at its real address."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.device: dict[int, bytearray] = {}
        self.pinned: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._next = 0x7F0000000000

    @property
    def free(self) -> int:
        return self.total - sum(map(len, self.device.values()))

    def allocate(self, size: int) -> int:
        address = self._next
        self._next += (size // _ALIGNMENT + 2) * _ALIGNMENT  # a gap after each
        self.device[address] = bytearray([_RUBBISH]) * size
        return address

    def allocate_pinned(self, size: int) -> int:
        block = (ctypes.c_char * size)()
        ctypes.memset(block, _RUBBISH, size)
        self.pinned[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def release(self, address: int) -> None:
        if address not in self.device:
            raise IllegalError(f"cudaFree of {address:#x}, which is not allocated")
        del self.device[address]

    def release_pinned(self, address: int) -> None:
        if address not in self.pinned:
            raise IllegalError(f"cudaFreeHost of {address:#x}, which is not allocated")
        block = self.pinned.pop(address)
        ctypes.memset(address, _RUBBISH, len(block))
        _GRAVEYARD.append(block)  # a view that is read too late sees rubbish, and no crash

    def read(self, address: int, size: int) -> bytes:
        block, start = self._find(address, size)
        return bytes(block[start : start + size])

    def write(self, address: int, data: bytes) -> None:
        block, start = self._find(address, len(data))
        if isinstance(block, bytearray):
            block[start : start + len(data)] = data
        else:
            ctypes.memmove(address, data, len(data))

    def _find(self, address: int, size: int) -> tuple[Any, int]:
        for blocks in (self.device, self.pinned):
            for start, block in blocks.items():
                if start <= address < start + len(block) or (start == address and not size):
                    if address + size > start + len(block):
                        raise IllegalError(
                            f"{size} bytes at {address:#x} end outside of the buffer"
                        )
                    return block, address - start
        raise IllegalError(f"{address:#x} is not allocated")


_GRAVEYARD: list[Any] = []


@dataclass
class FakeStream:
    queue: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None
    invalidated: bool = False

    def push(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)


class FakeGpu:
    """The device, and `runtime`, which stands in for the module `cuda.bindings.runtime`.

    ``fail[name] = n`` makes the n-th call of CUDA's or TensorRT's function of that name fail, the
    first being 1; `calls` counts them.
    """

    def __init__(self, total: int = 512 * _MIB, real: Any = None) -> None:
        self.memory = Memory(total)
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, int] = {}
        self.count = 1
        self.count_error = 0
        self.driver = 13050
        self.current = 0
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.contexts = 0
        self.runs = 0
        self._handle = 100
        self.runtime = _Runtime(self, real)

    def fails(self, name: str) -> bool:
        self.calls[name] += 1
        return self.calls[name] == self.fail.get(name)

    def handle(self) -> int:
        self._handle += 1
        return self._handle

    def live(self) -> dict[str, int]:
        """All that is not given back, by kind."""
        found = {
            "device": len(self.memory.device),
            "pinned": len(self.memory.pinned),
            "streams": len(self.streams),
            "graphs": len(self.graphs),
            "executables": len(self.executables),
            "contexts": self.contexts,
        }
        return {kind: count for kind, count in found.items() if count}

    def stream(self, number: Any) -> FakeStream:
        if int(number) not in self.streams:
            raise IllegalError(f"stream {number} does not exist")
        return self.streams[int(number)]


class _Runtime:
    """The functions with their arguments as in `cuda.bindings.runtime`; each gives a tuple."""

    def __init__(self, gpu: FakeGpu, real: Any) -> None:
        self._gpu = gpu
        self.cudaError_t = real.cudaError_t
        self.cudaGetErrorName = real.cudaGetErrorName
        self.cudaGetErrorString = real.cudaGetErrorString
        self.cudaMemcpyKind = real.cudaMemcpyKind
        self.cudaStreamCaptureMode = real.cudaStreamCaptureMode
        self.cudaStreamNonBlocking = real.cudaStreamNonBlocking

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or name.startswith("cudaGetError"):
            return found
        if isinstance(found, type):
            return found

        def call(*arguments: Any) -> Any:
            failing = self._gpu.fails(name)
            if failing and name == "cudaStreamEndCapture":
                self._gpu.stream(arguments[0]).invalidated = True
            elif failing and name not in _RELEASING:
                return (719, *[None] * (_GIVES.get(name, 0)))
            result = found(*arguments)
            return (719, *result[1:]) if failing and not result[0] else result

        return call

    def cudaDriverGetVersion(self) -> tuple[int, int]:  # noqa: N802  (CUDA's names)
        return SUCCESS, self._gpu.driver

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:  # noqa: N802
        return SUCCESS, 13050

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return self._gpu.count_error, self._gpu.count

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: N802
        name = f"Fake GPU {device}".encode()
        total = self._gpu.memory.total
        return SUCCESS, SimpleNamespace(name=name, major=8, minor=7, totalGlobalMem=total)

    def cudaGetDevice(self) -> tuple[int, int]:  # noqa: N802
        return SUCCESS, self._gpu.current

    def cudaSetDevice(self, device: int) -> tuple[int]:  # noqa: N802
        self._gpu.current = device
        return (SUCCESS,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return SUCCESS, self._gpu.memory.free, self._gpu.memory.total

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        if any(stream.captured is not None for stream in self._gpu.streams.values()):
            return CAPTURE_UNSUPPORTED, None
        if size > self._gpu.memory.free:
            return OUT_OF_MEMORY, None
        return SUCCESS, self._gpu.memory.allocate(size)

    def cudaFree(self, devPtr: int) -> tuple[int]:  # noqa: N802, N803
        self._gpu.memory.release(devPtr)
        return (SUCCESS,)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:  # noqa: N802
        return SUCCESS, self._gpu.memory.allocate_pinned(size)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:  # noqa: N802
        self._gpu.memory.release_pinned(ptr)
        return (SUCCESS,)

    def cudaMemcpyAsync(  # noqa: N802
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[int]:
        memory = self._gpu.memory
        down = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        target, source = (memory.device, memory.pinned) if down else (memory.pinned, memory.device)
        if dst not in target or src not in source:
            raise IllegalError(f"{kind!s} from {src:#x} to {dst:#x}: the wrong side")
        self._gpu.stream(stream).push(lambda: memory.write(dst, memory.read(src, count)))
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        handle = self._gpu.handle()
        self._gpu.streams[handle] = FakeStream()
        return SUCCESS, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        self._gpu.stream(stream)
        del self._gpu.streams[stream]
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        found = self._gpu.stream(stream)
        if found.captured is not None:
            found.invalidated = True
            return (CAPTURE_UNSUPPORTED,)
        while found.queue:
            found.queue.pop(0)()
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[int]:  # noqa: N802
        found = self._gpu.stream(stream)
        if found.captured is not None:
            raise IllegalError("the stream is captured already")
        found.captured = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        found = self._gpu.stream(stream)
        if found.captured is None:
            raise IllegalError("the stream is not captured")
        work, found.captured = found.captured, None
        if found.invalidated:
            found.invalidated = False
            return 901, None
        handle = self._gpu.handle()
        self._gpu.graphs[handle] = work
        return SUCCESS, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        handle = self._gpu.handle()
        self._gpu.executables[handle] = list(self._gpu.graphs[graph])
        return SUCCESS, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        del self._gpu.graphs[graph]
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[int]:  # noqa: N802, N803
        del self._gpu.executables[graphExec]
        return (SUCCESS,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[int]:  # noqa: N802, N803
        self._gpu.stream(stream).queue.extend(self._gpu.executables[graphExec])
        return (SUCCESS,)


# How much a function gives beside its error, where that is not nothing.
_GIVES = {
    "cudaDriverGetVersion": 1,
    "cudaRuntimeGetVersion": 1,
    "cudaGetDeviceCount": 1,
    "cudaGetDeviceProperties": 1,
    "cudaGetDevice": 1,
    "cudaMemGetInfo": 2,
    "cudaMalloc": 1,
    "cudaMallocHost": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaGraphInstantiate": 1,
}


def install(monkeypatch: pytest.MonkeyPatch, total: int = 512 * _MIB) -> FakeGpu:
    """Put the fake in place of `cuda.bindings.runtime`; errors keep the names and texts of that."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    gpu = FakeGpu(total, real)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", gpu.runtime)
    return gpu
