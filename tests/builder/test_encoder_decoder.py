"""Each family of encoder-decoders: the two graphs answer like the model, run by torch, as ONNX and
by OpenVINO, and the searches over them write what transformers' own `generate` writes.

What the model answers is what transformers gives for whole texts, with no cache of ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from lepton_edge.backend import Graph, Session
from lepton_edge.builder.encoder_decoder import ENCODER_DECODERS, encoder_decoder_graphs
from lepton_edge.errors import UnsupportedModelError
from lepton_edge.generation.beams import EncoderDecoder, beam_search, greedy
from lepton_edge.generation.decoding import Decoding
from lepton_edge.target import TARGETS
from tests.decoders import tiny_decoder
from tests.encoder_decoders import (
    FAMILIES,
    PAD,
    START,
    VOCABULARY,
    onnx_session,
    tiny_encoder_decoder,
    torch_session,
)

Array = NDArray[Any]

RUNTIMES = ("torch", "onnxruntime", "openvino")
LONG = 30  # beyond the distance up to which T5 tells positions apart
MORE = 24


@dataclass
class Exported:
    """A model, its graphs, and what runs them."""

    model: Any
    encoder: Graph
    decoder: Graph
    folder: Path
    _opened: dict[str, EncoderDecoder] = field(default_factory=dict)

    @property
    def t5(self) -> bool:
        """Whether it is of the T5 families: no positions, and no other attention than eager."""
        return self.model.config.model_type in ("t5", "mt5")

    @property
    def layers(self) -> int:
        """Of the decoder."""
        config = self.model.config
        return int(config.num_decoder_layers if self.t5 else config.decoder_layers)

    def opened(self, runtime: str) -> EncoderDecoder:
        """Made once: it takes seconds."""
        if runtime not in self._opened:
            opener: Callable[[Graph, Path], Session] = {
                "torch": lambda graph, path: torch_session(graph),
                "onnxruntime": onnx_session,
                "openvino": _openvino_session,
            }[runtime]
            encoder = opener(self.encoder, self.folder / f"{runtime}-encoder")
            decoder = opener(self.decoder, self.folder / f"{runtime}-decoder")
            self._opened[runtime] = EncoderDecoder(encoder, decoder)
        return self._opened[runtime]


def _openvino_session(graph: Graph, folder: Path) -> Session:
    backend = pytest.importorskip(
        "lepton_edge_openvino.backend", reason="the OpenVINO backend is not installed"
    ).OpenVINOBackend()
    folder.mkdir()
    compiled = backend.build(graph, TARGETS["intel-cpu"], "fp32", backend.Options(), folder)
    session: Session = backend.load(folder, compiled)
    return session


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = tiny_encoder_decoder(request.param)
    graphs = encoder_decoder_graphs(model, attention="sdpa")
    return Exported(model, *graphs, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def tokens(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).integers(3, VOCABULARY, shape)


def padded(texts: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Token ids and mask, padded on the right."""
    width = max(len(text) for text in texts)
    mask = np.array([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    ids = np.array([[*text, *[PAD] * (width - len(text))] for text in texts])
    return ids, mask


def steps(
    opened: EncoderDecoder, texts: Sequence[Sequence[int]], answers: Array, *ends: int
) -> Iterator[tuple[int, Array]]:
    """The logits after each of these places in the answers; from one to the next is one step."""
    ids, mask = padded(texts)
    cross = opened.encoder.infer({"input_ids": ids, "attention_mask": mask})
    past: dict[str, Array] = {
        spec.name: np.zeros([len(texts), int(spec.shape[1]), 0, int(spec.shape[3])], np.float32)
        for spec in opened.decoder.inputs
        if spec.name.startswith("past.")
    }
    start = 0
    for end in ends:
        new = np.ascontiguousarray(answers[:, start:end])
        found = opened.decoder.infer(
            {"input_ids": new, "encoder_attention_mask": mask, **cross, **past}
        )
        past = {name: found[name.replace("past", "present")] for name in past}
        yield end, found["logits"]
        start = end


def whole(model: Any, texts: Sequence[Sequence[int]], answers: Array) -> Array:
    """The logits of every position of the answers, by transformers for each text alone."""
    with torch.no_grad():
        found = [
            model(
                input_ids=torch.tensor([text]), decoder_input_ids=torch.from_numpy(answer[None])
            ).logits[0]
            for text, answer in zip(texts, answers, strict=True)
        ]
    return torch.stack(found).numpy()


def assert_close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


TEXTS = [[5, 9, 33, 21, 40, 8, 17, 50, 2], [7, 2], [12, 60, 4, 31, 2]]


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == set(ENCODER_DECODERS)


# The graphs.


def test_token_by_token_equals_the_whole_answer(exported: Exported, runtime: str) -> None:
    """From an empty cache, with texts of different lengths in a batch."""
    answers = tokens(len(TEXTS), LONG)
    expected = whole(exported.model, TEXTS, answers)
    for end, logits in steps(exported.opened(runtime), TEXTS, answers, *range(1, LONG + 1)):
        assert_close(logits, expected[:, end - 1])


def test_an_answer_in_pieces_equals_the_whole_answer(exported: Exported, runtime: str) -> None:
    answers = tokens(1, LONG)
    expected = whole(exported.model, TEXTS[:1], answers)
    for end, logits in steps(exported.opened(runtime), TEXTS[:1], answers, 4, 5, 21, LONG):
        assert_close(logits, expected[:, end - 1])


def test_the_encoder_gives_the_keys_and_values_of_the_models_own_cache(
    exported: Exported, runtime: str
) -> None:
    ids, mask = padded(TEXTS)
    cross = exported.opened(runtime).encoder.infer({"input_ids": ids, "attention_mask": mask})
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            made = exported.model(
                input_ids=torch.tensor([text]), decoder_input_ids=torch.tensor([[START]])
            ).past_key_values.cross_attention_cache
        for layer in range(exported.layers):
            for part in ("keys", "values"):
                found = cross[f"cross.{layer}.{part[:-1]}"][row : row + 1, :, : len(text)]
                assert_close(found, getattr(made.layers[layer], part).numpy())


def test_answers_differ_between_texts_and_with_the_past(exported: Exported) -> None:
    """Else the other tests would pass on a model that ignores its text or its cache."""
    opened = exported.opened("onnxruntime")
    same = np.repeat(tokens(1, 6), 3, axis=0)
    (_, logits), *_ = steps(opened, TEXTS, same, 6)
    assert np.abs(logits[:2] - logits[1:]).max(axis=1).min() > 0.01
    answers = np.stack([[5, 8, 20, 9], [6, 8, 20, 9], [5, 7, 20, 9]])
    *_, (_, logits) = steps(opened, [TEXTS[0]] * 3, answers, 2, 4)
    assert np.abs(logits[0] - logits[1:]).max(axis=1).min() > 0.01


def test_tensors_are_named_and_shaped(exported: Exported) -> None:
    heads, size = 4, 12 if exported.t5 else 8
    names = [f"{layer}.{part}" for layer in range(exported.layers) for part in ("key", "value")]

    def cache(kind: str, length: str) -> list[tuple[str, str, tuple[int | str, ...]]]:
        return [(f"{kind}.{n}", "float32", ("batch", heads, length, size)) for n in names]

    def described(specs: Sequence[Any]) -> list[Any]:
        return [(spec.name, spec.dtype, spec.shape) for spec in specs]

    assert described(exported.encoder.inputs) == [
        ("input_ids", "int64", ("batch", "length")),
        ("attention_mask", "int64", ("batch", "length")),
    ]
    assert described(exported.encoder.outputs) == cache("cross", "length")
    assert described(exported.decoder.inputs) == [
        ("input_ids", "int64", ("batch", "length")),
        ("encoder_attention_mask", "int64", ("batch", "source")),
        *cache("past", "past"),
        *cache("cross", "source"),
    ]
    logits = ("logits", "float32", ("batch", VOCABULARY))
    assert described(exported.decoder.outputs) == [logits, *cache("present", "total")]


def attentions(graph: Graph) -> int:
    assert graph.program is not None
    return sum("scaled_dot_product" in str(node.target) for node in graph.program.graph.nodes)


def test_attention_is_whole_where_it_is_asked_for_and_can_be(exported: Exported) -> None:
    if exported.t5:
        assert attentions(exported.encoder) == attentions(exported.decoder) == 0
    else:
        assert attentions(exported.encoder) == exported.model.config.encoder_layers
        assert attentions(exported.decoder) == 2 * exported.layers  # on itself, and on the text


def test_eager_attention_is_in_parts_and_the_model_is_left_as_it_was() -> None:
    model = tiny_encoder_decoder("bart")
    before = model.config._attn_implementation
    encoder, decoder = encoder_decoder_graphs(model, attention="eager", max_length=40)
    assert attentions(encoder) == attentions(decoder) == 0
    assert model.config._attn_implementation == before == "sdpa"
    assert encoder.largest == {"length": 40}
    assert decoder.largest == {"length": 1, "total": 40, "source": 40}
    answers = tokens(2, 5)
    expected = whole(model, TEXTS[:2], answers)
    opened = EncoderDecoder(torch_session(encoder), torch_session(decoder))
    for end, logits in steps(opened, TEXTS[:2], answers, 1, 2, 5):
        assert_close(logits, expected[:, end - 1])


def test_the_longest_text_is_the_models_positions_where_it_has_some(exported: Exported) -> None:
    if exported.t5:
        assert exported.encoder.largest == {}
        assert exported.decoder.largest == {"length": 1}
    else:
        assert exported.encoder.largest == {"length": 96}
        assert exported.decoder.largest == {"length": 1, "total": 96, "source": 96}


def test_a_model_in_bfloat16_has_inputs_and_outputs_in_float32() -> None:
    model = tiny_encoder_decoder("marian")
    answers = tokens(3, 4)
    expected = whole(model, TEXTS, answers)
    encoder, decoder = encoder_decoder_graphs(model.bfloat16())
    opened = EncoderDecoder(torch_session(encoder), torch_session(decoder))
    for end, logits in steps(opened, TEXTS, answers, 1, 2, 4):
        assert logits.dtype == np.float32
        assert 1e-4 < np.abs(logits - expected[:, end - 1]).max() < 0.1


def test_a_model_in_float16_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"MarianMTModel in float16.*\n.*float32"):
        encoder_decoder_graphs(tiny_encoder_decoder("marian").half())


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model_type 'llama'.*BART, M2M100 \(NLLB\)"):
        encoder_decoder_graphs(tiny_decoder("llama"))


# Whole answers.


def theirs(model: Any, decoding: Decoding, **options: Any) -> tuple[list[list[int]], Array]:
    """transformers' answers to `TEXTS`, and their scores, in the order of ours."""
    ids, mask = padded(TEXTS)
    found = model.generate(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        do_sample=False,
        num_beams=decoding.num_beams,
        num_return_sequences=decoding.num_beams,
        max_new_tokens=MORE,
        eos_token_id=list(decoding.eos_token_ids) or None,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    answers = [cut(each, decoding.eos_token_ids) for each in found.sequences[:, 1:].tolist()]
    return answers, np.asarray(found.get("sequences_scores", []))


def cut(answer: list[int], ends: Sequence[int]) -> list[int]:
    """An answer up to the token that ends it."""
    return answer[: min((answer.index(end) + 1 for end in ends if end in answer), default=MORE)]


def greedy_answers(opened: EncoderDecoder, decoding: Decoding) -> list[list[int]]:
    rows = zip(*(step.tokens for step in greedy(opened, TEXTS, decoding)), strict=True)
    return [[token for token in row if token is not None] for row in rows]


def decoding_of(ends: Sequence[int] = (), **options: Any) -> Decoding:
    return Decoding(
        decoder_start_token_id=START,
        pad_token_id=PAD,
        eos_token_ids=tuple(ends),
        max_new_tokens=MORE,
        **options,
    )


# A random model comes to repeat itself; with this its answers are of many tokens.
VARIED: dict[str, Any] = {"no_repeat_ngram_size": 2}


@pytest.fixture(scope="module")
def ends(exported: Exported) -> list[int]:
    """Two tokens at which varied greedy answers end, each of the three after another length."""
    exported.model.generation_config.eos_token_id = None
    answers, _ = theirs(exported.model, decoding_of(), **VARIED)
    for pair in itertools.combinations(sorted({*itertools.chain(*answers)}), 2):
        lengths = {len(cut(answer, pair)) for answer in answers}
        if len(lengths) == 3 and min(lengths) > 1:
            return list(pair)
    pytest.fail("no two tokens end these answers at different places: take another seed")


def test_greedy_answers_are_transformers_own(
    exported: Exported, ends: list[int], runtime: str
) -> None:
    opened = exported.opened(runtime)
    plain, varied, early = decoding_of(), decoding_of(**VARIED), decoding_of(ends, **VARIED)
    assert greedy_answers(opened, plain) == theirs(exported.model, plain)[0]
    expected, _ = theirs(exported.model, varied, **VARIED)
    assert greedy_answers(opened, varied) == expected
    assert [len(answer) for answer in expected] == [MORE] * 3
    expected, _ = theirs(exported.model, early, **VARIED)
    assert greedy_answers(opened, early) == expected
    assert len({len(answer) for answer in expected}) == 3


def test_four_beams_find_transformers_own_answers(
    exported: Exported, ends: list[int], runtime: str
) -> None:
    assert_same_beams(exported, runtime, decoding_of(num_beams=4))
    early = decoding_of(ends, num_beams=4, early_stopping=True, **VARIED)
    answers = assert_same_beams(exported, runtime, early, early_stopping=True, **VARIED)
    assert len({len(answer) for answer in answers}) > 2


def assert_same_beams(
    exported: Exported, runtime: str, decoding: Decoding, **options: Any
) -> list[list[int]]:
    expected, scores = theirs(exported.model, decoding, **options)
    found = [each for row in beam_search(exported.opened(runtime), TEXTS, decoding) for each in row]
    assert [list(each.tokens) for each in found] == expected
    np.testing.assert_allclose([each.score for each in found], scores, rtol=1e-5, atol=1e-4)
    for each in found:
        stopped = each.tokens[-1] in decoding.eos_token_ids
        assert each.finish_reason == ("stop" if stopped else "length")
    return expected


OPTIONS: list[dict[str, Any]] = [
    {"length_penalty": 0.6},
    {"length_penalty": 2.0, "no_repeat_ngram_size": 2},
    {"length_penalty": -1.0, "early_stopping": "never"},
    {"early_stopping": True},
    {"early_stopping": "never", "length_penalty": 1.5},
    {"forced_bos_token_id": 9},
    {"forced_bos_token_id": 9, "early_stopping": True, "no_repeat_ngram_size": 3},
    {"forced_eos_token_id": 2, "length_penalty": 2.0},
    {"repetition_penalty": 1.4},
    {"bad_words_ids": ((5,), (7, 9), (20, 21), (30, 31, 32))},
    {"min_new_tokens": 9},
    {"suppress_tokens": (4, 5, 6), "renormalize_logits": True},
    {"no_repeat_ngram_size": 1},
]


@pytest.mark.parametrize("exported", ["bart", "t5"], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: " ".join(map(str, each.items())))
def test_rules_change_answers_as_they_do_in_transformers(
    exported: Exported, ends: list[int], options: dict[str, Any]
) -> None:
    given = {name: _listed(value) for name, value in options.items()}
    beams = decoding_of(ends, num_beams=4, **options)
    assert_same_beams(exported, "onnxruntime", beams, **given)
    decoding = decoding_of(ends, **options)
    expected, _ = theirs(exported.model, decoding, **given)
    assert greedy_answers(exported.opened("onnxruntime"), decoding) == expected


def _listed(value: Any) -> Any:
    """transformers takes lists where ours are tuples."""
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("exported", ["bart"], indirect=True)
def test_a_models_generation_config_is_read_as_transformers_reads_it(exported: Exported) -> None:
    values = {
        "decoder_start_token_id": START,
        "pad_token_id": PAD,
        "eos_token_id": [2, 17],
        "bad_words_ids": [[PAD]],
        "max_length": 15,
        "min_length": 5,
        "num_beams": 3,
        "early_stopping": True,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 40,
        "forced_eos_token_id": 2,
        "renormalize_logits": True,
    }
    config = transformers.GenerationConfig(**values)
    ids, mask = padded(TEXTS)
    expected = exported.model.generate(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), generation_config=config
    )[:, 1:].tolist()
    decoding = Decoding.from_generation_config(config.to_dict())
    found = beam_search(exported.opened("onnxruntime"), TEXTS, decoding)
    assert [list(row[0].tokens) for row in found] == [cut(each, (2, 17)) for each in expected]
    assert all(row[0].tokens[0] == 40 for row in found)
