"""Running: a compiled model and its infer requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Compiled, Session, check_feeds
from lepton_edge.errors import InferenceError
from lepton_edge_openvino.library import last_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors


class OpenVINOSession(Session):
    """A request runs one inference at a time, so each thread takes one that is idle."""

    def __init__(self, model: Any, compiled: Compiled, device: str) -> None:
        self._model = model
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self.inputs = compiled.inputs
        self.outputs = compiled.outputs
        self.device = device
        compute = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.details = {
            "compute": COMPUTE.get(compute, compute),
            "streams": int(model.get_property("NUM_STREAMS")),
        }

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        request = self._take()
        try:
            # Shared: the arrays outlive the call, and copying them would cost as much as tokens.
            request.infer(dict(feeds), share_inputs=True, share_outputs=True)
            # The request's own memory is overwritten by its next inference.
            return {
                spec.name: request.get_output_tensor(index).data.copy()
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO could not run the model: {last_line(error)}") from error
        finally:
            with self._lock:
                if self._model is not None:
                    self._idle.append(request)

    def close(self) -> None:
        with self._lock:
            self._model = None
            self._idle.clear()

    def _take(self) -> Any:
        with self._lock:
            if self._model is None:
                raise InferenceError("the session is closed", hint="load the bundle again")
            return self._idle.pop() if self._idle else self._model.create_infer_request()


COMPUTE = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
