"""lepton-edge: build language models for edge devices, and run them there, locally.

The public names are imported when they are first used, so that importing this package, and
running a bundle, never imports what only a build needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_edge import errors as errors
    from lepton_edge.benchmark.bench import bench as bench
    from lepton_edge.benchmark.report import BenchSettings as BenchSettings
    from lepton_edge.builder import build as build
    from lepton_edge.builder.torch_model import TorchSource as TorchSource
    from lepton_edge.bundle import Bundle as Bundle
    from lepton_edge.bundle import open_bundle as open_bundle
    from lepton_edge.bundle.archive import pack as pack
    from lepton_edge.bundle.archive import unpack as unpack
    from lepton_edge.errors import LeptonError as LeptonError
    from lepton_edge.generation.messages import Message as Message
    from lepton_edge.generation.messages import ToolCall as ToolCall
    from lepton_edge.keywords import Keyword as Keyword
    from lepton_edge.keywords import extract_keywords as extract_keywords
    from lepton_edge.recipe import Recipe as Recipe
    from lepton_edge.recipe import load_recipe as load_recipe
    from lepton_edge.runtime import load as load
    from lepton_edge.runtime.answers import Completion as Completion
    from lepton_edge.runtime.answers import Delta as Delta
    from lepton_edge.runtime.finalize import Finalized as Finalized
    from lepton_edge.runtime.finalize import finalize as finalize
    from lepton_edge.runtime.generative_model import GenerativeModel as GenerativeModel
    from lepton_edge.runtime.generative_model import TextStream as TextStream
    from lepton_edge.runtime.model import Model as Model
    from lepton_edge.runtime.profile import Profile as Profile
    from lepton_edge.search.index import Hit as Hit
    from lepton_edge.search.index import Index as Index
    from lepton_edge.tasks.feature_extraction import Embedding as Embedding
    from lepton_edge.tasks.feature_extraction import similarity as similarity
    from lepton_edge.tasks.fill_mask import FilledMasks as FilledMasks
    from lepton_edge.tasks.question_answering import Answer as Answer
    from lepton_edge.tasks.question_answering import Answers as Answers
    from lepton_edge.tasks.question_answering import Question as Question
    from lepton_edge.tasks.text_classification import Classification as Classification
    from lepton_edge.tasks.text_ranking import QueryDocuments as QueryDocuments
    from lepton_edge.tasks.text_ranking import Ranking as Ranking
    from lepton_edge.tasks.token_classification import Entities as Entities
    from lepton_edge.tasks.token_classification import Entity as Entity
    from lepton_edge.tuning.report import Tuning as Tuning
    from lepton_edge.tuning.tune import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "Answer": "lepton_edge.tasks.question_answering",
    "Answers": "lepton_edge.tasks.question_answering",
    "BenchSettings": "lepton_edge.benchmark.report",
    "Bundle": "lepton_edge.bundle",
    "Classification": "lepton_edge.tasks.text_classification",
    "Completion": "lepton_edge.runtime.answers",
    "Delta": "lepton_edge.runtime.answers",
    "Embedding": "lepton_edge.tasks.feature_extraction",
    "Entities": "lepton_edge.tasks.token_classification",
    "Entity": "lepton_edge.tasks.token_classification",
    "Finalized": "lepton_edge.runtime.finalize",
    "FilledMasks": "lepton_edge.tasks.fill_mask",
    "GenerativeModel": "lepton_edge.runtime.generative_model",
    "Hit": "lepton_edge.search.index",
    "Index": "lepton_edge.search.index",
    "Keyword": "lepton_edge.keywords",
    "LeptonError": "lepton_edge.errors",
    "Model": "lepton_edge.runtime.model",
    "Profile": "lepton_edge.runtime.profile",
    "Message": "lepton_edge.generation.messages",
    "QueryDocuments": "lepton_edge.tasks.text_ranking",
    "Question": "lepton_edge.tasks.question_answering",
    "Ranking": "lepton_edge.tasks.text_ranking",
    "Recipe": "lepton_edge.recipe",
    "TorchSource": "lepton_edge.builder.torch_model",
    "TextStream": "lepton_edge.runtime.generative_model",
    "ToolCall": "lepton_edge.generation.messages",
    "Tuning": "lepton_edge.tuning.report",
    "bench": "lepton_edge.benchmark.bench",
    "build": "lepton_edge.builder",
    "extract_keywords": "lepton_edge.keywords",
    "finalize": "lepton_edge.runtime.finalize",
    "load": "lepton_edge.runtime",
    "load_recipe": "lepton_edge.recipe",
    "open_bundle": "lepton_edge.bundle",
    "pack": "lepton_edge.bundle.archive",
    "similarity": "lepton_edge.tasks.feature_extraction",
    "tune": "lepton_edge.tuning.tune",
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
