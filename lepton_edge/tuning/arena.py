"""Where choices are measured beside the default, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark.contest import Candidate, measure_in_turn
from lepton_edge.benchmark.contest import Objective as Figure
from lepton_edge.benchmark.timing import Clock, Pace
from lepton_edge.errors import BackendError, InferenceError
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.tuning.space import OWN, Choice, by_settings

if TYPE_CHECKING:
    from lepton_edge.backend import Session, Setting
    from lepton_edge.benchmark.contest import Standing
    from lepton_edge.tuning.objective import Objective
    from lepton_edge.tuning.workload import Workload

    OpenSession = Callable[[Mapping[str, Setting]], Session]

_WARM_UP = 0.1
# A turn with short calls begins with others, until the threads of the last session rest. A list
# takes longer than that: with less, it is not answered twice a turn.
_SETTLE, _SETTLE_LIST = 0.02, 0.005


@dataclass(frozen=True)
class Tail:
    """Of so many calls of one size, alone: the 99th percentile of their seconds, and the inputs
    that they answered a second."""

    p99: float
    rate: float
    calls: int


@dataclass(frozen=True)
class Measured:
    """How a choice did. ``fault`` says why it could not run, where it could not."""

    choice: Choice
    standing: Standing | None = None
    """Beside the default; None where it was not measured so."""
    default: Standing | None = None
    """The default's, from the same rounds."""
    tail: Tail | None = None
    """None where the objective bounds no percentile."""
    fault: str | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as good as the default it was, round by round."""
        return self.standing.ratios if self.standing else ()


@dataclass(frozen=True)
class Arena:
    """Opens one session at a time beside the default's, which stays open: a device's memory holds
    two. ``open_session`` opens the artifact with settings in place of its own."""

    default: SessionModel
    open_session: OpenSession
    work: Workload
    objective: Objective
    clock: Clock

    def measure(self, choices: Sequence[Choice], rounds: int, seconds: float) -> list[Measured]:
        """Measure each choice in turn with the default, in so many rounds and for about
        ``seconds`` of each way. Choices with the same settings share a session and the rounds.

        What cannot be opened or run is no error: it says so. Where the objective has a bound, each
        is measured alone first, and is out of the rounds if beyond it.
        """
        bound = self.objective.bound

        def measured(group: Sequence[Choice], models: Sequence[SessionModel]) -> list[Measured]:
            if bound is None:
                return self._in_turn([Measured(each) for each in group], models, rounds, seconds)
            found = self._alone(group, models, seconds / 2)
            pairs = zip(found, models, strict=True)
            within = [(one, model) for one, model in pairs if one.tail and one.tail.p99 <= bound]
            beside = [one for one, _ in within]
            beyond = [one for one in found if one not in beside]
            others = [model for _, model in within]
            return beyond + self._in_turn(beside, others, rounds, seconds / 2)

        return self._by_session(choices, measured)

    def measure_alone(self, choices: Sequence[Choice], seconds: float) -> list[Measured]:
        """Measure the tail of each choice, in about so many seconds."""

        def measured(group: Sequence[Choice], models: Sequence[SessionModel]) -> list[Measured]:
            return self._alone(group, models, seconds)

        return self._by_session(choices, measured)

    def tail(self, model: SessionModel, rows: int, seconds: float) -> Tail:
        """Of calls with so many inputs. Alone: a bound is in seconds, not beside another way."""
        candidate = Candidate.of("", model, **self.work.parameters)
        calls = self.work.calls_of(rows)
        pace = Pace(1, seconds, _WARM_UP)
        (found,) = measure_in_turn([candidate], calls, "p99", pace=pace, clock=self.clock)
        (taken,) = found.seconds
        return Tail(found.figures[0], rows * len(taken) / sum(taken), len(taken))

    def _by_session(
        self,
        choices: Sequence[Choice],
        measured: Callable[[Sequence[Choice], Sequence[SessionModel]], list[Measured]],
    ) -> list[Measured]:
        found = []
        for settings, group in by_settings(choices):
            try:
                with self._models(settings, group) as models:
                    found += measured(group, models)
            except (BackendError, InferenceError) as error:
                if len(group) == 1:
                    found.append(Measured(group[0], fault=error.message))
                for alone in group if len(group) > 1 else ():  # who of them is at fault
                    found += self._by_session([alone], measured)
        return found

    def _alone(
        self, group: Sequence[Choice], models: Sequence[SessionModel], seconds: float
    ) -> list[Measured]:
        return [
            Measured(choice, tail=self.tail(model, choice.limits.rows, seconds))
            for choice, model in zip(group, models, strict=True)
        ]

    def _in_turn(
        self, group: Sequence[Measured], models: Sequence[SessionModel], rounds: int, seconds: float
    ) -> list[Measured]:
        if not group:
            return []
        settle = _SETTLE if len(self.work.batches) > 1 else _SETTLE_LIST
        ways = [self._way(OWN, self.default)]
        ways += [self._way(one.choice, model) for one, model in zip(group, models, strict=True)]
        default, *others = measure_in_turn(
            ways,
            self.work.batches,
            _FIGURES[self.objective.kind],
            pace=Pace(rounds, seconds, _WARM_UP, settle),
            clock=self.clock,
        )
        return [
            replace(one, standing=standing, default=default)
            for one, standing in zip(group, others, strict=True)
        ]

    def _way(self, choice: Choice, model: SessionModel) -> Candidate:
        """Under a bound, the list is answered in calls of as many inputs as a micro-batch has
        rows; else in one call."""
        parameters = self.work.parameters
        if self.objective.bound is None:
            return Candidate.of(choice.name, model, **parameters)
        rows = choice.limits.rows

        def call(inputs: Sequence[Any]) -> None:
            for start in range(0, len(inputs), rows):
                model(inputs[start : start + rows], **parameters)

        return Candidate(choice.name, call)

    @contextmanager
    def _models(
        self, settings: Mapping[str, Setting], group: Sequence[Choice]
    ) -> Iterator[list[SessionModel]]:
        """The default model with other settings and limits, warm: each has seen every shape, as
        the default has."""
        own = self.default
        session = self.open_session(settings) if settings else own.session
        try:
            models = [
                SessionModel(own.manifest, session, own.encoder, own.task, choice.limits)
                for choice in group
            ]
            if len(self.work.batches) > 1:  # else measuring warms up enough
                for model in models:
                    for batch in self.work.batches:
                        model(batch, **self.work.parameters)
            yield models
        finally:
            if session is not own.session:
                session.close()


_FIGURES: Mapping[str, Figure] = {
    "latency": "p50",
    "throughput": "throughput",
    "p99": "throughput",
}
