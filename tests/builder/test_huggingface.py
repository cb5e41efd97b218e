"""Hugging Face folders as sources: what is read from them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lepton_edge
from lepton_edge import Recipe
from lepton_edge.builder import families
from lepton_edge.builder.huggingface import load_folder
from lepton_edge.errors import LeptonError, SourceError, UnsupportedModelError
from lepton_edge.recipe import Source, Text
from tests.builder.parts import (
    TEXTS,
    edit_json,
    probabilities,
    refused,
    scores_of,
    token_vectors,
)
from tests.tiny import LABELS, WORDS, save_tiny


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A classifier's folder, to be damaged."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def recipe_for(folder: Path, **changes: Any) -> Recipe:
    return Recipe(name="tiny", source=Source(path=str(folder)), **changes)


def test_a_built_classifier_answers_like_transformers(folder: Path, out: Path) -> None:
    bundle = lepton_edge.build(folder, output=out, precision="fp32")
    with lepton_edge.load(bundle.path) as model:
        results = model(list(TEXTS), top_k=None)
    expected = probabilities(folder)
    np.testing.assert_allclose(scores_of(results, LABELS), expected, atol=1e-5)
    assert [result.label for result in results] == [LABELS[i] for i in expected.argmax(axis=1)]
    assert len({result.label for result in results}) > 1
    manifest = bundle.manifest
    assert (manifest.name, manifest.task) == ("model", "text-classification")
    assert manifest.source.kind == "huggingface"
    assert manifest.source.name == "model"
    assert manifest.source.architecture == "BertForSequenceClassification"
    assert manifest.source.sha256 == _sha256(folder / "model.safetensors")
    assert manifest.text.max_length == 64


def test_a_missing_folder_is_named(tmp_path: Path, out: Path) -> None:
    error = refused(SourceError, recipe_for(tmp_path / "nowhere"), out)
    assert f"no model folder at {tmp_path / 'nowhere'}" in error.message
    assert error.hint == "check source.path"


def test_a_folder_without_config_is_no_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = refused(SourceError, tmp_path / "empty", out)
    assert "empty is not a model folder: it has no config.json" in error.message
    assert "save_pretrained" in str(error.hint)


@pytest.mark.parametrize(
    "text", ["{", "", "[1, 2]", '"bert"', "null", "\x00", "[" * 100_000], ids=lambda text: text[:9]
)
def test_an_invalid_config_is_refused(folder: Path, out: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    error = refused(SourceError, folder, out)
    assert str(folder / "config.json") in error.message
    assert error.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 5},
        {"num_hidden_layers": 3},
        {"hidden_size": 64, "num_attention_heads": 8},
        {"hidden_act": "unheard-of"},
        {"id2label": {"0": "only one"}},
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused(
    folder: Path, out: Path, changes: dict[str, Any]
) -> None:
    edit_json(folder / "config.json", **changes)
    error = refused(SourceError, folder, out)
    assert str(folder) in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("pegasus", "PegasusForConditionalGeneration"),
        ("vit", "ViTForImageClassification"),
        ("never-heard-of", "NeverModel"),
    ],
)
def test_an_unsupported_architecture_gets_the_list_and_the_onnx_way(
    folder: Path, out: Path, model_type: str, architecture: str
) -> None:
    edit_json(folder / "config.json", model_type=model_type, architectures=[architecture])
    error = refused(UnsupportedModelError, folder, out)
    assert f"the architecture {architecture} (model_type {model_type!r})" in error.message
    for family in families.ENCODERS.values():
        assert family in error.message
    assert "source: {onnx: model.onnx}" in str(error.hint)


def test_a_config_without_model_type_is_not_guessed(folder: Path, out: Path) -> None:
    """transformers would take the family from the folder's name."""
    named = folder.rename(folder.with_name("my-bert"))
    edit_json(named / "config.json", model_type=None)
    error = refused(UnsupportedModelError, named, out)
    assert "does not say its model_type" in error.message
    assert '"model_type": "bert"' in str(error.hint)


