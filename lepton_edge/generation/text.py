"""Tokens to text as they come, and the texts that end an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# How many tokens of a prompt the first token of its continuation is decoded with.
_BEFORE = 5
_UNFINISHED = "\ufffd"  # what a decoder gives for bytes that are no whole character yet


class Detokenizer:
    """The text of an answer, a piece for each new token.

    ``decode`` gives the text of some tokens, special ones left out. Most tokenizers decode a token
    differently at the beginning of a text, so a few earlier tokens are decoded with it, and text
    that ends within a character is kept until the next token. ``prompt`` is what the answer goes
    on from where it is one text with it; empty where an answer begins anew. ``shown`` are special
    tokens that are part of the text all the same, by id.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        prompt: Sequence[int] = (),
        shown: Mapping[int, str] | None = None,
    ) -> None:
        self._decode = decode
        self._shown = shown or {}
        self._tokens = list(prompt[-_BEFORE:])  # those that matter for the next one
        self._new = len(self._tokens)  # from here on their text was not given yet
        self._before: str | None = None  # the text up to there, once it was made

    def add(self, token: int) -> str:
        """The text that is certain with this token; empty where a character is not whole."""
        if token in self._shown:
            text = self.rest() + self._shown[token]
            self._tokens, self._new, self._before = [], 0, None
            return text
        self._tokens.append(token)
        before, whole = self._texts()
        if whole.endswith(_UNFINISHED):
            return ""
        self._tokens = self._tokens[self._new :]
        self._new, self._before = len(self._tokens), None
        return whole[len(before) :]

    def rest(self) -> str:
        """The text of what was kept: characters that never became whole among it."""
        before, whole = self._texts()
        self._new, self._before = len(self._tokens), whole
        return whole[len(before) :]

    def _texts(self) -> tuple[str, str]:
        """Of the tokens whose text was given, and of all."""
        if self._before is None:
            self._before = self._decode(self._tokens[: self._new])
        return self._before, self._decode(self._tokens)


class StopStrings:
    """Finds the first of some texts in a text that comes in pieces.

    `add` gives what is certainly before one of them, and keeps back what could be its beginning.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._kept = ""
        self.found = False

    def add(self, text: str) -> str:
        """More of the text; once ``found``, nothing more."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._kept + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._kept = True, ""
            return text[: min(places)]
        keep = max(_beginning(text, stop) for stop in self._stops)
        self._kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was kept, when the text is over."""
        kept, self._kept = self._kept, ""
        return kept


def _beginning(text: str, stop: str) -> int:
    """How many of the text's last characters are the first ones of ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
