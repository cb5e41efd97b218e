"""Building what a generator answers: the graph of a decoder's step, an artifact for each target,
and what it lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.backend import Aside, Backend, DecoderForm, Graph, Quantization, Vocabulary
from lepton_edge.builder import parity
from lepton_edge.builder.adapters import copy_adapters, find_adapters, prove_adapters
from lepton_edge.builder.causal_lm import CausalLM
from lepton_edge.builder.openvino_ir import ForeignIR
from lepton_edge.builder.quality import generation
from lepton_edge.bundle import TOKENIZER, describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.bundle.manifest import Artifact
from lepton_edge.errors import ParityError, RecipeError, SourceError
from lepton_edge.generation.grammar import token_bytes
from lepton_edge.runtime.text import TextEncoder, Tokenization

if TYPE_CHECKING:
    from lepton_edge.builder.plan import Plan
    from lepton_edge.bundle.manifest import Parity
    from lepton_edge.recipe import Parity as Limits
    from lepton_edge.target import Target

Progress = Callable[[str], None]

_CALIBRATED_LENGTH = 256


class GeneratorBuild:
    """Making it refuses what a recipe asks in vain of such a model, before anything slow begins.

    Raises `RecipeError` and `InputError`.
    """

    def __init__(
        self,
        plan: Plan,
        targets: Sequence[tuple[Target, Backend]],
        created: str,
        say: Progress,
    ) -> None:
        recipe = plan.recipe
        check_recipe(plan)
        original = plan.loaded.original
        assert isinstance(original, (CausalLM, ForeignIR))
        foreign = isinstance(original, ForeignIR)
        for target, backend in targets:
            if foreign and backend.name != "openvino":
                raise RecipeError(
                    f"the recipe {recipe.name} builds from an OpenVINO IR, and {target.name} is "
                    f"for {backend.name}",
                    hint="--target intel-cpu; or build from the checkpoint",
                )
        self._plan = plan
        self._targets = targets
        self._say = say
        self._original = original
        self._room = plan.text.max_length
        model = original.model if isinstance(original, CausalLM) else None
        self._adapters = find_adapters(plan, targets, model)

    def artifacts(self, work: Path, scratch: Path) -> tuple[Artifact, ...]:
        """One for each target, in the bundle's folder ``work``.

        Raises `SourceError`, `BackendError` and `BuildError`.
        """
        plan, say = self._plan, self._say
        text = msgspec.structs.replace(plan.text, max_characters=2**31)
        encoder = TextEncoder(work / TOKENIZER, text, Tokenization(truncation="do_not_truncate"))
        sample = generation.read_sample(
            encoder, plan.recipe.quality, plan.recipe.parity.sample, self._room
        )
        reference = None
        if isinstance(self._original, CausalLM):
            say("running the original")
            reference = generation.refer(self._original, sample, self._room)
        vocabulary = self._vocabulary(work)
        quantization = self._calibration(encoder)
        adapters = copy_adapters(self._adapters, work)
        graphs: dict[DecoderForm, Graph] = {}
        found = []
        for target, backend in self._targets:
            form = backend.decoder
            if form not in graphs:
                graphs[form] = replace(self._graph(form), vocabulary=vocabulary)
            aside = scratch / target.name
            aside.mkdir()
            artifact = self._artifact(
                target,
                backend,
                graphs[form],
                quantization,
                work,
                Aside(aside, say),
                (sample, reference),
            )
            found.append(artifact)
            if adapters:
                say(f"opening {target.name} with its adapters")
                prove_adapters(adapters, work, artifact, backend, self._room)
        return tuple(found)

    def _artifact(
        self,
        target: Target,
        backend: Backend,
        graph: Graph,
        quantization: Quantization | None,
        work: Path,
        aside: Aside,
        measured_on: tuple[generation.Sample, generation.Reference | None],
    ) -> Artifact:
        recipe = self._plan.recipe
        name = f"artifacts/{target.name}"
        directory = work / name
        directory.mkdir(parents=True)
        self._say(f"compiling for {target.name} ({recipe.precision})")
        compiled = backend.build(
            graph,
            target,
            recipe.precision,
            recipe.options_of_backend(backend.name),
            directory,
            quantization,
            aside,
        )
        doing = "comparing" if measured_on[1] else "measuring"
        beside = " with the original" if measured_on[1] else ""
        self._say(f"{doing} {target.name} ({recipe.precision}){beside}")
        stepper = backend.prove_steps(directory, compiled, aside)
        try:
            measured = generation.measure(
                stepper, *measured_on, recipe.quality, recipe.precision, self._plan.text.pad_id
            )
        finally:
            stepper.close()
        generation.check(measured.quality, recipe.precision, target.name)
        if measured.parity:
            check_limits(measured.parity, recipe.parity, target.name)
        return Artifact(
            target.name,
            backend.name,
            name,
            digest_of(describe_files(work, name)),
            compiled,
            parity.rounded(measured.parity) if measured.parity else None,
            generation=measured.quality,
        )

    def _graph(self, form: DecoderForm) -> Graph:
        if isinstance(self._original, ForeignIR):
            return self._original.graph(self._plan.task.name, None, Path())
        self._say("exporting the graph")
        return self._original.step_graph(form, self._room)

    def _vocabulary(self, work: Path) -> Vocabulary | None:
        """None for a tokenizer whose tokens are no bytes of text: such a model generates, and its
        answers cannot be held to a grammar."""
        try:
            tokens = token_bytes(work / TOKENIZER)
        except SourceError as error:
            warnings.warn(
                f"{error.message}: json_schema and regex will be refused ({error.hint})",
                stacklevel=2,
            )
            return None
        return Vocabulary(tokens, tuple(self._plan.task.config.stop_tokens))

    def _calibration(self, encoder: TextEncoder) -> Quantization | None:
        """The recipe's text, where it has some, for weights that are chosen by what they do."""
        recipe = self._plan.recipe
        if recipe.calibration.data is None:
            return None
        import numpy as np

        from lepton_edge.builder.quality.rows import read_data

        rows = read_data(
            Path(recipe.calibration.data),
            ("text",),
            recipe.calibration.columns,
            recipe.calibration.samples,
        )
        feeds = []
        for place, row in rows:
            (tokens,) = encoder.pieces([str(row["text"])], partial(_always, place))
            ids = np.array([tokens[:_CALIBRATED_LENGTH]], np.int64)
            feeds.append(
                {
                    "input_ids": ids,
                    "attention_mask": np.ones_like(ids),
                    "position_ids": np.arange(ids.shape[1])[None],
                }
            )
        return Quantization(feeds)


