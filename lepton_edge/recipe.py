"""A recipe: YAML, data only, parsed once into a frozen `Recipe`.

Unknown keys and wrong values are refused with file, line and the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from lepton_edge import registry
from lepton_edge.backend import Precision
from lepton_edge.errors import RecipeError
from lepton_edge.tasks import TASKS, task_class

_MAX_BYTES = 1024 * 1024
_Location = tuple[str | int, ...]
_Lines = dict[_Location, int]
_Options = TypeVar("_Options")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Source(_Section):
    """The model to build from: exactly one of `path`, `hub` and `onnx`."""

    path: str | None = None
    """A Hugging Face folder. A relative path starts at the recipe's folder."""
    hub: str | None = None
    """A hub id, `organization/name`, downloaded by the build and by nothing else."""
    onnx: str | None = None
    """An ONNX file. A relative path starts at the recipe's folder."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit of a hub model: 40 hexadecimal digits. Required with `hub`."""
    tokenizer: str | None = None
    """With `onnx`: the folder with the tokenizer (and config.json), if not the file's own."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the weights must hash to, as `inspect` shows it; other weights are refused."""

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [key for key in ("path", "hub", "onnx") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of path, hub and onnx; given: {', '.join(given) or 'none'}")
        if self.hub and not self.revision:
            raise ValueError("a hub model needs its revision: a commit, 40 hexadecimal digits")
        if self.revision and not self.hub:
            raise ValueError("revision goes with hub")
        if self.tokenizer and not self.onnx:
            raise ValueError("tokenizer goes with onnx")
        return self


class Text(_Section):
    """How text becomes tokens."""

    max_length: Annotated[int, Field(ge=4)] | None = None
    """The longest input in tokens; the model's own limit where it is absent."""
    on_long_text: Literal["truncate", "refuse"] = "truncate"
    """A longer text is cut and flagged in its result, or refused with an error."""
    max_characters: Annotated[int, Field(ge=1)] = 100_000
    """A text of more characters is refused before it is tokenized."""


class Parity(_Section):
    """How far the compiled model may be from the original before the build fails."""

    sample: tuple[str, ...] = ()
    """Texts to compare on; built-in sentences where it is empty."""
    max_error: Annotated[float, Field(gt=0)] | None = None
    """Largest absolute difference of an output element."""
    mean_error: Annotated[float, Field(gt=0)] | None = None
    """Mean absolute difference of the output elements."""
    min_cosine: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest cosine of a text's outputs. Where absent: 0.9999 for fp32; otherwise 0.99 for
    embeddings and none for labels (two logits near zero turn far on a small error)."""
    mean_cosine: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mean cosine of the texts' outputs; where absent 0.9999 for fp32, 0.99 otherwise."""
    equal_labels: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest share of texts with equal labels; where absent 1.0 for fp32, 0.95 otherwise."""


class Recipe(_Section):
    """What to build, from what, and how good it must be."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """Name of the bundle: lower-case letters, digits, `.`, `_` and `-`."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+([+-][0-9A-Za-z.-]+)?$")] = "1.0.0"
    """Version of the bundle, such as 1.0.0."""
    description: str = ""
    """One line for people."""
    license: str | None = None
    """The model's licence (SPDX); the model card's where it is absent."""
    source: Source | None = None
    """The model; a bare string is a `path`. Absent only where Python passes the model."""
    task: str | None = None
    """What the model does; worked out from the model's architecture where it is absent."""
    precision: Precision = "auto"
    """Number format. `auto`: half-precision weights and the fastest arithmetic of the device
    that runs it. `fp32`, `fp16`, `bf16`: weights and arithmetic in that format."""
    text: Text = Text()
    """How text becomes tokens."""
    parity: Parity = Parity()
    """How far the compiled model may be from the original."""
    task_options: dict[str, Any] = {}
    """The task's own block."""
    backends: dict[str, dict[str, Any]] = {}
    """Each backend's own block, by its name."""

    @field_validator("source", mode="before")
    @classmethod
    def _bare_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str | None) -> str | None:
        if value is not None and value not in TASKS:
            raise ValueError(f"unknown task{_guess(value, TASKS)}; known: {', '.join(TASKS)}")
        return value

    @model_validator(mode="after")
    def _options_need_a_task(self) -> Recipe:
        if self.task_options and not self.task:
            raise ValueError("task_options needs task")
        return self

    def options_of_task(self, task: str) -> Any:
        """The task's block as the task's ``Options``. Raises pydantic's ``ValidationError``."""
        return _validated(task_class(task).Options, self.task_options)

    def options_of_backend(self, backend: str) -> Any:
        """A backend's block as its ``Options``. Raises pydantic's ``ValidationError``."""
        return _validated(registry.get(backend).Options, self.backends.get(backend, {}))


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file. Relative paths in it start at its folder.

    Raises `RecipeError` with the file, the line and what to write instead.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe at {path}", hint="lepton-edge recipes lists the built-in ones"
        ) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    recipe = parse_recipe(data, str(path))
    if recipe.source is None:
        raise RecipeError(f"{path}: source is missing", hint="source: path/to/model")
    found = {
        key: str(path.parent / value)
        for key in ("path", "onnx", "tokenizer")
        if (value := getattr(recipe.source, key)) is not None
    }
    return recipe.model_copy(update={"source": recipe.source.model_copy(update=found)})


