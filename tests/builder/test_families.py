"""Every family that can be exported, with each head, beside transformers itself.

The head that fills masks has its own tests, in test_fill_mask.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from lepton_edge import registry
from lepton_edge.backend import Graph, Session
from lepton_edge.builder import families
from lepton_edge.builder.huggingface import load_folder
from lepton_edge.recipe import Recipe
from lepton_edge.target import TARGETS
from lepton_edge.tasks import task_class
from tests.tiny import FAMILIES, WORDS, save_tiny

CLASSIFIER, ENCODER = "AutoModelForSequenceClassification", "AutoModel"
TAGGER, READER = "AutoModelForTokenClassification", "AutoModelForQuestionAnswering"
# One layer, in a family's own words (and one of each of its two kinds): the others are proven with
# the first two heads.
SHALLOW: dict[str, dict[str, Any]] = {
    "distilbert": {"n_layers": 1},
    "modernbert": {"num_hidden_layers": 2},
}
# None of them is the shape that graphs are traced with.
SHAPES = ((1, 1), (1, 2), (2, 1), (3, 5), (1, 9), (4, 17), (7, 33))
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    *((family, head, {}) for family in FAMILIES for head in (CLASSIFIER, ENCODER)),
    *(
        (family, head, SHALLOW.get(family, {"num_hidden_layers": 1}))
        for family in FAMILIES
        for head in (TAGGER, READER)
    ),
    # Configurations of well-known checkpoints that take other paths through the same code.
    ("roberta", CLASSIFIER, {"pad_token_id": 1, "type_vocab_size": 1}),
    ("modernbert", CLASSIFIER, {"classifier_pooling": "mean"}),
    (  # deberta-v3
        "deberta-v2",
        CLASSIFIER,
        {"position_biased_input": False, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    (  # deberta-v2-xlarge
        "deberta-v2",
        CLASSIFIER,
        {"position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
]
# torch and transformers announce what they will change; nothing of it is ours to act on.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Feeds = dict[str, NDArray[Any]]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Exported:
    """A tiny model, what the builder made of it, and the same model as transformers loads it."""

    model: torch.nn.Module
    graph: Graph
    module: torch.nn.Module
    session: Session
    outputs: tuple[str, ...]
    max_length: int
    pad_id: int

    def feeds(self, lengths: list[int], padded_to: int | None = None) -> Feeds:
        """Random tokens, one row a length, padded on the right as the runtime pads."""
        width = padded_to or max(lengths)
        random = np.random.default_rng(width)
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
        ids = random.integers(4, 4 + len(WORDS), mask.shape)
        feeds = {
            "input_ids": np.where(mask == 1, ids, self.pad_id),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        return {spec.name: feeds[spec.name] for spec in self.graph.inputs}

    def expected(self, feeds: Feeds) -> Array:
        """What transformers itself answers; mean pooling and normalization in numpy."""
        with torch.no_grad():
            output = self.model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        if self.outputs != ("embedding",):
            return _together([getattr(output, name).numpy() for name in self.outputs])
        kept = feeds["attention_mask"][..., None]
        mean = (output.last_hidden_state.numpy() * kept).sum(axis=1) / kept.sum(axis=1)
        embedding: Array = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return embedding

    def program(self, feeds: Feeds) -> Array:
        """What the exported program answers, run by torch."""
        with torch.no_grad():
            outputs = self.module(*map(torch.from_numpy, feeds.values()))
        return _together([output.numpy() for output in outputs])

    def artifact(self, feeds: Feeds) -> Array:
        """What the compiled artifact answers."""
        found = self.session.infer(feeds)
        return _together([found[name] for name in self.outputs])

    def text_of(self, answers: Array, row: int, length: int) -> Array:
        """A row's answers, of its text alone where there is one for each token."""
        own = answers[row : row + 1]
        return own[:, :length] if "length" in self.graph.outputs[0].shape else own