def check_recipe(plan: Plan) -> None:
    """Raise `RecipeError` for what a recipe asks in vain of a model that generates."""
    recipe = plan.recipe
    if recipe.precision == "int8":
        raise RecipeError(
            f"{plan.task.name} is not built with precision int8: the outliers in a decoder's "
            "activations do not fit into 8 bits",
            hint="precision: int8-weights, or int4-weights, which take as little memory",
        )
    if recipe.index is not None:
        raise RecipeError(
            f"the recipe {recipe.name} has an index, and its task is {plan.task.name}: an "
            "index is made of embeddings",
            hint="leave the index out",
        )
    if recipe.quality.metric is not None:
        raise RecipeError(
            f"{plan.task.name} has no metric {recipe.quality.metric!r}: its quality is its "
            "perplexity",
            hint="quality: {max_perplexity_ratio: 1.05}",
        )


def check_limits(found: Parity, limits: Limits, target: str) -> None:
    """Raise `ParityError` where a limit that the recipe names is passed."""
    for name, over in (
        ("max_error", True),
        ("mean_error", True),
        ("min_cosine", False),
        ("mean_cosine", False),
        ("equal_labels", False),
    ):
        limit, value = getattr(limits, name), getattr(found, name)
        if limit is not None and (value > limit if over else value < limit):
            raise ParityError(
                f"the model compiled for {target} is too far from the original: {name} "
                f"is {value:.4g}, and {limit:g} is the limit",
                hint=f"build with a higher precision, or change parity: {{{name}: …}}",
            )


def _always(name: str, index: int) -> str:
    return name
