"""Importing NNCF, for backends that make eight bits with it, without its telemetry and its talk."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.RLock()


@contextmanager
def nncf() -> Iterator[Any]:
    """The module `nncf`, with its telemetry replaced by its stub.

    Inside, its log is turned down to errors and its progress bars, which go to standard output, are
    off; its errors become `BackendError`.
    """
    module = _imported()
    from rich import get_console

    console = get_console()
    before, console.quiet = console.quiet, True
    try:
        yield module
    except BackendError:
        raise
    except Exception as error:  # it raises many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise BackendError(
            f"NNCF cannot make 8 bits of this model: {reason}",
            hint="build with precision: auto",
        ) from error
    finally:
        console.quiet = before


def _imported() -> Any:
    loggers = logging.getLoggerClass()
    with _IMPORTING:
        hidden = _TELEMETRY not in sys.modules
        if hidden:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python spells it
        try:
            module = import_module("nncf")
        except ImportError as error:
            raise BackendError(
                f"int8 needs NNCF, which cannot be imported: {error}",
                hint="pip install 'lepton-edge[build]'",
            ) from error
        finally:
            if hidden:
                del sys.modules[_TELEMETRY]
            logging.setLoggerClass(loggers)  # NNCF puts its own in place for the whole process
    module.set_log_level(logging.ERROR)
    return module
