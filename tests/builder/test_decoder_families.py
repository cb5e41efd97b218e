"""Each family of decoders: the graph of a step answers like the model, run by torch and as ONNX.

What the model answers is what transformers gives for a whole text, or for one row alone, with no
cache of ours: a cache, padding, or a window that is wrong shows as a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from lepton_edge.backend import Graph
from lepton_edge.builder.decoder import DECODERS, decoder_graph
from tests.decoders import FAMILIES, VOCABULARY, WINDOW, tiny_decoder, write_onnx

Array = NDArray[Any]
Feeds = dict[str, Array]

LONG = 3 * WINDOW + 5  # beyond the window of the sliding layers several times


@dataclass
class Exported:
    """A model, and its graph run by torch and by ONNX Runtime."""

    model: Any
    graph: Graph
    module: Any
    session: onnxruntime.InferenceSession

    def whole(self, ids: Array) -> Array:
        """transformers' logits of every position of texts without padding."""
        with torch.no_grad():
            logits: Array = self.model(torch.from_numpy(ids), use_cache=False).logits.numpy()
        return logits

    def empty(self, batch: int) -> Feeds:
        return {
            spec.name: np.zeros((batch, int(spec.shape[1]), 0, int(spec.shape[3])), np.float32)
            for spec in self.graph.inputs[3:]
        }

    def step(self, ids: Array, mask: Array, past: Feeds) -> tuple[Array, Feeds]:
        """The logits of the last position and the cache of the next step, both runs agreeing."""
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        names = [spec.name for spec in self.graph.outputs]
        by_onnx = dict(zip(names, self.session.run(names, feeds), strict=True))
        with torch.no_grad():
            tensors = [torch.from_numpy(feeds[spec.name]) for spec in self.graph.inputs]
            pairs = list(zip(tensors[3::2], tensors[4::2], strict=True))
            found = self.module(*tensors[:3], pairs)
        for name, tensor in zip(names, found, strict=True):
            real = mask[:, None, :, None] == 1 if name != "logits" else True
            # What stands at padding is read by nobody.
            kept = np.where(real, by_onnx[name], 0), np.where(real, tensor.numpy(), 0)
            assert_close(*kept)
        present = {
            name.replace("present", "past"): array
            for name, array in by_onnx.items()
            if name != "logits"
        }
        return by_onnx["logits"], present


def assert_close(found: Array, expected: Array) -> None:
    """Within 1e-5 of the largest value."""
    assert found.shape == expected.shape
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=1e-5)


def tokens(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).integers(3, VOCABULARY, shape)


@pytest.fixture(scope="module", params=DECODERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = tiny_decoder(request.param)
    graph = decoder_graph(model)
    file = tmp_path_factory.mktemp(request.param) / "model.onnx"
    write_onnx(graph, file)
    assert graph.program is not None
    module = graph.program.module(check_guards=False)
    # torch alone would refuse a total below 4, as the sum of two sizes that it takes for 2 or more.
    module._forward_pre_hooks.clear()
    return Exported(model, graph, module, onnxruntime.InferenceSession(file))


def test_every_supported_family_is_tested() -> None:
    assert FAMILIES.keys() == DECODERS.keys()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3), (3, WINDOW), (2, LONG)], ids=str)
def test_a_prompt_is_a_step_from_an_empty_cache(exported: Exported, shape: tuple[int, int]) -> None:
    ids = tokens(*shape)
    logits, present = exported.step(ids, np.ones_like(ids), exported.empty(shape[0]))
    assert_close(logits, exported.whole(ids)[:, -1])
    assert {array.shape[2] for array in present.values()} == {shape[1]}


def test_the_cache_holds_what_the_models_own_does(exported: Exported) -> None:
    ids = tokens(2, LONG)
    _, present = exported.step(ids, np.ones_like(ids), exported.empty(2))
    with torch.no_grad():
        # With no configuration it keeps everything, past a window too.
        from transformers import DynamicCache

        cache = DynamicCache()
        exported.model(torch.from_numpy(ids), past_key_values=cache)
    for index, layer in enumerate(cache.layers):
        assert_close(present[f"past.{index}.key"], layer.keys.numpy())
        assert_close(present[f"past.{index}.value"], layer.values.numpy())


