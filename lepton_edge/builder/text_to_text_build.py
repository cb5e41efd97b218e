"""Building what answers a text with another: an encoder and a decoder for each target, and what
they lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.backend import Aside, Backend, Compiled, Graph, Session
from lepton_edge.builder import parity
from lepton_edge.builder.generator_build import check_limits, check_recipe
from lepton_edge.builder.quality import generation, text_to_text
from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.seq2seq import Seq2SeqLM
from lepton_edge.bundle import TOKENIZER, describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.bundle.manifest import DECODER, ENCODER, Artifact
from lepton_edge.generation.beams import EncoderDecoder
from lepton_edge.runtime.source_texts import SourceTexts
from lepton_edge.runtime.text import TextEncoder, Tokenization
from lepton_edge.tasks.text_to_text import TextToText

if TYPE_CHECKING:
    from lepton_edge.builder.decoder import Attention
    from lepton_edge.builder.plan import Plan
    from lepton_edge.target import Target

Progress = Callable[[str], None]


class TextToTextBuild:
    """Making it refuses what a recipe asks in vain of such a model, before anything slow begins.

    Raises `RecipeError`.
    """

    def __init__(
        self,
        plan: Plan,
        targets: Sequence[tuple[Target, Backend]],
        created: str,
        say: Progress,
    ) -> None:
        check_recipe(plan)
        original = plan.loaded.original
        assert isinstance(original, Seq2SeqLM)
        self._plan = plan
        self._targets = targets
        self._say = say
        self._original = original
        self._room = plan.text.max_length

    def artifacts(self, work: Path, scratch: Path) -> tuple[Artifact, ...]:
        """One for each target, in the bundle's folder ``work``.

        Raises `InputError`, `SourceError`, `BackendError` and `BuildError`.
        """
        plan, say = self._plan, self._say
        sample = text_to_text.read_sample(
            self._reader(work), self._original, plan.recipe.quality, plan.recipe.parity.sample
        )
        say("running the original")
        with quiet():
            reference = text_to_text.refer(self._original, sample)
        graphs: dict[Attention, tuple[Graph, Graph]] = {}
        found = []
        for target, backend in self._targets:
            attention = backend.decoder.attention
            if attention not in graphs:
                say("exporting the graphs")
                graphs[attention] = self._original.graphs(attention, self._room)
            found.append(
                self._artifact(
                    target,
                    backend,
                    dict(zip((ENCODER, DECODER), graphs[attention], strict=True)),
                    work,
                    scratch / target.name,
                    (sample, reference),
                )
            )
        return tuple(found)

    def _reader(self, work: Path) -> SourceTexts:
        """Of what is measured with. That is not for the bundle's limits to refuse: what is too
        long is cut."""
        task = self._plan.task
        assert isinstance(task, TextToText)
        text = msgspec.structs.replace(
            self._plan.text, on_long_text="truncate", max_characters=2**31
        )
        encoder = TextEncoder(work / TOKENIZER, text, Tokenization(truncation="do_not_truncate"))
        return SourceTexts(task, encoder, self._room)

    def _artifact(
        self,
        target: Target,
        backend: Backend,
        graphs: dict[str, Graph],
        work: Path,
        scratch: Path,
        measured_on: tuple[text_to_text.Sample, text_to_text.Reference],
    ) -> Artifact:
        recipe = self._plan.recipe
        name = f"artifacts/{target.name}"
        made: dict[str, Compiled] = {}
        with ExitStack() as stack:
            opened: list[Session] = []
            for part, graph in graphs.items():
                self._say(f"compiling the {part} for {target.name} ({recipe.precision})")
                directory, aside = work / name / part, Aside(scratch / part, self._say)
                directory.mkdir(parents=True)
                (scratch / part).mkdir(parents=True)
                made[part] = backend.build(
                    graph,
                    target,
                    recipe.precision,
                    recipe.options_of_backend(backend.name),
                    directory,
                    None,
                    aside,
                )
                session = backend.prove(directory, made[part], aside)
                opened.append(stack.enter_context(session))
            self._say(f"comparing {target.name} ({recipe.precision}) with the original")
            measured = text_to_text.measure(
                EncoderDecoder(opened[0], opened[1], self._room),
                *measured_on,
                recipe.quality,
                recipe.precision,
            )
        generation.check(measured.quality, recipe.precision, target.name)
        check_limits(measured.parity, recipe.parity, target.name)
        return Artifact(
            target.name,
            backend.name,
            name,
            digest_of(describe_files(work, name)),
            made[ENCODER],
            parity.rounded(measured.parity),
            generation=measured.quality,
            decoder=made[DECODER],
        )