def _together(outputs: list[Array]) -> Array:
    """Several outputs of one shape as one."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)


@pytest.fixture(
    scope="module",
    params=MODELS,
    ids=lambda model: "-".join([model[0], model[1].removeprefix("AutoModel"), *model[2]]),
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    family, head, changes = request.param
    work = tmp_path_factory.mktemp(family)
    folder = save_tiny(family, work / "model", head, **changes)
    _forget_tokenizer_limit(folder)
    recipe = Recipe(name="tiny")
    loaded = load_folder(folder, recipe)
    task = task_class(loaded.task)
    config = task.configure(recipe.options_of_task(loaded.task), loaded.facts)
    graph = loaded.original.graph(loaded.task, config, work)
    backend = registry.get("openvino")
    directory = work / "artifact"
    directory.mkdir()
    compiled = backend.build(graph, TARGETS["intel-cpu"], "fp32", backend.Options(), directory)
    model = getattr(transformers, head).from_pretrained(folder, dtype=torch.float32).eval()
    assert graph.program is not None
    module = graph.program.module()
    with backend.load(directory, compiled) as session:
        outputs = tuple(task.outputs)
        yield Exported(model, graph, module, session, outputs, loaded.max_length, loaded.pad_id)


def test_every_supported_family_is_tested() -> None:
    assert FAMILIES.keys() == families.ENCODERS.keys()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_answers_are_the_models_on_other_shapes_than_traced(
    exported: Exported, shape: tuple[int, int]
) -> None:
    rows, length = shape
    feeds = exported.feeds([length] * rows)
    expected = exported.expected(feeds)
    np.testing.assert_allclose(exported.program(feeds), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(exported.artifact(feeds), expected, rtol=1e-5, atol=1e-5)


def test_a_padded_row_answers_as_it_does_alone(exported: Exported) -> None:
    """Far more padding than text, too: a narrow attention window then holds padding only."""
    lengths, width = [1, 3, 9, 30, 41], 48
    feeds = exported.feeds(lengths, padded_to=width)
    together = exported.artifact(feeds)
    program = exported.program(feeds)
    for row, length in enumerate(lengths):
        alone = {
            name: np.ascontiguousarray(array[row : row + 1, :length])
            for name, array in feeds.items()
        }
        expected = exported.expected(alone)
        own, its = exported.text_of(together, row, length), exported.text_of(program, row, length)
        np.testing.assert_allclose(its, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def test_answers_differ_between_texts(exported: Exported) -> None:
    """Else the other tests would pass on a model that ignores its input."""
    answers = exported.artifact(exported.feeds([12] * 4))
    difference = np.abs(answers[0] - answers[1:])
    assert difference.reshape(3, -1).max(axis=1).min() > 0.01


def test_the_longest_input_is_the_models_own(exported: Exported) -> None:
    lengths = [exported.max_length, 5]
    feeds = exported.feeds(lengths)
    program, artifact = exported.program(feeds), exported.artifact(feeds)
    answers = exported.expected(feeds)
    for row, length in enumerate(lengths):
        expected = exported.text_of(answers, row, length)
        own, its = exported.text_of(artifact, row, length), exported.text_of(program, row, length)
        np.testing.assert_allclose(its, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def test_the_longest_input_ends_where_the_positions_do(exported: Exported) -> None:
    """A compiled model would read past its table of positions without a word."""
    config = exported.model.config
    if config.model_type == "modernbert" or not getattr(config, "position_biased_input", True):
        # These compute their positions: there is no table to end, and the configuration counts.
        assert exported.max_length == config.max_position_embeddings
        return
    with pytest.raises((IndexError, RuntimeError)):
        exported.expected(exported.feeds([exported.max_length + 1]))


def test_the_graph_takes_any_batch_and_length(exported: Exported) -> None:
    assert {spec.shape for spec in exported.graph.inputs} == {("batch", "length")}
    assert tuple(spec.name for spec in exported.graph.outputs) == exported.outputs
    assert {spec.shape[0] for spec in exported.graph.outputs} == {"batch"}


def _forget_tokenizer_limit(folder: Path) -> None:
    """So that the model's own limit, higher than the tiny tokenizer's, is what counts."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    file.write_text(json.dumps(settings))
