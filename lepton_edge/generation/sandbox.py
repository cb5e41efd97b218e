"""Jinja templates of unknown makers: no files, no attributes of Python, and an end to their work.

Jinja's sandbox keeps a template from Python and leaves its time and memory alone. Here each
rendering has a budget: loops, calls and filters cost a step, and text costs its characters. What
one operation could make large at once, such as ``'x' * n``, is refused before it is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from string import Formatter
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.environment import Environment, Template
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.runtime import Context

# The characters that a rendering may make, all in all, and what a step counts as: a million steps.
# A conversation of a thousand messages takes some twenty thousand.
BUDGET = 32_000_000
_STEP = 32
_LONGEST = 16_000_000  # of a text that one operation makes
_MOST_BITS = 4096  # of a number
_ITEM = 8  # what one of a list counts as that is looked at by itself
_WIDEST = 64  # of an indentation, and the most digits to round to
_MOST_ITEMS = 100_000  # of an iterator, whose length nobody knows: the sandbox's limit for ranges
# What makes more text than it is given: by a number, or one of its texts for each part of another.
_GROWING = {"batch", "center", "expandtabs", "indent", "join", "ljust", "replace", "rjust"}
_GROWING |= {"slice", "urlize", "wordwrap", "zfill"}
_UNSAFE = {"translate", "to_bytes"}  # any text for each character; any number of bytes
_WIDE_PERCENT = re.compile(r"%[-+ #.\d]*(\*|\d{7})")
_WIDE_FIELD = re.compile(r"[{]|\d{7}")
_LENGTHY = (str, bytes, list, tuple, dict, range)


class RefusedError(Exception):
    """A template called ``raise_exception``."""


class ExhaustedError(Exception):
    """A template did more than a rendering may."""


class _Budget:
    def __init__(self) -> None:
        self.left = BUDGET

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise ExhaustedError


_budget: ContextVar[_Budget] = ContextVar("_budget")


@contextmanager
def budget() -> Iterator[None]:
    """What is compiled or rendered here may cost `BUDGET` in all. Raises `ExhaustedError`."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(text: str) -> str:
    """A piece of a rendering, paid for. Raises `ExhaustedError`."""
    _budget.get().spend(len(text))
    return text


def compile_template(source: str) -> tuple[Template, frozenset[str]]:
    """The template, and the variables that it reads. Call it, and render, within `budget`.

    Raises what Jinja raises for a source that is no template; ``TemplateSyntaxError`` also for one
    that takes in another file.
    """
    from jinja2 import TemplateSyntaxError, nodes

    environment = _environment()
    tree = environment.parse(source)
    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        for found in tree.find_all(kind):
            raise TemplateSyntaxError("it takes in another file", found.lineno)
    reads = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    _count(tree)
    tree.set_environment(environment)
    code = environment.compile(tree)
    template = environment.template_class.from_code(
        environment, code, environment.make_globals(None)
    )
    return template, frozenset(reads)


def _environment() -> Environment:
    """What chat templates may rely on: that of transformers (``utils/chat_template_utils.py``)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Names(Namespace):
        def __repr__(self) -> str:  # without what is in it, which may have no end
            return "<Namespace>"

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            _check_operator(operator, left, right)
            return _paid(super().call_binop(context, operator, left, right))

        def call(self, context: Context, function: Any, /, *args: Any, **named: Any) -> Any:
            _check_call(function, args, named)
            return _paid(super().call(context, function, *args, **named))

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in _UNSAFE and super().is_safe_attribute(obj, attr, value)

        @property
        def step(self) -> None:
            """Of a loop. A property, since a call from a template takes ten times as long."""
            _budget.get().spend(_STEP)

        joined = staticmethod(_joined)
        weighed = staticmethod(_weighed)

    environment = Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _generation_tag()],
    )
    environment.concat = _joined  # type: ignore[method-assign]
    filters = {**environment.filters, "tojson": _to_json}
    environment.filters = {name: _bounded(name, each) for name, each in filters.items()}
    del environment.globals["lipsum"]
    environment.globals.update(namespace=Names, raise_exception=_refuse, strftime_now=_now)
    return environment


def _generation_tag() -> type[Extension]:
    """``{% generation %}``, by which training knows what a model is to learn. Here only a scope."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # as the base class has it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _count(node: nodes.Node) -> None:
    """Put into a tree what counts its steps, and what it builds without calling anything."""
    from jinja2 import nodes

    def changed(child: Any) -> Any:
        if not isinstance(child, nodes.Node):
            return child
        _count(child)
        if isinstance(child, nodes.Concat):
            return _environment_call("joined", child.lineno, nodes.List(child.nodes))
        if isinstance(child, (nodes.List, nodes.Dict, nodes.Tuple)):
            is_target = isinstance(child, nodes.Tuple) and child.ctx != "load"
            return child if is_target else _environment_call("weighed", child.lineno, child)
        return child

    for name, value in node.iter_fields():
        each = [changed(item) for item in value] if isinstance(value, list) else changed(value)
        setattr(node, name, each)
    if isinstance(node, nodes.For):
        step = nodes.EnvironmentAttribute("step", lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))


