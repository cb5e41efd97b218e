"""What the tests of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import lepton_edge
from lepton_edge.errors import LeptonError
from lepton_edge.tasks.text_classification import Classification

TEXTS = (
    "where is my new card",
    "the film was good",
    "the film was bad, how late was the order?",
    "my bank",
    "how do I change the order of my cards",
    "a new card is good, a late card is bad, and my bank is where my card was",
)

E = TypeVar("E", bound=LeptonError)


def refused(kind: type[E], source: Any, output: Path, **options: Any) -> E:
    """The error of a build that must fail, and must leave nothing behind."""
    with pytest.raises(kind) as caught:
        lepton_edge.build(source, output=output, **options)
    assert left_behind(output) == []
    return caught.value


def left_behind(output: Path) -> list[str]:
    """Everything in a build's output folder, by name."""
    return sorted(path.name for path in output.iterdir()) if output.is_dir() else []


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    import json

    values = json.loads(file.read_text()) if file.is_file() else {}
    values.update(changes)
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def token_vectors(folder: Path, texts: tuple[str, ...] = TEXTS) -> list[NDArray[np.float32]]:
    """Of each text alone, the last hidden state that transformers computes: [length, dimension]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [
            model(**tokenizer(text, truncation=True, return_tensors="pt"))
            .last_hidden_state[0]
            .numpy()
            for text in texts
        ]


def probabilities(folder: Path, texts: tuple[str, ...] = TEXTS) -> NDArray[np.float32]:
    """Of each text alone, what transformers' classifier gives: [texts, labels]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        rows = [
            model(**tokenizer(text, truncation=True, return_tensors="pt")).logits for text in texts
        ]
    scores: NDArray[np.float32] = torch.cat(rows).softmax(dim=1).numpy()
    return scores


def scores_of(results: list[Classification], labels: tuple[str, ...]) -> NDArray[np.float64]:
    """The probabilities in results that keep every label, in the order of ``labels``."""
    return np.array(
        [[{e.label: e.score for e in result.top}[label] for label in labels] for result in results]
    )
