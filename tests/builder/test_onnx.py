"""ONNX files as sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import lepton_edge
from lepton_edge import Recipe
from lepton_edge.builder.onnx_model import external_data, load_onnx
from lepton_edge.errors import SourceError
from lepton_edge.recipe import Source
from tests.builder.parts import (
    TEXTS,
    edit_json,
    probabilities,
    refused,
    scores_of,
    token_vectors,
)
from tests.tiny import LABELS, save_tiny, tokenizer

CLASSIFY, EMBED = "text-classification", "feature-extraction"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# torch.onnx and transformers announce what they will change; nothing of it is ours to act on.
pytestmark = pytest.mark.filterwarnings("ignore")

Outputs = NDArray[np.float32]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# Exported from torch, as a user would.


class Named(torch.nn.Module):
    """A transformers model's one output, by its name."""

    def __init__(self, model: torch.nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        output = self.model(**dict(zip(INPUTS, tensors, strict=True)))
        result: torch.Tensor = output[self.output]
        return result


def export(folder: Path, head: str, output: str) -> Path:
    """A tiny BERT as transformers saves it, with model.onnx beside it."""
    save_tiny("bert", folder, head)
    model = getattr(transformers, head).from_pretrained(folder).eval()
    ids = torch.arange(18).reshape(2, 9) % 5 + 1
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Named(model, output).eval(),
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        input_names=INPUTS,
        output_names=[output],
        dynamic_shapes=((dynamic,) * 3,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(folder / "model.onnx"))
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "classifier"
    return export(folder, "AutoModelForSequenceClassification", "logits")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("onnx") / "encoder", "AutoModel", "last_hidden_state")


