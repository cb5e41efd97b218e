"""What users hold: text in, typed results out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.runtime import batching
from lepton_edge.runtime.text import check_inputs, takes_padding

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

    from tokenizers import Encoding
    from typing_extensions import Self

    from lepton_edge.backend import Session
    from lepton_edge.bundle.manifest import Manifest
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import Task

# Texts tokenized at one time: bounds the memory that a very long list takes.
_CHUNK = 4096
_WARM_UP = "The quick brown fox jumps over the lazy dog."


class Model:
    """A session, a tokenizer and a task. Call it with a text or a list of texts.

    Safe from many threads. A context manager; `close` releases the device's memory.
    """

    def __init__(
        self, manifest: Manifest, session: Session, encoder: TextEncoder, task: Task[Any]
    ) -> None:
        check_inputs(session.inputs)
        self.manifest = manifest
        self.session = session
        self.encoder = encoder
        self.task = task
        self._pad = takes_padding(session.inputs)
        self._closing = False  # takes no more submitted work
        self._closed = False
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @overload
    def __call__(self, inputs: str, **options: Any) -> Any: ...

    @overload
    def __call__(self, inputs: Sequence[str], **options: Any) -> list[Any]: ...

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """A result for a text; a list of results, in order, for a list of texts.

        ``options`` are the task's own, such as ``top_k`` of text-classification. Raises
        `InputError` and `InferenceError`; one text at fault fails the call and is named by its
        position.
        """
        self._check_open()
        if isinstance(inputs, str):
            return self._results([inputs], options)[0]
        # Bytes are a sequence of numbers, and a dict of its keys: neither is a list of texts.
        if not isinstance(inputs, Sequence) or isinstance(inputs, (bytes, bytearray)):
            raise InputError(
                f"a model takes a text or a list of texts, not {type(inputs).__name__}"
            )
        texts = list(inputs)  # a copy: not every sequence can be sliced
        results: list[Any] = []
        for start in range(0, len(texts), _CHUNK):
            results += self._results(texts[start : start + _CHUNK], options, start)
        return results

    def submit(self, inputs: str | Sequence[str], **options: Any) -> Future[Any]:
        """Start a call and return at once; the future's result is what the call would return."""
        with self._lock:
            self._check_open(closing=self._closing)
            if self._workers is None:
                from concurrent.futures import ThreadPoolExecutor

                self._workers = ThreadPoolExecutor(thread_name_prefix="lepton-edge")
            call: Callable[..., Any] = self  # the type of the two overloads in one
            return self._workers.submit(call, inputs, **options)

    def warm_up(self) -> None:
        """Answer a sentence, so that the first real one does not pay for first-time work."""
        self(_WARM_UP)

    def close(self) -> None:
        """Finish what was submitted, then release the session. Closing twice is harmless."""
        with self._lock:
            self._closing = True
        if self._workers:
            self._workers.shutdown()
        self._closed = True
        self.session.close()

    def _results(self, texts: Sequence[str], options: dict[str, Any], start: int = 0) -> list[Any]:
        encodings = self.encoder.encode(texts, start + 1)
        lengths = [len(encoding) for encoding in encodings]
        results: list[Any] = [None] * len(encodings)
        max_length = self.encoder.text.max_length
        for batch in batching.plan(lengths, max_length, pad=self._pad):
            answers = self._answer(encodings, batch, options, start)
            for row, answer in zip(batch.rows, answers, strict=True):
                results[row] = answer
        return results

    def _answer(
        self,
        encodings: list[Encoding],
        batch: batching.Batch,
        options: dict[str, Any],
        start: int,
    ) -> list[Any]:
        import numpy as np

        feeds = self.encoder.feeds(encodings, batch, self.session.inputs)
        output = self.session.infer(feeds)[self.task.output]
        if not np.isfinite(output).all():
            faulty = [row for row, answer in enumerate(output) if not np.isfinite(answer).all()]
            raise InferenceError(
                f"the model's output for text {start + batch.rows[faulty[0]] + 1} is not a number "
                f"({len(faulty)} of {len(output)} texts in its batch)",
                hint="the weights are damaged or overflow at this precision: "
                "build again with precision: fp32",
            )
        truncated = [bool(encodings[row].overflowing) for row in batch.rows]
        return self.task.results(output, truncated, **options)

    def _check_open(self, closing: bool = False) -> None:
        if self._closed or closing:
            raise InferenceError("the model is closed", hint="load it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name, version = self.manifest.name, self.manifest.version
        state = "closed" if self._closed else f"on {self.session.device}"
        return f"<Model {name} {version}: {self.manifest.task} {state}>"
