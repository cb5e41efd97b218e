"""A decoder's steps, one after another: what the build compares with the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError
from lepton_edge.generation.tensors import LOGITS
from lepton_edge_openvino.backend import generator_properties
from lepton_edge_openvino.library import last_line, runtime_errors
from lepton_edge_openvino.session import COMPUTE
from lepton_edge_openvino.stateful import BEAM_IDX
from lepton_edge_openvino.vocabulary import GENERATIVE_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Compiled


def open_stepper(core: Any, directory: Path, compiled: Compiled, device: str) -> OpenVINOStepper:
    """Raises `BackendError`."""
    with runtime_errors(f"open {directory} on {device}"):
        properties = generator_properties(core, device, compiled.settings)
        model = core.compile_model(str(directory / GENERATIVE_MODEL), device, properties)
        return OpenVINOStepper(model)


class OpenVINOStepper:
    """A `lepton_edge.generation.loop.Stepper` over a stateful model, which keeps the cache."""

    def __init__(self, model: Any) -> None:
        self._request: Any = model.create_infer_request()
        self._rows = 0
        self._inputs = {port.get_any_name() for port in model.inputs}
        compute = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.details = {"compute": COMPUTE.get(compute, compute)}

    @property
    def max_length(self) -> int:
        """The cache grows with what it is given."""
        return 2**31 - 1

    @property
    def max_batch(self) -> int:
        """As many rows as there is memory for."""
        return 2**31 - 1

    def start(self, batch: int) -> None:
        """Begin new texts, this many rows, with an empty cache."""
        if self._request is None:
            raise InferenceError("the decoder is closed", hint="load the bundle again")
        self._request.reset_state()
        self._rows = batch

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Take new tokens [batch, length], and give the logits of the last of them [batch,
        vocabulary]. Raises `InferenceError`."""
        import numpy as np

        if self._request is None or not self._rows:
            raise InferenceError("the decoder has no text: it was not started, or was freed")
        feeds = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            BEAM_IDX: np.arange(self._rows, dtype=np.int32),
        }
        try:
            self._request.infer(
                {name: feed for name, feed in feeds.items() if name in self._inputs}
            )
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO could not run the model: {last_line(error)}") from error
        logits = self._request.get_tensor(LOGITS).data
        last: NDArray[np.float32] = logits if logits.ndim == 2 else logits[:, -1]
        return last.astype(np.float32)  # a copy: the request's own memory is written again

    def free(self) -> None:
        """Free the cache; `start` makes a new one. Harmless where there is none."""
        if self._request is not None and self._rows:
            self._request.reset_state()
            self._rows = 0

    def close(self) -> None:
        """Release all that it holds. Closing twice is harmless."""
        self._request = None
