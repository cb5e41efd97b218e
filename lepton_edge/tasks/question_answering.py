"""Question answering: the part of a context that answers a question (extractive).

A context longer than the model's window is read in overlapping windows. The answers are those of
transformers' pipeline (its last version is in 4.57), by its definition. In each window, a span's
score is the probability that an answer begins at its first token, times that of ending at its last,
each over the context's tokens and the first of all ([CLS]). The best spans are widened to whole
words, and equal texts are one answer with the sum of their scores. 'No answer' has the least of the
windows' probabilities of beginning and ending at [CLS].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lepton_edge.errors import InputError
from lepton_edge.tasks.base import (
    Dimensions,
    Facts,
    Task,
    check_count,
    read_mapping,
    refuse_value,
)
from lepton_edge.tasks.offsets import whole_characters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder, Tokenization, Tokens
    from lepton_edge.runtime.windows import Window

_WINDOW, _STRIDE = 384, 128


@dataclass(frozen=True)
class Question:
    """A question, and the text that has its answer."""

    question: str
    context: str


@dataclass(frozen=True)
class Answer:
    """One answer. ``text`` is ``context[start:end]``: offsets count characters (code points).

    'No answer' has an empty text from 0 to 0. An answer found in several places, or windows, has
    the sum of their probabilities for its score, which may so exceed 1.
    """

    text: str
    score: float
    start: int
    end: int

    def __str__(self) -> str:
        if not self.text:
            return f"no answer {self.score:.1%}"
        return f"{' '.join(self.text.split())} {self.score:.1%}  [{self.start}:{self.end}]"


@dataclass(frozen=True)
class Answers:
    """What a context answers. ``answer``, ``score``, ``start`` and ``end`` are those of the best
    answer (see `Answer`); ``top`` holds the best ones, best first."""

    answer: str
    score: float
    start: int
    end: int
    top: tuple[Answer, ...]

    def __str__(self) -> str:
        return str(self.top[0])


@dataclass(frozen=True)
class QuestionAnsweringOptions:
    """``task_options`` of a recipe for question-answering."""

    window: int | None = None
    """How many tokens of question and context the model reads at once: 384 where absent. At most
    what the model takes."""
    stride: int | None = None
    """How many tokens of the context two windows share: 128, but at most half of a window, where
    absent. Never more than three quarters of what a long question leaves of a window."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 8:
            raise ValueError(f"window is {self.window}: it is a number of tokens, from 8")
        window = self.window or _WINDOW
        if self.stride is not None and not 0 <= self.stride < window:
            raise ValueError(
                f"stride is {self.stride}: it is a number of tokens, from 0, below the window's "
                f"{window}"
            )

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class QuestionAnsweringConfig:
    """The manifest's block."""

    window: int
    """How many tokens are read at once, where the model takes so many."""
    stride: int
    """How many tokens of the context two windows share."""


