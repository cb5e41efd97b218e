"""lepton-edge: build language models for edge devices, and run them there, locally.

The public names are imported when they are first used, so that importing this package, and
running a bundle, never imports what only a build needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_edge import errors as errors
    from lepton_edge.builder import build as build
    from lepton_edge.builder.torch_model import TorchSource as TorchSource
    from lepton_edge.bundle import Bundle as Bundle
    from lepton_edge.bundle import open_bundle as open_bundle
    from lepton_edge.bundle.archive import pack as pack
    from lepton_edge.bundle.archive import unpack as unpack
    from lepton_edge.errors import LeptonError as LeptonError
    from lepton_edge.recipe import Recipe as Recipe
    from lepton_edge.recipe import load_recipe as load_recipe
    from lepton_edge.runtime import load as load
    from lepton_edge.runtime.model import Model as Model
    from lepton_edge.tasks.feature_extraction import Embedding as Embedding
    from lepton_edge.tasks.feature_extraction import similarity as similarity
    from lepton_edge.tasks.text_classification import Classification as Classification

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "lepton_edge.bundle",
    "Classification": "lepton_edge.tasks.text_classification",
    "Embedding": "lepton_edge.tasks.feature_extraction",
    "LeptonError": "lepton_edge.errors",
    "Model": "lepton_edge.runtime.model",
    "Recipe": "lepton_edge.recipe",
    "TorchSource": "lepton_edge.builder.torch_model",
    "build": "lepton_edge.builder",
    "load": "lepton_edge.runtime",
    "load_recipe": "lepton_edge.recipe",
    "open_bundle": "lepton_edge.bundle",
    "pack": "lepton_edge.bundle.archive",
    "similarity": "lepton_edge.tasks.feature_extraction",
    "unpack": "lepton_edge.bundle.archive",
}


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module("lepton_edge.errors")
    try:
        value: object = getattr(import_module(_HOMES[name]), name)
    except KeyError:
        raise AttributeError(f"module 'lepton_edge' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__", "errors"])
