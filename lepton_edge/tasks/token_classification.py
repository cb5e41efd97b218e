"""Token classification: the names of people, places and other things in a text, with their place.

The entities are those of transformers' pipeline for the same model and strategy, by its definition:
which tokens continue a word, how a word gets its label, which neighbours are one entity, and which
of two entities in overlapping windows stays. In one thing they differ: an entity neither begins
nor ends inside a character, such as between a letter and its accent (`whole_characters`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

from lepton_edge.runtime.text import Tokenization, Tokens
from lepton_edge.tasks.base import Dimensions, Facts, Task, refuse_value, softmax
from lepton_edge.tasks.labels import check_labels, labels_from
from lepton_edge.tasks.offsets import whole_characters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Encoding

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder

Strategy = Literal["none", "simple", "first", "average", "max"]
_BY_WORD = ("first", "average", "max")


@dataclass(frozen=True)
class Entity:
    """A name in a text, what kind of thing it names, and the probability of that, 0 to 1.

    ``text`` is ``original[start:end]``: offsets count characters (code points) of the text as it
    was given.
    """

    label: str
    score: float
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        text = " ".join(self.text.split())
        return f"{self.label} {self.score:.1%}  {text}  [{self.start}:{self.end}]"


@dataclass(frozen=True)
class Entities:
    """What a text names, in the order of the text. ``truncated``: the text was longer than the
    model takes, and nobody looked at its end."""

    entities: tuple[Entity, ...]
    truncated: bool = False

    def __str__(self) -> str:
        """A line an entity."""
        note = "  (text truncated)" if self.truncated else ""
        return ("\n".join(map(str, self.entities)) or "no entity") + note


@dataclass(frozen=True)
class TokenClassificationOptions:
    """``task_options`` of a recipe for token-classification."""

    labels: tuple[str, ...] | None = None
    """The labels' names in the order of the model's outputs; the model's own where absent."""
    stride: int | None = None
    """A long text is read in overlapping windows that share so many tokens; where absent it is cut
    to what the model takes, and its result flagged."""

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 0:
            raise ValueError(f"stride is {self.stride}: it is a number of tokens, from 0")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class TokenClassificationConfig:
    """The manifest's block."""

    labels: tuple[str, ...]
    """The labels' names in the order of the outputs."""
    stride: int | None
    """How many tokens the windows of a long text share; null where it is cut."""


@dataclass(frozen=True)
class TokenClassificationParameters:
    """What a call may give."""

    aggregation_strategy: Strategy | None = None
    """How tokens become entities. `none`: each is one, with its full label, such as B-PER.
    `simple`: neighbours with one label are one entity. With `first`, `average` and `max` a word
    has one label (its first token's, that of the mean scores, its surest token's), so that an
    entity never begins or ends inside a word. Where absent: `first` for a tokenizer that marks the
    pieces of words (WordPiece's ##), else `simple`: for others a word ends at the next blank only,
    and would take the full stop behind it into the entity."""
    ignore_labels: Sequence[str] = ("O",)
    """Labels that are left out: those of the entities, so `PER` where B-PER and I-PER make one."""

    def __post_init__(self) -> None:
        strategy, known = self.aggregation_strategy, get_args(Strategy)
        if strategy is not None and strategy not in known:
            refuse_value("aggregation_strategy", strategy, f"it is one of {', '.join(known)}")
        ignored = self.ignore_labels
        if not isinstance(ignored, (list, tuple)) or not all(
            isinstance(label, str) for label in ignored
        ):
            refuse_value("ignore_labels", ignored, 'it is a list of labels, such as ["O"]')


@dataclass(frozen=True, slots=True)
class _Marked(Tokens):
    """``places`` are those of the tokens of the text itself; ``starts`` says of each whether it
    begins a unit: a word, or a token on its own."""

    places: NDArray[np.intp] | None = None
    starts: NDArray[np.bool_] | None = None