@dataclass(frozen=True)
class QuestionAnsweringParameters:
    """What a call may give."""

    top_k: int = 1
    """How many answers `top` has, where the context has so many."""
    max_answer_tokens: int = 15
    """The longest answer in tokens, before it is widened to whole words."""
    no_answer: bool = False
    """Whether 'no answer' may be one: for models trained on questions without (SQuAD 2)."""
    align_to_words: bool = True
    """Widen answers to whole words. In scripts that write no blank between words (Chinese,
    Japanese, Thai), some tokenizers take a whole sentence for a word: false is for those."""

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k)
        check_count("max_answer_tokens", self.max_answer_tokens)
        for name in ("no_answer", "align_to_words"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                refuse_value(name, value, "it is true or false")


class _Candidates(NamedTuple):
    """The best spans of a window, best first: places of the first and last token in the encoding
    of question and context; and the score of 'no answer'."""

    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    scores: NDArray[np.float64]
    none: float


class QuestionAnswering(Task[Question, Answers]):
    """Reads ``start_logits`` and ``end_logits`` of shape [batch, length]."""

    name: ClassVar[str] = "question-answering"
    fields: ClassVar[tuple[str, ...]] = ("question", "context")
    outputs: ClassVar[Mapping[str, Dimensions]] = {
        "start_logits": ("batch", "length"),
        "end_logits": ("batch", "length"),
    }
    Options = QuestionAnsweringOptions
    Config = QuestionAnsweringConfig
    Parameters = QuestionAnsweringParameters
    config: QuestionAnsweringConfig

    @staticmethod
    def configure(options: QuestionAnsweringOptions, facts: Facts) -> QuestionAnsweringConfig:
        window = options.window or _WINDOW
        stride = min(window // 2, _STRIDE) if options.stride is None else options.stride
        return QuestionAnsweringConfig(window, stride)

    def tokenization(self) -> Tokenization:
        from lepton_edge.runtime.text import Tokenization

        config = self.config
        return Tokenization("do_not_truncate", config.window, config.stride, offsets=True)

    def read_input(self, given: object, position: int) -> Question:
        read = read_mapping(Question, self.name, given, position)
        for field in self.fields:
            value: object = getattr(read, field)
            if not isinstance(value, str):  # a Question checks nothing itself
                kind = type(value).__name__
                raise InputError(f"input {position}: {field} is of type {kind}: it is a text")
        return read

    def characters(self, given: Question, parameters: QuestionAnsweringParameters) -> int:
        return len(given.question) + len(given.context)

    def tokenize(
        self,
        inputs: Sequence[Question],
        encoder: TextEncoder,
        parameters: QuestionAnsweringParameters,
        first: int,
    ) -> list[list[Tokens]]:
        groups: list[list[Tokens]] = []
        for position, given in enumerate(inputs, first):
            names = (f"input {position}: the question", f"input {position}: the context")
            groups.append([*encoder.pair_windows(given.question, given.context, names)])
        return groups

    def read(
        self,
        outputs: Tensors,
        sequences: Sequence[Tokens],
        parameters: QuestionAnsweringParameters,
    ) -> Sequence[_Candidates]:
        windows: Any = sequences  # made by `tokenize`
        rows = zip(windows, outputs["start_logits"], outputs["end_logits"], strict=True)
        return [_candidates(window, start, end, parameters) for window, start, end in rows]

    def result(
        self,
        given: Question,
        sequences: Sequence[Tokens],
        values: Sequence[_Candidates],
        parameters: QuestionAnsweringParameters,
    ) -> Answers:
        windows: Any = sequences
        offsets = windows[0].encoding.offsets
        words = _Words.of(windows[0].encoding.word_ids) if parameters.align_to_words else None
        found: dict[str, Answer] = {}
        for window, candidates in zip(windows, values, strict=True):
            starts, ends = candidates.starts, candidates.ends
            if words is not None:
                starts, ends = words.around(starts, ends, window)
            spans = zip(starts.tolist(), ends.tolist(), candidates.scores.tolist(), strict=True)
            for first, last, score in spans:
                start, end = whole_characters(given.context, offsets[first][0], offsets[last][1])
                text = given.context[start:end]
                known = found.get(text.lower(), Answer(text, 0.0, start, end))
                found[text.lower()] = Answer(
                    known.text, known.score + score, known.start, known.end
                )
        answers = list(found.values())
        if parameters.no_answer:
            answers.append(Answer("", min(candidates.none for candidates in values), 0, 0))
        top = sorted(answers, key=lambda answer: -answer.score)[: parameters.top_k]
        return Answers(top[0].text, top[0].score, top[0].start, top[0].end, tuple(top))

    def examples(self, texts: Sequence[str]) -> tuple[list[Question], Any]:
        """The first word of each text as a question about the next: short, to leave room for it in
        the smallest window."""
        pairs = zip(texts, [*texts[1:], *texts[:1]], strict=True)
        return [Question(one.split()[0][:8], other) for one, other in pairs], self.parameters({})

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic]:
        """The place of the best start, and of the best end."""
        import numpy as np

        places = [outputs[name].argmax() for name in self.outputs]
        return np.array([places])


class _Words(NamedTuple):
    """For each token, the places of the first and the last token of its word."""

    firsts: NDArray[np.intp]
    lasts: NDArray[np.intp]

    @classmethod
    def of(cls, word_ids: Sequence[int | None]) -> _Words:
        """From the number of each token's word; a token without stands for itself."""
        import numpy as np

        places = np.arange(len(word_ids))
        numbers = np.array(
            [-place if each is None else each for place, each in enumerate(word_ids, 1)]
        )
        begins = np.append(True, numbers[1:] != numbers[:-1])
        firsts = np.maximum.accumulate(np.where(begins, places, 0))
        word = np.cumsum(begins) - 1
        lasts = np.append(np.flatnonzero(begins)[1:], len(places))[word] - 1
        return cls(firsts, lasts)

    def around(
        self, starts: NDArray[np.intp], ends: NDArray[np.intp], window: Window
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The spans from a word's first to a word's last token, as far as the window has them."""
        import numpy as np

        return (
            np.maximum(self.firsts[starts], window.start),
            np.minimum(self.lasts[ends], window.end - 1),
        )


def _candidates(
    window: Window,
    start_logits: NDArray[np.generic],
    end_logits: NDArray[np.generic],
    parameters: QuestionAnsweringParameters,
) -> _Candidates:
    """The best spans of one window, by start <= end < start + the longest answer's tokens."""
    import numpy as np

    none, starts = _log_probabilities(start_logits, window)
    none_end, ends = _log_probabilities(end_logits, window)
    size = len(starts)
    width = min(parameters.max_answer_tokens, size)
    ends = np.append(ends, np.full(width - 1, -np.inf))
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(ends, width)
    scores = scores.reshape(-1)
    # More than are asked for where words are whole: several spans become one then.
    count = 2 * parameters.top_k + 10 if parameters.align_to_words else parameters.top_k
    best = np.arange(len(scores))
    if count < len(scores):
        best = np.argpartition(-scores, count)[:count]
    best = best[np.lexsort((best, -scores[best]))]
    best = best[np.isfinite(scores[best])]
    first, beyond = np.divmod(best, width)
    return _Candidates(
        window.start + first,
        window.start + first + beyond,
        np.exp(scores[best]),
        float(np.exp(none + none_end)),
    )


def _log_probabilities(
    logits: NDArray[np.generic], window: Window
) -> tuple[float, NDArray[np.float64]]:
    """Of the first token, and of each token of the context, among these."""
    import numpy as np

    kept = np.empty(1 + window.end - window.start)
    kept[1:] = logits[window.place : window.place + len(kept) - 1]
    # Without special tokens there is no place for 'no answer'.
    special = window.encoding is not None and window.encoding.token_to_sequence(0) is None
    kept[0] = logits[0] if special else -np.inf
    kept -= kept.max()
    kept -= np.log(np.exp(kept).sum())
    return float(kept[0]), kept[1:]
