"""Write the reference pages from the code: `make docs`. A test holds them to it.

Each field's description is the string under it in its class.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec
from pydantic import BaseModel

from lepton_edge import recipe, registry
from lepton_edge.backend import Compiled, TensorSpec
from lepton_edge.builder.quality.metrics import METRICS
from lepton_edge.bundle import manifest
from lepton_edge.cli import main as cli
from lepton_edge.generation.decoding import Decoding
from lepton_edge.tasks import TASKS, TEXT_TO_TEXT_TASKS, task_class
from lepton_edge.tasks.base import AnyTask
from lepton_edge.tasks.text_to_text import Frame, Language
from lepton_edge.tasks.translation import Pair

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it again. -->\n"


_MORE = {
    False: "[More about generating text](generation.md)",
    True: "[More about translating and summarizing](text-to-text.md)",
}


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {
        "recipes.md": _recipes(),
        "tasks.md": _tasks(),
        "bundles.md": _bundles(),
        "cli.md": _cli(),
    }


def _recipes() -> str:
    parts = [
        NOTE,
        "# Recipes\n",
        "A recipe is a YAML file, data only: what to build, from what, and how good it must be.",
        "An unknown key, a wrong value, a key given twice or an alias is refused with file and",
        "line. `lepton-edge recipes` lists the built-in ones and `lepton-edge recipes NAME` prints",
        "one to start from; `lepton-edge recipes --schema` prints the JSON schema for editors.\n",
        "```yaml",
        (DOCS.parent / "recipes" / "demo-intents.yaml").read_text(encoding="utf-8").rstrip(),
        "```\n",
        _table(recipe.Recipe, "## The recipe\n"),
        _table(recipe.Source, "## `source`\n"),
        _table(recipe.Text, "## `text`\n"),
        _table(recipe.Parity, "## `parity`\n"),
        _table(recipe.Calibration, "## `calibration`\n"),
        _table(recipe.Quality, "## `quality`\n"),
        _table(recipe.Index, "## `index`\n"),
        "Where `quality` has `data`, the original and the compiled model answer every example, and",
        "the build fails where the metric falls by more than `max_drop` points. With `int8` it",
        "first tries again with as few operations in higher precision as it takes. What each",
        "attempt measured is in the manifest and, with the worst examples, in the bundle's",
        "`quality.html`. The metric is the judge then: of the limits under `parity`, only fp32's",
        "and those that the recipe names apply. Where the original scores 0, so that nothing can",
        "be lost, a warning says so, and the limits under `parity` apply as without data.\n",
        "## `task_options`\n",
    ]
    for name in TASKS:
        parts.append(_table(task_class(name).Options, f"### {name}\n"))
    parts.append("## `backends`\n")
    for entry in registry.entries():
        parts.append(_table(registry.get(entry.name).Options, f"### {entry.name}\n"))
    return "\n".join(parts)


def _tasks() -> str:
    parts = [
        NOTE,
        "# Tasks\n",
        "`model(inputs, **parameters)` takes one input or a list of inputs and gives one result or",
        "a list of results. `lepton-edge run` takes a parameter as `-p NAME=VALUE`.\n",
    ]
    for name in TASKS:
        task = task_class(name)
        about = inspect.getdoc(sys.modules[task.__module__]) or ""
        parts += [f"## {name}\n", about + "\n", f"An input is {_input_of(task)}.\n"]
        if dataclasses.fields(task.Parameters):
            parts.append(_table(task.Parameters, "### Parameters\n"))
        if task.generates:
            parts += [
                "### Quality\n",
                "The build compares perplexity and greedy tokens with the original's: `quality` in",
                f"[recipes](recipes.md). {_MORE[name in TEXT_TO_TEXT_TASKS]}.\n",
            ]
            continue
        parts += ["### Metrics\n", "| metric | a row has | what it is |", "| --- | --- | --- |"]
        for metric in METRICS[name]:
            columns = ", ".join(f"`{column}`" for column in metric.columns)
            parts.append(f"| `{metric.name}` | {columns} | {metric.about} |")
        parts.append("")
    return "\n".join(parts)


def _input_of(task: type[AnyTask]) -> str:
    if task.name == "text-generation":
        return "a text (str) to continue, or a list of messages to answer"
    if len(task.fields) == 1:
        return "a text (str)"
    return "a mapping with " + ", ".join(f"`{field}`" for field in task.fields)


def _bundles() -> str:
    return "\n".join(
        [
            NOTE,
            "# Bundles\n",
            "A bundle is a folder, or one `.lepton` file of it:\n",
            "```",
            "demo-intents-1.0.0/",
            "  manifest.json             what follows here",
            "  artifacts/intel-cpu/      what OpenVINO compiled: model.xml, model.bin",
            "  artifacts/rtx/            what TensorRT compiled: model.engine, plan.json",
            "  artifacts/jetson-orin/    what a device compiles: model.onnx, plan.json",
            "  tokenizer/tokenizer.json  the tokenizer",
            "  quality.html              where the recipe has evaluation data: what was measured",
            "```\n",
            "A build writes it under a temporary name and renames it when it is whole. Before a",
            "parser sees a file, its size and SHA-256 are compared with the manifest; while a",
            "file's size, times and inode stay the same, the result is remembered in",
            '`~/.cache/lepton-edge/verified`; `verify="always"` (`--verify always`) insists.\n',
            "`lepton-edge pack` writes a `.lepton` file: a zip, uncompressed, manifest first, the",
            "same bytes each time. `unpack` takes only files that the manifest lists, hashes them",
            "on the way, and refuses an archive with anything else in it: a path outside, a link,",
            "a name given twice, a compressed entry, a file not listed.\n",
            f"## `manifest.json`, schema {manifest.SCHEMA}\n",
            "A reader refuses a schema newer than its own, an unknown key and a wrong type. Two",
            "builds of the same inputs with the same versions on the same kind of machine differ",
            "in `created` only, and not there if `SOURCE_DATE_EPOCH` is set; and with evaluation",
            "data in the times that `quality.html` shows.\n",
            _table(manifest.Manifest, ""),
            _table(manifest.Text, "### `text`\n"),
            _table(manifest.Source, "### `source`\n"),
            _table(manifest.Artifact, "### `artifacts[]`\n"),
            _table(Compiled, "### `artifacts[].compiled`\n"),
            _table(TensorSpec, "### `artifacts[].compiled.inputs[]`, `outputs[]`\n"),
            _table(manifest.Parity, "### `artifacts[].parity`\n"),
            _table(manifest.GenerationQuality, "### `artifacts[].generation`\n"),
            _table(manifest.Calibration, "### `artifacts[].calibration`\n"),
            _table(manifest.Quality, "### `artifacts[].quality`\n"),
            _table(manifest.Attempt, "### `artifacts[].quality.attempts[]`\n"),
            _table(manifest.File, "### `files{}`\n"),
            "### `task_config`\n",
            *(_table(task_class(name).Config, f"#### {name}\n") for name in TASKS),
            *(
                _table(kind, f"#### `{kind.__name__}`, of {', '.join(TEXT_TO_TEXT_TASKS)}\n")
                for kind in (Decoding, Frame, Language, Pair)
            ),
        ]
    )


def _cli() -> str:
    parts = [
        NOTE,
        "# The command line\n",
        "Results go to standard output; progress, notes and errors to standard error. `--json`",
        "prints JSON, errors too (wrong usage stays text). Exit codes: 0; 1 for an error; 2 for",
        "wrong usage.\n",
        "For completion of verbs and options in a shell, add one line to its start-up file:\n",
        "```",
        'eval "$(_LEPTON_EDGE_COMPLETE=bash_source lepton-edge)"    # ~/.bashrc',
        'eval "$(_LEPTON_EDGE_COMPLETE=zsh_source lepton-edge)"     # ~/.zshrc',
        "_LEPTON_EDGE_COMPLETE=fish_source lepton-edge | source     # config.fish",
        "```\n",
    ]
    context = cli.make_context("lepton-edge", [], resilient_parsing=True, terminal_width=100)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name, terminal_width=100)
        parts += [f"## {name}\n", "```", command.get_help(inner), "```\n"]
    return "\n".join(parts)


def _table(model: type, title: str) -> str:
    docs = _field_docs(model)
    lines = [
        *([title] if title else []),
        "| key | type | default | meaning |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{name}` | {_type(kind, model)} | {default} | {docs.get(name, '')} |"
            for name, kind, default in _fields(model)
        ),
        "",
    ]
    return "\n".join(lines)


def _fields(model: type) -> Iterator[tuple[str, Any, str]]:
    """Name, annotation and default of each field."""
    if issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            annotation = _annotations(model)[name]
            yield name, annotation, "required" if field.is_required() else _default(field.default)
    elif issubclass(model, msgspec.Struct):
        for info in msgspec.structs.fields(model):
            given = info.default is not msgspec.NODEFAULT
            annotation = model.__annotations__[info.name]
            yield info.name, annotation, _default(info.default) if given else "required"
    else:
        for plain in dataclasses.fields(model):
            made = plain.default_factory is not dataclasses.MISSING
            default = plain.default_factory() if made else plain.default
            given = default is not dataclasses.MISSING
            yield plain.name, plain.type, _default(default) if given else "required"


def _annotations(model: type) -> dict[str, Any]:
    """Its fields' annotations as they are written, those of its bases too."""
    found: dict[str, Any] = {}
    for each in reversed(model.__mro__):
        found |= getattr(each, "__annotations__", {})
    return found


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, (BaseModel, Frame)):
        return "see below"
    if value in ((), {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(annotation: Any, model: type) -> str:
    text = annotation if isinstance(annotation, str) else str(annotation)
    text = re.sub(r"Annotated\[(\w+), Field\([^)]*\)\]", r"\1", text)
    if text.startswith("Annotated["):
        marks = r", (?:Field|BeforeValidator|msgspec\.Meta)\("
        text = re.split(marks, text.removeprefix("Annotated["))[0]
    text = text.replace(" | None", "").replace('"', "").replace("'", "")
    named = vars(sys.modules[model.__module__]).get(text)
    if get_origin(named) is Literal:
        text = f"Literal[{', '.join(map(str, get_args(named)))}]"
    if text.startswith("Literal["):
        return " or ".join(f"`{word}`" for word in text[8:].rstrip("]").split(", "))
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    plain = {
        "tuple[str, ...]": "list of text",
        "dict[str, Any]": "mapping",
        "dict[str, dict[str, Any]]": "mapping of mappings",
        "dict[str, str]": "mapping of text",
        "dict[str, Setting]": "mapping",
        "dict[str, File]": "mapping of files",
        "tuple[Artifact, ...]": "list of artifacts",
        "tuple[TensorSpec, ...]": "list of tensors",
        "tuple[Attempt, ...]": "list of attempts",
        "tuple[Precision, ...]": "list of precisions",
        "dict[str, _NotEmpty]": "mapping of text",
        "Sequence[str]": "list of text",
        "Sequence[str] | str": "text, or list of text",
        "tuple[int, ...]": "list of integers",
        "tuple[tuple[int, ...], ...]": "list of lists of integers",
        "bool | Literal[never]": "true, false or `never`",
        "dict[str, Language]": "mapping of languages",
        "dict[str, dict[str, Pair]]": "mapping of mappings of pairs",
        "tuple[int | str, ...]": "list of integers or text",
        "Sha256": "64 hexadecimal digits",
        "_NotEmpty": "text",
        "_Error": "number above 0",
        "_Share": "number from 0 to 1",
    }
    return plain.get(text, names.get(text, text)).replace("|", "\\|")


def _field_docs(model: type) -> dict[str, str]:
    """The string under each field in the class's source, or in that of a base of ours."""
    docs: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each.__module__.startswith("lepton_edge"):
            docs |= _own_field_docs(each)
    return docs


def _own_field_docs(model: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def main() -> int:
    """Write the pages, or with ``--check`` name those that are not what the code says."""
    if "--check" in sys.argv:
        stale = [
            name
            for name, text in pages().items()
            if (DOCS / name).read_text(encoding="utf-8") != text
        ]
        print("\n".join(f"docs/{name} is not what the code says: make docs" for name in stale))
        return 1 if stale else 0
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
