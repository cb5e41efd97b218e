"""A long text behind a short one, as overlapping sequences that a model reads one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge.runtime.text import Tokens

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True, slots=True)
class Window(Tokens):
    """The whole of a first text and a part of a second.

    ``encoding`` is that of both texts, uncut: its tokens from ``start`` up to ``end`` are those
    of the second text that are read here, and stand from ``place`` on in the sequence.
    """

    place: int = 0
    start: int = 0
    end: int = 0


def span_of(encoding: Encoding, sequence: int) -> tuple[int, int]:
    """Where the tokens of one of several texts begin and end; equal where it has none."""
    owners = encoding.sequence_ids
    count = owners.count(sequence)
    start = owners.index(sequence) if count else 0
    return start, start + count


def cut(encoding: Encoding, span: tuple[int, int], room: int, stride: int) -> list[Window]:
    """As many windows as the second text's tokens, at ``span``, need.

    Each holds up to ``room`` of them, and shares ``stride`` with the one before: the places where
    the tokenizers library cuts.
    """
    ids, types = encoding.ids, encoding.type_ids
    begin, stop = span
    windows = []
    for start in range(begin, stop, room - stride):
        end = min(start + room, stop)
        windows.append(
            Window(
                [*ids[:begin], *ids[start:end], *ids[stop:]],
                [*types[:begin], *types[start:end], *types[stop:]],
                False,
                encoding,
                begin,
                start,
                end,
            )
        )
        if end == stop:
            break
    return windows
