"""What is measured: batches of one size and length, for every way to answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark.contest import Candidate, Objective, Standing, measure_in_turn
from lepton_edge.benchmark.inputs import examples, texts_of
from lepton_edge.benchmark.report import OURS, BenchSettings, Case, Timing
from lepton_edge.benchmark.sessions import Observed, Outputs
from lepton_edge.benchmark.statistics import extent, percentile
from lepton_edge.benchmark.timing import Clock, Pace, inputs_of_round
from lepton_edge.errors import InputError
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lepton_edge.backend import Tensors

_LENGTHS = (8, 32, 128)
# Several batches in turn, so that no call repeats the one before it.
_BATCHES, _TEXTS = 4, 32


@dataclass(frozen=True)
class Workload:
    """Texts of one length, or of one's own."""

    length: int | None
    texts: tuple[str, ...]

    def batches(self, size: int) -> list[list[str]]:
        """The texts in their order, in whole batches; from the start again for the last."""
        count = max(len(self.texts) // size, 1)
        return [
            [self.texts[(start * size + place) % len(self.texts)] for place in range(size)]
            for start in range(count)
        ]


def lengths_of(settings: BenchSettings, max_length: int) -> tuple[int, ...]:
    """The lengths to measure. Raises `InputError` for one that the bundle does not take."""
    if settings.lengths is None:
        return (*(length for length in _LENGTHS if length < max_length), max_length)
    long = [length for length in settings.lengths if length > max_length]
    if long:
        raise InputError(
            f"texts of {long[0]} tokens cannot be measured: "
            f"the bundle takes up to {max_length} tokens",
            hint=f"--length {max_length}",
        )
    return tuple(sorted(set(settings.lengths)))


def made_workloads(
    tokenizer: Tokenizer, lengths: Sequence[int], batches: Sequence[int]
) -> list[Workload]:
    """Made-up texts of each length, enough for several batches of the largest size."""
    count = max(_TEXTS, _BATCHES * max(batches))
    return [Workload(length, tuple(texts_of(tokenizer, count, length))) for length in lengths]


def measure_case(
    model: SessionModel,
    others: Mapping[str, SessionModel],
    workload: Workload,
    batch: int,
    pace: Pace,
    *,
    clock: Clock = time.perf_counter,
) -> Case:
    """The bundle beside the others, in turn, on the same inputs.

    Single inputs are compared by their median call, batches by their throughput.
    """
    texts = workload.batches(batch)
    made = [examples(model, each) for each in texts]
    batches, parameters = [inputs for inputs, _ in made], made[0][1]
    ways = {OURS: model, **others}
    candidates = [Candidate.of(name, way, **parameters) for name, way in ways.items()]
    objective: Objective = "p50" if batch == 1 else "throughput"
    found = measure_in_turn(candidates, batches, objective, pace=pace, clock=clock)
    mean = _mean_tokens(model, batches, parameters, found[0])
    timings = [_timing(each, found[0], batch, mean, objective) for each in found]
    return Case(batch, workload.length, round(mean, 1), objective, timings[0], tuple(timings[1:]))


def _timing(
    found: Standing, ours: Standing, batch: int, tokens: float, objective: Objective
) -> Timing:
    calls = [seconds * 1000 for turn in found.seconds for seconds in turn]
    rate = 1000 * batch * len(calls) / sum(calls)
    scale = 1000 if objective == "p50" else 1
    # A standing's ratios are relative to the first, which is ours: the other way round here.
    ratios = () if found is ours else tuple(_rounded(1 / ratio) for ratio in found.ratios)
    return Timing(
        name=found.name,
        calls=len(calls),
        p50_ms=_rounded(percentile(calls, 0.5)),
        p90_ms=_rounded(percentile(calls, 0.9)),
        p99_ms=_rounded(percentile(calls, 0.99)),
        inputs_per_second=_rounded(rate),
        tokens_per_second=_rounded(rate * tokens),
        rounds=tuple(_rounded(figure * scale) for figure in found.figures),
        ratios=ratios,
        ratio=extent(ratios) if ratios else None,
    )


def _rounded(value: float) -> float:
    """Six digits that count: a clock says no more."""
    return float(f"{value:.6g}")


def _mean_tokens(
    model: SessionModel,
    batches: Sequence[Sequence[Any]],
    parameters: Mapping[str, Any],
    found: Standing,
) -> float:
    """The tokens of an input in the batches that were timed: a file of one's own may have many
    more, of other lengths."""
    places = range(len(batches))
    timed = {
        place
        for turn, calls in enumerate(found.seconds)
        for place in inputs_of_round(places, turn, len(calls))
    }
    tokens = sum(count_tokens(model, batches[place], parameters) for place in timed)
    return tokens / sum(len(batches[place]) for place in timed)


def count_tokens(model: SessionModel, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> int:
    """The tokens that a call feeds to the model, padding not among them."""
    counts: list[int] = []

    def seen(feeds: Tensors, outputs: Outputs) -> None:
        mask = feeds.get(ATTENTION_MASK)
        counts.append(feeds[INPUT_IDS].size if mask is None else int((mask != 0).sum()))

    observed = Observed(model.session, seen)
    SessionModel(model.manifest, observed, model.encoder, model.task)(inputs, **parameters)
    return sum(counts)
