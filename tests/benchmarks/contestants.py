"""The ways to embed texts that are measured beside `lepton_edge.Model`.

Each is what its own documentation shows, with as many threads as lepton-edge has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.benchmarks.workspace import Workspace

    Feeds = list[NDArray[np.int64]]
    Vectors = NDArray[np.float32]


class Contestant(Protocol):
    """One text or one batch of texts to unit vectors, tokenization included."""

    name: str

    def one(self, text: str) -> Vectors: ...

    def batch(self, texts: Sequence[str]) -> Vectors: ...


class _Tokenized:
    """With the `tokenizers` library: what the artifact's graph takes, as arrays in its order."""

    def __init__(self, work: Workspace) -> None:
        self._single = work.tokenizer()
        self._padded = work.tokenizer()
        self._padded.enable_padding(pad_id=work.bundle.manifest.text.pad_id)
        self._inputs = [spec.name for spec in work.artifact.compiled.inputs]

    def one(self, text: str) -> Vectors:
        encoding = self._single.encode(text)
        return self.run([np.array([values]) for values in self._values(encoding)])

    def batch(self, texts: Sequence[str]) -> Vectors:
        return self.run(self.feeds(texts))

    def feeds(self, texts: Sequence[str]) -> Feeds:
        """One batch, padded to its longest text."""
        encodings = self._padded.encode_batch_fast(list(texts))
        columns = zip(*(self._values(encoding) for encoding in encodings), strict=True)
        return [np.array(column) for column in columns]

    def run(self, feeds: Feeds) -> Vectors:
        raise NotImplementedError

    def _values(self, encoding: Any) -> list[list[int]]:
        values = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return [values[name] for name in self._inputs]


class OpenVINO(_Tokenized):
    """The bundle's own IR, compiled with the backend's own properties, called directly."""

    name = "OpenVINO, same IR"

    def __init__(self, work: Workspace) -> None:
        from lepton_edge_openvino.backend import session_properties
        from lepton_edge_openvino.library import openvino

        super().__init__(work)
        core = openvino().Core()
        properties = session_properties(core, "CPU", work.artifact.compiled.settings)
        self._model = core.compile_model(str(work.ir), "CPU", properties)

    def run(self, feeds: Feeds) -> Vectors:
        vectors: Vectors = self._model(feeds)[0]
        return vectors


class OnnxRuntime(_Tokenized):
    """The same graph, exported to ONNX, in fp32."""

    name = "ONNX Runtime fp32"

    def __init__(self, work: Workspace) -> None:
        import onnxruntime

        super().__init__(work)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.threads
        # Its threads spin for a while after a run, which would slow whoever comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            str(work.onnx), options, providers=["CPUExecutionProvider"]
        )
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, feeds: Feeds) -> Vectors:
        vectors: Vectors = self._session.run(None, dict(zip(self._names, feeds, strict=True)))[0]
        return vectors


class Transformers:
    """transformers on torch, as a model card shows it: AutoTokenizer, AutoModel, pooling."""

    def __init__(self, work: Workspace, dtype: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(work.threads)
        self.name = f"torch {'bf16' if dtype == 'bfloat16' else 'fp32'}"
        self._tokenizer = AutoTokenizer.from_pretrained(work.model)
        self._model = AutoModel.from_pretrained(work.model, dtype=getattr(torch, dtype)).eval()
        self._max_length = work.bundle.manifest.text.max_length
        self._pooling = work.bundle.manifest.task_config["pooling"]

    def one(self, text: str) -> Vectors:
        return self.batch([text])

    def batch(self, texts: Sequence[str]) -> Vectors:
        import torch

        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state
            if self._pooling == "cls":
                vectors = hidden[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                vectors = (hidden * mask).sum(1) / mask.sum(1)
            result: Vectors = torch.nn.functional.normalize(vectors.float(), dim=1).numpy()
        return result


def check_same(name: str, ours: Vectors, theirs: Vectors) -> None:
    """Refuse to compare two that do not give the same answers, up to bf16's rounding."""
    cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1)
    worst = float((cosine / np.linalg.norm(theirs, axis=-1)).min())
    if not worst > 0.99:
        raise SystemExit(f"{name} gives other answers than lepton-edge: cosine {worst:.4f}")
