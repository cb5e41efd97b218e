"""Backends that compile with OpenVINO and answer wrongly, each in one way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lepton_edge import registry
from lepton_edge.backend import (
    Aside,
    Backend,
    Compiled,
    Graph,
    Precision,
    Probe,
    Quantization,
    Session,
)
from lepton_edge.target import Target

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors

Outputs = dict[str, NDArray[Any]]


class Crooked(Backend):
    """OpenVINO's, with what it takes and gives bent by `feeds` and `outputs`."""

    name: ClassVar[str] = "crooked"
    Options = registry.get("openvino").Options

    def probe(self) -> Probe:
        return registry.get("openvino").probe()

    def build(
        self,
        graph: Graph,
        target: Target,
        precision: Precision,
        options: Any,
        directory: Path,
        quantization: Quantization | None = None,
        aside: Aside = Aside(),
    ) -> Compiled:
        return registry.get("openvino").build(
            graph, target, precision, options, directory, quantization, aside
        )

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Session:
        return _Bent(registry.get("openvino").load(directory, compiled, device), self)

    def feeds(self, feeds: Tensors) -> Tensors:
        return feeds

    def outputs(self, outputs: Outputs) -> Outputs:
        return outputs


class _Bent(Session):
    def __init__(self, session: Session, backend: Crooked) -> None:
        self._session = session
        self._backend = backend
        self.inputs, self.outputs = session.inputs, session.outputs
        self.device, self.details = session.device, session.details

    def infer(self, feeds: Tensors) -> Outputs:
        return self._backend.outputs(self._session.infer(self._backend.feeds(feeds)))

    def close(self) -> None:
        self._session.close()


class IgnoresTheMask(Crooked):
    """Every token counts, padding too."""

    def feeds(self, feeds: Tensors) -> Tensors:
        return {**feeds, "attention_mask": np.ones_like(feeds["attention_mask"])}


class MixesUpRows(Crooked):
    """The rows of a batch come back in another order."""

    def outputs(self, outputs: Outputs) -> Outputs:
        return {name: np.ascontiguousarray(array[::-1]) for name, array in outputs.items()}


class GivesNaN(Crooked):
    """One number of a batch is none."""

    def outputs(self, outputs: Outputs) -> Outputs:
        for array in outputs.values():
            array[-1, -1] = np.nan
        return outputs


class AddsALittle(Crooked):
    """0.25 more on every output."""

    def outputs(self, outputs: Outputs) -> Outputs:
        return {name: array + np.float32(0.25) for name, array in outputs.items()}


class WrongInEightBits(Crooked):
    """int8 answers the opposite, unless its accuracy is under control."""

    def build(
        self,
        graph: Graph,
        target: Target,
        precision: Precision,
        options: Any,
        directory: Path,
        quantization: Quantization | None = None,
        aside: Aside = Aside(),
    ) -> Compiled:
        built = super().build(graph, target, precision, options, directory, quantization, aside)
        (directory / "bent").write_text(str(self.bends(precision, quantization)))
        return built

    def bends(self, precision: Precision, quantization: Quantization | None) -> bool:
        controlled = quantization is not None and quantization.score is not None
        return precision == "int8" and not controlled

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Session:
        opened = registry.get("openvino").load(directory, compiled, device)
        return _Bent(opened, self) if (directory / "bent").read_text() == "True" else opened

    def outputs(self, outputs: Outputs) -> Outputs:
        return {name: -array for name, array in outputs.items()}


class NaNInEightBits(WrongInEightBits):
    """int8 gives what is not a number, unless its accuracy is under control."""

    def outputs(self, outputs: Outputs) -> Outputs:
        return {name: array * np.float32(np.nan) for name, array in outputs.items()}


class NaNInHalf(NaNInEightBits):
    """Only fp32 gives numbers."""

    def bends(self, precision: Precision, quantization: Quantization | None) -> bool:
        return precision != "fp32"


class AlwaysWrong(Crooked):
    """Every answer is the opposite."""

    def outputs(self, outputs: Outputs) -> Outputs:
        return {name: -array for name, array in outputs.items()}
