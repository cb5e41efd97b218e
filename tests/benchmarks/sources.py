"""The real models that pages are made of, with their data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.benchmarks.workspace import REPOSITORY, packaged_model

SHARED = REPOSITORY.parent / "shared"


class Source(msgspec.Struct, frozen=True):
    """A real model and its data."""

    name: str
    folder: Path | None
    """None for the model that a package carries."""
    task: str
    evaluation: str
    calibration: str
    columns: dict[str, str] = {}

    @property
    def path(self) -> Path:
        return self.folder or packaged_model()


SOURCES = (
    Source(
        "sst2-minilm",
        SHARED / "models" / "sst2-minilm",
        "text-classification",
        "sst2_dev.jsonl",
        "sst2_calib.jsonl",
    ),
    Source(
        "banking77-minilm",
        SHARED / "models" / "banking77-minilm",
        "text-classification",
        "banking77_test.jsonl",
        "banking77_calib.jsonl",
    ),
    Source(
        "ner-minilm",
        SHARED / "models" / "ner-minilm",
        "token-classification",
        "ner_test.jsonl",
        "ner_calib.jsonl",
        {"text": "tokens"},
    ),
    Source(
        "all-MiniLM-L6-v2",
        None,
        "feature-extraction",
        "stsb_test_open.jsonl",
        "banking77_calib.jsonl",
    ),
)


def build(
    source: Source,
    precision: str,
    folder: Path,
    *,
    score: bool = True,
    target: str = "intel-cpu",
    progress: Callable[[str], None] | None = None,
) -> Any:
    """The model's bundle; scored on its data, to measure and not to judge."""
    import lepton_edge
    from lepton_edge import Recipe

    recipe = Recipe.model_validate(
        {
            "name": f"{source.name.lower()}-{precision}",
            "source": str(source.path),
            "task": source.task,
            "precision": precision,
            "calibration": {
                "data": str(SHARED / "data" / source.calibration),
                "columns": source.columns,
            },
            "quality": {
                "data": str(SHARED / "data" / source.evaluation) if score else None,
                "max_drop": 100,
                "compare": [],
            },
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lepton_edge.build(recipe, target=target, output=folder, progress=progress)


def texts_of(source: Source) -> list[str]:
    """The evaluation data's texts, in the order of the file."""
    rows = [
        msgspec.json.decode(line)
        for line in (SHARED / "data" / source.evaluation).read_bytes().splitlines()
    ]
    found = [row.get("text") or row.get("tokens") or row.get("a") for row in rows]
    return [" ".join(each) if isinstance(each, list) else each for each in found]
