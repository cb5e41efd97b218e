"""INT8 on real models: within a point of the original, at a quarter of its size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Bundle, Recipe
from lepton_edge.bundle.manifest import Quality


def build(shared: Path, model: str, precision: str, output: Path, **changes: Any) -> Bundle:
    name = model.removesuffix("-minilm")
    recipe = Recipe.model_validate(
        {
            "name": f"{name}-{precision}",
            "source": str(shared / "models" / model),
            "precision": precision,
            "calibration": {"data": str(shared / "data" / f"{name}_calib.jsonl"), **changes},
            "quality": {
                "data": str(shared / "data" / DATA[model]),
                "compare": [],
            },
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", lepton_edge.errors.LeptonWarning)
        return lepton_edge.build(recipe, output=output)


DATA = {"sst2-minilm": "sst2_dev.jsonl", "ner-minilm": "ner_test.jsonl"}


def quality(bundle: Bundle) -> Quality:
    found = bundle.manifest.artifacts[0].quality
    assert found is not None
    return found


def weights(bundle: Bundle) -> int:
    """Bytes of everything in the artifact."""
    return sum(f.size for p, f in bundle.manifest.files.items() if p.startswith("artifacts/"))


def test_sst2_in_eight_bits_keeps_its_accuracy(shared: Path, tmp_path: Path) -> None:
    small = build(shared, "sst2-minilm", "int8", tmp_path)
    full = build(shared, "sst2-minilm", "fp32", tmp_path)
    assert quality(full).original == pytest.approx(0.8899, abs=0.0001)
    assert quality(full).examples == 872
    assert quality(small).original - quality(small).score <= 0.010
    assert weights(small) <= 0.30 * weights(full)
    assert small.manifest.artifacts[0].compiled.kept == ()


def test_ner_in_eight_bits_keeps_its_entities(shared: Path, tmp_path: Path) -> None:
    small = build(shared, "ner-minilm", "int8", tmp_path, columns={"text": "tokens"})
    assert quality(small).metric == "entity_f1"
    assert quality(small).original == pytest.approx(0.7118, abs=0.0001)
    assert quality(small).original - quality(small).score <= 0.010
    assert weights(small) < 24_000_000
