"""Keywords of a text: those of its phrases whose embeddings are nearest to its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from lepton_edge.errors import InputError
from lepton_edge.keywords.phrases import Phrase, folded, phrases
from lepton_edge.keywords.stop_words import stop_words_of
from lepton_edge.search.vectors import embed, require_embeddings, unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.runtime.model import Model

# Of a long text the phrases that come most often: embedding a thousand takes about a second.
_MOST = 1000


@dataclass(frozen=True)
class Keyword:
    """A phrase of a text: ``text`` is what the original has from ``start`` to ``end``, at the
    first place where it stands. ``score`` is its cosine similarity to the whole, -1 to 1."""

    text: str
    score: float
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.score:.4f}  {self.text}"


@overload
def extract_keywords(  # type: ignore[overload-overlap]  # a str is a sequence of str; here a text
    model: Model,
    texts: str,
    *,
    top_k: int = ...,
    max_words: int = ...,
    diversity: float = ...,
    stop_words: Collection[str] | None = ...,
) -> list[Keyword]: ...


@overload
def extract_keywords(
    model: Model,
    texts: Sequence[str],
    *,
    top_k: int = ...,
    max_words: int = ...,
    diversity: float = ...,
    stop_words: Collection[str] | None = ...,
) -> list[list[Keyword]]: ...


def extract_keywords(
    model: Model,
    texts: str | Sequence[str],
    *,
    top_k: int = 10,
    max_words: int = 3,
    diversity: float = 0.3,
    stop_words: Collection[str] | None = None,
) -> list[Keyword] | list[list[Keyword]]:
    """At most ``top_k`` keywords of a text, best first; a list for each text of a list of texts.

    ``model`` does feature-extraction. A phrase has up to ``max_words`` words, crosses no
    punctuation or line end, and neither begins nor ends with one of ``stop_words``; where those
    are not given, they are the function words of the language that the text has most of. Scripts
    without spaces give runs of a few characters instead. A text that is longer than the model
    takes is embedded in parts.

    ``diversity`` 0 takes the phrases nearest to the text; towards 1, those least like the ones
    taken before, by maximal marginal relevance (Carbonell and Goldstein, 1998, with lambda =
    1 - diversity). Raises `InputError` and `InferenceError`.
    """
    require_embeddings(model, "keyword extraction")
    _check(top_k, max_words, diversity)
    if isinstance(stop_words, str):
        raise InputError(f"stop_words is the text {stop_words!r}: it is a list of words")
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        return []
    given = None if stop_words is None else {folded(word) for word in stop_words}
    results = []
    for text, document in zip(listed, _documents(model, listed), strict=True):
        stops = stop_words_of(text) if given is None else given
        found = phrases(text, stops, max_words, _MOST)
        results.append(_ranked(model, text, found, document, top_k, diversity))
    return results[0] if isinstance(texts, str) else results


def _check(top_k: int, max_words: int, diversity: float) -> None:
    for name, value in (("top_k", top_k), ("max_words", max_words)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}: it is a number from 1")
    if not isinstance(diversity, (int, float)) or not 0 <= diversity <= 1:
        raise InputError(f"diversity is {diversity!r}: it is a number from 0 to 1")


def _documents(model: Model, texts: list[str]) -> NDArray[np.float32]:
    """The embedding of each text as a whole: float32 [texts, dimension] of length 1.

    One that is too long is halved until its parts fit, and is the mean of them, each weighed by
    its length.
    """
    import numpy as np

    sums: NDArray[np.float64] | None = None
    pieces = list(enumerate(texts))
    while pieces:
        vectors, truncated = embed(model, [piece for _, piece in pieces])
        sums = np.zeros((len(texts), vectors.shape[1])) if sums is None else sums
        smaller = []
        for (number, piece), vector, cut in zip(pieces, vectors, truncated, strict=True):
            halves = _halves(piece) if cut else ()
            if halves:
                smaller += [(number, half) for half in halves]
            else:
                sums[number] += len(piece) * vector
        pieces = smaller
    assert sums is not None
    return unit(sums)


def _halves(text: str) -> tuple[str, ...]:
    """A text in two, at the white space nearest to its middle; nothing where it has no parts."""
    middle = len(text) // 2
    gap = min(
        (place for place in range(1, len(text)) if text[place].isspace()),
        key=lambda place: abs(place - middle),
        default=middle,
    )
    halves = text[:gap], text[gap:]
    return halves if all(half.strip() for half in halves) else ()


def _ranked(
    model: Model,
    text: str,
    found: list[Phrase],
    document: NDArray[np.float32],
    top_k: int,
    diversity: float,
) -> list[Keyword]:
    import numpy as np

    if not found:
        return []
    vectors, _ = embed(model, [text[phrase.start : phrase.end] for phrase in found])
    relevance = vectors @ document
    likeness = np.full(len(found), -1.0)
    free = np.ones(len(found), bool)
    keywords: list[Keyword] = []
    while free.any() and len(keywords) < top_k:
        # The first is the most relevant, even where only variety counts.
        weight = diversity if keywords else 0
        value = (1 - weight) * relevance - weight * likeness
        best = int(np.where(free, value, -np.inf).argmax())
        phrase = found[best]
        piece = text[phrase.start : phrase.end]
        score = float(min(1.0, max(-1.0, relevance[best])))
        keywords.append(Keyword(piece, score, phrase.start, phrase.end))
        likeness = np.maximum(likeness, vectors @ vectors[best])
        free[best] = False
        free &= ~np.array([phrase.overlaps(other) for other in found])
    return keywords
