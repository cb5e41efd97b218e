"""One target's artifact: compiled, opened as a device would open it, compared and scored."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.backend import Aside, Backend, Compiled, Graph, Precision, Quantization, Session
from lepton_edge.builder import parity
from lepton_edge.builder.quality import Judge, Scored, drop
from lepton_edge.builder.sentences import SENTENCES
from lepton_edge.bundle import describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.bundle.manifest import Artifact, Attempt, Parity, Quality
from lepton_edge.errors import (
    BackendError,
    BuildError,
    InferenceError,
    LeptonError,
    LeptonWarning,
    ParityError,
    QualityError,
)

if TYPE_CHECKING:
    from lepton_edge.builder.calibration import CalibrationInputs
    from lepton_edge.builder.plan import Plan
    from lepton_edge.runtime.text import TextEncoder
    from lepton_edge.target import Target

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """The model at one precision, and what was measured of it.

    ``fault`` is why it cannot be the bundle's.
    """

    precision: Precision
    directory: Path
    scratch: Path
    compiled: Compiled
    parity: Parity | None
    size: int
    scored: Scored | None = None
    fault: BuildError | None = None

    def opened(self, backend: Backend) -> Session:
        """It, or where this machine has no device for it, what computes the same numbers."""
        return backend.prove(self.directory, self.compiled, Aside(self.scratch))

    def attempt(self) -> Attempt:
        """For the manifest and for messages."""
        score = self.scored.value if self.scored else None
        if score is not None and not isfinite(score):
            score = None
        return Attempt(self.precision, self.size, score, self.compiled.kept)

    @property
    def may_be_controlled(self) -> bool:
        """Whether operations in higher precision could mend it: it is worse at its task, or gave
        what is not a number."""
        return isinstance(self.fault, QualityError) or self.parity is None


@dataclass(frozen=True)
class Made:
    """A target's artifact, with every candidate that was measured: the chosen one is the last of
    ``attempts``; ``others`` are there to be compared with."""

    artifact: Artifact
    attempts: tuple[Candidate, ...]
    others: tuple[Candidate, ...] = ()

    @property
    def chosen(self) -> Candidate:
        return self.attempts[-1]


class Workshop:
    """Makes the artifacts of one target."""

    def __init__(
        self,
        plan: Plan,
        graph: Graph,
        target: Target,
        backend: Backend,
        work: Path,
        judge: Judge | None,
        calibration: CalibrationInputs | None,
        say: Progress,
    ) -> None:
        self._plan = plan
        self._graph = graph
        self._target = target
        self._backend = backend
        self._work = work
        self._judge = judge
        self._say = say
        self._encoder: TextEncoder = plan.encoder(work)
        self._calibration = calibration
        self._quantization: Quantization | None = None

    def make(self, scratch: Path) -> Made:
        """Compile at the recipe's precision and prove it; where int8 loses too much, again with
        the operations that need it in higher precision. ``scratch`` keeps what is compared until
        the bundle is written.

        Raises `BackendError`, `ParityError`, `QualityError`.
        """
        recipe = self._plan.recipe
        name = f"artifacts/{self._target.name}"
        directory = self._work / name
        directory.mkdir(parents=True)
        scratch = scratch / self._target.name
        attempts = [self._candidate(recipe.precision, directory, _new(scratch / "first"))]
        first = attempts[0]
        if first.fault and first.may_be_controlled and recipe.precision == "int8" and self._judge:
            shutil.rmtree(directory)
            directory.mkdir()
            second = _new(scratch / "second")
            attempts.append(self._candidate("int8", directory, second, controlled=True))
        chosen = attempts[-1]
        if chosen.fault:
            raise self._failure(attempts)
        others = self._others(scratch / "others") if self._judge else ()
        assert chosen.parity is not None
        artifact = Artifact(
            self._target.name,
            self._backend.name,
            name,
            digest_of(describe_files(self._work, name)),
            chosen.compiled,
            parity.rounded(chosen.parity),
            self._calibration.about if self._calibration and recipe.precision == "int8" else None,
            self._quality(attempts),
        )
        return Made(artifact, tuple(attempts), others)

    def _others(self, scratch: Path) -> tuple[Candidate, ...]:
        """What the recipe compares the bundle's precision with. One that cannot be made or scored
        is left out, with a `LeptonWarning`."""
        recipe = self._plan.recipe
        found = []
        for precision in dict.fromkeys(recipe.quality.compare):
            if precision == recipe.precision:
                continue
            try:
                aside = _new(scratch / precision / "aside")
                made = self._candidate(precision, _new(scratch / precision / "artifact"), aside)
            except (BackendError, InferenceError) as error:
                fault: LeptonError | None = error
            else:
                fault = made.fault if made.parity is None or made.scored is None else None
                if fault is None:
                    found.append(made)
            if fault:
                warnings.warn(
                    f"{precision} is not in the quality report: {fault.message}",
                    LeptonWarning,
                    stacklevel=2,
                )
        return tuple(found)

    def _candidate(
        self, precision: Precision, directory: Path, scratch: Path, *, controlled: bool = False
    ) -> Candidate:
        compiled = self._compile(precision, directory, scratch, controlled)
        size = sum(file.size for file in describe_files(directory).values())
        made = Candidate(precision, directory, scratch, compiled, None, size)
        with made.opened(self._backend) as session:
            self._say(f"comparing {self._target.name} ({precision}) with the original")
            try:
                measured = self._parity(session)
                made = replace(made, parity=measured)
                parity.check(
                    measured,
                    self._plan.recipe.parity,
                    precision,
                    self._target.name,
                    scored=self._judge is not None and self._judge.speaks,
                )
            except ParityError as error:
                made = replace(made, fault=error)
            if self._judge and made.parity:
                made = self._scored(made, session, self._judge)
        return made

    def _compile(
        self, precision: Precision, directory: Path, scratch: Path, controlled: bool
    ) -> Compiled:
        self._say(
            f"compiling for {self._target.name} ({precision}"
            f"{', accuracy under control' if controlled else ''})"
        )
        options = self._plan.recipe.options_of_backend(self._backend.name)
        quantization = None
        if precision == "int8":
            quantization = self._calibrated()
            if controlled and (judge := self._judge):
                quantization = replace(
                    quantization,
                    score=lambda session, count: judge.score(session, count).value,
                    at_least=judge.at_least,
                )
        return self._backend.build(
            self._graph,
            self._target,
            precision,
            options,
            directory,
            quantization,
            Aside(scratch, self._say),
        )

    def _calibrated(self) -> Quantization:
        if self._quantization is None:
            assert self._calibration, "read where int8 is made"
            feeds = self._calibration.feeds(
                self._plan.session_task, self._encoder, self._graph.inputs
            )
            self._quantization = Quantization(feeds)
        return self._quantization

    def _parity(self, session: Session) -> Parity:
        plan = self._plan
        texts = plan.recipe.parity.sample or SENTENCES
        return parity.measure(
            plan.loaded.original, session, self._encoder, plan.session_task, texts
        )

    def _scored(self, made: Candidate, session: Session, judge: Judge) -> Candidate:
        metric, examples = judge.examples.metric.name, len(judge.examples)
        self._say(
            f"scoring {self._target.name} ({made.precision}): {metric} on {examples:,} examples"
        )
        scored = judge.score(session)
        lost = drop(judge.original.value, scored.value)
        fault = made.fault
        if fault is None and not isfinite(lost):
            fault = QualityError(f"{metric} is not a number: answers do not differ")
        if fault is None and lost > judge.max_drop:
            fault = QualityError(
                f"{metric} fell by {lost:.2f} points, from {judge.original.value:.4f} to "
                f"{scored.value:.4f}; {judge.max_drop:g} are allowed"
            )
        return replace(made, scored=scored, fault=fault)

    def _quality(self, attempts: list[Candidate]) -> Quality | None:
        judge, scored = self._judge, attempts[-1].scored
        if judge is None or scored is None:
            return None
        return Quality(
            metric=judge.examples.metric.name,
            data=judge.examples.file.name,
            sha256=judge.examples.sha256,
            examples=len(judge.examples),
            original=judge.original.value,
            score=scored.value,
            max_drop=judge.max_drop,
            attempts=tuple(attempt.attempt() for attempt in attempts),
        )

    def _failure(self, attempts: list[Candidate]) -> BuildError:
        """Of the last attempt, with what every attempt measured."""
        fault = attempts[-1].fault
        assert fault is not None
        if len(attempts) == 1 and not isinstance(fault, QualityError):
            return fault
        tried = "".join(
            f"\n  {number}. {each.precision}"
            f"{f', {len(each.compiled.kept)} operations kept' if each.compiled.kept else ''}: "
            f"{each.fault.message if each.fault else ''}"
            for number, each in enumerate(attempts, 1)
        )
        return type(fault)(
            f"the model compiled for {self._target.name} lost too much:{tried}",
            hint="calibrate on more texts like yours (calibration: {data: …}), allow more "
            "(quality: {max_drop: …}), or build with precision: int8-weights or auto",
        )


def _new(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
