"""The phrases of a text that can be keywords, with their places in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lepton_edge.keywords.runs import APOSTROPHES, HAN, HIRAGANA, INVISIBLE, Run, kind_of, runs
from lepton_edge.keywords.unspaced import Span, pieces

_LONGEST_WORD = 100  # in characters: what is longer was written by no one


@dataclass(frozen=True)
class Phrase:
    """``text[start:end]``. ``count``: how often the text has it, in capitals or not."""

    start: int
    end: int
    count: int
    spaced: bool
    """Whether its script separates words."""

    def overlaps(self, other: Phrase) -> bool:
        """Whether two runs of a script without spaces are cut from the same characters: of two
        such, one at least is no word."""
        apart = self.end <= other.start or other.end <= self.start
        return not (self.spaced or other.spaced or apart)


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    folded: str
    stop: bool

    @property
    def opens(self) -> bool:
        """Whether a phrase can begin with it."""
        return self.closes and len(self.folded) > 1 and any(map(str.isalpha, self.folded))

    @property
    def closes(self) -> bool:
        """Whether a phrase can end with it: with a number too, as in "Apollo 11"."""
        short = len(self.folded) < 2 and not self.folded.isdigit()
        return not self.stop and not short and self.end - self.start <= _LONGEST_WORD


def phrases(text: str, stop_words: Collection[str], max_words: int, most: int) -> list[Phrase]:
    """The phrases of up to ``max_words`` words, in the order of their first places; of more than
    ``most``, those that come most often."""
    cut = list(runs(text))
    spaced: dict[tuple[str, ...], list[Span]] = {}
    for run in cut:
        if run.script is None:
            _add_words(spaced, _words(text, run, stop_words), max_words)
    unspaced = pieces(text, (run for run in cut if run.script), stop_words)
    found = [Phrase(*spans[0], len(spans), True) for spans in spaced.values()]
    found += [Phrase(*spans[0], len(spans), False) for spans in unspaced.values()]
    kept = sorted(found, key=lambda each: (-each.count, each.start))[:most]
    return sorted(kept, key=lambda each: (each.start, each.end))


def words(text: str) -> Iterator[str]:
    """The words of scripts that separate them, folded; of Chinese, single characters."""
    cut = list(runs(text))
    chinese = not any(run.script == HIRAGANA for run in cut)
    for run in cut:
        if run.script is None:
            yield from (word.folded for word in _words(text, run, ()))
        elif run.script == HAN and chinese:
            yield from text[run.start : run.end]


def _add_words(
    found: dict[tuple[str, ...], list[Span]], run: Sequence[_Word], max_words: int
) -> None:
    for first, word in enumerate(run):
        if not word.opens:
            continue
        for last in range(first, min(first + max_words, len(run))):
            if run[last].end - word.start > max_words * _LONGEST_WORD:
                break
            if run[last].closes:
                key = tuple(each.folded for each in run[first : last + 1])
                found.setdefault(key, []).append((word.start, run[last].end))


def _words(text: str, run: Run, stop_words: Collection[str]) -> list[_Word]:
    """The words of a run, split where an apostrophe joins one to a function word (l'eau)."""
    found = []
    for start, end in _word_spans(text, run):
        cut = next((p for p in range(start + 1, end) if text[p] in APOSTROPHES), None)
        pieces = [(start, end)]
        if cut is not None:
            before, after = folded(text[start:cut]), folded(text[cut + 1 : end])
            if before in stop_words or after == "s":
                pieces = [(start, cut), (cut + 1, end)]
        for low, high in pieces:
            word = folded(text[low:high])
            found.append(_Word(low, high, word, word in stop_words))
    return found


def _word_spans(text: str, run: Run) -> Iterator[tuple[int, int]]:
    start: int | None = None
    end = run.start
    for place in range(run.start, run.end):
        kind = kind_of(text[place])
        if kind == "letter":
            start = place if start is None else start
            end = place + 1
        elif kind == "mark" and start is not None and end == place:
            end = place + 1
        elif kind not in ("joiner", "mark") or end != place:
            if start is not None:
                yield start, end
            start = None
    if start is not None:
        yield start, end


def folded(word: str) -> str:
    """The same for every way to write a word: capitals, composed letters, invisible joiners."""
    plain = "".join(each for each in word if each not in INVISIBLE)
    return unicodedata.normalize("NFKC", plain).casefold().replace("’", "'")