def test_an_onnx_classifier_answers_like_torch(classifier: Path, out: Path) -> None:
    (classifier / "README.md").write_text("---\nlicense: mit\n---\n")
    bundle = lepton_edge.build(
        classifier / "model.onnx", task=CLASSIFY, output=out, precision="fp32"
    )
    with lepton_edge.load(bundle.path) as model:
        results = model(list(TEXTS), top_k=None)
    np.testing.assert_allclose(scores_of(results, LABELS), probabilities(classifier), atol=1e-5)
    source = bundle.manifest.source
    assert (source.kind, source.name) == ("onnx", "model.onnx")
    assert source.architecture == "BertForSequenceClassification"
    assert bundle.manifest.license == "mit"
    assert bundle.manifest.artifacts[0].parity.max_error < 1e-5


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_token_vectors_are_pooled_like_torch(
    encoder: Path, out: Path, pooling: str, normalize: bool
) -> None:
    options = {"pooling": pooling, "normalize": normalize}
    recipe = Recipe(
        name="encoder",
        source=Source(onnx=str(encoder / "model.onnx")),
        task=EMBED,
        task_options=options,
        precision="fp32",
    )
    bundle = lepton_edge.build(recipe, output=out)
    vectors = token_vectors(encoder)
    expected = np.stack([v[0] if pooling == "cls" else v.mean(axis=0) for v in vectors])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with lepton_edge.load(bundle.path) as model:
        found = np.asarray(model(list(TEXTS)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert bundle.manifest.task_config == options


# Written by hand, to be wrong in one way each.


def bag(
    folder: Path,
    *,
    output: str = "logits",
    shape: tuple[int | str, int | str] = ("batch", "length"),
    dtype: int = TensorProto.INT64,
    inputs: tuple[str, ...] = INPUTS[:2],
    weights: int = TensorProto.FLOAT,
    declared: list[int | str] | None = None,
    opset: int = 17,
) -> Path:
    """A bag of words: the mean of the tokens' vectors, times a matrix. ``output`` is what it gives:
    logits of three labels, token_vectors, or label, the best one's number."""
    random = np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(weights)

    def matrix(name: str, *size: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(size).astype(kind), name)

    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["token_vectors"])]
    if "attention_mask" in inputs:
        nodes.append(helper.make_node("Unsqueeze", ["attention_mask", "last"], ["column"]))
        nodes.append(helper.make_node("Cast", ["column"], ["kept"], to=weights))
        nodes.append(helper.make_node("Mul", ["token_vectors", "kept"], ["masked"]))
        nodes.append(helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("ReduceSum", ["kept", "one"], ["count"], keepdims=0))
        nodes.append(helper.make_node("Div", ["sum", "count"], ["mean"]))
    else:
        nodes.append(helper.make_node("ReduceSum", ["token_vectors", "one"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "head"], ["logits"]))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=1))
    kinds = {"logits": weights, "token_vectors": weights, "label": TensorProto.INT64}
    shapes = {"logits": ["batch", 3], "token_vectors": [*shape, 16], "label": ["batch", 1]}
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(output, kinds[output], declared or shapes[output])],
        [
            matrix("table", 64, 16),
            matrix("head", 16, 3),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    file = folder / "bag.onnx"
    onnx.save(model, str(file))
    return file


def answers(file: Path, out: Path, task: str = CLASSIFY) -> Any:
    """What a bundle made from the file gives for `TEXTS`."""
    bundle = lepton_edge.build(file, task=task, output=out, precision="fp32")
    with lepton_edge.load(bundle.path) as model:
        return model(list(TEXTS), **({"top_k": None} if task == CLASSIFY else {}))


def expected_of_bag(file: Path, *, masked: bool = True) -> Outputs:
    """Its probabilities, in numpy, of each text alone."""
    from tokenizers import Tokenizer

    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer}
    encoder = Tokenizer.from_file(str(file.parent / "tokenizer.json"))
    rows = []
    for text in TEXTS:
        vectors = tensors["table"][encoder.encode(text).ids].astype(np.float32)
        pooled = vectors.mean(axis=0) if masked else vectors.sum(axis=0)
        rows.append(pooled @ tensors["head"].astype(np.float32))
    exps = np.exp(np.array(rows) - np.max(rows, axis=1, keepdims=True))
    scores: Outputs = exps / exps.sum(axis=1, keepdims=True)
    return scores


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 1e-5),
        ({"dtype": TensorProto.INT32}, 1e-5),
        ({"declared": ["batch", "labels"]}, 1e-5),
        ({"weights": TensorProto.FLOAT16}, 5e-3),
        ({"opset": 21}, 1e-5),
    ],
    ids=["plain", "int32-inputs", "labels-not-declared", "half-precision", "newer-opset"],
)
def test_kinds_of_files_that_build(
    tmp_path: Path, out: Path, changes: dict[str, Any], tolerance: float
) -> None:
    file = bag(tmp_path, **changes)
    found = scores_of(answers(file, out), LABELS)
    np.testing.assert_allclose(found, expected_of_bag(file), atol=tolerance)


def test_without_a_mask_nothing_is_padded(tmp_path: Path, out: Path) -> None:
    """A sum over tokens would count the padding."""
    file = bag(tmp_path, inputs=("input_ids",))
    found = scores_of(answers(file, out), LABELS)
    np.testing.assert_allclose(found, expected_of_bag(file, masked=False), atol=1e-5)


def test_without_a_mask_every_token_is_pooled(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path, inputs=("input_ids",), output="token_vectors")
    found = np.asarray(answers(file, out, EMBED))
    table = numpy_helper.to_array(onnx.load(str(file)).graph.initializer[0])
    ids = tokenizer()(list(TEXTS))["input_ids"]
    expected = np.stack([table[row].mean(axis=0) for row in ids])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_vectors_are_pooled(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path, output="token_vectors", weights=TensorProto.FLOAT16)
    vectors = np.asarray(answers(file, out, EMBED))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_the_output_named_for_the_task_is_read(tmp_path: Path, out: Path) -> None:
    """Not the loss, or whatever else comes before it."""
    file = bag(tmp_path)
    model = onnx.load(str(file))
    first = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1])
    model.graph.output.insert(0, first)
    onnx.save(model, str(file))
    np.testing.assert_allclose(
        scores_of(answers(file, out), LABELS), expected_of_bag(file), atol=1e-5
    )


def test_weights_listed_among_the_inputs_are_no_inputs(tmp_path: Path, out: Path) -> None:
    """As files of the first ONNX releases do."""
    file = bag(tmp_path)
    model = onnx.load(str(file))
    model.graph.input.append(helper.make_tensor_value_info("head", TensorProto.FLOAT, [16, 3]))
    onnx.save(model, str(file))
    assert len(answers(file, out)) == len(TEXTS)