def _environment_call(method: str, line: int, *args: nodes.Expr) -> nodes.Call:
    from jinja2 import nodes

    attribute = nodes.EnvironmentAttribute(method)
    return nodes.Call(attribute, list(args), [], None, None, lineno=line)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it reads and makes."""

    @wraps(function)
    def filtered(*args: Any, **named: Any) -> Any:
        _budget.get().spend(_STEP + sum(map(_length, args)) // _STEP)
        if name == "format":
            _check_format(args[0])
        elif name == "round":
            _check_widths((*args[1:], *named.values()))
        elif name in _GROWING:
            _check_growth(name, args, named)
        return _paid(function(*args, **named))

    return filtered


def _check_call(function: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    _budget.get().spend(_STEP)
    if isinstance(function, type):  # dict and namespace hold what they are given
        _weighed([*args, *named.values()])
    owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
    if isinstance(owner, (str, bytes)):
        _budget.get().spend(len(owner) // _STEP)
        if isinstance(owner, str) and function.__name__ in ("format", "format_map"):
            _check_fields(owner)
        elif function.__name__ in _GROWING:
            _check_growth(function.__name__, (owner, *args), named)


def _check_operator(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if operator == "**" and bits * max(right, 1) > _MOST_BITS:
            raise ExhaustedError
        if operator == "*" and bits + right.bit_length() > _MOST_BITS:
            raise ExhaustedError
    elif operator == "*":
        _check_growth(operator, (left, right))
    elif operator == "%":
        _check_format(left)


def _check_format(text: object) -> None:
    if isinstance(text, str) and _WIDE_PERCENT.search(text):
        raise ExhaustedError


def _check_fields(text: str) -> None:
    for _, _, width, _ in Formatter().parse(text):
        if width and _WIDE_FIELD.search(width):
            raise ExhaustedError


def _check_widths(values: Iterable[object]) -> None:
    for value in values:
        if (abs(value) if isinstance(value, int) else _length(value)) > _WIDEST:
            raise ExhaustedError


def _check_growth(name: str, args: Sequence[object], named: Mapping[str, object] = {}) -> None:
    """The first of some values may be repeated by the largest of the others."""
    sizes = [
        abs(value) if isinstance(value, int) else _length(value)
        for value in (*args, *named.values())
        if isinstance(value, (int, Iterator, *_LENGTHY))  # what Jinja adds is none of these
    ]
    if name == "replace" and not named:
        sizes[1:2] = []  # what is taken out adds nothing
    if sizes and sizes[0] * max(sizes[1:], default=1) > _LONGEST:
        raise ExhaustedError


def _length(value: object) -> int:
    if isinstance(value, _LENGTHY):
        return len(value)
    return _MOST_ITEMS if isinstance(value, Iterator) else 0


def _paid(value: Any) -> Any:
    """A result, paid for: each character of a text, each item of a list."""
    if isinstance(value, _LENGTHY):
        _budget.get().spend(len(value))
    return value


def _weighed(value: Any) -> Any:
    """What a template built of values, paid for by all that is in it, each as often as it is:
    a list that holds one list twice, and that another twice, would have no end when written."""
    within = [value]
    while within:
        each = within.pop()
        if isinstance(each, (list, tuple, dict)):
            _budget.get().spend(len(each) * _ITEM)
            within += each.values() if isinstance(each, dict) else each
    return value


def _joined(values: Iterable[Any]) -> str:
    parts = [str(value) for value in values]
    _budget.get().spend(sum(map(len, parts)))
    return "".join(parts)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without Jinja's escapes for HTML."""
    _check_widths((indent, *(separators or ())))
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> NoReturn:
    raise RefusedError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)
