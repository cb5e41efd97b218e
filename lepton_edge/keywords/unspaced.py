"""What can be a word in scripts that are written without spaces, as far as that can be told without
a dictionary: runs of a few characters, rather those that are repeated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from lepton_edge.keywords.runs import HAN, HIRAGANA, KATAKANA, SYLLABLES, Run, kind_of

Span = tuple[int, int]

# Words of Chinese and Japanese are two to four characters as a rule; those of the other scripts
# have a few syllables.
_LENGTHS = {HAN: (2, 4), SYLLABLES: (3, 6)}
_LONGEST_PIECE = 64  # with marks: what has more is not writing
_LONGEST_RUN = 12  # of Japanese syllables that are one word, or a word with its ending

# Thai and Lao write some vowels before their consonant, and some, which are no marks, after it.
_BEFORE = "เแโใไເແໂໃໄ"
_AFTER = "ะาำๅະາຳ"
_STACKERS = "\u1039\u17d2"  # Myanmar and Khmer: the next consonant goes below this one
_PARTICLES = "はがをにでとものへやか"


def pieces(text: str, runs: Iterable[Run], stop_words: Collection[str]) -> dict[str, list[Span]]:
    """Every piece of the runs that can be a word, and its places."""
    found: dict[str, list[Span]] = {}
    for run in runs:
        for start, end in _unspaced(text, run, stop_words):
            if end - start > _LONGEST_PIECE:
                continue
            found.setdefault(text[start:end], []).append((start, end))
    return _longest(_uncut(found))


def _uncut(found: dict[str, list[Span]]) -> dict[str, list[Span]]:
    """Without the places where a piece begins or ends in the middle of one that comes more
    often."""
    inside: dict[int, int] = {}
    for spans in found.values():
        if len(spans) > 1:
            for start, end in spans:
                for place in range(start + 1, end):
                    inside[place] = max(inside.get(place, 0), len(spans))
    kept = {
        piece: [
            (start, end)
            for start, end in spans
            if max(inside.get(start, 0), inside.get(end, 0)) <= len(spans)
        ]
        for piece, spans in found.items()
    }
    return {piece: spans for piece, spans in kept.items() if spans}


def _longest(found: dict[str, list[Span]]) -> dict[str, list[Span]]:
    """Without the pieces that only ever stand in a longer one."""
    within: dict[str, int] = {}
    for piece, spans in found.items():
        for start in range(len(piece)):
            for end in range(start + 1, len(piece) + 1):
                if end - start < len(piece):
                    part = piece[start:end]
                    within[part] = max(within.get(part, 0), len(spans))
    return {piece: spans for piece, spans in found.items() if len(spans) > within.get(piece, 0)}


def _unspaced(text: str, run: Run, stop_words: Collection[str]) -> Iterator[tuple[int, int]]:
    """The pieces of a run that can be words, as far as that can be told without a dictionary."""
    units = _units(text, run)
    if run.script == KATAKANA:  # mostly one foreign word
        if 1 < len(units) <= _LONGEST_RUN:
            yield run.start, units[-1][1]
        return
    if run.script == HIRAGANA:  # mostly endings and particles, sometimes a word
        while units and text[units[-1][0]] in _PARTICLES:
            units.pop()
        while units and text[units[0][0]] in _PARTICLES:
            units.pop(0)
        if 3 <= len(units) <= _LONGEST_RUN:
            yield units[0][0], units[-1][1]
        return
    shortest, longest = _LENGTHS[str(run.script)]
    for piece in _between_stops(text, units, stop_words):
        for size in range(shortest, min(longest, len(piece)) + 1):
            for first in range(len(piece) - size + 1):
                yield piece[first][0], piece[first + size - 1][1]


def _between_stops(
    text: str, units: list[tuple[int, int]], stop_words: Collection[str]
) -> Iterator[list[tuple[int, int]]]:
    piece: list[tuple[int, int]] = []
    for start, end in units:
        if text[start:end] in stop_words:
            yield piece
            piece = []
        else:
            piece.append((start, end))
    yield piece


def _units(text: str, run: Run) -> list[tuple[int, int]]:
    """The run's characters as a reader sees them: never a mark without its letter."""
    units: list[tuple[int, int]] = []
    joined = False  # the next character belongs to the last one
    for place in range(run.start, run.end):
        letter = text[place]
        follows = kind_of(letter) in ("mark", "joiner") or letter in _AFTER
        if units and (joined or follows):
            units[-1] = (units[-1][0], place + 1)
        else:
            units.append((place, place + 1))
        joined = letter in _BEFORE or letter in _STACKERS
    return units
