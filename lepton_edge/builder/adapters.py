"""LoRA adapters as a part of a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Backend, Generation
from lepton_edge.bundle import TOKENIZER
from lepton_edge.bundle.manifest import Artifact, adapter_directory
from lepton_edge.errors import RecipeError
from lepton_edge.generation.lora import (
    CONFIG,
    WEIGHTS,
    Layers,
    check_adapter,
    find_adapter,
    scale_of,
)

if TYPE_CHECKING:
    from lepton_edge.builder.plan import Plan
    from lepton_edge.target import Target

_CACHE_TOKENS = 256  # enough to open a generator with


def find_adapters(
    plan: Plan, targets: Sequence[tuple[Target, Backend]], model: Any
) -> dict[str, Path]:
    """The recipe's adapters by name, each a safetensors file. ``model`` is the torch module that
    they are for, or None where there is none.

    Raises `RecipeError` for what a target cannot open, and `InputError` for an adapter that is not
    there, not whole, or not for this model.
    """
    given = plan.recipe.adapters
    for target, backend in targets:
        if given and not backend.takes_adapters:
            raise RecipeError(
                f"the recipe {plan.recipe.name} has adapters, and {target.name} is for "
                f"{backend.name}, which takes none",
                hint="--target intel-cpu; or merge the adapter into the model (PEFT's "
                "merge_and_unload), and build that",
            )
    found = {name: find_adapter(name, Path(path)) for name, path in given.items()}
    for name, file in found.items():
        scale_of(name, file)
        if model is not None:
            check_adapter(name, file, _layers(model))
    return found


def copy_adapters(found: Mapping[str, Path], work: Path) -> dict[str, Path]:
    """Into the bundle's folder ``work``; where they are now."""
    copied = {}
    for name, file in found.items():
        folder = work / adapter_directory(name)
        folder.mkdir(parents=True)
        copied[name] = Path(shutil.copyfile(file, folder / WEIGHTS))
        if (beside := file.with_name(CONFIG)).is_file():
            shutil.copyfile(beside, folder / CONFIG)
    return copied


def prove_adapters(
    found: Mapping[str, Path], work: Path, artifact: Artifact, backend: Backend, max_length: int
) -> None:
    """Open an artifact with them, as a device will. Raises `BackendError` and `InputError`."""
    generation = Generation(
        max_length=min(max_length, _CACHE_TOKENS),
        tokenizer=work / TOKENIZER,
        cache_tokens=_CACHE_TOKENS,
        adapters=found,
    )
    backend.load_generator(work / artifact.directory, artifact.compiled, generation).close()


def _layers(model: Any) -> Layers:
    from torch import nn

    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