def test_the_tokenizer_may_be_elsewhere(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path / "tokenizer")
    moved = file.rename(tmp_path / "moved.onnx")
    error = refused(SourceError, moved, out, task=CLASSIFY)
    assert f"{tmp_path} has no tokenizer" in error.message
    source = Source(onnx=str(moved), tokenizer=str(tmp_path / "tokenizer"))
    recipe = Recipe(name="moved", source=source, task=CLASSIFY)
    assert lepton_edge.build(recipe, output=out).manifest.task_config["labels"] == list(LABELS)


# What is refused.


def test_a_missing_file_is_named(tmp_path: Path, out: Path) -> None:
    error = refused(SourceError, tmp_path / "none.onnx", out, task=CLASSIFY)
    assert f"there is no ONNX file at {tmp_path / 'none.onnx'}" in error.message


def test_an_onnx_file_needs_a_task(tmp_path: Path, out: Path) -> None:
    error = refused(SourceError, bag(tmp_path), out)
    assert error.message == "an ONNX file does not say its task"
    assert "--task" in str(error.hint)
    assert "text-classification or token-classification" in str(error.hint)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, out: Path, kept: float) -> None:
    file = bag(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert str(file) in error.message
    assert error.hint == "it is cut short or damaged: export or fetch it again"


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path)
    file.write_text("this is text")
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert str(file) in error.message


@pytest.mark.parametrize("shape", [(1, 128), ("batch", 128), (1, "length")], ids=str)
def test_fixed_shapes_are_refused(
    tmp_path: Path, out: Path, shape: tuple[int | str, int | str]
) -> None:
    error = refused(SourceError, bag(tmp_path, shape=shape), out, task=CLASSIFY)
    assert f"input input_ids has the fixed shape {list(shape)}" in error.message
    assert "dynamic batch and length" in str(error.hint)


def test_a_shape_fixed_inside_is_refused(tmp_path: Path, out: Path) -> None:
    """Declared dynamic, but traced with one shape: exporters do that."""
    file = bag(tmp_path)
    model = onnx.load(str(file))
    size = numpy_helper.from_array(np.array([2, 9, 16]), "size")
    model.graph.initializer.append(size)
    model.graph.node[0].output[0] = "looked_up"
    node = helper.make_node("Reshape", ["looked_up", "size"], ["token_vectors"])
    model.graph.node.insert(1, node)
    onnx.save(model, str(file))
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert "ONNX Runtime cannot run bag.onnx on input_ids [1, 5]" in error.message
    assert "dynamic batch and length" in str(error.hint)


def test_an_input_that_text_does_not_give_is_refused(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path, inputs=(*INPUTS[:2], "position_ids"))
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert "takes an input 'position_ids'" in error.message
    assert "input_ids, attention_mask, token_type_ids" in error.message


@pytest.mark.parametrize("declared", [None, ["batch", "labels"]], ids=["declared", "not-declared"])
def test_a_wrong_number_of_labels_is_refused(
    tmp_path: Path, out: Path, declared: list[int | str] | None
) -> None:
    file = bag(tmp_path, declared=declared)
    edit_json(tmp_path / "config.json", id2label={"0": "no", "1": "yes"})
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert "bag.onnx has 3 outputs for 2 labels" in error.message


def test_labels_are_needed(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path)
    (tmp_path / "config.json").unlink()
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert "does not name its labels" in error.message
    assert "task_options: {labels: [...]}" in str(error.hint)


@pytest.mark.parametrize("labels", [["a", "b", "c"], {"first": "a"}], ids=str)
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, out: Path, labels: Any) -> None:
    file = bag(tmp_path)
    edit_json(tmp_path / "config.json", id2label=labels)
    error = refused(SourceError, file, out, task=CLASSIFY)
    assert "id2label in config.json" in error.message


def test_an_output_of_another_shape_is_refused(tmp_path: Path, out: Path) -> None:
    error = refused(SourceError, bag(tmp_path, output="token_vectors"), out, task=CLASSIFY)
    assert "token_vectors of shape [2, 9, 16] for 2 texts of 9 tokens" in error.message