def test_a_checkpoint_for_another_task_needs_a_task(folder: Path, out: Path) -> None:
    edit_json(folder / "config.json", architectures=["BertForMultipleChoice"])
    error = refused(SourceError, folder, out)
    assert "BertForMultipleChoice" in error.message
    assert "--task" in str(error.hint)
    assert "text-classification, token-classification" in str(error.hint)


def test_a_single_output_is_no_choice_of_labels(tmp_path: Path, out: Path) -> None:
    """Such as a ranker's: its softmax would be 1 for every text."""
    folder = save_tiny(
        "bert", tmp_path / "ranker", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}
    )
    error = refused(SourceError, folder, out)
    assert "one output, 'LABEL_0': a number, not a choice of labels" in error.message
    assert "multi_label: true" in str(error.hint)
    options = {"task": "text-classification", "task_options": {"multi_label": True}}
    bundle = lepton_edge.build(recipe_for(folder, **options), output=out)
    with lepton_edge.load(bundle.path) as model:
        assert len({result.score for result in model(list(TEXTS))}) > 1


def test_a_folder_without_tokenizer_is_refused(folder: Path, out: Path) -> None:
    (folder / "tokenizer.json").unlink()
    error = refused(SourceError, folder, out)
    assert f"{folder} has no tokenizer" in error.message
    assert "tokenizer.save_pretrained(folder)" in str(error.hint)


def test_a_truncated_tokenizer_is_refused(folder: Path, out: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:200])
    error = refused(SourceError, folder, out)
    assert f"the tokenizer in {folder} cannot be read" in error.message


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, out: Path) -> None:
    """A compiled model would read past its embeddings without a word."""
    folder = save_tiny("bert", tmp_path / "model", vocab_size=8)
    error = refused(SourceError, folder, out)
    assert f"ids up to {len(WORDS) + 3}; the model has 8 embeddings" in error.message
    assert "belongs to another model" in str(error.hint)


def test_a_vocabulary_file_alone_is_a_tokenizer(folder: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "##s"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    from tokenizers import Tokenizer

    loaded = load_folder(folder, recipe_for(folder))
    ids = Tokenizer.from_str(loaded.tokenizer).encode("My CARDS").ids
    assert [vocabulary[i] for i in ids] == ["[CLS]", "my", "card", "##s", "[SEP]"]


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, out: Path, kept: float) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    error = refused(SourceError, folder, out)
    assert str(folder) in error.message
    assert "fetch it again" in str(error.hint)


def test_weights_are_the_ones_that_the_recipe_pins(folder: Path, out: Path) -> None:
    file = folder / "model.safetensors"
    pinned = _sha256(file)
    recipe = recipe_for(folder).changed(source={"path": str(folder), "sha256": pinned})
    assert load_folder(folder, recipe).source.sha256 == pinned

    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    error = refused(SourceError, recipe, out)
    assert f"have SHA-256 {_sha256(file)}; the recipe pins {pinned}" in error.message
    assert "source.sha256" in str(error.hint)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 600), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_never_ends_in_a_traceback(
    tiny_bert: Path, tmp_path: Path, place: int, bit: int
) -> None:
    """The header of the weights: lengths, names, shapes and offsets."""
    folder = tmp_path / "flipped"
    if not folder.exists():
        shutil.copytree(tiny_bert, folder)
    data = bytearray((tiny_bert / "model.safetensors").read_bytes())
    data[place] ^= 1 << bit
    (folder / "model.safetensors").write_bytes(data)
    with suppress(LeptonError):
        load_folder(folder, recipe_for(folder))


def test_pickled_weights_are_refused_unread(folder: Path, out: Path, tmp_path: Path) -> None:
    opened = tmp_path / "unpickled"

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(opened), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    error = refused(SourceError, folder, out)
    assert "only pytorch_model.bin, a pickle, which can run code" in error.message
    assert "safe_serialization=True" in str(error.hint)
    assert not opened.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)["weight"].close()
    assert opened.exists(), "the trap itself has to work"


