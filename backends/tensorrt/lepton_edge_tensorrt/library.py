"""The flavours of TensorRT: importing one, what it calls itself, and what it says.

Everything that differs between them is here; the rest of this package uses `Flavour.trt`, whose
API is the same.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge.errors import BackendError

if TYPE_CHECKING:
    from lepton_edge.target import Target

Name = Literal["tensorrt", "tensorrt_rtx"]

_MIN_TENSORRT = (10, 3)  # JetPack 6.2
_MIN_RTX = (1, 0)
# What the rest of this package calls. All of them are in TensorRT 10.3 and in 11.
_NEEDED = (
    "Builder",
    "ILogger",
    "IProgressMonitor",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.set_device_memory",
    "IExecutionContext.set_optimization_profile_async",
    "IExecutionContext.set_tensor_address",
    "ICudaEngine.get_device_memory_size_for_profile_v2",
    "ICudaEngine.get_tensor_profile_shape",
    "MemoryPoolType.WORKSPACE",
    "OnnxParser.parse_from_file",
    "ParserError.node_operator",
    "Runtime.deserialize_cuda_engine",
)
_BINDINGS = "tensorrt-rtx-cu13-bindings"
_PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_PLUGIN_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
# In the order in which they need each other.
_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
_INSTALL_RTX = "pip install 'lepton-edge-tensorrt[rtx]'"
_INSTALL: dict[Name, str] = {
    "tensorrt": "on a Jetson it is part of JetPack (sudo apt-get install nvidia-jetpack; make the "
    "virtual environment with --system-site-packages); on x86-64: pip install tensorrt",
    "tensorrt_rtx": _INSTALL_RTX,
}
# The last that a logger keeps: one that runs for months hears many.
_LINES = 100
_IMPORTING = threading.RLock()


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, imported."""

    name: Name
    version: str
    trt: Any
    """The module: TensorRT's Python API."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def flavour_for(target: Target) -> Flavour:
    """The flavour that a target's artifacts are made with. Raises `BackendError`."""
    if target.name == "nvidia":
        return any_flavour()
    return flavour("tensorrt_rtx" if target.name == "rtx" else "tensorrt")


def any_flavour() -> Flavour:
    """The first that can be imported, TensorRT before TensorRT for RTX: on the GPU that it compiles
    for it chooses among more kernels. Raises `BackendError` with why neither can."""
    reasons = []
    for name in _INSTALL:
        try:
            return flavour(name)
        except BackendError as error:
            reasons.append(error.message)
    raise BackendError("; ".join(reasons), hint=_INSTALL_RTX)


def flavours() -> tuple[Flavour, ...]:
    """Those that can be imported here."""
    found = []
    for name in _INSTALL:
        try:
            found.append(flavour(name))
        except BackendError:
            continue
    return tuple(found)


def flavour(name: Name) -> Flavour:
    """Raises `BackendError` where it is not installed, too old, or its parts do not go together."""
    with _IMPORTING:
        return _flavour(name)


@cache
def _flavour(name: Name) -> Flavour:
    if _is_there(name):
        trt = _imported(name, name)
    elif name == "tensorrt_rtx" and find_spec("tensorrt_rtx_bindings") is not None:
        _load_libraries()
        trt = _imported(name, "tensorrt_rtx_bindings")
    else:
        raise BackendError(f"{_TITLES[name]} is not installed", hint=_INSTALL[name])
    found = Flavour(name, str(getattr(trt, "__version__", "0")), trt)
    _check(found)
    return found


def _is_there(module: str) -> bool:
    """A folder of that name, as an uninstallation leaves it, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def _imported(name: Name, module: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # a stub that downloads the library can fail in any way
        raise BackendError(
            f"{_TITLES[name]} cannot be imported: {type(error).__name__}: {error}",
            hint=_INSTALL[name],
        ) from error


def _load_libraries() -> None:
    """Load the libraries that the bindings are linked with, from the plugin's wheel.

    A mismatch is found before, as the bindings would only fail to import, naming a symbol.
    """
    bindings = _version(_BINDINGS)
    folder = _plugin_folder()
    if folder is None:
        raise BackendError(
            f"TensorRT for RTX is half installed: {_BINDINGS} {bindings} is there, and {_PLUGIN}, "
            "whose wheel has its libraries, is not",
            hint=_INSTALL_RTX,
        )
    for pattern in _LIBRARIES:
        found = sorted(folder.glob(pattern))
        if not found:
            raise BackendError(
                f"TensorRT for RTX is incomplete: there is no {pattern} in {folder}",
                hint=f"pip install --force-reinstall --no-deps {_PLUGIN}",
            )
        library = found[-1].name.partition(".so.")[2]
        if "cudart" not in pattern and not f"{bindings}.".startswith(f"{library}."):
            raise BackendError(
                f"two parts of TensorRT for RTX do not go together: {_BINDINGS} {bindings}, and "
                f"{found[-1].name} of {_PLUGIN} {_version(_PLUGIN)}",
                hint=_INSTALL_RTX,
            )
        try:
            ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendError(
                f"TensorRT for RTX cannot be loaded: {error}",
                hint="it is for x86-64 Linux with glibc 2.28 or later",
            ) from error


def _plugin_folder() -> Path | None:
    spec = find_spec(_PLUGIN_MODULE)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _check(found: Flavour) -> None:
    least = _MIN_TENSORRT if found.name == "tensorrt" else _MIN_RTX
    if numbers(found.version)[:2] < least:
        raise BackendError(
            f"{_TITLES[found.name]} {found.version} is too old: lepton-edge works with "
            f"{'.'.join(map(str, least))} and later",
            hint=_INSTALL[found.name],
        )
    missing = [name for name in _NEEDED if not _has(found.trt, name)]
    if missing:
        raise BackendError(
            f"{_TITLES[found.name]} {found.version} has no {', '.join(missing)}: this "
            "lepton-edge-tensorrt does not know that version",
            hint="pip install --upgrade lepton-edge-tensorrt",
        )


def _has(module: Any, name: str) -> bool:
    for part in name.split("."):
        module = getattr(module, part, None)
        if module is None:
            return False
    return True


def numbers(text: str) -> tuple[int, ...]:
    """A version's numbers: (10, 3, 0) of 10.3.0.post1."""
    return tuple(map(int, re.findall(r"\d+", text.partition("post")[0])))


def strongly_typed(trt: Any) -> int:
    """The flags of a network whose types are those written in the graph; from TensorRT 11 on there
    is no other kind, and in some versions no flag either."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def messages(trt: Any) -> Any:
    """A logger for TensorRT that keeps what it was told last: ``errors()`` and ``warnings()``."""
    return _messages_class(trt)()


@cache
def _messages_class(trt: Any) -> type[Any]:
    class Messages(trt.ILogger):  # type: ignore[misc]  # which class that is depends on the flavour
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[tuple[Any, str]] = deque(maxlen=_LINES)

        def log(self, severity: Any, text: str) -> None:
            if severity in (self.ERROR, self.INTERNAL_ERROR, self.WARNING):
                self.lines.append((severity, text.strip()))

        def errors(self) -> list[str]:
            return [text for severity, text in tuple(self.lines) if severity != self.WARNING]

        def warnings(self) -> list[str]:
            return [text for severity, text in tuple(self.lines) if severity == self.WARNING]

    return Messages


_TITLES: dict[Name, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