def parse_recipe(data: bytes | str, where: str = "recipe") -> Recipe:
    """Parse a recipe's YAML; ``where`` names it in errors. Raises `RecipeError`."""
    values, lines = _read_yaml(data, where)
    try:
        # Through JSON because strict JSON takes a list for a tuple and refuses "12" for 12.
        recipe = Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise _recipe_error(error, (), Recipe, lines, where) from None
    if recipe.task:
        try:
            recipe.options_of_task(recipe.task)
        except ValidationError as error:
            options = task_class(recipe.task).Options
            raise _recipe_error(error, ("task_options",), options, lines, where) from None
    installed = {entry.name for entry in registry.entries()}
    for name in recipe.backends:
        if name in installed:
            try:
                recipe.options_of_backend(name)
            except ValidationError as error:
                options = registry.get(name).Options
                raise _recipe_error(error, ("backends", name), options, lines, where) from None
        elif registry.how_to_install(name) is None:
            key = ("backends", name)
            raise RecipeError(
                f"{where}:{lines[key]}: unknown backend {name!r}{_guess(name, installed)}",
                hint="lepton-edge backends lists what is installed",
            )
    return recipe


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors and for the reference."""
    return Recipe.model_json_schema()


def options_schema(options: type) -> dict[str, Any]:
    """The JSON schema of a task's or backend's ``Options``."""
    return TypeAdapter(options).json_schema()


def _validated(options: type[_Options], values: dict[str, Any]) -> _Options:
    return TypeAdapter(options).validate_json(json.dumps(values), strict=True)


def _recipe_error(
    error: ValidationError, above: _Location, model: type, lines: _Lines, where: str
) -> RecipeError:
    """All faults that pydantic found, each with its line, as one error."""
    messages = []
    for fault in error.errors():
        location = (*above, *fault["loc"])
        # A missing key has no line of its own: name the line of what it is missing from.
        line = next(
            lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines
        )
        key = ".".join(str(part) for part in location)
        messages.append(f"{where}:{line}: {_explain(fault, key, model)}")
    return RecipeError(
        "\n".join(messages), hint="docs/recipes.md lists every key; lepton-edge recipes, examples"
    )


def _explain(fault: Any, key: str, model: type) -> str:
    kind, value = fault["type"], fault["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _keys(model, fault["loc"][:-1])
        return f"unknown key {key!r}{_guess(str(fault['loc'][-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing"
    if kind == "value_error":  # raised by a validator above: its own words
        text = str(fault["ctx"]["error"])
        return f"{key}: {text}" if key else text
    quote = " (quote it)" if kind == "string_type" and isinstance(value, (int, float)) else ""
    shown = value if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"{key} is {shown!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}{quote}"


def _keys(model: type, location: _Location) -> list[str]:
    """The keys that the section at ``location`` below ``model`` may have."""
    for part in location:
        fields = getattr(model, "model_fields", {})
        inner = fields[part].annotation if part in fields else None
        sections = [kind for kind in (inner, *get_args(inner)) if hasattr(kind, "model_fields")]
        if not sections:
            return []
        model = sections[0]
    if dataclasses.is_dataclass(model):
        return [field.name for field in dataclasses.fields(model)]
    return list(getattr(model, "model_fields", {}))


def _guess(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _read_yaml(data: bytes | str, where: str) -> tuple[dict[str, Any], _Lines]:
    """The document as plain values, and the line of every key and item by its location."""
    if len(data) > _MAX_BYTES:
        raise RecipeError(f"{where} has {len(data):,} bytes; a recipe has at most {_MAX_BYTES:,}")
    lines: _Lines = {(): 1}
    try:
        for token in yaml.scan(data, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):  # a few lines of these can expand without end
                raise RecipeError(
                    f"{where}:{token.start_mark.line + 1}: YAML aliases are not allowed in a recipe"
                )
        root = yaml.compose(data, Loader=yaml.SafeLoader)
        values = _plain(root, (), lines, where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise RecipeError(f"{where}: nested too deeply") from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where}:1: a recipe is a mapping of keys to values",
            hint="start with name, source and task; lepton-edge recipes has examples",
        )
    return values, lines


def _plain(node: yaml.Node | None, location: _Location, lines: _Lines, where: str) -> Any:
    if node is None:
        return None
    line = node.start_mark.line + 1
    lines.setdefault(location, line)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, f"{where}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, i), lines, where) for i, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{where}:{line}: a key must be plain text")
        key = key_node.value
        if key in values:
            raise RecipeError(f"{where}:{line}: the key {key!r} is given twice")
        place = (*location, key)
        lines[place] = line
        values[key] = _plain(value_node, place, lines, where)
    return values


def _scalar(node: yaml.ScalarNode, where: str) -> str | int | float | bool | None:
    """A scalar by YAML's own rules; dates stay text, tags that make objects are refused."""
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind in ("str", "timestamp"):
        return str(node.value)
    if kind not in ("int", "float", "bool", "null"):
        raise RecipeError(f"{where}: the YAML tag {node.tag} is not allowed in a recipe")
    try:
        value: str | int | float | bool | None = yaml.SafeLoader("").construct_object(node)
    except (ValueError, yaml.YAMLError):  # such as an explicit tag on text: !!int x
        raise RecipeError(f"{where}: {node.value!r} is not a valid {kind}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {node.value!r} is not a finite number")
    return value
