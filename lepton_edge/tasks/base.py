"""What a task is: how its inputs become tokens, and a model's outputs typed results.

A call goes through a task in four steps. `read_input` takes each input as the user gave it,
`tokenize` makes one or more sequences of tokens of it, `read` turns the outputs of a micro-batch of
sequences into one value a sequence, and `result` makes an input's result of its sequences' values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, TypeVar

import msgspec

from lepton_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder, Tokenization, Tokens
    from lepton_edge.tasks.text_to_text import TextToTextFacts

I = TypeVar("I")  # noqa: E741  (an input)
R_co = TypeVar("R_co", covariant=True)

Dimensions = tuple[Literal["batch", "length", "size"], ...]
"""Of an output: ``length`` is that of the input, and ``size`` one number for every input."""


@dataclass(frozen=True)
class GenerationFacts:
    """What a source says about a model that generates.

    ``special_tokens`` are those that a chat template may name, such as ``bos_token``;
    ``stop_tokens`` the ids that end an answer; ``sampling`` how its makers sample, by the names of
    `Sampling`, empty for greedy. ``shown_tokens`` are special tokens that mark up an answer, such
    as ``[TOOL_CALLS]``, by id.
    """

    stop_tokens: tuple[int, ...]
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    shown_tokens: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What a source says about its model; the build turns it into the task's ``Config``.

    ``labels`` are in the order of the outputs. ``pooling``, ``normalize`` and ``activation`` are
    None where the source does not say, or has them in its graph already.
    """

    labels: tuple[str, ...] | None = None
    multi_label: bool | None = None
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool | None = None
    activation: Literal["sigmoid", "identity"] | None = None
    mask_token: str | None = None
    generation: GenerationFacts | None = None
    text_to_text: TextToTextFacts | None = None


@dataclass(frozen=True)
class NoParameters:
    """For a task that a call cannot change."""


class AnyTask(ABC):
    """One task of one model: what recipes, manifests and calls may say of it.

    ``Options`` is the task's block in a recipe, ``Config`` its block in a manifest, and
    ``Parameters`` what a call may give beside its inputs: frozen dataclasses all. ``fields`` are
    the parts of an input, by the names that a mapping or a file's columns give them. ``generates``:
    it is answered by a generator, token by token, and not by a session.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ("text",)
    generates: ClassVar[bool] = False
    warm_up: ClassVar[bool] = False
    Options: ClassVar[type]
    Config: ClassVar[type]
    Parameters: ClassVar[type] = NoParameters

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def from_manifest(cls, config: Mapping[str, Any]) -> Self:
        """Raises `BundleError` where the manifest's block does not fit this task."""
        try:
            return cls(msgspec.convert(config, cls.Config))
        except msgspec.ValidationError as error:
            raise BundleError(
                f"the manifest's task_config does not fit {cls.name}: {error}",
                hint="build or copy the bundle again",
            ) from None

    @staticmethod
    @abstractmethod
    def configure(options: Any, facts: Facts) -> Any:
        """The ``Config`` from the recipe's options and the source's facts: options win.

        Raises `SourceError` where both leave something open.
        """

    @classmethod
    def parameters(cls, given: Mapping[str, Any]) -> Any:
        """A call's ``Parameters``. Raises `InputError` for one that the task does not have, or
        whose value is not allowed."""
        names = [each.name for each in fields(cls.Parameters)]
        unknown = [name for name in given if name not in names]
        if unknown:
            known = ", ".join(names)
            raise InputError(
                f"{cls.name} has no option {', '.join(map(repr, unknown))}",
                hint=f"it has {known}" if known else None,
            )
        try:
            return cls.Parameters(**given)
        except TypeError as error:  # a required one is missing
            missing = str(error).rpartition(": ")[2]
            raise InputError(f"{cls.name} needs {missing}") from None


