"""Answers of encoder-decoder models: greedy, token by token, or by a beam search.

The beam search is transformers': each step takes the best continuations of all beams of a text, and
an answer that ended is among the best as long as nothing better ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import InferenceError, InputError
from lepton_edge.generation.decoding import Decoding, constrained, log_softmax
from lepton_edge.generation.loop import Step
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

    from lepton_edge.backend import Session

    Array = NDArray[Any]
    Scores = NDArray[np.float32]
    Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Hypothesis:
    """An answer that a beam search found."""

    tokens: tuple[int, ...]
    """The one that ends it among them, if one did."""
    score: float
    """The sum of its tokens' log-probabilities over its length to the power of the penalty."""
    finish_reason: FinishReason


class EncoderDecoder:
    """The two sessions of an encoder-decoder model, any backend's. They stay their owner's.

    Safe from many threads. ``max_length`` is the most tokens of a text, and of an answer, where
    that is known. Raises `InferenceError` for sessions that are not of such graphs.
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
        vocabulary], float32. Raises `InferenceError`, also where they are not numbers."""
        import numpy as np

        feeds = {INPUT_IDS: np.ascontiguousarray(tokens[:, None]), **self._source, **self._past}
        found = self._model.decoder.infer(feeds)
        self._past = {spec.name: found[name] for spec, name in self._model.past.items()}
        logits: Scores = found[LOGITS].astype(np.float32, copy=False)
        if not np.isfinite(logits.max(axis=1)).all():  # NaN if one of them is
            raise InferenceError("the model's logits are not numbers: NaN or infinite")
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


def greedy(
    model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding
) -> Iterator[Step]:
    """Answer texts, given as token ids, as one batch: the likeliest token each time.

    Each step is given as soon as it is there. Raises `InputError` as `EncoderDecoder.check` does,
    before anything runs; while iterating, `InferenceError`.
    """
    model.check(texts, decoding)
    return _steps(model, texts, decoding)


def _steps(
    model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding
) -> Iterator[Step]:
    import numpy as np

    going = np.arange(len(texts))  # the text of each row
    tokens = np.full((len(texts), 1), decoding.decoder_start_token_id, np.int64)
    rows = model.encode(texts, decoding.pad_token_id, 1)
    for count in range(1, decoding.max_new_tokens + 1):
        scores = constrained(rows.step(tokens[:, -1]), tokens, decoding)
        chosen = scores.argmax(axis=1)
        _check_allowed(scores.max(axis=1))
        ended = np.isin(chosen, decoding.eos_token_ids)
        last = count == decoding.max_new_tokens
        given: list[int | None] = [None] * len(texts)
        finished: list[FinishReason | None] = [None] * len(texts)
        for text, token, stop in zip(going.tolist(), chosen.tolist(), ended.tolist(), strict=True):
            given[text] = token
            finished[text] = "stop" if stop else "length" if last else None
        yield Step(tuple(given), tuple(finished))
        if ended.all():
            return
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        if ended.any():
            left = np.flatnonzero(~ended)
            going, tokens = going[left], tokens[left]
            rows.keep(left)


def beam_search(
    model: EncoderDecoder, texts: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[Hypothesis]]:
    """Answer texts, given as token ids, as one batch: for each, up to ``num_beams`` answers, the
    best first.

    Raises `InputError` as `EncoderDecoder.check` does, and `InferenceError`.
    """
    import numpy as np

    model.check(texts, decoding)
    beams = decoding.num_beams
    answers: list[list[Hypothesis]] = [[] for _ in texts]
    going = np.arange(len(texts))  # the text of each row of the search
    rows = model.encode(texts, decoding.pad_token_id, beams)
    search = _Search(len(texts), decoding)
    while True:
        tokens = search.tokens.reshape(len(going) * beams, -1)
        scores = constrained(log_softmax(rows.step(tokens[:, -1])), tokens, decoding)
        before = search.advance(scores)
        done = search.done()
        for place in np.flatnonzero(done).tolist():
            answers[going[place]] = search.hypotheses(place)
        if done.all():
            return answers
        if done.any():
            left = np.flatnonzero(~done)
            going = going[left]
            search.keep(left)
            rows.keep(before[left].ravel())
        else:
            rows.follow(before.ravel())


