"""Where choices are measured beside the default, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark.contest import Candidate, measure_in_turn
from lepton_edge.benchmark.contest import Objective as Figure
from lepton_edge.benchmark.timing import Clock, Pace
from lepton_edge.errors import BackendError, InferenceError
from lepton_edge.runtime.model import Model
from lepton_edge.tuning.space import OWN, Choice, by_settings

if TYPE_CHECKING:
    from lepton_edge.backend import Session, Setting
    from lepton_edge.benchmark.contest import Standing
    from lepton_edge.tuning.objective import Objective
    from lepton_edge.tuning.workload import Workload

    OpenSession = Callable[[Mapping[str, Setting]], Session]

_WARM_UP = 0.1
# Of a choice's time, what goes to the 99th percentile where the objective bounds it.
_P99_SHARE = 0.5


@dataclass(frozen=True)
class Tail:
    """The 99th percentile of a call's seconds, and of how many calls."""

    p99: float
    calls: int


@dataclass(frozen=True)
class Measured:
    """How a choice did. Without ``standing`` it was not measured beside the default: it could not
    run, which ``fault`` says, or its 99th percentile is beyond the bound."""

    choice: Choice
    standing: Standing | None = None
    default: Standing | None = None
    """The default's, from the same rounds."""
    tail: Tail | None = None
    """None where the objective does not bound it."""
    fault: str | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as good as the default it was, round by round."""
        return self.standing.ratios if self.standing else ()


@dataclass(frozen=True)
class Arena:
    """Opens one session at a time beside the default's, which stays open: a device's memory holds
    two. ``open_session`` opens the artifact with settings in place of its own."""

    default: Model
    open_session: OpenSession
    work: Workload
    objective: Objective
    clock: Clock

    def measure(self, choices: Sequence[Choice], rounds: int, seconds: float) -> list[Measured]:
        """Measure each choice in turn with the default, in so many rounds and for about
        ``seconds`` of each way. Choices with the same settings share a session and the rounds.

        What cannot be opened or run is no error: it says so.
        """
        found = []
        for settings, group in by_settings(choices):
            try:
                with self._models(settings, group) as models:
                    found += self._group(group, models, rounds, seconds)
            except (BackendError, InferenceError) as error:
                found += [Measured(choice, fault=error.message) for choice in group]
        return found

    def tail(self, model: Model, rows: int, seconds: float) -> Tail:
        """Of calls with so many inputs, alone: the bound is in seconds, not beside another."""
        candidate = Candidate.of("", model, **self.work.parameters)
        pace = Pace(rounds=1, seconds=seconds, warm_up=_WARM_UP)
        (found,) = measure_in_turn(
            [candidate], self.work.calls_of(rows), "p99", pace=pace, clock=self.clock
        )
        return Tail(found.figures[0], len(found.seconds[0]))

    def _group(
        self, group: Sequence[Choice], models: Sequence[Model], rounds: int, seconds: float
    ) -> list[Measured]:
        pairs = list(zip(group, models, strict=True))
        bound = self.objective.bound
        tails: list[Tail | None] = [None] * len(pairs)
        if bound is not None:
            share = seconds * _P99_SHARE
            tails = [self.tail(model, choice.limits.rows, share) for choice, model in pairs]
            seconds -= share
        within = [
            place for place, tail in enumerate(tails) if tail is None or tail.p99 <= (bound or 0)
        ]
        measured = [Measured(choice, tail=tail) for choice, tail in zip(group, tails, strict=True)]
        if within:
            pace = Pace(rounds, seconds, warm_up=_WARM_UP)
            ways = [self._way(OWN, self.default), *(self._way(*pairs[place]) for place in within)]
            batches, figure = self.work.batches, _FIGURES[self.objective.kind]
            default, *others = measure_in_turn(ways, batches, figure, pace=pace, clock=self.clock)
            for place, standing in zip(within, others, strict=True):
                measured[place] = Measured(group[place], standing, default, tails[place])
        return measured

    def _way(self, choice: Choice, model: Model) -> Candidate:
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
    ) -> Iterator[list[Model]]:
        """The default model with other settings and limits, warm: each has seen every shape, as
        the default has."""
        own = self.default
        session = self.open_session(settings) if settings else own.session
        try:
            models = [
                Model(own.manifest, session, own.encoder, own.task, choice.limits)
                for choice in group
            ]
            for choice, model in zip(group, models, strict=True):
                call = self._way(choice, model).call
                for batch in self.work.batches:
                    call(batch)
            yield models
        finally:
            if session is not own.session:
                session.close()


_FIGURES: Mapping[str, Figure] = {
    "latency": "p50",
    "throughput": "throughput",
    "p99": "throughput",
}
