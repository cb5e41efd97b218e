"""What the choices are measured on: inputs of the bundle's task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark.contest import Candidate, measure_in_turn
from lepton_edge.benchmark.inputs import examples, mixed
from lepton_edge.benchmark.sessions import Observed
from lepton_edge.benchmark.timing import Clock, Pace
from lepton_edge.errors import InputError
from lepton_edge.runtime.batching import Limits
from lepton_edge.runtime.session_model import SessionModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lepton_edge.backend import Tensors
    from lepton_edge.benchmark.sessions import Outputs
    from lepton_edge.tuning.objective import Objective

# Tokens of made-up texts, from a short question to a long paragraph: as many from one to the next.
_TOKENS = (8, 16, 32, 64, 128)
# Single inputs, and those of calls below a bound.
_FEWEST, _MOST = 64, 512
LONG, _LONGEST = 256, 1024
"""Inputs of a list that micro-batches can be judged by. In a short list large ones are mostly
padding: with MiniLM, 8 rows beat 32 by 25 % on 64 texts, and lost by 14 % on 1,024."""
# What answering all inputs once may take of the time that there is.
_SHARES = {"latency": 1 / 60, "throughput": 1 / 135, "p99": 1 / 240}
# A long list is worth more than to end in time.
_LONG_SHARE = 1 / 40


@dataclass(frozen=True)
class Workload:
    """``batches`` are what the calls are given: single inputs for `latency`, else one list."""

    batches: tuple[tuple[Any, ...], ...]
    parameters: Mapping[str, Any]
    description: str
    """What the inputs are, in words."""

    @property
    def inputs(self) -> list[Any]:
        """All of them."""
        return [each for batch in self.batches for each in batch]

    def calls_of(self, rows: int) -> list[list[Any]]:
        """The inputs in their order, in calls of so many; from the start again for the last."""
        inputs = self.inputs
        return [
            [inputs[(start + place) % len(inputs)] for place in range(rows)]
            for start in range(0, len(inputs), rows)
        ]


def workload(
    model: SessionModel,
    tokenizer: Tokenizer,
    objective: Objective,
    texts: Sequence[str] | None,
    seconds: float,
    clock: Clock,
) -> Workload:
    """Inputs made of the texts, as many as suit the time; of made-up texts of mixed lengths where
    there are none. ``tokenizer`` is the bundle's, neither cutting nor padding.

    Raises `InputError` for no texts, and what the model raises for one that it does not take.
    """
    if texts is not None and not texts:
        raise InputError("there are no texts to measure")

    def of(count: int) -> Workload:
        return _made(model, tokenizer, objective, texts, count)

    first = of(_FEWEST)
    candidate = Candidate.of("default", model, **first.parameters)
    pace = Pace(rounds=1, seconds=seconds * _SHARES[objective.kind], warm_up=0.0, settle=0.0)
    found = measure_in_turn([candidate], first.batches, "throughput", pace=pace, clock=clock)
    count = _count(objective, found[0].figures[0] * seconds)
    return of(count) if count > _FEWEST else first


def _count(objective: Objective, answered: float) -> int:
    """How many inputs, where the machine answers so many in all the time."""
    wanted = int(answered * _SHARES[objective.kind])
    if objective.kind != "throughput":
        return min(max(wanted, _FEWEST), _MOST)
    if answered * _LONG_SHARE < LONG:
        return _FEWEST
    return min(max(wanted, LONG), _LONGEST)


def shapes_of(model: SessionModel, work: Workload, limits: Limits) -> list[list[tuple[int, ...]]]:
    """The shapes that the session is given with these limits, for each call of the workload."""
    found: list[list[tuple[int, ...]]] = []

    def seen(feeds: Tensors, outputs: Outputs) -> None:
        found[-1].append(next(iter(feeds.values())).shape)

    observed = Observed(model.session, seen)
    limited = SessionModel(model.manifest, observed, model.encoder, model.task, limits)
    for batch in work.batches:
        found.append([])
        limited(batch, **work.parameters)
    return [sorted(shapes) for shapes in found]


def _made(
    model: SessionModel,
    tokenizer: Tokenizer,
    objective: Objective,
    texts: Sequence[str] | None,
    count: int,
) -> Workload:
    if texts is None:
        spans = [min(tokens, model.encoder.max_length) for tokens in _TOKENS]
        parts = [mixed(tokenizer, -(-count // 4), *span) for span in pairwise(spans)]
        chosen = [text for texts in zip(*parts, strict=True) for text in texts][:count]
        description = f"{count} made-up texts of {spans[0]} to {spans[-1]} tokens"
    else:
        chosen = _spread(texts, count)
        description = f"{len(chosen)} of {len(texts):,} texts of one's own"
    single = objective.kind == "latency"
    if not single:  # a few texts are repeated to a list
        chosen = [chosen[place % len(chosen)] for place in range(count)]
    if objective.kind == "throughput":
        description += f", in a list of {count}"
        description += "" if count >= LONG else ", too short to judge micro-batches by"
    inputs, parameters = examples(model, chosen)
    batches = tuple((each,) for each in inputs) if single else (tuple(inputs),)
    return Workload(batches, parameters, description)


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """So many of the texts, evenly spaced: a file may be sorted."""
    if len(texts) <= count:
        return list(texts)
    return [texts[place * len(texts) // count] for place in range(count)]
