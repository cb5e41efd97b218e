"""Regular expressions: what Python, ECMAScript and Rust have in common.

Left out is what no grammar can hold a model to: look-around, back-references, word boundaries.
``\\d``, ``\\w`` and ``\\s`` stand for ASCII characters; ``\\D`` and ``\\W`` too, so that what they
take is the same in dialects that know of Unicode's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lepton_edge.errors import InputError
from lepton_edge.generation.expressions import (
    ANY,
    EMPTY,
    NOTHING,
    Expression,
    Range,
    characters,
    choice,
    common,
    others,
    repeat,
    series,
    size,
    text,
)

MOST_CHARACTERS = 1_000_000
"""That a text of a grammar may have, where nothing is repeated without a limit."""
_LONGEST = 10_000
_DEEPEST = 50
_SHOWN = 80

_ASCII = (0, 0x7F)
_DIGITS: tuple[Range, ...] = ((0x30, 0x39),)
_WORD: tuple[Range, ...] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: tuple[Range, ...] = ((0x09, 0x0D), (0x20, 0x20))
# Unicode's: what \s takes in some dialects, and \S in no dialect.
_EVERY_SPACE: tuple[Range, ...] = (
    *((0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_CLASSES = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _SPACE,
    "D": common(others(_DIGITS), _ASCII),
    "W": common(others(_WORD), _ASCII),
    "S": others(_EVERY_SPACE),
}
# What a class that is negated leaves out with each of them: all that it takes in any dialect.
_WIDEST = {
    "d": (*_DIGITS, (0x80, 0x10FFFF)),
    "w": (*_WORD, (0x80, 0x10FFFF)),
    "s": _EVERY_SPACE,
    "D": others(_DIGITS),
    "W": others(_WORD),
    "S": others(_SPACE),
}
_SURROGATES = (0xD800, 0xDFFF)
_LINE_ENDS: tuple[Range, ...] = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_HEX = {"x": 2, "u": 4}
_SPECIAL = "\\^$.|?*+()[]{}"
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUPS = (
    ("?:", None),
    ("?=", "looks ahead"),
    ("?!", "looks ahead"),
    ("?<=", "looks back"),
    ("?<!", "looks back"),
    ("?P=", "refers to a group"),
    ("?>", "has an atomic group"),
    ("?#", "has a comment"),
    ("?(", "depends on a group"),
)
_NAME = re.compile(r"\?P?<([A-Za-z_]\w*)>")


@dataclass(frozen=True)
class _Alternative:
    expression: Expression
    at_start: bool
    """Whether it says that it is the beginning of the text."""
    at_end: bool


def matching(source: str) -> Expression:
    """The texts that are a full match. Raises `InputError`."""
    found = choice(*(each.expression for each in _Parser(source).alternatives()))
    return _checked(found, source)


def containing(source: str) -> Expression:
    """The texts that have a match somewhere, as a JSON schema's ``pattern`` asks. Raises
    `InputError`."""
    anything = repeat(ANY, 0, None)
    found = choice(
        *(
            series(
                EMPTY if each.at_start else anything,
                each.expression,
                EMPTY if each.at_end else anything,
            )
            for each in _Parser(source).alternatives()
        )
    )
    return _checked(found, source)


def _checked(found: Expression, source: str) -> Expression:
    if found == NOTHING:
        raise InputError(f"no text matches the regular expression {_shown(source)}")
    if size(found) > MOST_CHARACTERS:
        raise InputError(
            f"the regular expression {_shown(source)} repeats too much: its longest text has "
            f"{size(found):,} characters, and {MOST_CHARACTERS:,} are allowed"
        )
    return found


def _shown(source: str) -> str:
    return repr(source if len(source) <= _SHOWN else f"{source[:_SHOWN]}…")


class _Parser:
    """Reads an expression from left to right. Raises `InputError`, with the place."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._place = 0
        self._depth = 0
        if len(source) > _LONGEST:
            raise InputError(
                f"the regular expression {_shown(source)} has {len(source):,} characters: it may "
                f"have {_LONGEST:,}"
            )
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in source):
            raise InputError(f"the regular expression {_shown(source)} is not Unicode text")

    def alternatives(self) -> list[_Alternative]:
        """The whole expression."""
        found = [self._alternative()]
        while self._take("|"):
            found.append(self._alternative())
        if self._place < len(self._source):
            raise self._error("has a ) that no ( begins")
        return found

    def _alternative(self) -> _Alternative:
        at_start = self._take("^")
        expression = self._sequence()
        at_end = self._take("$")
        if not self._next() or self._next() in "|)":
            return _Alternative(expression, at_start, at_end)
        raise self._error("has a $ before its end")

    def _group(self) -> Expression:
        """What is in parentheses, up to the closing one."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"has more than {_DEEPEST} groups in each other")
        start = self._place - 1
        self._begin_group()
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if not self._take(")"):
            self._place = start if not self._next() else self._place
            raise self._error(
                "has a $ inside of a group" if self._next() == "$" else "has a ( that no ) ends"
            )
        self._depth -= 1
        return choice(*parts)

    def _begin_group(self) -> None:
        if named := _NAME.match(self._source, self._place):
            self._place = named.end()
            return
        for opening, does in _GROUPS:
            if self._source.startswith(opening, self._place):
                if does:
                    raise self._error(f"{does}, which no grammar can")
                self._place += len(opening)
                return
        if self._next() == "?":
            raise self._error("has a group of a kind that is not known, or flags")

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while self._next() and self._next() not in "|)$":
            parts.append(self._quantified())
        return series(*parts)

    def _quantified(self) -> Expression:
        part = self._atom()
        count = self._quantifier()
        if count is None:
            return part
        if self._next() == "+":
            raise self._error("has a possessive quantifier, which no grammar can hold to")
        self._take("?")  # the shorter or the longer match first: the texts are the same
        if self._quantifier() is not None:
            raise self._error("repeats a repetition: put the inner one in parentheses")
        least, most = count
        if most is not None and most < least:
            raise self._error(f"repeats from {least} to {most} times")
        return repeat(part, least, most)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, count in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return count
        if self._next() != "{":
            return None
        found = _COUNT.match(self._source, self._place)
        if not found or not found[1] or len(found[0]) > 20:
            raise self._error(r"has a { that no number of repetitions follows: write \{")
        self._place = found.end()
        least = int(found[1])
        if not found[2]:
            return least, least
        return least, int(found[3]) if found[3] else None

    def _atom(self) -> Expression:
        sign = self._next()
        if sign == "^":
            raise self._error("has a ^ that is not at its beginning")
        if sign in "*+?":
            raise self._error(f"has a {sign} with nothing to repeat")
        if sign == "{":
            self._quantifier()
            raise self._error("has a { with nothing to repeat")
        self._place += 1
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._class()
        if sign == ".":
            return characters(others(_LINE_ENDS))
        if sign != "\\":
            return text(sign)
        if self._next() and self._next() in _CLASSES:
            return characters(_CLASSES[self._skip()])
        return text(chr(self._escaped()))

    def _class(self) -> Expression:
        """What is in brackets, up to the closing one."""
        start = self._place - 1
        negated = self._take("^")
        if self._next() == "]":
            raise self._error("has brackets with nothing in them: write \\] for the character")
        ranges: list[Range] = []
        while not self._take("]"):
            if not self._next():
                self._place = start
                raise self._error("has a [ that no ] ends")
            ranges += self._member(negated)
        return characters(others(ranges) if negated else ranges)

    def _member(self, negated: bool) -> list[Range]:
        """A character, a range or a class inside of brackets."""
        if (letter := self._class_letter()) is not None:
            return list((_WIDEST if negated else _CLASSES)[letter])
        first = self._character()
        if self._next() != "-" or self._source[self._place + 1 : self._place + 2] in ("]", ""):
            return [(first, first)]
        self._place += 1
        if self._class_letter() is not None:
            raise self._error("has a range that ends with a class of characters")
        last = self._character()
        if last < first:
            raise self._error(f"has a range from {chr(first)!r} back to {chr(last)!r}")
        return [(first, last)]

    def _class_letter(self) -> str | None:
        letter = self._source[self._place + 1 : self._place + 2]
        if self._next() != "\\" or letter not in _CLASSES:
            return None
        self._place += 2
        return letter

    def _character(self) -> int:
        character = self._skip()
        return self._escaped() if character == "\\" else ord(character)

    def _escaped(self) -> int:
        """The character that follows a backslash."""
        letter = self._next()
        if not letter:
            raise self._error("ends with a backslash")
        if letter in _CONTROLS:
            return ord(_CONTROLS[self._skip()])
        if letter in _HEX:
            digits = self._source[self._place + 1 : self._place + 1 + _HEX[letter]]
            if not re.fullmatch(rf"[0-9A-Fa-f]{{{_HEX[letter]}}}", digits):
                raise self._error(f"has \\{letter} without {_HEX[letter]} hexadecimal digits")
            number = int(digits, 16)
            if number == 0 or _SURROGATES[0] <= number <= _SURROGATES[1]:
                raise self._error(f"has \\{letter}{digits}, which is no character of a text")
            self._place += 1 + len(digits)
            return number
        if letter in "bBAZzG":
            raise self._error(f"has \\{letter}, a place between characters, which no grammar can")
        if letter.isdigit() or letter == "k":
            raise self._error("refers to a group, which no grammar can")
        if letter.isalnum():
            raise self._error(f"has \\{letter}, which is not known")
        return ord(self._skip())

    def _next(self) -> str:
        return self._source[self._place : self._place + 1]

    def _skip(self) -> str:
        character = self._next()
        self._place += 1
        return character

    def _take(self, sign: str) -> bool:
        if self._next() != sign:
            return False
        self._place += 1
        return True

    def _error(self, what: str) -> InputError:
        return InputError(
            f"the regular expression {_shown(self._source)} {what} (at {self._place})",
            hint=f"a character of {_SPECIAL} is meant as it is with a backslash before it",
        )
