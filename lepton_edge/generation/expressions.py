"""What a text may be, as a value: characters, and how pieces of text make up others.

Regular expressions (`regular`) and JSON schemas (`schema`) become these, and `grammar` writes them
down for whoever holds a model to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Range = tuple[int, int]
"""The first and the last of some characters, as Unicode numbers them."""

_FIRST, _LAST = 1, 0x10FFFF  # a text has no NUL: it ends texts in many places
_SURROGATES = (0xD800, 0xDFFF)  # numbers that are no characters


@dataclass(frozen=True)
class Text:
    """This text, which is not empty."""

    text: str


@dataclass(frozen=True)
class Characters:
    """One of these characters. ``ranges`` are in order and do not touch; make it with
    `characters`."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Series:
    """One after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """One of these; of none, no text at all."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """As often as from ``least`` to ``most``, which is None for no limit."""

    part: Expression
    least: int
    most: int | None


@dataclass(frozen=True)
class Lexeme:
    """A regular expression whose texts are read in one piece: of a JSON text, one of its tokens. It
    is known where each ends, as no other one begins with it and goes on as what follows it does."""

    part: Expression


@dataclass(frozen=True)
class Rule:
    """What stands under a name in `Rules`."""

    name: str


Expression = Text | Characters | Series | Choice | Repeat | Lexeme | Rule

EMPTY = Series(())
"""The empty text."""
NOTHING = Choice(())
"""No text at all, not the empty one either."""


@dataclass(frozen=True)
class Rules:
    """What a text may be (``start``), and what its rules stand for, which may name each other."""

    start: Expression
    named: Mapping[str, Expression]


def text(value: str) -> Expression:
    return Text(value) if value else EMPTY


def characters(ranges: Iterable[Range]) -> Expression:
    """One character of some ranges, in any order, without what is none of a text."""
    found: list[Range] = []
    for first, last in sorted(_without(common(ranges, (_FIRST, _LAST)), _SURROGATES)):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return Characters(tuple(found)) if found else NOTHING


def others(ranges: Iterable[Range]) -> list[Range]:
    """The characters that are not in these."""
    left: list[Range] = [(_FIRST, _LAST)]
    for each in ranges:
        left = list(_without(left, each))
    return left


def common(ranges: Iterable[Range], kept: Range) -> list[Range]:
    """What of some ranges is in another one."""
    pairs = ((max(first, kept[0]), min(last, kept[1])) for first, last in ranges)
    return [(first, last) for first, last in pairs if first <= last]


def _without(ranges: Iterable[Range], taken: Range) -> Iterator[Range]:
    for first, last in ranges:
        if first < taken[0]:
            yield first, min(last, taken[0] - 1)
        if last > taken[1]:
            yield max(first, taken[1] + 1), last


ANY = Characters(((_FIRST, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, _LAST)))
"""Any character."""


def series(*parts: Expression) -> Expression:
    """One after another, written as simply as possible."""
    found: list[Expression] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        found += part.parts if isinstance(part, Series) else (part,)
    return found[0] if len(found) == 1 else Series(tuple(found))


def choice(*parts: Expression) -> Expression:
    """One of these, written as simply as possible."""
    found: dict[Expression, None] = {}
    for part in parts:
        found.update(dict.fromkeys(part.parts if isinstance(part, Choice) else (part,)))
    return next(iter(found)) if len(found) == 1 else Choice(tuple(found))


def repeat(part: Expression, least: int, most: int | None) -> Expression:
    """As often as that, written as simply as possible."""
    if part in (NOTHING, EMPTY) or most == 0:
        return NOTHING if part == NOTHING and least else EMPTY
    return part if (least, most) == (1, 1) else Repeat(part, least, most)


def lexeme(part: Expression) -> Expression:
    return part if part == NOTHING else Lexeme(part)


def optional(part: Expression) -> Expression:
    return repeat(part, 0, 1)


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, (Series, Choice)):
        return expression.parts
    return (expression.part,) if isinstance(expression, (Repeat, Lexeme)) else ()


def lengths(expression: Expression) -> tuple[int, int | None]:
    """The fewest and the most characters of what a regular expression takes, which is something;
    None for no limit."""
    if isinstance(expression, Text):
        return len(expression.text), len(expression.text)
    found = [lengths(part) for part in parts_of(expression)]
    leasts = [least for least, _ in found]
    mosts = [most for _, most in found if most is not None]
    limited = len(mosts) == len(found)
    if isinstance(expression, Repeat):
        limited = limited and expression.most is not None
        return leasts[0] * expression.least, mosts[0] * (expression.most or 0) if limited else None
    if isinstance(expression, Series):
        return sum(leasts), sum(mosts) if limited else None
    if isinstance(expression, Choice):
        return min(leasts), max(mosts) if limited else None
    return 1, 1


def of_length(expression: Expression, least: int, most: int | None) -> Expression | None:
    """What a regular expression takes that is so many characters long, `NOTHING` where none is;
    None where it would take more than other counts of one of its repetitions to say so."""
    fewest, longest = lengths(expression)
    if (most is not None and fewest > most) or (longest is not None and longest < least):
        return NOTHING
    if fewest >= least and (most is None or (longest is not None and longest <= most)):
        return expression
    if isinstance(expression, Choice):
        found = [of_length(part, least, most) for part in expression.parts]
        kept = [part for part in found if part is not None]
        return choice(*kept) if len(kept) == len(found) else None
    if isinstance(expression, Repeat):
        size, largest = lengths(expression.part)
        if size != largest:
            return None
        fits = [each for each in (expression.most, most and most // size) if each is not None]
        least = max(expression.least, -(-least // size))
        return repeat(expression.part, least, min(fits, default=None))
    if isinstance(expression, Series):
        return _series_of_length(expression.parts, least, most)
    return None


def _series_of_length(
    parts: tuple[Expression, ...], least: int, most: int | None
) -> Expression | None:
    sizes = [lengths(part) for part in parts]
    varying = [place for place, (fewest, longest) in enumerate(sizes) if fewest != longest]
    if len(varying) != 1:
        return None
    place = varying[0]
    rest = sum(fewest for fewest, _ in sizes) - sizes[place][0]
    part = of_length(parts[place], max(least - rest, 0), None if most is None else most - rest)
    return None if part is None else series(*parts[:place], part, *parts[place + 1 :])


def size(expression: Expression) -> int:
    """How many characters the longest text has, where what is repeated without a limit is there
    once, or as often as it has to be, and a rule is one character."""
    if isinstance(expression, Text):
        return len(expression.text)
    if isinstance(expression, Repeat):
        return size(expression.part) * max(expression.least, expression.most or 1)
    found = list(map(size, parts_of(expression)))
    if isinstance(expression, Choice):
        return max(found, default=0)
    return sum(found) if isinstance(expression, (Series, Lexeme)) else 1


def count(expression: Expression) -> int:
    """Of how many lexemes, rules and what joins them it is made. A choice of lexemes is one."""
    if isinstance(expression, (Lexeme, Rule)):
        return 1
    if isinstance(expression, Choice) and all(
        isinstance(each, Lexeme) for each in expression.parts
    ):
        return 1
    return 1 + sum(map(count, parts_of(expression)))


def pruned(rules: Rules) -> Rules:
    """The same, without what no text ever ends: its start is `NOTHING` where no text is left."""
    ending: set[str] = set()
    left, before = list(rules.named), -1
    while len(ending) > before:
        before = len(ending)
        left.reverse()  # a chain of rules takes two rounds, whichever way it goes
        for name in left:
            if _ends(rules.named[name], ending):
                ending.add(name)
        left = [name for name in left if name not in ending]
    named = {name: _kept(each, ending) for name, each in rules.named.items() if name in ending}
    return Rules(_kept(rules.start, ending), named)


def _ends(expression: Expression, ending: set[str]) -> bool:
    """Whether some text of it ends, if those of these rules do."""
    if isinstance(expression, Rule):
        return expression.name in ending
    if isinstance(expression, Choice):
        return any(_ends(part, ending) for part in expression.parts)
    if isinstance(expression, Lexeme) or (isinstance(expression, Repeat) and not expression.least):
        return True
    return all(_ends(part, ending) for part in parts_of(expression))


def _kept(expression: Expression, ending: set[str]) -> Expression:
    if isinstance(expression, Rule):
        return expression if expression.name in ending else NOTHING
    if isinstance(expression, Series):
        return series(*(_kept(part, ending) for part in expression.parts))
    if isinstance(expression, Choice):
        return choice(*(_kept(part, ending) for part in expression.parts))
    if isinstance(expression, Repeat):
        return repeat(_kept(expression.part, ending), expression.least, expression.most)
    return expression
