"""A recipe: YAML, data only, parsed once into a frozen `Recipe`.

Unknown keys and wrong values are refused with file, line and the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lepton_edge import registry
from lepton_edge.backend import Precision
from lepton_edge.document import MAX_BYTES, Lines, Location, read_document, shown
from lepton_edge.errors import RecipeError
from lepton_edge.tasks import TASKS, task_class

_Fault = tuple[int, str]
_Options = TypeVar("_Options")
_NotEmpty = Annotated[str, Field(min_length=1)]
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_HINT = "lepton-edge recipes shows examples; lepton-edge recipes --schema, every key"


# Of a task's options: paths, which start at the recipe's folder.
_FILES = ("chat_template",)

# YAML takes 1e-3 for text: it wants a point, and a sign in the exponent. Nobody else does.
_EXPONENT = re.compile(r"[-+]?[0-9]+\.?[0-9]*[eE][-+]?[0-9]+")


def _number(value: object) -> object:
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


_SOURCES = ("path", "hub", "onnx", "openvino_ir")
_Error = Annotated[float, BeforeValidator(_number), Field(gt=0)]
_Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Source(_Section):
    """The model to build from: exactly one of `path`, `hub`, `onnx` and `openvino_ir`."""

    path: _NotEmpty | None = None
    """A Hugging Face folder. A relative path starts at the recipe's folder."""
    hub: _NotEmpty | None = None
    """A hub id, `organization/name`, downloaded by the build and by nothing else."""
    onnx: _NotEmpty | None = None
    """An ONNX file. A relative path starts at the recipe's folder."""
    openvino_ir: _NotEmpty | None = None
    """A folder with a decoder that another exporter made: openvino_model.xml, tokenizer.json,
    config.json. For families that this one does not export. A relative path starts at the recipe's
    folder."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit of a hub model: 40 hexadecimal digits. Required with `hub`."""
    tokenizer: _NotEmpty | None = None
    """With `onnx`: the folder with the tokenizer (and config.json), if not the file's own."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the weights must hash to, as `inspect` shows it; other weights are refused."""

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [key for key in _SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of {', '.join(_SOURCES)}; given: {', '.join(given) or 'none'}"
            )
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
    """How far the compiled model may be from the original before the build fails.

    Where `quality` has data, the task's metric is the judge, and of these only fp32's limits and
    those that the recipe names apply.
    """

    sample: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    """Texts to compare on; built-in sentences where it is empty."""
    max_error: _Error | None = None
    """Largest absolute difference of an output element."""
    mean_error: _Error | None = None
    """Mean absolute difference of the output elements."""
    min_cosine: _Share | None = None
    """Smallest cosine of a text's outputs. Where absent: 0.9999 for fp32; for embeddings 0.99, with
    int8 0.97; none for labels (two logits near zero turn far on a small error)."""
    mean_cosine: _Share | None = None
    """Mean cosine of the texts' outputs. Where absent: 0.9999 for fp32, otherwise 0.99; with int8
    0.97 for embeddings and none for labels."""
    equal_labels: _Share | None = None
    """Smallest share of texts, or of tokens, with equal labels; where absent 1.0 for fp32, 0.9 for
    int8, otherwise 0.95."""


class _Rows(_Section):
    """Examples in a file."""

    data: _NotEmpty | None = None
    """A .jsonl or .csv file. A relative path starts at the recipe's folder."""
    columns: dict[str, _NotEmpty] = {}
    """The file's column for each field, such as `{text: review}`, where it has another name."""
    parameters: dict[str, Any] = {}
    """What each call is given, such as `candidate_labels` of zero-shot-classification."""


class Calibration(_Rows):
    """What INT8 takes the ranges of a model's numbers from: texts like those it will meet."""

    samples: Annotated[int, Field(ge=1)] = 300
    """How many rows are used, spread over the file."""


class Quality(_Rows):
    """How good the compiled model must be at its task, beside the original."""

    metric: str | None = None
    """The task's first metric where it is absent: `docs/tasks.md` lists them."""
    max_drop: Annotated[float, BeforeValidator(_number), Field(ge=0, le=100)] = 1.0
    """How many points (hundredths) of the metric may be lost."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """How many rows are used, spread over the file; all where it is absent."""
    compare: tuple[Precision, ...] = ("fp32", "auto")
    """Other precisions that the quality report shows beside the one that is built."""
    max_perplexity_ratio: Annotated[float, BeforeValidator(_number), Field(ge=1)] | None = None
    """With models that generate: how many times the original's the perplexity on `data` (a column
    `text`; a built-in text where it is absent) may be. Where absent: 1.001 for fp32, 1.05 for
    int8-weights, 1.5 for int4-weights, otherwise 1.02. With translation, summarization and
    text2text-generation, it is of the column `target` after `text`; without one, of the original's
    own greedy answers."""
    min_equal_tokens: _Share | None = None
    """With models that generate: the smallest share of equal tokens, place by place, where the
    compiled model and the original each continue prompts, or answer texts, greedily by up to 64.
    Where absent: 0.9 for fp32, otherwise 0: one other choice, however near, makes the rest another
    text."""


class Index(_Section):
    """Texts to search, embedded by the build and part of the bundle."""

    data: _NotEmpty
    """A .jsonl or .csv file. A relative path starts at the recipe's folder."""
    column: _NotEmpty = "text"
    """The column with the text; the others are kept beside it."""
    id_column: _NotEmpty | None = None
    """The column with the id; rows are numbered from 0 where it is absent."""
    dtype: Literal["float32", "float16"] = "float32"
    """How vectors are stored."""
    kind: Literal["exact", "approximate"] = "exact"
    """How they are searched; `approximate` is for more than about a million."""