def test_a_folder_without_weights_is_refused(folder: Path, out: Path) -> None:
    (folder / "model.safetensors").unlink()
    error = refused(SourceError, folder, out)
    assert f"{folder} has no weights in model.safetensors (none)" in error.message


def test_a_missing_head_is_an_error_and_not_made_up(tmp_path: Path, out: Path) -> None:
    folder = save_tiny("bert", tmp_path / "encoder", "AutoModel")
    error = refused(SourceError, folder, out, task="text-classification")
    assert "classifier.bias, classifier.weight" in error.message
    assert "it is no text-classification model" in error.message


def test_a_missing_pooler_under_a_head_is_an_error(folder: Path, out: Path) -> None:
    """BERT's classifier reads the pooler: random weights there would answer at random."""
    _drop_weights(folder, "pooler")
    error = refused(SourceError, folder, out)
    assert "bert.pooler.dense.bias" in error.message


def test_embeddings_need_no_pooler(tmp_path: Path) -> None:
    """Masked language models are saved without one."""
    folder = save_tiny("bert", tmp_path / "masked", "AutoModelForMaskedLM")
    assert load_folder(folder, recipe_for(folder)).task == "fill-mask"
    loaded = load_folder(folder, recipe_for(folder, task="feature-extraction"))
    assert loaded.task == "feature-extraction"
    assert loaded.source.architecture == "BertModel"


