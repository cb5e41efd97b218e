"""The loop around a decoder's step: prompts, then one token after another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Generator as Iterating
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lepton_edge.errors import InferenceError, InputError, LeptonError
from lepton_edge.generation.request import FinishReason, Request
from lepton_edge.generation.sampling import Sampler, Sampling, log_probability
from lepton_edge.generation.tensors import LOGITS, POSITION_IDS, past_names, present_names
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Session, Setting, TensorSpec
    from lepton_edge.generation.grammar import Matcher


class Stepper(Protocol):
    """A decoder with its cache, which it keeps itself from step to step. For one thread at a
    time."""

    @property
    def details(self) -> Mapping[str, Setting]:
        """As a session's: ``compute``, and ``through`` where something else runs it."""

    @property
    def max_length(self) -> int:
        """The most tokens that the cache holds of each row, padding among them."""

    @property
    def max_batch(self) -> int:
        """The most rows."""

    def start(self, batch: int) -> None:
        """Begin new texts, this many rows, with an empty cache. Raises `InferenceError`."""

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Take new tokens [batch, length] with their positions [batch, length], and give the logits
        of the last of them [batch, vocabulary].

        The mask [batch, total] is of the tokens in the cache and the new ones: 0 for padding.
        Raises `InferenceError`.
        """

    def free(self) -> None:
        """Forget the texts and free the cache; `start` makes a new one. Without a text it is
        harmless."""

    def close(self) -> None:
        """Release all that it has, for good. Closing twice is harmless."""


@dataclass(frozen=True)
class Taken:
    """What a row got of a step: a token, or an error that ends this row alone."""

    token: int | None = None
    """The one that ends the text, if one does, among them."""
    logprob: float | None = None
    """The natural logarithm of the token's probability, where the request asked for it."""
    finish_reason: FinishReason | None = None
    """Why the text ends with this token, if it does."""
    error: LeptonError | None = None


class Row:
    """A request in a batch, and its answer as it grows.

    ``matcher`` holds the answer to the request's grammar, if that has one. ``place`` is its place
    among rows that share a seed. ``is_running`` may be set to False from any thread: the row gets
    nothing more from the next step on.
    """

    def __init__(self, request: Request, matcher: Matcher | None = None, place: int = 0) -> None:
        self.request = request
        self.answer: list[int] = []
        self.is_running = True
        self._sampler = Sampler(request.sampling, place)
        self._matcher = matcher

    @property
    def last(self) -> int:
        """The newest token of its answer."""
        return self.answer[-1]

    def take(self, logits: NDArray[np.float32]) -> Taken:
        """The next token, by its logits [vocabulary]."""
        try:
            token = self._sampler.choose(logits, self.request.prompt, self.answer, self._matcher)
            self.answer.append(token)
            reason = self._reason(token)
        except LeptonError as error:
            self.is_running = False
            return Taken(error=error)
        if reason is not None:
            self.is_running = False
        logprob = log_probability(logits, token) if self.request.logprobs else None
        return Taken(token, logprob, reason)

    def _reason(self, token: int) -> FinishReason | None:
        if token in self.request.stop_tokens:
            return "stop"
        if self._matcher is not None:
            self._matcher.advance(token)
            if self._matcher.is_over:
                return "stop"
        return "length" if len(self.answer) == self.request.max_tokens else None


def run(
    stepper: Stepper, rows: Sequence[Row], pad_id: int
) -> Iterating[tuple[Taken | None, ...], None, None]:
    """Continue texts as one batch until the last of them ends: the one loop of every generation.

    Each step gives what each row got of it, as soon as it is there; None to those that do not run.
    ``pad_id`` fills rows up on the left, and those that ended: it is masked. The cache is freed at
    the end, or when the iterator is closed. Raises what the stepper raises.
    """
    import numpy as np

    try:
        stepper.start(len(rows))
        ids, mask = _padded([row.request.prompt for row in rows], pad_id)
        while any(row.is_running for row in rows):
            positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
            logits = stepper.step(ids, mask, np.ascontiguousarray(positions))
            yield tuple(
                row.take(each) if row.is_running else None
                for row, each in zip(rows, logits, strict=True)
            )
            running = [row.is_running for row in rows]
            ids = np.array(
                [[row.last if on else pad_id] for row, on in zip(rows, running, strict=True)]
            )
            mask = np.concatenate([mask, np.array(running, np.int64)[:, None]], axis=1)
    finally:
        stepper.free()


