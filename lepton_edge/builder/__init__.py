"""From a recipe to a bundle. Needs the extra ``build``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import recipes, registry
from lepton_edge.bundle import TOKENIZER, Bundle, open_bundle, refuse_output
from lepton_edge.bundle import manifest as manifests
from lepton_edge.errors import BuildError, RecipeError, SourceError
from lepton_edge.recipe import Recipe, Source, load_recipe
from lepton_edge.storage import new_directory
from lepton_edge.target import parse_targets
from lepton_edge.tasks import GENERATION_TASKS, TEXT_TO_TEXT_TASKS

if TYPE_CHECKING:
    from lepton_edge.backend import Precision
    from lepton_edge.builder.generator_build import GeneratorBuild
    from lepton_edge.builder.session_build import SessionBuild
    from lepton_edge.builder.source import LoadedSource
    from lepton_edge.builder.text_to_text_build import TextToTextBuild
    from lepton_edge.builder.torch_model import TorchSource

Progress = Callable[[str], None]

_NEEDED = ("torch", "transformers", "safetensors", "onnx", "onnxruntime", "huggingface_hub")


def build(  # noqa: PLR0913  (keywords all but one)
    source: str | os.PathLike[str] | Recipe | TorchSource,
    *,
    target: str = "intel-cpu",
    output: str | os.PathLike[str] = "bundles",
    recipe: Recipe | None = None,
    model: str | os.PathLike[str] | None = None,
    task: str | None = None,
    precision: Precision | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model for one or more targets, prove it, and write a bundle.

    ``source`` is a recipe (a file, a built-in one's name, or a `Recipe`), a Hugging Face folder,
    an ONNX file, a hub id, or a `TorchSource` with its ``recipe``. ``model`` is the model that a
    recipe is used for, where it names none or another one. ``target`` may name several, with
    commas. The bundle is the folder ``output/NAME-VERSION``; it appears there whole or not at all.
    ``task``, ``precision`` and ``revision`` win over the recipe's. ``progress`` is told each step;
    what its user should know and does not stop it is a `LeptonWarning`.

    Raises `RecipeError`, `SourceError`, `InputError` (for the rows of a data file), `BackendError`,
    `BuildError` (`ParityError` where the compiled model does not answer like the original,
    `QualityError` where it is worse at its task than the recipe allows) and `StorageError`.
    """
    say = (lambda step: None) if progress is None else progress
    _check_extra()
    targets = parse_targets(target)
    backends = {wanted.name: registry.get(wanted.backend) for wanted in targets}
    recipe = _recipe_from(source, recipe, model, task, precision, revision)
    for backend in backends.values():
        recipe.options_of_backend(backend.name)  # refused now rather than after the slow work
    created = _now()
    final = Path(output) / f"{recipe.name}-{recipe.version}"
    refuse_output(final, force)

    from lepton_edge.builder.plan import Plan

    say("reading the model")
    keeps_dtype = recipe.precision != "fp32" and all(
        backend.decoder.keeps_dtype for backend in backends.values()
    )
    plan = Plan.of(recipe, _load(source, recipe, trust_remote_code, keeps_dtype))
    if recipe.adapters and plan.task.name != "text-generation":
        raise RecipeError(
            f"the recipe {recipe.name} has adapters, and its task is {plan.task.name}: they are "
            "for text-generation",
            hint="leave the adapters out, or merge one into the model (PEFT's merge_and_unload)",
        )
    kind = _kind(plan.task.name)
    work_of = kind(plan, [(each, backends[each.name]) for each in targets], created, say)
    with new_directory(final, replace=force) as work, tempfile.TemporaryDirectory() as scratch:
        (work / TOKENIZER).parent.mkdir()
        (work / TOKENIZER).write_text(plan.loaded.tokenizer, encoding="utf-8")
        artifacts = work_of.artifacts(work, Path(scratch))
        say("writing the manifest")
        manifest = plan.manifest(artifacts, work, created)
        data = manifests.encode(manifest)
        manifests.decode(data, manifests.FILE_NAME)  # what cannot be read gets no name
        (work / manifests.FILE_NAME).write_bytes(data)
    return open_bundle(final)


def _recipe_from(
    source: object,
    recipe: Recipe | None,
    model: str | os.PathLike[str] | None,
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
    if model is not None:
        found = _applied(found, os.fspath(model), revision)
        revision = None
    changes: dict[str, Any] = {"task": task, "precision": precision}
    if revision:
        changes["source"] = _at(found, revision)
    return found.changed(**{key: value for key, value in changes.items() if value})


def _applied(recipe: Recipe, model: str, revision: str | None) -> Recipe:
    """The recipe for that model; one that names no model of its own takes the model's name."""
    named = _named(model, revision)
    if Path(model).suffix in (".yaml", ".yml") or model in recipes.names():
        raise SourceError(
            f"{model!r} is a recipe; a recipe is used for a model",
            hint="--model takes a model folder, an ONNX file or a hub id",
        )
    assert named.source is not None
    name = recipe.name if recipe.source else named.name
    return recipe.changed(source=named.source.model_dump(), name=name)


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


def _load(
    source: object, recipe: Recipe, trust_remote_code: bool, keeps_dtype: bool
) -> LoadedSource:
    from lepton_edge.builder.torch_model import TorchSource

    if isinstance(source, TorchSource):
        return source.load(recipe)
    wanted = recipe.source
    if wanted is None:
        raise RecipeError(
            f"the recipe {recipe.name} names no source",
            hint=f"lepton-edge build {recipe.name} --model path/to/model; or in a recipe of your "
            "own: source: path/to/model",
        )
    if wanted.onnx:
        from lepton_edge.builder.onnx_model import load_onnx

        file = Path(wanted.onnx)
        return load_onnx(file, Path(wanted.tokenizer) if wanted.tokenizer else file.parent, recipe)
    if wanted.openvino_ir:
        from lepton_edge.builder.openvino_ir import load_ir

        return load_ir(Path(wanted.openvino_ir), recipe)
    if wanted.hub:
        # Before transformers is imported: what it says to a hub is decided then.
        from lepton_edge.builder import hub

        folder = hub.download(wanted.hub, str(wanted.revision), with_code=trust_remote_code)
    else:
        folder = Path(str(wanted.path))
    from lepton_edge.builder.huggingface import load_folder

    return load_folder(
        folder,
        recipe,
        trust_remote_code=trust_remote_code,
        hub_id=wanted.hub,
        keeps_dtype=keeps_dtype,
    )


def _kind(task: str) -> type[GeneratorBuild | TextToTextBuild | SessionBuild]:
    """What makes the artifacts for a task."""
    if task in TEXT_TO_TEXT_TASKS:
        from lepton_edge.builder.text_to_text_build import TextToTextBuild

        return TextToTextBuild
    if task in GENERATION_TASKS:
        from lepton_edge.builder.generator_build import GeneratorBuild

        return GeneratorBuild
    from lepton_edge.builder.session_build import SessionBuild

    return SessionBuild


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