class _Units(NamedTuple):
    """The units of one sequence: the label (its index) of each and its score, and the places of
    its first and last token."""

    labels: NDArray[np.intp]
    scores: NDArray[np.floating[Any]]
    firsts: NDArray[np.intp]
    lasts: NDArray[np.intp]

    def part(self, begin: int, end: int) -> _Units:
        labels, scores, firsts, lasts = self
        return _Units(labels[begin:end], scores[begin:end], firsts[begin:end], lasts[begin:end])


class _Span(NamedTuple):
    start: int
    end: int
    label: str
    score: float


class TokenClassification(Task[str, Entities]):
    """Reads ``logits`` of shape [batch, length, labels]."""

    name: ClassVar[str] = "token-classification"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"logits": ("batch", "length", "size")}
    Options = TokenClassificationOptions
    Config = TokenClassificationConfig
    Parameters = TokenClassificationParameters
    config: TokenClassificationConfig

    def __init__(self, config: TokenClassificationConfig) -> None:
        import numpy as np

        super().__init__(config)
        labels = config.labels
        # The two ways in which the pipeline cuts a label: for what goes together, and for its name.
        tags = [label[2:] if label[:2] in ("B-", "I-") else label for label in labels]
        numbers = {tag: number for number, tag in enumerate(tags)}
        self._tags = np.array([numbers[tag] for tag in tags])
        self._begins = np.array([label.startswith("B-") for label in labels])
        self._names = [label.split("-", 1)[-1] for label in labels]

    @staticmethod
    def configure(options: TokenClassificationOptions, facts: Facts) -> TokenClassificationConfig:
        return TokenClassificationConfig(labels_from(options.labels, facts), options.stride)

    def tokenization(self) -> Tokenization:
        return Tokenization(stride=self.config.stride or 0, offsets=True)

    def tokenize(
        self,
        inputs: Sequence[str],
        encoder: TextEncoder,
        parameters: TokenClassificationParameters,
        first: int,
    ) -> list[list[Tokens]]:
        if self.config.stride is None:
            groups = [[tokens] for tokens in encoder.encode(inputs, first)]
        else:
            groups = encoder.windows(inputs, first)
        continues = _continues(encoder, parameters.aggregation_strategy)
        return [
            [_mark(tokens, text, continues, encoder.unknown_id) for tokens in group]
            for text, group in zip(inputs, groups, strict=True)
        ]

    def read(
        self,
        outputs: Tensors,
        sequences: Sequence[Tokens],
        parameters: TokenClassificationParameters,
    ) -> Sequence[_Units]:
        import numpy as np

        logits: Any = outputs["logits"]
        check_labels(logits, self.config.labels)
        marked: Any = sequences  # made by `tokenize`
        rows = np.repeat(np.arange(len(marked)), [len(each.places) for each in marked])
        places = np.concatenate([each.places for each in marked])
        starts = np.flatnonzero(np.concatenate([each.starts for each in marked]))
        labels, scores = _label(
            softmax(logits[rows, places]), starts, parameters.aggregation_strategy
        )
        lasts = places[np.append(starts[1:], len(places)) - 1] if len(starts) else starts
        units = _Units(labels, scores, places[starts], lasts)
        ends = accumulate((int(each.starts.sum()) for each in marked), initial=0)
        return [units.part(begin, end) for begin, end in pairwise(ends)]

    def result(
        self,
        given: str,
        sequences: Sequence[Tokens],
        values: Sequence[_Units],
        parameters: TokenClassificationParameters,
    ) -> Entities:
        found = [
            span
            for tokens, units in zip(sequences, values, strict=True)
            for span in self._spans(tokens, units, parameters)
        ]
        if len(sequences) > 1:
            found = _without_overlaps(found)
        entities = []
        for span in found:
            start, end = whole_characters(given, span.start, span.end)
            entities.append(Entity(span.label, span.score, given[start:end], start, end))
        return Entities(tuple(entities), sequences[0].truncated)

    def _spans(
        self, tokens: Tokens, units: _Units, parameters: TokenClassificationParameters
    ) -> Iterator[_Span]:
        """The entities of one sequence that are not to be ignored."""
        names: Sequence[str] = self.config.labels
        if parameters.aggregation_strategy != "none":
            names, units = self._names, self._grouped(units)
        encoding: Any = tokens.encoding
        offsets, ignored = encoding.offsets, set(parameters.ignore_labels)
        for label, score, first, last in zip(*(each.tolist() for each in units), strict=True):
            if names[label] not in ignored:
                yield _Span(offsets[first][0], offsets[last][1], names[label], score)

    def _grouped(self, units: _Units) -> _Units:
        """Neighbours of one tag as one, except where a B- begins another; with the mean score."""
        import numpy as np

        if not len(units.labels):
            return units
        tags, begins = self._tags[units.labels], self._begins[units.labels]
        starts = np.flatnonzero(np.append(True, (tags[1:] != tags[:-1]) | begins[1:]))
        ends = np.append(starts[1:], len(tags))
        scores = np.add.reduceat(units.scores, starts) / (ends - starts)
        return _Units(units.labels[starts], scores, units.firsts[starts], units.lasts[ends - 1])

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic]:
        """The index of each token's best label."""
        best: NDArray[np.generic] = outputs["logits"].argmax(axis=-1)
        return best[:, None]