class Recipe(_Section):
    """What to build, from what, and how good it must be."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """Name of the bundle: lower-case letters, digits, `.`, `_` and `-`."""
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+([+-][0-9A-Za-z.-]+)?$")] = (
        "1.0.0"
    )
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
    """Number format. `auto`: 16-bit weights and the fastest arithmetic of the device that runs it.
    `fp32`: both in 32 bits. `fp16`, `bf16`: 16-bit weights, and arithmetic as near to that format
    as the device does well. `int8`: weights and arithmetic in 8 bits, with ranges measured on the
    calibration data. `int8-weights`: weights in 8 bits, arithmetic as with `auto`.
    `int4-weights`: weights in 4 bits, in groups with a scale each, embeddings and the last layer in
    8: for text generation, where reading weights takes the time; encoders lose more by it."""
    text: Text = Text()
    """How text becomes tokens."""
    parity: Parity = Parity()
    """How far the compiled model may be from the original."""
    calibration: Calibration = Calibration()
    """What `int8` is calibrated on."""
    quality: Quality = Quality()
    """How good the compiled model must be at its task."""
    index: Index | None = None
    """With feature-extraction: texts to search, as a part of the bundle."""
    adapters: dict[AdapterName, _NotEmpty] = {}
    """With text-generation: LoRA adapters by name, each a safetensors file or a folder of PEFT's.
    They become a part of the bundle, and a call chooses among them."""
    task_options: dict[str, Any] = {}
    """The task's own block."""
    backends: dict[str, dict[str, Any]] = {}
    """Each backend's own block, by its name."""

    @field_validator("source", mode="before", json_schema_input_type=Source | str | None)
    @classmethod
    def _bare_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str | None) -> str | None:
        if value is not None and value not in TASKS:
            raise ValueError(f"unknown {value!r}; known: {', '.join(TASKS)}{_guess(value, TASKS)}")
        return value

    @field_validator("task_options")
    @classmethod
    def _options_need_a_task(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("task", "faulty") is None:
            raise ValueError("these belong to a task: name it with task")
        return value

    def changed(self, **changes: Any) -> Recipe:
        """This recipe with other values, validated again. Raises `RecipeError`."""
        try:
            return Recipe.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise self._error(error, (), Recipe) from None

    def options_of_task(self, task: str) -> Any:
        """The task's block as the task's ``Options``. Raises `RecipeError`."""
        options = task_class(task).Options
        try:
            return _validated(options, self.task_options)
        except ValidationError as error:
            raise self._error(error, ("task_options",), options) from None

    def options_of_backend(self, backend: str) -> Any:
        """A backend's block as its ``Options``. Raises `RecipeError` and `BackendError`."""
        options = registry.get(backend).Options
        try:
            return _validated(options, self.backends.get(backend, {}))
        except ValidationError as error:
            raise self._error(error, ("backends", backend), options) from None

    def _error(self, error: ValidationError, above: Location, model: type) -> RecipeError:
        """For a recipe that Python made: there are no lines to name."""
        faults = "; ".join(text for _, text in _faults(error, above, model, {(): 0}))
        return RecipeError(f"the recipe {self.name}: {faults}", hint=_HINT)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file. Relative paths in it start at its folder.

    Raises `RecipeError` with the file, the line and what to write instead.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # one more than allowed: enough to refuse it
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe at {path}", hint="lepton-edge recipes lists the built-in ones"
        ) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    recipe = parse_recipe(data, str(path))
    sections = {
        "source": ("path", "onnx", "openvino_ir", "tokenizer"),
        "calibration": ("data",),
        "quality": ("data",),
        "index": ("data",),
    }
    update: dict[str, Any] = {
        name: _from_folder(section, keys, path.parent)
        for name, keys in sections.items()
        if (section := getattr(recipe, name)) is not None
    }
    options = recipe.task_options
    files = {key: str(path.parent / options[key]) for key in _FILES if options.get(key)}
    update["adapters"] = {name: str(path.parent / each) for name, each in recipe.adapters.items()}
    return recipe.model_copy(update={**update, "task_options": {**options, **files}})


