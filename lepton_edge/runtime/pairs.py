"""Two texts as one sequence, put together of texts that were tokenized once each.

One query with many documents, or one text with many hypotheses: the tokens of what is shared are
kept once, and the sequences of ten thousand pairs take no more memory than their own halves.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BundleError
from lepton_edge.runtime.text import Tokens

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True, slots=True)
class Part:
    """A text to join with another: ``ids`` without special tokens, cut to the longest input.

    ``length`` is how many tokens the whole text has.
    """

    ids: array[int]
    length: int

    @classmethod
    def of(cls, encoding: Encoding) -> Part:
        """Of a text that was encoded without special tokens."""
        rest = sum(len(part) for part in encoding.overflowing)
        return cls(array("i", encoding.ids), len(encoding) + rest)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer puts before, between and after two texts: ids and type ids of the special
    tokens; ``types`` are the type ids of the texts' own tokens."""

    before: tuple[list[int], list[int]]
    between: tuple[list[int], list[int]]
    after: tuple[list[int], list[int]]
    types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Any, token: Encoding) -> Frame:
        """Learned from how one token and then two are put together, so that any post-processor
        will do.

        Raises `BundleError` for one that puts the second text first, or a text twice.
        """
        joined = tokenizer.post_process(token, token.merge([token, token]))
        rows = list(zip(joined.ids, joined.type_ids, strict=True))
        texts = [i for i, special in enumerate(joined.special_tokens_mask) if not special]
        if len(texts) != 3 or texts[2] != texts[1] + 1:
            raise BundleError(
                "the tokenizer does not join two texts as the first and then the second",
                hint="build from a model that reads pairs of texts",
            )
        first, second, _ = texts
        return cls(
            _special(rows[:first]),
            _special(rows[first + 1 : second]),
            _special(rows[second + 2 :]),
            (rows[first][1], rows[second][1]),
        )

    @property
    def added(self) -> int:
        """The number of special tokens."""
        return sum(len(ids) for ids, _ in (self.before, self.between, self.after))


class JoinedTokens(Tokens):
    """Two parts in their frame. Made into one list only where a batch is laid out."""

    __slots__ = ("_first", "_frame", "_kept", "_second")
    _first: Part
    _second: Part
    _frame: Frame
    _kept: tuple[int, int]

    def __init__(self, first: Part, second: Part, frame: Frame, kept: tuple[int, int]) -> None:
        """``kept`` is how many tokens of each text there is room for."""
        cut = kept[0] < first.length or kept[1] < second.length
        values = (first, second, frame, kept, cut, None)
        names = ("_first", "_second", "_frame", "_kept", "truncated", "encoding")
        for name, value in zip(names, values, strict=True):
            object.__setattr__(self, name, value)  # a frozen dataclass sets its own this way

    @property
    def ids(self) -> list[int]:
        frame, (one, two) = self._frame, self._kept
        texts = self._first.ids[:one], self._second.ids[:two]
        return [*frame.before[0], *texts[0], *frame.between[0], *texts[1], *frame.after[0]]

    @property
    def type_ids(self) -> list[int]:
        frame = self._frame
        texts = [[kind] * count for kind, count in zip(frame.types, self._kept, strict=True)]
        return [*frame.before[1], *texts[0], *frame.between[1], *texts[1], *frame.after[1]]

    def __len__(self) -> int:
        return sum(self._kept) + self._frame.added


def room_for(first: int, second: int, room: int, truncation: str) -> tuple[int, int] | None:
    """How many tokens of two texts are kept where ``room``, 2 or more, is there for both: as the
    tokenizers library has it for ``longest_first`` and ``only_first``.

    None where a text that may not be cut leaves nothing for the other.
    """
    if first + second <= room:
        return first, second
    if truncation == "only_first":
        return (room - second, second) if second < room else None
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def _special(rows: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [row[0] for row in rows], [row[1] for row in rows]
