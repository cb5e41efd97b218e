"""What a backend is: one class that compiles a graph for a target and opens what it compiled.

A backend is a distribution of its own. It names its class under the entry point group
``lepton_edge.backends`` and imports its vendor's libraries inside functions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from lepton_edge.errors import BackendError, InferenceError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from typing_extensions import Self

    from lepton_edge.generation.loop import Stepper
    from lepton_edge.generation.request import Request, TokenStream
    from lepton_edge.target import Target

    Tensors = Mapping[str, NDArray[np.generic]]

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"]
Setting = str | int | float | bool


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named tensor."""

    name: str
    """The name that a session's inputs and outputs go by."""
    dtype: str
    """numpy's name of the element type."""
    shape: tuple[int | str, ...]
    """Each dimension's size, or a name where the size varies by call."""


class Compiled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backend needs to know to open an artifact again; kept in the manifest."""

    precision: str
    """Number format of the stored weights."""
    inputs: tuple[TensorSpec, ...]
    """The tensors that a session takes."""
    outputs: tuple[TensorSpec, ...]
    """The tensors that a session gives."""
    requires: str
    """The library and version that it was compiled with."""
    settings: dict[str, Setting] = {}
    """The backend's own."""
    kept: tuple[str, ...] = ()
    """Operations that int8 left in higher precision, because the task's metric needs them."""
    deferred: bool = False
    """Whether the artifact is the graph and the plan to compile it by: a device does that once,
    with `lepton-edge finalize`, before it opens it."""

    def with_settings(self, settings: Mapping[str, Setting]) -> Compiled:
        """The same, with these settings in place of its own."""
        return msgspec.structs.replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Graph:
    """A model's computation, made once and compiled by every backend.

    Exactly one of ``program`` (a `torch.export.ExportedProgram`), ``onnx`` (a file) and ``ir`` is
    set: a folder with a decoder's OpenVINO IR, whose ports nobody described, so that ``inputs`` and
    ``outputs`` are empty.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    program: torch.export.ExportedProgram | None = None
    onnx: Path | None = None
    ir: Path | None = None
    largest: Mapping[str, int] = field(default_factory=dict)
    """The largest size that a named dimension will be given, where it is known: of ``length``, the
    longest text in tokens."""
    vocabulary: Vocabulary | None = None
    """Of a decoder: what its tokens stand for."""


@dataclass(frozen=True)
class DecoderForm:
    """How a backend wants the graph of a decoder's step.

    ``attention``: ``sdpa`` for scaled-dot-product attention whole, ``eager`` for the products and
    the softmax that it is made of. ``logits``: of the ``last`` position of a step, or of ``all``.
    ``keeps_dtype``: weights of 16 bits stay as the checkpoint has them; otherwise all are float32.
    """

    attention: Literal["eager", "sdpa"] = "eager"
    logits: Literal["last", "all"] = "last"
    keeps_dtype: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """A decoder's tokens, for a backend that holds answers to a grammar.

    ``tokens`` are the bytes that each id stands for, in order, empty for special ones; ``end`` the
    ids that end an answer.
    """

    tokens: Sequence[bytes]
    end: tuple[int, ...]


@dataclass(frozen=True)
class Quantization:
    """What int8 is made with.

    ``feeds`` are inputs to measure ranges on. Where ``score`` is given (of an opened artifact, on
    as many examples as asked, all of them where None; higher is better), the backend leaves as few
    operations as it can in higher precision until all examples score ``at_least`` that.
    """

    feeds: Sequence[Tensors]
    score: Callable[[Session, int | None], float] | None = None
    at_least: float = 0.0


@dataclass(frozen=True)
class Aside:
    """What a build has beside what it is made of.

    ``scratch`` is a folder for what `Backend.prove` reads later; it is kept until the bundle is
    written. ``say`` is told each step, and shares of a long one.
    """

    scratch: Path | None = None
    say: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Device:
    """A device that a backend can use, such as ``CPU``, with its full name."""

    name: str
    description: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What a backend found on this machine: its library's version and the devices."""

    version: str
    devices: tuple[Device, ...]
    remarks: tuple[str, ...] = ()
    """What its user should know: why there is no device, or what else was found."""