class Task(AnyTask, Generic[I, R_co]):
    """A task that a session answers. Stateless after it is made, so safe from many threads.

    ``outputs`` are the tensors that the task reads.
    """

    outputs: ClassVar[Mapping[str, Dimensions]]

    def tokenization(self) -> Tokenization:
        """How this task's sequences are made: truncation, windows, offsets."""
        from lepton_edge.runtime.text import Tokenization

        return Tokenization()

    def read_input(self, given: object, position: int) -> I:
        """One input as the user gave it: for most tasks a text. Raises `InputError`."""
        if not isinstance(given, str):
            raise InputError(
                f"text {position} is of type {type(given).__name__}: a model takes text (str) "
                "or a list of texts"
            )
        return given  # type: ignore[return-value]  # a task with other inputs overrides this

    def characters(self, given: I, parameters: Any) -> int:
        """How much text `tokenize` has to read for an input. Bounds the memory of long lists."""
        return len(given)  # type: ignore[arg-type]

    def tokenize(
        self, inputs: Sequence[I], encoder: TextEncoder, parameters: Any, first: int
    ) -> list[list[Tokens]]:
        """The sequences of each input. Positions in messages count from ``first``."""
        texts: Any = inputs
        return [[tokens] for tokens in encoder.encode(texts, first)]

    @abstractmethod
    def read(self, outputs: Tensors, sequences: Sequence[Tokens], parameters: Any) -> Sequence[Any]:
        """A value for each sequence of a micro-batch, from the outputs' rows. Padding is cut off
        here: a row of an output over tokens goes on past its sequence's length."""

    @abstractmethod
    def result(
        self, given: I, sequences: Sequence[Tokens], values: Sequence[Any], parameters: Any
    ) -> R_co:
        """An input's result, from the values that `read` gave for its sequences."""

    def examples(self, texts: Sequence[str]) -> tuple[list[I], Any]:
        """Inputs of this task made of plain texts, and parameters to call it with: for warming
        up, comparing and measuring where there are none of the user's."""
        return list(texts), self.parameters({})  # type: ignore[arg-type]

    @classmethod
    def without_padding(
        cls, name: str, output: NDArray[Any], sequences: Sequence[Tokens]
    ) -> list[NDArray[Any]]:
        """Each sequence's own part of one of the outputs of a batch."""
        if "length" not in cls.outputs[name]:
            return list(output)
        return [row[: len(tokens)] for row, tokens in zip(output, sequences, strict=True)]

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic] | None:
        """What the parity gate compares for equality; None without labels.

        ``outputs`` are those of one sequence, without padding. One row for the sequence, or for
        each of its tokens.
        """
        return None


def read_mapping(kind: type[I], task: str, given: object, position: int) -> I:
    """An input of several fields, given as ``kind`` itself or as a mapping of its fields.

    Raises `InputError`.
    """
    if isinstance(given, kind):
        return given
    keys = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    names = ", ".join(keys)
    if not isinstance(given, Mapping):
        raise InputError(
            f"input {position} is of type {type(given).__name__}: {task} takes "
            f"{kind.__name__}({names}), a mapping with those keys, or a list of such"
        )
    if unknown := [key for key in given if key not in keys]:
        raise InputError(
            f"input {position}: unknown key {unknown[0]!r}", hint=f"{task} takes {names}"
        )
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"input {position}: {error}", hint=f"{task} takes {names}") from None


def refuse_value(name: str, value: object, allowed: str) -> NoReturn:
    """Raise `InputError` for a parameter's value."""
    raise InputError(f"{name} is {value!r}: {allowed}")


def check_count(name: str, value: object, *, optional: str | None = None) -> None:
    """Raise `InputError` unless a parameter is a number from 1, or None where ``optional`` says
    what that means."""
    if optional is not None and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        refuse_value(
            name, value, "it is a number from 1" + (f", or None {optional}" if optional else "")
        )


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Over the last axis."""
    import numpy as np

    exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = exps / exps.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x))."""
    import numpy as np

    # Clipped so that exp() does not overflow; the result is 0 or 1 there anyway.
    result: NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(logits, -80, 80)))
    return result
