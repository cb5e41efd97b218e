"""The workers of the benchmark of generation on a tiny model, and what it reads of a bundle."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import lepton_edge
from lepton_edge import GenerativeModel, Recipe
from tests.benchmarks import generation_cases
from tests.benchmarks.generation_cases import Plan, chat, history
from tests.benchmarks.generation_ceiling import weights_per_token
from tests.benchmarks.generation_materials import Materials, variant
from tests.benchmarks.generation_rivals import lepton_edge as our_worker
from tests.benchmarks.generation_rivals import openvino_genai
from tests.benchmarks.terminal import Terminal
from tests.chat_model import save_chat_model

pytest.importorskip("openvino_genai")

_PROMPTS = [[65, 66, 67, 68], [90, 91, 92]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, whose tokens are bytes."""
    return save_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture(scope="module")
def materials(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Materials:
    recipe = Recipe.model_validate({"name": "tiny", "source": str(checkpoint), "precision": "fp32"})
    bundle = lepton_edge.build(recipe, output=tmp_path_factory.mktemp("bundles"))
    return Materials(bundle.path, None, None, 256)


def test_our_worker_writes_what_openvino_genai_does_and_times_every_token(
    materials: Materials,
) -> None:
    with our_worker(materials.bundle) as ours, openvino_genai(materials.ir, threads=1) as genai:
        one = ours.generate(_PROMPTS[:1], 12)
        both = ours.generate(_PROMPTS, 12)

        assert one.tokens == genai.generate(_PROMPTS[:1], 12).tokens
        assert both.tokens == genai.generate(_PROMPTS, 12).tokens
    # Also those within a character that is not whole yet: they are told with the rest of it.
    for seconds in (*one.seconds, *both.seconds):
        assert len(seconds) == 12
        assert seconds[0] > 0
        assert seconds == sorted(seconds)


def test_our_worker_opens_the_bundle_with_the_options_that_it_is_given(
    materials: Materials,
) -> None:
    with (
        pytest.raises(SystemExit, match="cache_tokens is 0: it is a number from 1"),
        our_worker(materials.bundle, cache_tokens=0),
    ):
        pass


def test_a_variant_is_opened_with_its_settings(materials: Materials, tmp_path: Path) -> None:
    bundle = variant(materials.bundle, {"kv_cache_precision": "u8"}, tmp_path / "variant")

    with lepton_edge.load(materials.bundle, cache_tokens=20_000) as model:
        assert isinstance(model, GenerativeModel)
        whole = model.generator.details["cache_mib"]
    with lepton_edge.load(bundle, cache_tokens=20_000) as model:
        assert isinstance(model, GenerativeModel)
        assert float(model.generator.details["cache_mib"]) < float(whole)


def test_the_weights_of_a_token_are_those_of_the_products(
    checkpoint: Path, materials: Materials
) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    # The table of embeddings is only looked up: this model's head has weights of its own.
    assert tensors.pop("model.embed_tokens.weight").shape == tensors["lm_head.weight"].shape
    size = sum(each.nbytes for each in tensors.values() if each.ndim == 2)

    # A norm's weights, and what positions are multiplied with, are next to nothing.
    assert size <= weights_per_token(materials.ir) < 1.01 * size


def test_a_history_is_as_long_as_it_has_to_be_and_another_each_time(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_cases, "_HISTORY", 300)
    with lepton_edge.load(materials.bundle, warm_up=False) as model:
        assert isinstance(model, GenerativeModel)
        one, other = history(model, Random(1)), history(model, Random(2))
        asked = model.task.parameters({"max_tokens": 1})
        lengths = [
            len(model.prompts.read(each, asked, 1).requests[0].prompt) for each in (one, other)
        ]

    assert all(300 <= length < 360 for length in lengths)
    assert one[0]["content"][:20] != other[0]["content"][:20]


def test_a_chat_is_measured_turn_by_turn(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_cases, "_HISTORY", 300)

    result = chat(materials, Plan(rounds=2, starts=1, threads=1), Terminal())

    assert [each.case for each in result.comparisons] == ["second turn", "first turn"]
    assert all(len(each.ours) == len(each.theirs) == 2 for each in result.comparisons)
    assert all(each > 0 for case in result.comparisons for each in case.ours + case.theirs)