class Session(ABC):
    """An opened artifact: named tensors in, named tensors out. Safe from many threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: str
    details: Mapping[str, Setting]

    @abstractmethod
    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run once. ``feeds`` has every input, C-contiguous, of the dtype and rank of its spec.

        The arrays returned belong to the caller. Raises `InferenceError` for wrong feeds, a
        closed session, or a failure inside the backend.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device's memory. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Generation:
    """How a generator is opened.

    ``max_length`` is the most tokens of one text, prompt and answer together. ``cache_tokens`` is
    how many tokens the key-value cache holds, those of all the texts that are generated at a time
    and of earlier ones that may be continued; None leaves it to the backend. ``tokenizer`` is the
    bundle's tokenizer.json. ``adapters`` are LoRA adapters (safetensors) by name. ``draft`` is the
    directory of a smaller model's artifact that guesses tokens, ``prompt_lookup`` guesses them from
    the prompt; what is generated is the same.
    """

    max_length: int
    tokenizer: Path
    cache_tokens: int | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    draft: Path | None = None
    prompt_lookup: bool = False


class Generator(ABC):
    """An opened decoder: token ids in, token ids out as they come. Safe from many threads."""

    device: str
    details: Mapping[str, Setting]
    max_length: int
    """The most tokens of one text, prompt and answer together."""

    @abstractmethod
    def submit(self, requests: Sequence[Request]) -> list[TokenStream]:
        """Begin to answer these, together as far as the backend can, and return at once.

        What fails for one of them alone is raised by its stream. Raises `InputError` for a request
        that can never be answered (longer than ``max_length``, or than the cache holds; a grammar
        that is not valid; an adapter that was not opened), before any of them is begun;
        `InferenceError` for a closed generator.
        """

    @abstractmethod
    def close(self) -> None:
        """End what is running, with an `InferenceError` for who waits, and release the device's
        memory. Closing twice is harmless."""


class Backend(ABC):
    """Compiles graphs and opens artifacts. One class, made with no arguments.

    ``Options`` is a frozen dataclass with defaults: the backend's own block in a recipe.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    decoder: ClassVar[DecoderForm] = DecoderForm()
    """How `build` wants the graph of a decoder's step."""
    takes_adapters: ClassVar[bool] = False
    """Whether `load_generator` takes LoRA adapters."""
    unstable: ClassVar[tuple[str, ...]] = ()
    """Files of an artifact that the vendor's compiler writes differently each time."""

    @abstractmethod
    def probe(self) -> Probe:
        """Look at this machine. Raises `BackendError` where the library cannot be used."""

    def version(self) -> str:
        """The library's version: what a device profile is measured with. Raises `BackendError`."""
        return self.probe().version

    def tunings(self, compiled: Compiled) -> Sequence[Mapping[str, Setting]]:
        """Settings worth measuring on this machine in place of the artifact's own, which are not
        among them. None, for a backend that has nothing to choose.

        With none of them does it answer less exactly than the build's checks allowed: arithmetic is
        the artifact's own, or in a format that no other is more exact than. A profile with other
        settings than these is not used.
        """
        return ()

    @abstractmethod
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
        """Compile ``graph`` and write the artifact's files into the empty ``directory``.

        ``quantization`` comes with precision int8. The same arguments give the same bytes, but for
        the files that are ``unstable``. Raises `BackendError`.
        """

    def prove(self, directory: Path, compiled: Compiled, aside: Aside) -> Session:
        """What the build compares and scores: the artifact just written, opened on this machine.

        Where this machine has no device for it, a session that computes the same numbers from what
        `build` left in ``aside.scratch``; its details then say in ``through`` what runs it. Raises
        `BackendError`.
        """
        return self.load(directory, compiled)

    @abstractmethod
    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Session:
        """Open an artifact that `build` wrote.

        ``cache`` is a folder for what the backend derives from this very artifact, to open it
        faster the next time. It may not exist yet, hold damaged files, or not be writable: none of
        that is an error. Raises `BackendError`; `DeferredError` for a deferred artifact that
        `finalize` has not compiled here yet.
        """

    def prove_steps(self, directory: Path, compiled: Compiled, aside: Aside) -> Stepper:
        """As `prove`, of a decoder: its steps, one after another. The caller closes it."""
        raise self._cannot_generate()

    def load_generator(
        self,
        directory: Path,
        compiled: Compiled,
        generation: Generation,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Generator:
        """Open a decoder's artifact that `build` wrote; arguments and errors as those of `load`.
        Raises `BackendError` also where the cache does not fit into the free memory."""
        raise self._cannot_generate()

    def _cannot_generate(self) -> BackendError:
        return BackendError(
            f"the backend {self.name!r} does not generate text",
            hint=f"pip install --upgrade the distribution of {self.name}",
        )

    def finalize(
        self,
        directory: Path,
        compiled: Compiled,
        cache: Path,
        device: str | None = None,
        progress: Callable[[float, str], None] = lambda share, step: None,
    ) -> bool:
        """Compile a deferred artifact on this device and keep the result in ``cache``, where `load`
        finds it. False where there was nothing to do.

        ``progress`` is told the share that is done, 0 to 1, and what is being done; an exception
        that it raises ends the work, and leaves nothing that opens. Raises `BackendError`, and
        `StorageError` where ``cache`` cannot be written.
        """
        return False


def check_feeds(specs: Sequence[TensorSpec], feeds: Tensors) -> None:
    """Raise `InferenceError` unless ``feeds`` has every input, with its dtype and rank."""
    if len(feeds) != len(specs) or any(spec.name not in feeds for spec in specs):
        expected, got = [spec.name for spec in specs], sorted(feeds)
        raise InferenceError(f"the model takes the inputs {expected}, and was given {got}")
    import numpy as np

    for spec in specs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype) or not _fits(array.shape, spec.shape):
            raise InferenceError(
                f"input {spec.name} takes {spec.dtype} of shape {list(spec.shape)}, "
                f"and was given {array.dtype.name} of shape {list(array.shape)}"
            )


def _fits(shape: tuple[int, ...], spec: tuple[int | str, ...]) -> bool:
    return len(shape) == len(spec) and all(
        isinstance(dimension, str) or size == dimension
        for size, dimension in zip(shape, spec, strict=True)
    )
