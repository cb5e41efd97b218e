"""What is built: the recipe with everything that it left open filled in from the source."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lepton_edge import __version__
from lepton_edge.bundle import TOKENIZER, describe_files
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.manifest import Artifact, Manifest, Text
from lepton_edge.errors import SourceError
from lepton_edge.tasks import task_class
from lepton_edge.tasks.base import Task

if TYPE_CHECKING:
    from lepton_edge.builder.source import LoadedSource
    from lepton_edge.recipe import Recipe
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.tasks.base import AnyTask

# A conversation's: the key-value cache of the many thousands that some models take would be larger
# than most devices. text.max_length asks for more.
_GENERATED_LENGTH = 8192
_TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Plan:
    """A recipe, the source that it names, and the task as the manifest will describe it."""

    recipe: Recipe
    loaded: LoadedSource
    task: AnyTask
    text: Text

    @classmethod
    def of(cls, recipe: Recipe, loaded: LoadedSource) -> Plan:
        """Raises `RecipeError` and `SourceError`."""
        task = task_class(loaded.task)
        config = task.configure(recipe.options_of_task(loaded.task), loaded.facts)
        default = loaded.default_length or loaded.max_length
        if task.generates:
            default = min(default, _GENERATED_LENGTH)
        length = recipe.text.max_length or default
        if length > loaded.max_length:
            raise SourceError(
                f"text.max_length is {length}; the model takes up to {loaded.max_length} tokens",
                hint="lower it, or leave it out",
            )
        text = Text(length, recipe.text.on_long_text, recipe.text.max_characters, loaded.pad_id)
        return cls(recipe, loaded, task(config), text)

    @property
    def session_task(self) -> Task[Any, Any]:
        """The task, where a session answers it."""
        assert isinstance(self.task, Task)
        return self.task

    def encoder(self, work: Path) -> TextEncoder:
        """Tokenizes what the build compares and measures with. That is not for the bundle's limits
        to refuse: what is too long is cut."""
        from lepton_edge.runtime.text import TextEncoder

        text = msgspec.structs.replace(self.text, on_long_text="truncate", max_characters=2**31)
        return TextEncoder(work / TOKENIZER, text, self.session_task.tokenization())

    def manifest(self, artifacts: tuple[Artifact, ...], work: Path, created: str) -> Manifest:
        """Of the bundle whose files are in ``work``."""
        recipe, loaded = self.recipe, self.loaded
        tools = _TOOLS + (("nncf",) if recipe.precision.startswith("int8") else ())
        return Manifest(
            schema=manifests.SCHEMA,
            name=recipe.name,
            version=recipe.version,
            description=recipe.description,
            license=recipe.license or loaded.license,
            created=created,
            task=self.task.name,
            task_config=msgspec.to_builtins(self.task.config),
            text=self.text,
            source=loaded.source,
            tools={"lepton-edge": __version__, **{name: version(name) for name in tools}},
            artifacts=artifacts,
            files=describe_files(work),
            adapters=tuple(recipe.adapters),
        )
