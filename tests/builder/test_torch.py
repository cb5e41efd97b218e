"""Torch modules as sources, through the public functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

import lepton_edge
from lepton_edge import Recipe, TorchSource, registry
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import ParityError, RecipeError, SourceError, UnsupportedModelError
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig
from tests.builder.parts import TEXTS, left_behind, refused, scores_of
from tests.tiny import LABELS, tokenizer

# torch announces what it will change; nothing of it is ours to act on.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Recurrent(torch.nn.Module):
    """Embedding, a recurrent layer, linear. Of the layer's answer it reads what ``read`` picks."""

    def __init__(
        self,
        read: Callable[..., torch.Tensor],
        kind: type[torch.nn.RNNBase] = torch.nn.LSTM,
        size: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(64, 16)
        self.layer = kind(16, 24, **{"batch_first": True, **options})
        self.read = read
        width = 48 if options.get("bidirectional") else 24
        self.linear = torch.nn.Linear(width, size)
        torch.nn.init.normal_(self.embedding.weight, std=3.0)
        torch.nn.init.normal_(self.linear.weight, std=3.0)

    def forward(self, input_ids: torch.Tensor, *mask: torch.Tensor) -> torch.Tensor:
        vectors = self.embedding(input_ids)
        if not self.layer.batch_first:
            vectors = vectors.transpose(0, 1)
        outputs, state = self.layer(vectors)
        logits: torch.Tensor = self.linear(self.read(outputs, state, *mask))
        return logits


def last(outputs: torch.Tensor, state: Any) -> torch.Tensor:
    return outputs[:, -1]


def last_of_time(outputs: torch.Tensor, state: Any) -> torch.Tensor:
    return outputs[-1]


def hidden(outputs: torch.Tensor, state: Any) -> torch.Tensor:
    """Both directions' last states, of the last layer."""
    final: torch.Tensor = state[0] if isinstance(state, tuple) else state
    return torch.cat([final[-2], final[-1]], dim=-1)


def cell(outputs: torch.Tensor, state: Any) -> torch.Tensor:
    result: torch.Tensor = state[1][-1]
    return result


def masked_mean(outputs: torch.Tensor, state: Any, mask: torch.Tensor) -> torch.Tensor:
    kept = mask.unsqueeze(-1).float()
    return (outputs * kept).sum(dim=1) / kept.sum(dim=1)


def everything(outputs: torch.Tensor, state: Any, *mask: torch.Tensor) -> torch.Tensor:
    return outputs


def source_of(module: torch.nn.Module, **changes: Any) -> TorchSource:
    options = {
        "tokenizer": tokenizer().backend_tokenizer,
        "task": "text-classification",
        "labels": LABELS,
        "inputs": ("input_ids",),
        "max_length": 64,
    }
    return TorchSource(module, **{**options, **changes})


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([tokenizer()(text)["input_ids"]])


def alone(module: torch.nn.Module, *, mask: bool = False) -> NDArray[np.float32]:
    """What torch gives for each text by itself."""
    module.eval()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            ids = ids_of(text)
            rows.append(module(ids, *([torch.ones_like(ids)] if mask else [])))
    return torch.cat(rows).numpy()


# An LSTM classifier, whole.


def test_an_lstm_without_a_mask_answers_like_torch(out: Path) -> None:
    """Padding would change its answer: only texts of equal length may share a batch."""
    module = Recurrent(hidden, bidirectional=True)
    expected = torch.from_numpy(alone(module)).softmax(dim=1).numpy()
    bundle = lepton_edge.build(
        source_of(module), recipe=Recipe(name="lstm", precision="fp32"), output=out
    )
    texts = list(TEXTS) * 5
    with lepton_edge.load(bundle.path) as model:
        results = model(texts, top_k=None)
    np.testing.assert_allclose(scores_of(results, LABELS), np.tile(expected, (5, 1)), atol=1e-5)
    assert [result.label for result in results[: len(TEXTS)]] == [
        LABELS[i] for i in expected.argmax(axis=1)
    ]
    assert len({result.label for result in results}) > 1
    source = bundle.manifest.source
    assert (source.kind, source.name, source.architecture) == ("torch", "Recurrent", "Recurrent")
    inputs = bundle.manifest.artifacts[0].compiled.inputs
    assert [(spec.name, spec.shape) for spec in inputs] == [("input_ids", ("batch", "length"))]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_lstm_with_a_mask_answers_like_torch(out: Path, precision: str) -> None:
    module = Recurrent(masked_mean)
    expected = torch.from_numpy(alone(module, mask=True)).softmax(dim=1).numpy()
    bundle = lepton_edge.build(
        source_of(module, inputs=("input_ids", "attention_mask")),
        recipe=Recipe(name="lstm"),
        precision=precision,
        output=out,
    )
    with lepton_edge.load(bundle.path) as model:
        results = model(list(TEXTS), top_k=None)
    tolerance = 1e-5 if precision == "fp32" else 0.02
    np.testing.assert_allclose(scores_of(results, LABELS), expected, atol=tolerance)


def test_a_mask_that_is_not_honoured_fails_the_gate(out: Path) -> None:
    """Backwards, the layer reads the padding before the text, whatever is masked after it."""
    module = Recurrent(masked_mean, bidirectional=True)
    source = source_of(module, inputs=("input_ids", "attention_mask"))
    recipe = Recipe(name="lstm", precision="fp32", parity={"max_error": 1e-4})
    error = refused(ParityError, source, out, recipe=recipe)
    assert "max_error is" in error.message


# Recurrent layers of every kind, on lengths and batches that they were not exported with.

LAYERS: dict[str, Callable[[], Recurrent]] = {
    "lstm": lambda: Recurrent(last),
    "lstm-bidirectional-states": lambda: Recurrent(hidden, bidirectional=True),
    "lstm-two-layers": lambda: Recurrent(last, num_layers=2, bidirectional=True, dropout=0.5),
    "lstm-cell-state": lambda: Recurrent(cell, num_layers=2),
    "lstm-time-first": lambda: Recurrent(last_of_time, batch_first=False, bidirectional=True),
    "lstm-no-bias": lambda: Recurrent(last, bias=False),
    "gru": lambda: Recurrent(last, torch.nn.GRU),
    "gru-bidirectional-states": lambda: Recurrent(hidden, torch.nn.GRU, bidirectional=True),
    "gru-two-layers-time-first": lambda: Recurrent(
        last_of_time, torch.nn.GRU, num_layers=2, batch_first=False
    ),
    "gru-no-bias": lambda: Recurrent(last, torch.nn.GRU, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_take_any_batch_and_length(tmp_path: Path, name: str) -> None:
    original = TorchOriginal(LAYERS[name](), ("input_ids",))
    config = TextClassificationConfig(LABELS, False, 0.5)
    graph = original.graph("text-classification", config, tmp_path)
    backend = registry.get("openvino")
    compiled = backend.build(graph, TARGETS["intel-cpu"], "fp32", backend.Options(), tmp_path)
    assert graph.program is not None
    program = graph.program.module()
    with backend.load(tmp_path, compiled) as session:
        for rows, length in ((1, 1), (1, 9), (2, 5), (3, 9), (5, 40)):
            ids = np.random.default_rng(length).integers(0, 64, (rows, length))
            expected = original.run({"input_ids": ids})["logits"]
            with torch.no_grad():
                exported = program(torch.from_numpy(ids))[0].numpy()
            np.testing.assert_allclose(exported, expected, rtol=0, atol=1e-6)
            found = session.infer({"input_ids": ids})["logits"]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# What a module may be.


def test_token_vectors_are_pooled(out: Path) -> None:
    module = Recurrent(everything)
    source = source_of(module, task="feature-extraction", labels=None)
    bundle = lepton_edge.build(source, recipe=Recipe(name="vectors", precision="fp32"), output=out)
    with torch.no_grad():
        expected = np.stack([module(ids_of(text))[0].mean(dim=0).numpy() for text in TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with lepton_edge.load(bundle.path) as model:
        np.testing.assert_allclose(np.asarray(model(list(TEXTS))), expected, atol=1e-5)
    assert bundle.manifest.task_config == {"pooling": "mean", "normalize": True}


class Bag(torch.nn.Module):
    """A mean of the tokens' vectors, with token types and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(64, 16)
        self.types = torch.nn.Embedding(2, 16)
        self.dropout = torch.nn.Dropout(0.9)
        self.linear = torch.nn.Linear(16, 3)

    def forward(
        self, token_type_ids: torch.Tensor, attention_mask: torch.Tensor, input_ids: torch.Tensor
    ) -> torch.Tensor:
        kept = attention_mask.unsqueeze(-1).to(self.linear.weight.dtype)
        vectors = (self.embedding(input_ids) + self.types(token_type_ids)) * kept
        logits: torch.Tensor = self.linear(self.dropout(vectors.sum(1) / kept.sum(1)))
        return logits


BAG_INPUTS = ("token_type_ids", "attention_mask", "input_ids")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_inputs_come_in_the_order_named_and_any_precision_goes(
    out: Path, dtype: torch.dtype
) -> None:
    module = Bag().to(dtype).train()
    source = source_of(module, inputs=BAG_INPUTS)
    recipe = Recipe(name="bag", precision="fp32", parity={"min_cosine": 0.99, "mean_cosine": 0.99})
    bundle = lepton_edge.build(source, recipe=recipe, output=out)
    module.eval()
    rows = []
    with torch.no_grad():
        for ids in map(ids_of, TEXTS):
            rows.append(module(torch.zeros_like(ids), torch.ones_like(ids), ids).float())
    expected = torch.cat(rows).softmax(dim=1).numpy()
    with lepton_edge.load(bundle.path) as model:
        found = scores_of(model(list(TEXTS), top_k=None), LABELS)
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype != torch.bfloat16 else 0.02)


def test_the_hash_is_of_the_weights(out: Path) -> None:
    def digest(module: torch.nn.Module) -> str:
        return source_of(module).load(Recipe(name="x")).source.sha256

    changed = Recurrent(last)
    with torch.no_grad():
        changed.linear.bias[0] += 1e-3
    assert digest(Recurrent(last)) == digest(Recurrent(last))
    assert digest(Recurrent(last)) != digest(changed)


@pytest.mark.parametrize("form", ["object", "file", "folder", "text path"])
def test_the_tokenizer_comes_in_any_form(tmp_path: Path, form: str) -> None:
    tokenizer().save_pretrained(tmp_path)
    given: Any = {
        "object": Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
        "file": tmp_path / "tokenizer.json",
        "folder": tmp_path,
        "text path": str(tmp_path / "tokenizer.json"),
    }[form]
    loaded = source_of(Recurrent(last), tokenizer=given).load(Recipe(name="x"))
    assert Tokenizer.from_str(loaded.tokenizer).encode("my card").tokens[1:3] == ["my", "card"]
    assert loaded.pad_id == 0


# What is refused.


class Twice(torch.nn.Module):
    """Not one tensor."""

    def __init__(self, kind: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.inner = Recurrent(last)
        self.kind = kind

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.kind(self.inner(input_ids))


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (lambda logits: (logits, logits), "tuple"),
        (lambda logits: {"logits": logits}, "dict"),
        (lambda logits: None, "NoneType"),
    ],
    ids=["tuple", "dict", "none"],
)
def test_an_output_that_is_no_tensor_is_refused(
    out: Path, task: str, kind: Callable[[torch.Tensor], Any], named: str
) -> None:
    source = source_of(Twice(kind), task=task)
    error = refused(SourceError, source, out, recipe=Recipe(name="twice"))
    assert f"the module returns a {named}; a task reads one tensor" in error.message
    assert "returns its logits" in str(error.hint)


def test_an_output_of_another_shape_is_refused(out: Path) -> None:
    error = refused(SourceError, source_of(Recurrent(everything)), out, recipe=Recipe(name="x"))
    assert "gives logits of shape [2, 9, 3] for 2 texts of 9 tokens" in error.message


def test_a_wrong_number_of_labels_is_refused(out: Path) -> None:
    source = source_of(Recurrent(last), labels=("no", "yes"))
    error = refused(SourceError, source, out, recipe=Recipe(name="x"))
    assert "the module has 3 outputs for 2 labels" in error.message


def test_labels_are_needed(out: Path) -> None:
    source = source_of(Recurrent(last), labels=None)
    error = refused(SourceError, source, out, recipe=Recipe(name="x"))
    assert "does not name its labels" in error.message


class Impatient(torch.nn.Module):
    """Its steps depend on what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Recurrent(last)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if input_ids.sum() > 40:
            return torch.zeros(len(input_ids), 3)
        logits: torch.Tensor = self.inner(input_ids)
        return logits


class Packed(Recurrent):
    """Reads each row no further than its mask: a shape that depends on values."""

    def forward(self, input_ids: torch.Tensor, *mask: torch.Tensor) -> torch.Tensor:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embedding(input_ids), mask[0].sum(1), batch_first=True, enforce_sorted=False
        )
        logits: torch.Tensor = self.linear(self.layer(packed)[1][0][-1])
        return logits


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Impatient(), ("input_ids",)),
        (Packed(last), ("input_ids", "attention_mask")),
        (Recurrent(last, torch.nn.RNN), ("input_ids",)),
    ],
    ids=["impatient", "packed", "plain-rnn"],
)
def test_what_torch_cannot_export_gets_the_onnx_way(
    out: Path, module: torch.nn.Module, inputs: tuple[str, ...]
) -> None:
    source = source_of(module, inputs=inputs)
    error = refused(UnsupportedModelError, source, out, recipe=Recipe(name="x"))
    assert f"torch cannot export {type(module).__name__}: " in error.message
    assert "source: {onnx: model.onnx}" in str(error.hint)


@pytest.mark.parametrize(
    "inputs", [("attention_mask",), ("input_ids", "position_ids"), ()], ids=str
)
def test_inputs_that_text_does_not_give_are_refused(out: Path, inputs: tuple[str, ...]) -> None:
    source = source_of(Recurrent(last), inputs=inputs)
    error = refused(SourceError, source, out, recipe=Recipe(name="x"))
    assert f"inputs are {list(inputs)}" in error.message
    assert "attention_mask, token_type_ids" in error.message


def test_a_tokenizer_of_another_model_is_told_apart(out: Path) -> None:
    """Nothing says how many embeddings a module has: it fails when it is asked."""
    module = Recurrent(last)
    module.embedding = torch.nn.Embedding(8, 16)
    error = refused(SourceError, source_of(module), out, recipe=Recipe(name="x"))
    assert "Recurrent cannot answer a text of " in error.message
    assert "index out of range" in error.message
    assert "does the tokenizer belong to it" in str(error.hint)


def test_a_missing_tokenizer_is_named(tmp_path: Path, out: Path) -> None:
    source = source_of(Recurrent(last), tokenizer=tmp_path / "none.json")
    error = refused(SourceError, source, out, recipe=Recipe(name="x"))
    assert f"there is no tokenizer at {tmp_path / 'none.json'}" in error.message


def test_a_torch_source_needs_a_recipe(out: Path) -> None:
    error = refused(RecipeError, source_of(Recurrent(last)), out)
    assert "needs a recipe" in error.message
    assert "recipe=Recipe(name=…)" in str(error.hint)


def test_a_bare_module_is_told_what_it_needs(out: Path) -> None:
    error = refused(SourceError, Recurrent(last), out, recipe=Recipe(name="x"))
    assert "a Recurrent is no source" in error.message
    assert "TorchSource(module, tokenizer, task)" in str(error.hint)


def test_a_recipe_beside_another_source_is_not_ignored(tiny_bert: Path, out: Path) -> None:
    error = refused(RecipeError, tiny_bert, out, recipe=Recipe(name="x"))
    assert "for a TorchSource alone" in error.message
    assert left_behind(out) == []
