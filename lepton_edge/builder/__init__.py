"""From a recipe to a bundle. Needs the extra ``build``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import __version__, recipes, registry
from lepton_edge.bundle import TOKENIZER, Bundle, describe_files, open_bundle, refuse_output
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.bundle.manifest import Artifact, Manifest, Text
from lepton_edge.errors import BuildError, RecipeError, SourceError
from lepton_edge.recipe import Recipe, Source, load_recipe
from lepton_edge.storage import new_directory
from lepton_edge.target import Target, parse_targets
from lepton_edge.tasks import task_class

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Graph, Precision
    from lepton_edge.builder.source import LoadedSource
    from lepton_edge.builder.torch_model import TorchSource
    from lepton_edge.tasks.base import Task

Progress = Callable[[str], None]

_NEEDED = ("torch", "transformers", "safetensors", "onnx", "onnxruntime", "huggingface_hub")
_TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")


def build(
    source: str | os.PathLike[str] | Recipe | TorchSource,
    *,
    target: str = "intel-cpu",
    output: str | os.PathLike[str] = "bundles",
    recipe: Recipe | None = None,
    task: str | None = None,
    precision: Precision | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model for one or more targets, prove it, and write a bundle.

    ``source`` is a recipe (a file, a built-in one's name, or a `Recipe`), a Hugging Face folder,
    an ONNX file, a hub id, or a `TorchSource` with its ``recipe``. ``target`` may name several,
    with commas. The bundle is the folder ``output/NAME-VERSION``; it appears there whole or not at
    all. ``task``, ``precision`` and ``revision`` win over the recipe's. ``progress`` is told each
    step.

    Raises `RecipeError`, `SourceError`, `BackendError`, `BuildError` (`ParityError` where the
    compiled model does not answer like the original) and `StorageError`.
    """
    say = (lambda step: None) if progress is None else progress
    _check_extra()
    targets = parse_targets(target)
    backends = {wanted.name: registry.get(wanted.backend) for wanted in targets}
    recipe = _recipe_from(source, recipe, task, precision, revision)
    for backend in backends.values():
        recipe.options_of_backend(backend.name)  # refused now rather than after the slow work
    created = _now()
    final = Path(output) / f"{recipe.name}-{recipe.version}"
    refuse_output(final, force)

    say("reading the model")
    loaded = _load(source, recipe, trust_remote_code)
    made = _Plan.of(recipe, loaded)
    with new_directory(final, replace=force) as work, tempfile.TemporaryDirectory() as scratch:
        (work / TOKENIZER).parent.mkdir()
        (work / TOKENIZER).write_text(loaded.tokenizer, encoding="utf-8")
        say("exporting the graph")
        graph = loaded.original.graph(made.task.name, made.task.config, Path(scratch))
        artifacts = tuple(
            _artifact(made, graph, wanted, backends[wanted.name], work, say) for wanted in targets
        )
        say("writing the manifest")
        manifest = _manifest(made, artifacts, work, created)
        (work / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return open_bundle(final)


@dataclass(frozen=True)
class _Plan:
    """What is built: the recipe with everything that it left open filled in from the source."""

    recipe: Recipe
    loaded: LoadedSource
    task: Task[Any]
    text: Text

    @classmethod
    def of(cls, recipe: Recipe, loaded: LoadedSource) -> _Plan:
        task = task_class(loaded.task)
        config = task.configure(recipe.options_of_task(loaded.task), loaded.facts)
        length = recipe.text.max_length or loaded.max_length
        if length > loaded.max_length:
            raise SourceError(
                f"text.max_length is {length}; the model takes up to {loaded.max_length} tokens",
                hint="lower it, or leave it out",
            )
        text = Text(length, recipe.text.on_long_text, recipe.text.max_characters, loaded.pad_id)
        return cls(recipe, loaded, task(config), text)


def _artifact(
    made: _Plan, graph: Graph, target: Target, backend: Backend, work: Path, say: Progress
) -> Artifact:
    """Compile for one target, open what was written as a device would, and compare."""
    from msgspec.structs import replace

    from lepton_edge.builder import parity
    from lepton_edge.builder.sentences import SENTENCES
    from lepton_edge.runtime.text import TextEncoder

    recipe = made.recipe
    name = f"artifacts/{target.name}"
    directory = work / name
    directory.mkdir(parents=True)
    say(f"compiling for {target.name}")
    options = recipe.options_of_backend(backend.name)
    compiled = backend.build(graph, target, recipe.precision, options, directory)
    say(f"comparing {target.name} with the original")
    texts = recipe.parity.sample or SENTENCES
    # The sample is not for the bundle's limits to refuse: what is too long is cut.
    limits = replace(made.text, on_long_text="truncate", max_characters=max(map(len, texts)))
    encoder = TextEncoder(work / TOKENIZER, limits)
    with backend.load(directory, compiled, target.device) as session:
        measured = parity.measure(made.loaded.original, session, encoder, made.task, texts)
    parity.check(measured, recipe.parity, recipe.precision, target.name)
    digest = digest_of(describe_files(work, name))
    figures = parity.rounded(measured)
    return Artifact(target.name, backend.name, name, digest, compiled, figures)


def _manifest(made: _Plan, artifacts: tuple[Artifact, ...], work: Path, created: str) -> Manifest:
    import msgspec

    recipe, loaded = made.recipe, made.loaded
    return Manifest(
        schema=manifests.SCHEMA,
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        license=recipe.license or loaded.license,
        created=created,
        task=made.task.name,
        task_config=msgspec.to_builtins(made.task.config),
        text=made.text,
        source=loaded.source,
        tools={"lepton-edge": __version__, **{name: version(name) for name in _TOOLS}},
        artifacts=artifacts,
        files=describe_files(work),
    )


def _recipe_from(
    source: object,
    recipe: Recipe | None,
    task: str | None,
    precision: Precision | None,
    revision: str | None,
) -> Recipe:
    """The recipe that ``source`` is, or one made for the model that it names."""
    if isinstance(source, (Recipe, str, os.PathLike)):
        if recipe is not None:
            raise RecipeError(
                "a recipe beside the source is for a TorchSource alone",
                hint="build(recipe), with the model as its source: Recipe(name=…, source=…)",
            )
        found = source if isinstance(source, Recipe) else _named(os.fspath(source), revision)
    else:
        from lepton_edge.builder.torch_model import TorchSource

        if not isinstance(source, TorchSource):
            raise SourceError(
                f"a {type(source).__name__} is no source",
                hint="give a recipe, a model folder, an ONNX file or a hub id; or for a torch "
                "module TorchSource(module, tokenizer, task) with recipe=Recipe(name=…)",
            )
        if recipe is None:
            raise RecipeError(
                "a torch module needs a recipe", hint="build(TorchSource(…), recipe=Recipe(name=…))"
            )
        found = recipe
    changes: dict[str, Any] = {"task": task, "precision": precision}
    if revision:
        changes["source"] = _at(found, revision)
    return found.changed(**{key: value for key, value in changes.items() if value})


def _at(recipe: Recipe, revision: str) -> dict[str, Any]:
    """The recipe's source at another revision."""
    source = recipe.source
    if source is None or not source.hub:
        raise RecipeError(
            f"the revision {revision!r} goes with a hub model; the source of {recipe.name} is none",
            hint="leave it out",
        )
    from lepton_edge.builder import hub

    return source.model_dump() | {"revision": hub.pin(source.hub, revision)}


def _named(name: str, revision: str | None) -> Recipe:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_recipe(path)
    if name and path.is_dir():  # an empty path is the working directory
        return Recipe(name=_slug(path.resolve().name), source=Source(path=name))
    if path.suffix == ".onnx":
        return Recipe(name=_slug(path.stem), source=Source(onnx=name))
    if name in recipes.names():
        return load_recipe(recipes.path(name))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.parent.is_dir():
        from lepton_edge.builder import hub

        slug = _slug(name.rpartition("/")[2])
        return Recipe(name=slug, source=Source(hub=name, revision=hub.pin(name, revision)))
    raise SourceError(
        f"{name!r} is no recipe, model folder, ONNX file or hub id",
        hint=f"lepton-edge recipes lists the built-in recipes: {', '.join(recipes.names())}",
    )


def _load(source: object, recipe: Recipe, trust_remote_code: bool) -> LoadedSource:
    from lepton_edge.builder.torch_model import TorchSource

    if isinstance(source, TorchSource):
        return source.load(recipe)
    wanted = recipe.source
    if wanted is None:
        raise RecipeError(f"the recipe {recipe.name} names no source", hint="source: path/to/model")
    if wanted.onnx:
        from lepton_edge.builder.onnx_model import load_onnx

        file = Path(wanted.onnx)
        return load_onnx(file, Path(wanted.tokenizer) if wanted.tokenizer else file.parent, recipe)
    from lepton_edge.builder.huggingface import load_folder

    if wanted.hub:
        from lepton_edge.builder import hub

        folder = hub.download(wanted.hub, str(wanted.revision), with_code=trust_remote_code)
        return load_folder(folder, recipe, trust_remote_code=trust_remote_code, hub_id=wanted.hub)
    return load_folder(Path(str(wanted.path)), recipe, trust_remote_code=trust_remote_code)


def _check_extra() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BuildError(
            f"building needs {', '.join(missing)}, not installed here",
            hint="pip install 'lepton-edge[build]'",
        )


def _slug(name: str) -> str:
    """A folder's or file's name as a bundle's."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "model"


def _now() -> str:
    """The time of the build in UTC. SOURCE_DATE_EPOCH: reproducible-builds.org's variable."""
    stamp = os.environ.get("SOURCE_DATE_EPOCH")
    if stamp is None:
        time = datetime.now(timezone.utc)
    else:
        try:
            time = datetime.fromtimestamp(int(stamp), timezone.utc)
        except (ValueError, OverflowError, OSError):
            raise BuildError(
                f"SOURCE_DATE_EPOCH is {stamp!r}: it is a number of seconds since 1970",
                hint="unset it, or: export SOURCE_DATE_EPOCH=$(date +%s)",
            ) from None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