def test_an_output_that_is_a_number_of_a_label_is_refused(tmp_path: Path, out: Path) -> None:
    error = refused(SourceError, bag(tmp_path, output="label"), out, task=CLASSIFY)
    assert "gives label as int64" in error.message


def test_a_very_old_file_is_refused(tmp_path: Path, out: Path) -> None:
    file = bag(tmp_path, inputs=("input_ids",), output="token_vectors", opset=11)
    model = onnx.load(str(file))
    del model.graph.node[1:]
    onnx.save(model, str(file))
    error = refused(SourceError, file, out, task=EMBED)
    assert "uses opset 11; lepton-edge takes 13 and later" in error.message


# Weights in a file of their own.


@pytest.fixture
def external(tmp_path: Path) -> Path:
    file = bag(tmp_path)
    model = onnx.load(str(file))
    onnx.save(
        model, str(file), save_as_external_data=True, location="bag.weights", size_threshold=64
    )
    return file


def test_weights_beside_the_file_are_part_of_it(external: Path, out: Path) -> None:
    weights = external.with_name("bag.weights")
    found = scores_of(answers(external, out), LABELS)
    np.testing.assert_allclose(found, expected_of_bag(external), atol=1e-5)
    recipe = Recipe(name="bag", source=Source(onnx=str(external)), task=CLASSIFY)
    before = load_onnx(external, external.parent, recipe).source.sha256
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert load_onnx(external, external.parent, recipe).source.sha256 != before


def test_weights_in_constant_nodes_are_part_of_it_too(tmp_path: Path) -> None:
    file = bag(tmp_path)
    model = onnx.load(str(file))
    for tensor in model.graph.initializer:
        model.graph.node.insert(
            0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        )
    del model.graph.initializer[:]
    onnx.save(
        model,
        str(file),
        save_as_external_data=True,
        location="bag.weights",
        size_threshold=64,
        convert_attribute=True,
    )
    weights = file.with_name("bag.weights")
    assert external_data(file) == [weights]
    recipe = Recipe(name="bag", source=Source(onnx=str(file)), task=CLASSIFY)
    before = load_onnx(file, tmp_path, recipe).source.sha256
    weights.write_bytes(bytes(weights.stat().st_size))
    assert load_onnx(file, tmp_path, recipe).source.sha256 != before


def test_missing_weights_are_named(external: Path, out: Path) -> None:
    weights = external.with_name("bag.weights")
    weights.unlink()
    error = refused(SourceError, external, out, task=CLASSIFY)
    assert f"{weights}, which holds weights of bag.onnx, is missing" in error.message


def test_truncated_weights_are_refused(external: Path, out: Path) -> None:
    weights = external.with_name("bag.weights")
    weights.write_bytes(weights.read_bytes()[:100])
    error = refused(SourceError, external, out, task=CLASSIFY)
    assert str(external) in error.message


def test_weights_outside_the_folder_are_refused(external: Path, out: Path) -> None:
    weights = external.with_name("bag.weights")
    weights.rename(external.parent.parent / "bag.weights")
    model = onnx.load(str(external), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../bag.weights"
    external.write_bytes(model.SerializeToString())
    error = refused(SourceError, external, out, task=CLASSIFY)
    assert "outside its folder" in error.message


# What lies beside the file.


def test_the_limit_is_that_of_the_family(tmp_path: Path) -> None:
    """RoBERTa's positions start after its padding index: two of the 514 are not for text."""
    file = bag(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", model_max_length=None)
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    edit_json(tmp_path / "config.json", **config)
    recipe = Recipe(name="bag", source=Source(onnx=str(file)), task=CLASSIFY)
    assert load_onnx(file, tmp_path, recipe).max_length == 512


def test_sentence_transformers_files_beside_it_count(encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "model"))
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    edit_json(folder / "sentence_bert_config.json", max_seq_length=20)
    recipe = Recipe(name="x", source=Source(onnx=str(folder / "model.onnx")), task=EMBED)
    loaded = load_onnx(folder / "model.onnx", folder, recipe)
    assert (loaded.facts.pooling, loaded.facts.normalize) == ("cls", False)
    assert loaded.max_length == 20
