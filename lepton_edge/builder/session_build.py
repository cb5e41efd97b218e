"""Building what a session answers: the graph, an artifact for each target, the quality report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lepton_edge.backend import Backend, Graph
from lepton_edge.builder.artifact import Workshop
from lepton_edge.builder.calibration import read_calibration
from lepton_edge.builder.index import add_index, check_index
from lepton_edge.builder.plan import Plan
from lepton_edge.builder.quality import Examples, Judge, OriginalSession, read_examples
from lepton_edge.builder.quality.report import write_report
from lepton_edge.bundle import REPORT
from lepton_edge.bundle.manifest import Artifact
from lepton_edge.errors import LeptonWarning
from lepton_edge.target import Target

Progress = Callable[[str], None]


class SessionBuild:
    """Making it reads, and refuses, what the recipe names before anything slow begins.

    Raises `RecipeError` and `InputError`.
    """

    def __init__(
        self,
        plan: Plan,
        targets: Sequence[tuple[Target, Backend]],
        created: str,
        say: Progress,
    ) -> None:
        recipe, task = plan.recipe, plan.session_task
        self._plan = plan
        self._targets = targets
        self._created = created
        self._say = say
        self._examples = read_examples(task, recipe.quality)
        compared = recipe.quality.compare if self._examples else ()
        wanted = "int8" in (recipe.precision, *compared)
        self._calibration = read_calibration(task, recipe.calibration) if wanted else None
        if recipe.index:
            check_index(plan)

    def artifacts(self, work: Path, scratch: Path) -> tuple[Artifact, ...]:
        """One for each target, with all that belongs to them, in the bundle's folder ``work``.

        Raises `SourceError`, `BackendError` and `BuildError`.
        """
        plan, say, task = self._plan, self._say, self._plan.session_task
        say("exporting the graph")
        graph = replace(
            plan.loaded.original.graph(task.name, task.config, scratch),
            largest={"length": plan.text.max_length},
        )
        judge = None
        if self._examples:
            judge = _judge(plan, graph, self._examples, work, self._created, say)
        made = [
            Workshop(plan, graph, target, backend, work, judge, self._calibration, say).make(
                scratch
            )
            for target, backend in self._targets
        ]
        if judge:
            say("writing the quality report")
            backends = {target.name: backend for target, backend in self._targets}
            write_report(work / REPORT, plan, judge, made, backends, say)
        if plan.recipe.index:
            say("embedding the index")
            add_index(plan, made[0], self._targets[0][1], work, self._created)
        return tuple(each.artifact for each in made)


def _judge(
    plan: Plan, graph: Graph, examples: Examples, work: Path, created: str, say: Progress
) -> Judge:
    """Who scores the compiled models, after scoring the original."""
    from lepton_edge.builder.quality import Judge

    if absent := examples.missing_labels():
        warnings.warn(
            f"{examples.file} has no example of {', '.join(absent[:5])}"
            f"{f' and {len(absent) - 5} others' if len(absent) > 5 else ''}: "
            f"{examples.metric.name} says nothing about {'them' if len(absent) > 1 else 'it'}",
            LeptonWarning,
            stacklevel=3,
        )
    say(f"scoring the original: {examples.metric.name} on {len(examples):,} examples")
    judge = Judge(
        plan.manifest((), work, created),
        plan.encoder(work),
        plan.session_task,
        examples,
        plan.recipe.quality.max_drop,
        OriginalSession(plan.loaded.original, graph),
    )
    if not judge.speaks:
        warnings.warn(
            f"the original's {examples.metric.name} on {examples.file} is 0, so it says nothing "
            "about what is lost: the limits under parity decide. Does the data name things as the "
            "model does?",
            LeptonWarning,
            stacklevel=3,
        )
    return judge
