"""Answers of encoder-decoder models: greedy, token by token, or by a beam search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.decoding import Decoding, constrained, log_softmax
from lepton_edge.generation.hypotheses import Beams, Hypothesis
from lepton_edge.generation.request import FinishReason
from lepton_edge.generation.tensors import (
    ENCODER_ATTENTION_MASK,
    LOGITS,
    cross_names,
    past_names,
    present_names,
)
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Session, TensorSpec

    Array = NDArray[Any]
    Scores = NDArray[np.float32]
    Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """What one step of a greedy search gave to each text."""

    tokens: tuple[int | None, ...]
    """The new tokens, the one that ends an answer among them; None for a text that ended before."""
    finished: tuple[FinishReason | None, ...]
    """Why an answer ended with this step, if it did."""
    faults: Mapping[int, InferenceError] = field(default_factory=dict)
    """What ended a text's answer instead, by its place: the others go on."""


class EncoderDecoder:
    """The two sessions of an encoder-decoder model, any backend's. They stay their owner's.

    Safe from many threads. ``max_length`` is the most tokens of a text, and of an answer, where
    that is known. ``token_bytes`` is what the decoder keeps of a token of the text; of one of the
    answer it is as much. Raises `InferenceError` for sessions that are not of such graphs.
    """

    def __init__(self, encoder: Session, decoder: Session, max_length: int | None = None) -> None:
        self.encoder, self.decoder, self.max_length = encoder, decoder, max_length
        inputs = {spec.name: spec for spec in decoder.inputs}
        outputs = {spec.name: spec for spec in decoder.outputs}
        layers = (len(inputs) - 2) // 4
        past, cross, present = past_names(layers), cross_names(layers), present_names(layers)
        if (
            layers < 1
            or set(inputs) != {INPUT_IDS, ENCODER_ATTENTION_MASK, *past, *cross}
            or set(outputs) != {LOGITS, *present}
            or {spec.name for spec in encoder.inputs} != {INPUT_IDS, ATTENTION_MASK}
            or {spec.name for spec in encoder.outputs} != set(cross)
        ):
            raise InferenceError(
                "the model is not an encoder with a decoder: the decoder's inputs are "
                f"{', '.join(inputs)}",
                hint="generating text from a text needs a model that was built for it",
            )
        self.past = {inputs[name]: kept for name, kept in zip(past, present, strict=True)}
        self.cross = [inputs[name] for name in cross]
        self.vocabulary = outputs[LOGITS].shape[-1]
        self.token_bytes = sum(map(_token_bytes, self.cross))

    def check(self, texts: Sequence[Sequence[int]], decoding: Decoding) -> None:
        """Raise `InputError` for texts that are empty or do not fit, for more tokens than the model
        has positions, and for tokens that it does not have."""
        if not texts:
            raise InputError("there is no text to answer")
        empty = [row for row, text in enumerate(texts) if not len(text)]
        if empty:
            raise InputError(f"text {empty[0]} of {len(texts)} has no tokens: a text needs one")
        if isinstance(self.vocabulary, int):
            decoding.check_vocabulary(self.vocabulary)
        if self.max_length is None:
            return
        longest = max(len(text) for text in texts)
        if longest > self.max_length:
            raise InputError(
                f"the text has {longest} tokens, more than the model's {self.max_length}",
                hint="shorten the text, or give it in parts",
            )
        if decoding.max_new_tokens > self.max_length:
            raise InputError(
                f"max_new_tokens is {decoding.max_new_tokens}, more than the model's "
                f"{self.max_length}",
                hint=f"ask for at most {self.max_length} tokens",
            )

    def encode(self, texts: Sequence[Sequence[int]], pad_id: int, copies: int) -> Rows:
        """Run the encoder. Each text has ``copies`` rows, one after another.

        Raises `InferenceError`.
        """
        import numpy as np

        width = max(len(text) for text in texts)
        ids = np.full((len(texts), width), pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        found = self.encoder.infer({INPUT_IDS: ids, ATTENTION_MASK: mask})
        source: dict[str, Array] = {ENCODER_ATTENTION_MASK: mask}
        for spec in self.cross:
            source[spec.name] = np.ascontiguousarray(found[spec.name], spec.dtype)
        if copies > 1:
            source = {name: array.repeat(copies, axis=0) for name, array in source.items()}
        return Rows(self, source)


class Rows:
    """Answers that are being written together: what the decoder reads of their texts, and its
    cache, on the host."""

    def __init__(self, model: EncoderDecoder, source: dict[str, Array]) -> None:
        import numpy as np

        self._model = model
        self._source = source
        sizes = {"batch": len(source[ENCODER_ATTENTION_MASK]), "past": 0}
        self._past = {
            spec.name: np.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape], spec.dtype
            )
            for spec in model.past
        }

    def step(self, tokens: Tokens) -> Scores:
        """Take the last token of each row [rows], and give the logits of the next [rows,
        vocabulary], float32. Raises `InferenceError`."""
        import numpy as np

        feeds = {INPUT_IDS: np.ascontiguousarray(tokens[:, None]), **self._source, **self._past}
        found = self._model.decoder.infer(feeds)
        self._past = {spec.name: found[name] for spec, name in self._model.past.items()}
        logits: Scores = found[LOGITS].astype(np.float32, copy=False)
        return logits

    def follow(self, rows: NDArray[np.intp]) -> None:
        """Each row goes on where another row of its text was."""
        import numpy as np

        if np.array_equal(rows, np.arange(len(rows))):
            return
        self._past = {name: array.take(rows, axis=0) for name, array in self._past.items()}

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Go on with these rows alone, in this order."""
        self._past = {name: array.take(rows, axis=0) for name, array in self._past.items()}
        self._source = {name: array.take(rows, axis=0) for name, array in self._source.items()}


def _token_bytes(spec: TensorSpec) -> int:
    import numpy as np

    fixed = [size for size in spec.shape if isinstance(size, int)]
    return math.prod(fixed) * np.dtype(spec.dtype).itemsize


def _always(text: int) -> bool:
    return True


def greedy(
    model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding
) -> Iterator[Step]:
    """Answer texts, given as token ids, as one batch: the likeliest token each time.

    Each step is given as soon as it is there. Raises `InputError` as `EncoderDecoder.check` does,
    before anything runs; while iterating, `InferenceError`.
    """
    steps = greedy_steps(model, texts, decoding)
    return (_without_faults(step) for step in steps)


def greedy_steps(
    model: EncoderDecoder,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    is_wanted: Callable[[int], bool] = _always,
) -> Iterator[Step]:
    """As `greedy`, but that a text at fault leaves the others theirs; and a text, by its place,
    that is not wanted any more is left before the next step."""
    model.check(texts, decoding)
    return _steps(model, texts, decoding, is_wanted)


def _without_faults(step: Step) -> Step:
    for fault in step.faults.values():
        raise fault
    return step


def _steps(
    model: EncoderDecoder,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    is_wanted: Callable[[int], bool],
) -> Iterator[Step]:
    import numpy as np

    going = np.arange(len(texts))  # the text of each row
    tokens = np.full((len(texts), 1), decoding.decoder_start_token_id, np.int64)
    rows = model.encode(texts, decoding.pad_token_id, 1)
    for count in range(1, decoding.max_new_tokens + 1):
        logits = rows.step(tokens[:, -1])
        broken = _zeroed(logits)
        scores = constrained(logits, tokens, decoding)
        chosen = scores.argmax(axis=1)
        faults = dict.fromkeys(going[broken].tolist(), _NOT_NUMBERS)
        faults |= dict.fromkeys(going[scores.max(axis=1) == -np.inf].tolist(), _ALL_FORBIDDEN)
        ended = np.isin(chosen, decoding.eos_token_ids)
        last = count == decoding.max_new_tokens
        given: list[int | None] = [None] * len(texts)
        finished: list[FinishReason | None] = [None] * len(texts)
        for text, token, stop in zip(going.tolist(), chosen.tolist(), ended.tolist(), strict=True):
            if text not in faults:
                given[text] = token
                finished[text] = "stop" if stop else "length" if last else None
        errors = {text: InferenceError(message) for text, message in faults.items()}
        yield Step(tuple(given), tuple(finished), errors)
        ended |= [text in faults or not is_wanted(text) for text in going.tolist()]
        if ended.all():
            return
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        if ended.any():
            left = np.flatnonzero(~ended)
            going, tokens = going[left], tokens[left]
            rows.keep(left)


Answers = Mapping[int, "list[Hypothesis] | InferenceError"]
"""Of the texts whose search ended, by their places: up to ``num_beams`` answers, the best first, or
why there is none."""


def beam_search(
    model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[Hypothesis]]:
    """Answer texts, given as token ids, as one batch: for each, up to ``num_beams`` answers, the
    best first.

    Raises `InputError` as `EncoderDecoder.check` does, and `InferenceError`.
    """
    answers: list[list[Hypothesis]] = [[] for _ in texts]
    for ended in beam_steps(model, texts, decoding):
        for text, found in ended.items():
            if isinstance(found, InferenceError):
                raise found
            answers[text] = found
    return answers


def beam_steps(
    model: EncoderDecoder,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    is_wanted: Callable[[int], bool] = _always,
) -> Iterator[Answers]:
    """As `beam_search`, a step at a time: what ended with it, which is nothing for most. One text
    at fault leaves the others theirs. ``is_wanted`` as for `greedy_steps`."""
    model.check(texts, decoding)
    return _beam_steps(model, texts, decoding, is_wanted)


def _beam_steps(
    model: EncoderDecoder,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    is_wanted: Callable[[int], bool],
) -> Iterator[Answers]:
    import numpy as np

    beams = decoding.num_beams
    going = np.arange(len(texts))  # the text of each row of the search
    rows = model.encode(texts, decoding.pad_token_id, beams)
    search = Beams(len(texts), decoding)
    while True:
        tokens = search.tokens.reshape(len(going) * beams, -1)
        logits = rows.step(tokens[:, -1])
        broken = np.bitwise_or.reduce(_zeroed(logits).reshape(len(going), beams), axis=1)
        scores = constrained(log_softmax(logits), tokens, decoding)
        before = search.advance(scores)
        done = search.done()
        done |= broken
        ended: dict[int, list[Hypothesis] | InferenceError] = {}
        for place in np.flatnonzero(done).tolist():
            found = search.hypotheses(place)
            fault = _NOT_NUMBERS if broken[place] else None if found else _ALL_FORBIDDEN
            ended[int(going[place])] = InferenceError(fault) if fault else found
        yield ended
        done |= [not is_wanted(text) for text in going.tolist()]
        if done.all():
            return
        if done.any():
            left = np.flatnonzero(~done)
            going = going[left]
            search.keep(left)
            rows.keep(before[left].ravel())
        else:
            rows.follow(before.ravel())


_NOT_NUMBERS = "the model's logits are not numbers: NaN or infinite"
_ALL_FORBIDDEN = (
    "every token is forbidden by bad_words_ids, suppress_tokens, no_repeat_ngram_size or "
    "min_new_tokens"
)


def _zeroed(logits: Scores) -> NDArray[np.bool_]:
    """Of each row, whether a logit is not a number; all of that row are 0 from here on."""
    import numpy as np

    broken: NDArray[np.bool_] = ~np.isfinite(logits.max(axis=1))  # NaN if one of them is
    if broken.any():
        logits[broken] = 0
    return broken