@dataclass(frozen=True)
class Step:
    """What one step gave to each row."""

    tokens: tuple[int | None, ...]
    """The new tokens, the one that ends a text among them; None for a row that ended before."""
    finished: tuple[FinishReason | None, ...]
    """Why a row ended with this step, if it did: a stop token, or as many tokens as were asked."""


def generate(
    stepper: Stepper,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_tokens: int,
    stop_tokens: Collection[int],
    pad_id: int,
) -> Iterating[Step, None, None]:
    """Continue prompts, given as token ids, by up to ``max_tokens`` each, as one batch.

    Each step is given as soon as it is there. The cache is freed when the last row has ended, a
    step fails, or the iterator is closed or dropped.

    Raises `InputError` for prompts that are empty or do not fit, before anything runs; while
    iterating, `InferenceError`, also for one row that fails.
    """
    if not prompts:
        raise InputError("there is no prompt to continue")
    stops = frozenset(stop_tokens)
    requests = [Request(prompt, max_tokens, stops, sampling) for prompt in prompts]
    for place, request in enumerate(requests):
        check_length(request, stepper.max_length, f"prompt {place} of {len(prompts)}")
    return _steps(stepper, [Row(each, None, place) for place, each in enumerate(requests)], pad_id)


def _steps(stepper: Stepper, rows: Sequence[Row], pad_id: int) -> Iterating[Step, None, None]:
    with closing(run(stepper, rows, pad_id)) as steps:
        for taken in steps:
            for place, each in enumerate(taken):
                if each is not None and each.error is not None:
                    raise InferenceError(f"row {place}: {each.error.message}") from each.error
            yield Step(
                tuple(None if each is None else each.token for each in taken),
                tuple(None if each is None else each.finish_reason for each in taken),
            )


def check_length(request: Request, longest: int, name: str = "the prompt") -> None:
    """Raise `InputError` unless a request asks for something, and is no longer than ``longest``
    tokens with its answer."""
    length, more = len(request.prompt), request.max_tokens
    if not length:
        raise InputError(f"{name} has no tokens: a text needs one")
    if more < 1:
        raise InputError(f"max_tokens is {more}: it is a whole number from 1")
    if length + more > longest:
        raise InputError(
            f"{name} has {length:,} tokens, and with {more:,} more it is longer than the model's "
            f"{longest:,}",
            hint=f"shorten it, or ask for at most {longest - length:,} tokens"
            if length < longest
            else "shorten it",
        )


def _padded(
    prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, padded on the left."""
    import numpy as np

    width = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids, mask


class SessionStepper:
    """Any session of a decoder's graph as a `Stepper`, with the cache in arrays on the host.

    The session stays its owner's. Raises `InferenceError` for one that is not of such a graph.
    """

    def __init__(self, session: Session, max_length: int) -> None:
        layers = (len(session.inputs) - 3) // 2
        names = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS, *past_names(layers))
        found = [spec.name for spec in session.inputs]
        outputs = {spec.name for spec in session.outputs}
        if layers < 1 or set(found) != {*names} or outputs != {LOGITS, *present_names(layers)}:
            raise InferenceError(
                f"the model is not a decoder with a cache: its inputs are {', '.join(found)}",
                hint="generating text needs a model that was built for it",
            )
        self._session = session
        self._max_length = max_length
        by_name = {spec.name: spec for spec in session.inputs}
        self._past: list[TensorSpec] = [by_name[name] for name in past_names(layers)]
        self._present = present_names(layers)
        self._cache: dict[str, NDArray[Any]] | None = None
        self.details = session.details

    @property
    def max_length(self) -> int:
        return self._max_length

    @property
    def max_batch(self) -> int:
        return 2**31 - 1

    def start(self, batch: int) -> None:
        import numpy as np

        sizes = {"batch": batch, "past": 0}
        self._cache = {
            spec.name: np.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape], spec.dtype
            )
            for spec in self._past
        }

    def step(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        if self._cache is None:
            raise InferenceError("the decoder has no text: it was not started, or was freed")
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask, POSITION_IDS: position_ids}
        found = self._session.infer({**feeds, **self._cache})
        self._cache = {
            spec.name: found[name] for spec, name in zip(self._past, self._present, strict=True)
        }
        logits: NDArray[np.float32] = found[LOGITS]
        return logits if logits.ndim == 2 else logits[:, -1]

    def free(self) -> None:
        self._cache = None

    def close(self) -> None:
        self.free()
