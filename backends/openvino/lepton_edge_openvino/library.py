"""Importing OpenVINO without its telemetry, and turning its errors into ours."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONVERTER = "openvino.tools.ovc"
_TELEMETRY = "openvino_telemetry"
# What is hidden from one thread's import is hidden from every thread's.
_IMPORTING = threading.RLock()


def openvino() -> Any:
    """The module `openvino`, for running models.

    ``import openvino`` loads its model converter too, which sends a usage event over the network
    on import. The runtime needs no converter, so it is kept out; that also saves about 0.15 s.
    Whoever asks the module for ``convert_model`` later gets it then, without the usage event.
    """
    with _IMPORTING, import_errors():
        if sys.modules.get("openvino"):
            return sys.modules["openvino"]
        with _hidden(_CONVERTER):
            module = import_module("openvino")
        module.__getattr__ = _from_converter  # type: ignore[method-assign]
        return module


def converter() -> Any:
    """The module `openvino.tools.ovc`, for building, with its telemetry replaced by its stub."""
    openvino()
    with _IMPORTING, _hidden(_TELEMETRY), import_errors():
        return import_module(_CONVERTER)


@contextmanager
def nncf() -> Iterator[Any]:
    """The module `nncf`, as `lepton_edge.quantization.nncf` gives it. It imports OpenVINO, so
    that comes first."""
    openvino()
    from lepton_edge.quantization.nncf import nncf as imported

    with imported() as module:
        yield module


def _from_converter(name: str) -> Any:
    """``openvino.__getattr__``: what the package would have imported from its converter."""
    if name == "convert_model":
        return converter().convert_model
    raise AttributeError(f"module 'openvino' has no attribute {name!r}")


@contextmanager
def import_errors() -> Iterator[None]:
    """Turn a failed import of OpenVINO into `BackendError`."""
    try:
        yield
    except ImportError as error:
        raise BackendError(
            f"OpenVINO cannot be imported: {error}",
            hint="pip install --force-reinstall 'lepton-edge[openvino]'",
        ) from error


@contextmanager
def runtime_errors(doing: str) -> Iterator[None]:
    """Turn OpenVINO's RuntimeError into `BackendError`; ``doing`` says what was tried."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(f"OpenVINO could not {doing}: {last_line(error)}") from error


def last_line(error: BaseException) -> str:
    """OpenVINO's messages are a stack of source lines that ends with what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make ``import name`` fail inside the block, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how Python spells it
    try:
        yield
    finally:
        del sys.modules[name]