def _from_folder(section: _Section, keys: Iterable[str], folder: Path) -> _Section:
    """The section with its relative paths starting at that folder."""
    found = {
        key: str(folder / value) for key in keys if (value := getattr(section, key)) is not None
    }
    return section.model_copy(update=found)


def parse_recipe(data: bytes | str, where: str = "recipe") -> Recipe:
    """Parse a recipe's YAML; ``where`` names it in errors.

    Raises `RecipeError` with every fault and its line, and `BackendError` where the recipe has a
    block for a backend that is installed and cannot be imported.
    """
    values, lines = read_document(data, where)
    faults: list[_Fault] = []
    recipe: Recipe | None = None
    try:
        # Through JSON because strict JSON takes a list for a tuple and refuses "12" for 12.
        recipe = Recipe.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        faults += _faults(error, (), Recipe, lines)
    faults += _option_faults(values, lines)
    if recipe is None or faults:
        messages = [f"{where}:{line}: {text}" for line, text in sorted(faults)]
        raise RecipeError("\n".join(messages), hint=_HINT)
    return recipe


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors and for the reference."""
    return Recipe.model_json_schema()


def options_schema(options: type) -> dict[str, Any]:
    """The JSON schema of a task's or backend's ``Options``."""
    return TypeAdapter(options).json_schema()


def _validated(options: type[_Options], values: dict[str, Any]) -> _Options:
    return TypeAdapter(options).validate_json(json.dumps(values), strict=True)


def _option_faults(values: dict[str, Any], lines: Lines) -> list[_Fault]:
    """The faults inside the blocks that belong to the task and to the backends."""
    faults: list[_Fault] = []
    blocks: list[tuple[Location, type, dict[str, Any]]] = []
    task, block = values.get("task"), values.get("task_options")
    if isinstance(task, str) and task in TASKS and isinstance(block, dict):
        blocks.append((("task_options",), task_class(task).Options, block))
    backends = values.get("backends")
    if isinstance(backends, dict) and backends:
        installed = {entry.name for entry in registry.entries()}
        for name, block in backends.items():
            key: Location = ("backends", name)
            if name in installed and isinstance(block, dict):
                blocks.append((key, registry.get(name).Options, block))
            elif name not in installed and registry.how_to_install(name) is None:
                known = ", ".join(sorted(installed)) or "none"
                text = f"unknown backend {name!r}; installed: {known}{_guess(name, installed)}"
                faults.append((lines[key], text))
    for above, options, block in blocks:
        try:
            _validated(options, block)
        except ValidationError as error:
            faults += _faults(error, above, options, lines)
    return faults


def _faults(error: ValidationError, above: Location, model: type, lines: Lines) -> list[_Fault]:
    """What pydantic found in the section at ``above``, in our words, each with its line."""
    faults = []
    for fault in error.errors():
        location = (*above, *fault["loc"])
        # A missing key has no line of its own: name the line of what it is missing from.
        line = next(
            lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines
        )
        key = ".".join(str(part) for part in location)
        key = key if key.isprintable() else repr(key)
        faults.append((line, _explain(fault, key, model)))
    return faults


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
    advice = ""
    if kind == "string_type" and isinstance(value, (int, float)):
        advice = " (quote it)"
    elif kind == "float_type" and isinstance(value, str) and _EXPONENT.fullmatch(value):
        advice = " (YAML takes this for text: write it as in 1.0e-3)"
    elif kind == "string_pattern_mismatch":
        about = _description(model, fault["loc"])
        advice = f" ({about})" if about else ""
    return f"{key} is {shown(value)}: {fault['msg'][0].lower()}{fault['msg'][1:]}{advice}"


def _keys(model: type, location: Location) -> list[str]:
    """The keys that the section at ``location`` below ``model`` may have."""
    section = _section(model, location)
    if dataclasses.is_dataclass(section):
        return [field.name for field in dataclasses.fields(section)]
    return list(getattr(section, "model_fields", {}))


def _description(model: type, location: Location) -> str:
    """What the recipe's reference says about a key."""
    fields = getattr(_section(model, location[:-1]), "model_fields", {})
    return str(fields[location[-1]].description).rstrip(".") if location[-1] in fields else ""


def _section(model: type, location: Location) -> type | None:
    """The class of the section at ``location`` below ``model``, if that is a section."""
    for part in location:
        fields = getattr(model, "model_fields", {})
        inner = fields[part].annotation if part in fields else None
        sections = [kind for kind in (inner, *get_args(inner)) if hasattr(kind, "model_fields")]
        if not sections:
            return None
        model = sections[0]
    return model


def _guess(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