def test_token_by_token_equals_the_whole_text_beyond_the_window(exported: Exported) -> None:
    ids = tokens(2, LONG)
    expected, past = exported.whole(ids), exported.empty(2)
    for end in range(1, LONG + 1):
        mask = np.ones((2, end), np.int64)
        logits, past = exported.step(ids[:, end - 1 : end], mask, past)
        assert_close(logits, expected[:, end - 1])


def test_a_text_in_pieces_equals_the_whole_text(exported: Exported) -> None:
    ids = tokens(1, LONG)
    expected, past = exported.whole(ids), exported.empty(1)
    for start, end in ((0, 4), (4, 5), (5, 5 + WINDOW + 3), (5 + WINDOW + 3, LONG)):
        logits, past = exported.step(ids[:, start:end], np.ones((1, end), np.int64), past)
        assert_close(logits, expected[:, end - 1])


def test_rows_padded_on_the_left_answer_as_they_do_alone(exported: Exported) -> None:
    """For a prompt and for the tokens after it; far more padding than text, and than a window."""
    lengths, width, more = [1, 3, WINDOW, LONG], LONG, WINDOW + 2
    rows = [tokens(1, length + more) for length in lengths]
    expected = [exported.whole(row)[0] for row in rows]
    mask = (np.arange(width)[::-1] < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = rows[row][0, :length]
    past = exported.empty(len(lengths))
    for done in range(more):
        logits, past = exported.step(ids, mask, past)
        assert_close(
            logits,
            np.stack([all_of[n + done - 1] for all_of, n in zip(expected, lengths, strict=True)]),
        )
        ids = np.array([row[:, n + done] for row, n in zip(rows, lengths, strict=True)])
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)


def test_answers_differ_between_texts_and_with_the_past(exported: Exported) -> None:
    """Else the other tests would pass on a model that ignores its input or its cache."""
    first, second = tokens(4, 9), tokens(4, 2)
    logits, past = exported.step(first, np.ones_like(first), exported.empty(4))
    after, _ = exported.step(second, np.ones((4, 11), np.int64), past)
    alone, _ = exported.step(second, np.ones((4, 2), np.int64), exported.empty(4))
    assert np.abs(logits[0] - logits[1:]).max(axis=1).min() > 0.01
    assert np.abs(after - alone).max(axis=1).min() > 0.01


def test_a_window_is_narrower_than_the_text(exported: Exported) -> None:
    """A token that the window has left changes nothing where every layer has a window, and
    something where one has none."""
    config = exported.model.config
    one = tokens(1, LONG)
    other = one.copy()
    other[0, 0] = VOCABULARY - 1 if one[0, 0] != VOCABULARY - 1 else 3
    before, after = (
        exported.step(ids, np.ones_like(ids), exported.empty(1))[0] for ids in (one, other)
    )
    if config.model_type in ("mistral", "phi3"):
        np.testing.assert_array_equal(before, after)
    else:
        if config.model_type in ("gemma2", "gemma3_text", "qwen2"):
            assert set(config.layer_types) == {"sliding_attention", "full_attention"}
        assert np.abs(before - after).max() > 1e-4


def test_tensors_are_named_and_shaped(exported: Exported) -> None:
    inputs = {spec.name: (spec.dtype, spec.shape) for spec in exported.graph.inputs}
    assert list(inputs)[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert inputs["input_ids"] == ("int64", ("batch", "length"))
    assert inputs["attention_mask"] == ("int64", ("batch", "total"))
    assert inputs["position_ids"] == ("int64", ("batch", "length"))
    config = exported.model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert list(inputs)[3:] == [f"past.{name}" for name in names]
    for name in list(inputs)[3:]:
        assert inputs[name] == ("float32", ("batch", heads, "past", size))
    outputs = [(spec.name, spec.dtype, spec.shape) for spec in exported.graph.outputs]
    assert outputs[0] == ("logits", "float32", ("batch", VOCABULARY))
    shape = ("batch", heads, "total", size)
    assert outputs[1:] == [(f"present.{name}", "float32", shape) for name in names]