class _Search:
    """Of each text, the beams that go on and the answers that ended, the best of both first.

    ``tokens`` int64 [texts, beams, length] are those of the beams, the start token first, and
    ``scores`` float32 [texts, beams] the sums of their log-probabilities; minus infinity for a beam
    that cannot be: at first, all but one. ``ended`` and ``ended_scores`` are the answers', padded,
    and under the length penalty; minus infinity for none.
    """

    def __init__(self, texts: int, decoding: Decoding) -> None:
        import numpy as np

        beams = decoding.num_beams
        self._decoding = decoding
        self.tokens: Tokens = np.full((texts, beams, 1), decoding.decoder_start_token_id, np.int64)
        self.scores: Scores = np.full((texts, beams), -np.inf, np.float32)
        self.scores[:, 0] = 0
        self.ended = self.tokens
        self.lengths = np.zeros((texts, beams), np.int64)
        self.ended_scores: Scores = np.full((texts, beams), -np.inf, np.float32)

    @property
    def generated(self) -> int:
        """How many tokens each beam has, beside the start token."""
        return int(self.tokens.shape[2]) - 1

    def advance(self, log_probs: Scores) -> NDArray[np.intp]:
        """Add a token to each beam, given those of the next [texts * beams, vocabulary]: the best
        beams of a text go on, and what ends is an answer.

        Gives the row that each beam was in before [texts, beams].
        """
        import numpy as np

        texts, beams = self.scores.shape
        vocabulary = log_probs.shape[1]
        ends = self._decoding.eos_token_ids
        log_probs += self.scores.reshape(-1, 1)
        # As many as that: should every stop token be among a beam's best, the beams still go on.
        best, scores = _best(log_probs.reshape(texts, -1), max(2, 1 + len(ends)) * beams)
        parents, last = best // vocabulary, best % vocabulary
        tokens = np.concatenate([_chosen(self.tokens, parents), last[:, :, None]], axis=2)
        at_end = self.generated + 1 == self._decoding.max_new_tokens
        stops = np.isin(last, ends) | at_end
        self._add(tokens[:, :beams], np.where(stops[:, :beams], scores[:, :beams], -np.inf))
        places, self.scores = _best(np.where(stops, np.float32(-np.inf), scores), beams)
        self.tokens = _chosen(tokens, places)
        rows: NDArray[np.intp] = np.take_along_axis(parents, places, 1)
        rows += beams * np.arange(texts)[:, None]
        return rows

    def _add(self, tokens: Tokens, scores: Scores) -> None:
        """Answers that ended with this step; those that are worse than others are forgotten."""
        import numpy as np

        length = tokens.shape[2] - 1
        scores = scores / length**self._decoding.length_penalty
        padded = np.pad(self.ended, ((0, 0), (0, 0), (0, 1)))
        lengths = np.concatenate([self.lengths, np.full(scores.shape, length)], axis=1)
        places, self.ended_scores = _best(
            np.concatenate([self.ended_scores, scores], axis=1), self.scores.shape[1]
        )
        self.ended = _chosen(np.concatenate([padded, tokens], axis=1), places)
        self.lengths = np.take_along_axis(lengths, places, 1)

    def done(self) -> NDArray[np.bool_]:
        """Of each text [texts], whether its search is over."""
        import numpy as np

        decoding = self._decoding
        if self.generated == decoding.max_new_tokens:
            return np.ones(len(self.scores), np.bool_)
        full: NDArray[np.bool_] = np.all(self.ended_scores > -np.inf, axis=1)
        if decoding.early_stopping is True:
            return full
        length = self.generated
        if decoding.early_stopping == "never" and decoding.length_penalty > 0:
            length = decoding.max_new_tokens
        possible = self.scores[:, 0] / length**decoding.length_penalty
        full &= possible <= self.ended_scores.min(axis=1)
        return full

    def hypotheses(self, text: int) -> list[Hypothesis]:
        """The answers to a text. Raises `InferenceError` where there is none."""
        _check_allowed(self.ended_scores[text, :1])
        found = []
        for tokens, length, score in zip(
            self.ended[text], self.lengths[text], self.ended_scores[text], strict=True
        ):
            if score > -float("inf"):
                written = tuple(tokens[1 : length + 1].tolist())
                stopped = written[-1] in self._decoding.eos_token_ids
                found.append(Hypothesis(written, float(score), "stop" if stopped else "length"))
        return found

    def keep(self, texts: NDArray[np.intp]) -> None:
        """Go on with these texts alone."""
        self.tokens, self.scores = self.tokens[texts], self.scores[texts]
        self.ended, self.lengths = self.ended[texts], self.lengths[texts]
        self.ended_scores = self.ended_scores[texts]


def _best(scores: Scores, count: int) -> tuple[NDArray[np.intp], Scores]:
    """The places of each row's largest scores [rows, count], the best first, and those scores."""
    import numpy as np

    count = min(count, scores.shape[1])
    places = np.argpartition(scores, -count, axis=1)[:, -count:]
    places.sort(axis=1)  # of equal scores, the first
    order = np.argsort(-np.take_along_axis(scores, places, 1), axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return places, np.take_along_axis(scores, places, 1)


def _chosen(tokens: Tokens, places: NDArray[np.intp]) -> Tokens:
    """Of each text [texts, from, length], these [texts, places]."""
    import numpy as np

    found: Tokens = np.take_along_axis(tokens, places[:, :, None], 1)
    return found


def _check_allowed(best: Scores) -> None:
    if best.min() == -float("inf"):
        raise InferenceError(
            "every token is forbidden by bad_words_ids, suppress_tokens, no_repeat_ngram_size or "
            "min_new_tokens"
        )