_Continues = Callable[[str, "Encoding"], list[bool]]


def _continues(encoder: TextEncoder, strategy: Strategy | None) -> _Continues | None:
    """What tells of each token whether it continues a word; None where each stands for itself."""
    marks = encoder.subword_prefix is not None
    if strategy in _BY_WORD or (strategy is None and marks):
        return _unlike_the_text if marks else _without_a_blank
    return None


def _unlike_the_text(text: str, encoding: Encoding) -> list[bool]:
    """A token that continues a word is longer than what it stands for: it has the prefix."""
    pairs = zip(encoding.tokens, encoding.offsets, strict=True)
    return [len(token) != end - start for token, (start, end) in pairs]


def _without_a_blank(text: str, encoding: Encoding) -> list[bool]:
    return [start > 0 and " " not in text[start - 1 : start + 1] for start, _ in encoding.offsets]


def _mark(tokens: Tokens, text: str, continues: _Continues | None, unknown: int | None) -> _Marked:
    import numpy as np

    encoding: Any = tokens.encoding
    places = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    starts = np.ones(len(tokens), dtype=bool)
    if continues is not None:
        starts = ~np.array(continues(text, encoding))
        starts |= np.array(tokens.ids) == (-1 if unknown is None else unknown)
    starts = starts[places]
    starts[:1] = True  # a window may begin inside a word
    return _Marked(tokens.ids, tokens.type_ids, tokens.truncated, encoding, places, starts)


def _label(
    scores: NDArray[np.floating[Any]], starts: NDArray[np.intp], strategy: Strategy | None
) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """The label of each unit and its score, from its tokens' scores [tokens, labels].

    Where each token is a unit, every strategy gives the token's own.
    """
    import numpy as np

    if len(starts) == len(scores) or strategy not in ("average", "max"):
        scores = scores[starts]
    else:
        sizes = np.diff(np.append(starts, len(scores)))
        if strategy == "average":
            scores = np.add.reduceat(scores, starts) / sizes[:, None]
        else:
            unit = np.repeat(np.arange(len(starts)), sizes)
            # Stable: of equally sure tokens, the first.
            surest = np.lexsort((-scores.max(axis=-1), unit))[starts]
            scores = scores[surest]
    labels = scores.argmax(axis=-1)
    return labels, np.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]


def _without_overlaps(spans: Sequence[_Span]) -> list[_Span]:
    """Of two that begin and end in one another the longer stays, or the surer."""
    kept: list[_Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        last = kept[-1] if kept else None
        if last is None or not last.start <= span.start < last.end:
            kept.append(span)
        elif (span.end - span.start, span.score) > (last.end - last.start, last.score):
            kept[-1] = span
    return kept
