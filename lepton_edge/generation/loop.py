"""The loop around a decoder's step: a prompt, then one token after another."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.request import FinishReason
from lepton_edge.generation.sampling import Sampler, Sampling
from lepton_edge.generation.tensors import LOGITS, POSITION_IDS, past_names, present_names
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Session, Setting, TensorSpec


class Stepper(Protocol):
    """A decoder with its cache, which it keeps itself from step to step."""

    @property
    def details(self) -> Mapping[str, Setting]:
        """As a session's: ``compute``, and ``through`` where something else runs it."""

    @property
    def max_length(self) -> int:
        """The most tokens that the cache holds, padding among them."""

    def start(self, batch: int) -> None:
        """Begin new texts, this many rows, with an empty cache."""

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

    def close(self) -> None:
        """Release the cache. Closing twice is harmless; `start` makes a new one."""


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
) -> Generator[Step, None, None]:
    """Continue prompts, given as token ids, by up to ``max_tokens`` each, as one batch.

    Each step is given as soon as it is there. ``stepper`` is closed when the last row has ended, a
    step fails, or the iterator is closed or dropped; a row that ended before the others is padded
    with ``pad_id``, as are prompts shorter than the longest, on the left.

    Raises `InputError` for prompts that are empty or do not fit, before anything runs; while
    iterating, `InferenceError`.
    """
    _check(stepper, prompts, max_tokens)
    steps = _steps(
        stepper, prompts, Sampler(sampling, len(prompts)), max_tokens, stop_tokens, pad_id
    )
    next(steps)  # into its `try`: from here on, closing it closes the stepper
    return steps


def _check(stepper: Stepper, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
    if not prompts:
        raise InputError("there is no prompt to continue")
    empty = [row for row, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise InputError(f"prompt {empty[0]} of {len(prompts)} has no tokens: a text needs one")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: it is a whole number from 1")
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_tokens > stepper.max_length:
        raise InputError(
            f"the prompt has {longest} tokens, and with {max_tokens} more it is longer than the "
            f"model's {stepper.max_length}",
            hint=f"shorten the prompt, or ask for at most {stepper.max_length - longest} tokens"
            if longest < stepper.max_length
            else "shorten the prompt",
        )


def _steps(
    stepper: Stepper,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    max_tokens: int,
    stop_tokens: Collection[int],
    pad_id: int,
) -> Generator[Step, None, None]:
    import numpy as np

    rows = range(len(prompts))
    texts = [list(prompt) for prompt in prompts]
    try:
        yield Step((), ())  # see `generate`
        ids, mask = _padded(prompts, pad_id)
        running = [True for _ in rows]
        stepper.start(len(prompts))
        for count in range(1, max_tokens + 1):
            positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
            logits = stepper.step(ids, mask, np.ascontiguousarray(positions))
            tokens = [
                sampler.choose(row, logits[row], texts[row]) if running[row] else None
                for row in rows
            ]
            finished = [_reason(token, stop_tokens, count == max_tokens) for token in tokens]
            running = [running[row] and finished[row] is None for row in rows]
            for text, token in zip(texts, tokens, strict=True):
                if token is not None:
                    text.append(token)
            yield Step(tuple(tokens), tuple(finished))
            if not any(running):
                return
            ids = np.array(
                [[text[-1] if on else pad_id] for text, on in zip(texts, running, strict=True)]
            )
            mask = np.concatenate([mask, np.array(running, np.int64)[:, None]], axis=1)
    finally:
        stepper.close()


def _reason(token: int | None, stop_tokens: Collection[int], last: bool) -> FinishReason | None:
    if token is None:
        return None
    if token in stop_tokens:
        return "stop"
    return "length" if last else None


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
            raise InferenceError("the decoder has no text: it was not started, or was closed")
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask, POSITION_IDS: position_ids}
        found = self._session.infer({**feeds, **self._cache})
        self._cache = {
            spec.name: found[name] for spec, name in zip(self._past, self._present, strict=True)
        }
        logits: NDArray[np.float32] = found[LOGITS]
        return logits if logits.ndim == 2 else logits[:, -1]

    def close(self) -> None:
        self._cache = None
