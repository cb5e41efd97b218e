"""What users hold: text in, typed results out."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, InputError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

    from typing_extensions import Self

    from lepton_edge.bundle.manifest import Manifest
    from lepton_edge.runtime.generative_model import TextStream
    from lepton_edge.runtime.profile import Profile
    from lepton_edge.tasks.base import AnyTask


class Model(ABC):
    """An opened bundle. Call it with an input or a list of inputs.

    Safe from many threads. A context manager; `close` releases the device's memory.
    """

    task: AnyTask
    device: str
    """The device that it runs on."""
    compute: str
    """The number format that it computes in; empty where the backend does not tell."""

    def __init__(self, manifest: Manifest, profile: Profile | None = None) -> None:
        self.manifest = manifest
        self.profile = profile
        self._closing = False  # takes no more submitted work
        self._closed = False
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        """A result for an input; a list of results, in order, for a list of inputs.

        What an input is, the task says: a text (str) for most, a mapping or the task's own type
        for those that take several texts. ``parameters`` are the task's own, such as ``top_k`` of
        text-classification. Raises `InputError` and `InferenceError`; one input at fault fails
        the call and is named by its position.
        """

    def generate(self, inputs: Any, **parameters: Any) -> Any:
        """The whole answer of a model that generates text: see `GenerativeModel`. Raises
        `InputError` for any other."""
        raise self._does_not_generate()

    def stream(self, inputs: Any, **parameters: Any) -> TextStream:
        """The answer of a model that generates text, as it comes: see `GenerativeModel`. Raises
        `InputError` for any other."""
        raise self._does_not_generate()

    @abstractmethod
    def check_input(self, given: Any, parameters: Any) -> None:
        """Raise `InputError` where a call with this one input, and parameters as the task reads
        them, would."""

    @abstractmethod
    def warm_up(self) -> None:
        """Answer an example, so that the first real input does not pay for first-time work."""

    def submit(self, inputs: Any, **parameters: Any) -> Future[Any]:
        """Start a call and return at once; the future's result is what the call would return."""
        with self._lock:
            self._check_open(closing=self._closing)
            if self._workers is None:
                from concurrent.futures import ThreadPoolExecutor

                self._workers = ThreadPoolExecutor(thread_name_prefix="lepton-edge")
            return self._workers.submit(self, inputs, **parameters)

    def close(self) -> None:
        """Finish what was submitted, then release the device. Closing twice is harmless."""
        with self._lock:
            self._closing = True
        if self._workers:
            self._workers.shutdown()
        self._closed = True
        self._release()

    @abstractmethod
    def _release(self) -> None: ...

    def _check_open(self, closing: bool = False) -> None:
        if self._closed or closing:
            raise InferenceError("the model is closed", hint="load it again")

    def _does_not_generate(self) -> InputError:
        return InputError(
            f"{self.manifest.name} does {self.manifest.task}, and generates no text",
            hint="call it: model(text)",
        )

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
        state = "closed" if self._closed else f"on {self.device}"
        return f"<Model {name} {version}: {self.manifest.task} {state}>"