def test_sharded_weights_are_one_model(folder: Path, out: Path) -> None:
    import transformers

    expected = probabilities(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    bundle = lepton_edge.build(folder, output=out, precision="fp32")
    with lepton_edge.load(bundle.path) as opened:
        results = opened(list(TEXTS), top_k=None)
    np.testing.assert_allclose(scores_of(results, LABELS), expected, atol=1e-5)
    listing = "".join(f"{_sha256(shard)}  {shard.name}\n" for shard in shards)
    assert bundle.manifest.source.sha256 == hashlib.sha256(listing.encode()).hexdigest()

    shards[0].unlink()
    shutil.rmtree(out)
    error = refused(SourceError, folder, out)
    assert f"that are not there: {shards[0].name}" in error.message


def test_other_weights_in_the_folder_are_not_part_of_the_model(folder: Path) -> None:
    before = load_folder(folder, recipe_for(folder)).source.sha256
    (folder / "model.fp16.safetensors").write_bytes(b"another variant")
    assert load_folder(folder, recipe_for(folder)).source.sha256 == before


# Sentence-transformers.


def sentence_folder(
    folder: Path, pooling: dict[str, Any], *, normalize: bool = True, package: str = "models"
) -> Path:
    """A tiny encoder with the files that sentence-transformers writes beside it."""
    save_tiny("bert", folder, "AutoModel")
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    listing = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.{package}.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


FLAGS = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def mean(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = vectors.mean(axis=0)
    return result


def first(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors[0]


@pytest.mark.parametrize(
    ("pooling", "pool", "normalize"),
    [
        ({"word_embedding_dimension": 32, **FLAGS}, mean, True),
        ({"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}, first, False),
    ],
    ids=["mean-normalized-release-2", "cls-release-6"],
)
def test_sentence_transformers_embeddings_are_its_own(
    tmp_path: Path,
    out: Path,
    pooling: dict[str, Any],
    pool: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    normalize: bool,
) -> None:
    folder = sentence_folder(tmp_path / "model", pooling, normalize=normalize)
    expected = np.stack([pool(vectors) for vectors in token_vectors(folder)])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    bundle = lepton_edge.build(folder, output=out, precision="fp32")
    assert bundle.manifest.task == "feature-extraction"
    way = "mean" if pool is mean else "cls"
    assert bundle.manifest.task_config == {"pooling": way, "normalize": normalize}
    with lepton_edge.load(bundle.path) as model:
        found = np.asarray(model(list(TEXTS)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_sentence_limit_is_the_models(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", FLAGS)
    edit_json(folder / "sentence_bert_config.json", max_seq_length=24, do_lower_case=False)
    assert load_folder(folder, recipe_for(folder)).max_length == 24


def test_text_is_lowered_where_sentence_transformers_lowers_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = sentence_folder(tmp_path / "model", FLAGS)
    edit_json(folder / "tokenizer.json", normalizer=None)
    cased = Tokenizer.from_str(load_folder(folder, recipe_for(folder)).tokenizer)
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    lowered = Tokenizer.from_str(load_folder(folder, recipe_for(folder)).tokenizer)
    assert cased.encode("MY Card").tokens == ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]
    assert lowered.encode("MY Card").tokens == ["[CLS]", "my", "card", "[SEP]"]


def test_a_module_that_is_not_supported_is_refused(tmp_path: Path, out: Path) -> None:
    folder = sentence_folder(tmp_path / "model", FLAGS)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    error = refused(SourceError, folder, out)
    assert "a sentence-transformers module Dense, which is not supported" in error.message
    assert "Transformer, Pooling, Normalize" in str(error.hint)


@pytest.mark.parametrize("modules", ['["Pooling"]', "[{}]", "{}", "[null]"])
def test_modules_that_cannot_be_read_are_refused(tmp_path: Path, out: Path, modules: str) -> None:
    folder = sentence_folder(tmp_path / "model", FLAGS)
    (folder / "modules.json").write_text(modules)
    assert str(folder) in refused(SourceError, folder, out).message


def test_a_prompt_before_every_text_is_refused(tmp_path: Path, out: Path) -> None:
    folder = sentence_folder(tmp_path / "model", FLAGS)
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    edit_json(folder / "config_sentence_transformers.json", **settings)
    error = refused(SourceError, folder, out)
    assert "puts the prompt 'query' before every text" in error.message
    assert "default_prompt_name" in str(error.hint)


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({**FLAGS, "pooling_mode_cls_token": True}, "cls_token and mean_tokens"),
        ({"pooling_mode": ["mean", "max"]}, "mean and max"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({}, "none"),
    ],
)
def test_a_pooling_that_is_not_supported_is_for_the_recipe_to_choose(
    tmp_path: Path, out: Path, pooling: dict[str, Any], named: str
) -> None:
    folder = sentence_folder(tmp_path / "model", pooling)
    error = refused(SourceError, folder, out)
    assert f"asks for the pooling {named}; supported: mean, cls" in error.message
    assert "task_options: {pooling: mean}" in str(error.hint)
    chosen = recipe_for(folder, task="feature-extraction", task_options={"pooling": "cls"})
    assert load_folder(folder, chosen).task == "feature-extraction"


@pytest.mark.parametrize("damage", ["missing", "cut", "a list"])
def test_damaged_sentence_files_are_refused(tmp_path: Path, out: Path, damage: str) -> None:
    folder = sentence_folder(tmp_path / "model", FLAGS)
    file = folder / "1_Pooling" / "config.json"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("{" if damage == "cut" else "[]")
    error = refused(SourceError, folder, out)
    assert str(file) in error.message


# Limits, licence.


def test_a_length_over_the_models_is_refused(folder: Path, out: Path) -> None:
    error = refused(SourceError, recipe_for(folder, text=Text(max_length=65)), out)
    assert "text.max_length is 65; the model takes up to 64 tokens" in error.message
    assert error.hint == "lower it, or leave it out"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# Card\nlicense: mit", "apache-2.0"),
        ("\ufeff---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\njust text\n---\n", None),
        ("# Card\nlicense: mit", None),
        (None, None),
    ],
)
def test_the_licence_is_the_cards(folder: Path, card: str | None, expected: str | None) -> None:
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    assert load_folder(folder, recipe_for(folder)).license == expected


# Code that comes with the model.

MODELING = """
import os
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

Path(os.environ["TINY_CODE_RAN"]).write_text("it ran")


class TinyConfig(PretrainedConfig):
    model_type = "tiny-bag"

    def __init__(self, vocab_size=64, width=16, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.width = vocab_size, width


class TinyBag(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.embedding = torch.nn.Embedding(config.vocab_size, config.width)
        self.linear = torch.nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.unsqueeze(-1).to(self.embedding.weight.dtype)
        mean = (self.embedding(input_ids) * kept).sum(1) / kept.sum(1)
        return SequenceClassifierOutput(logits=self.linear(torch.tanh(mean)))
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the model's code writes when it runs. transformers copies such code to a
    folder of its own before it imports it."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("TINY_CODE_RAN", str(tmp_path / "ran"))
    return tmp_path / "ran"


@pytest.fixture
def own_code(folder: Path) -> Path:
    """A classifier whose code is in its folder."""
    write_own_code(folder)
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_json(
        folder / "config.json",
        auto_map=auto_map | {"AutoTokenizer": ["modeling_tiny.TinyTokenizer", None]},
    )
    return folder


def write_own_code(folder: Path) -> None:
    """Make a tiny model's folder one of a model with code of its own."""
    from safetensors.torch import save_file

    (folder / "modeling_tiny.py").write_text(MODELING)
    config = {
        "model_type": "tiny-bag",
        "architectures": ["TinyBagForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "modeling_tiny.TinyConfig",
            "AutoModelForSequenceClassification": "modeling_tiny.TinyBag",
        },
        "id2label": dict(enumerate(LABELS)),
        "vocab_size": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = {
        "embedding.weight": torch.randn(64, 16),
        "linear.weight": torch.randn(3, 16),
        "linear.bias": torch.randn(3),
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_code_of_the_model_does_not_run_unless_trusted(
    own_code: Path, out: Path, ran: Path
) -> None:
    error = refused(SourceError, own_code, out)
    assert not ran.exists()
    assert "runs code of its own" in error.message
    assert "modeling_tiny.TinyBag" in error.message
    assert "--trust-remote-code" in str(error.hint)


def test_code_of_a_tokenizer_does_not_run_unless_trusted(
    folder: Path, out: Path, ran: Path
) -> None:
    (folder / "modeling_tiny.py").write_text(MODELING)
    edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "modeling_tiny.TinyBag"]},
        tokenizer_class="TinyBag",
    )
    with suppress(SourceError):  # transformers may know a class that reads it without the code
        lepton_edge.build(folder, output=out)
    assert not ran.exists()


def test_code_of_a_trusted_model_runs(own_code: Path, out: Path, ran: Path) -> None:
    edit_json(own_code / "config.json", auto_map=_without_tokenizer(own_code))
    bundle = lepton_edge.build(own_code, output=out, precision="fp32", trust_remote_code=True)
    assert ran.read_text() == "it ran"
    assert bundle.manifest.source.architecture == "TinyBag"
    with lepton_edge.load(bundle.path) as model:
        assert {result.label for result in model(list(TEXTS))} <= set(LABELS)


def test_a_fault_in_trusted_code_is_a_source_error(own_code: Path, out: Path, ran: Path) -> None:
    edit_json(own_code / "config.json", auto_map=_without_tokenizer(own_code))
    (own_code / "modeling_tiny.py").write_text(
        MODELING.replace("self.post_init()", "raise ZeroDivisionError('in the model')")
    )
    error = refused(SourceError, own_code, out, trust_remote_code=True)
    assert "in the model" in error.message


def _without_tokenizer(folder: Path) -> dict[str, Any]:
    auto_map: dict[str, Any] = json.loads((folder / "config.json").read_text())["auto_map"]
    return {key: value for key, value in auto_map.items() if key != "AutoTokenizer"}


def _drop_weights(folder: Path, part: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
