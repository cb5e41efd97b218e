"""One short text at a time, everything warm."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from msgspec import structs

import lepton_edge
from lepton_edge.backend import Session
from lepton_edge.benchmark.inputs import mixed
from lepton_edge.benchmark.statistics import summarize
from lepton_edge.runtime.session_model import SessionModel
from tests.benchmarks import texts
from tests.benchmarks.contestants import (
    Contestant,
    OnnxRuntime,
    OpenVINO,
    Transformers,
    check_same,
)
from tests.benchmarks.results import Comparison, Detail, Limit, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import Workspace

ROUNDS = 10

_PAIRS = 25  # a round, beside each other way
_SETTLE = 0.02
_LIMIT = Limit("at most", 1.15)
_HOW = (
    "`model(text)` beside each other way in turn (A B A B …), all in one process, warm and with "
    "the same number of threads. Each way starts from text: tokenization is included. "
    "Before a call is timed, the same way is called untimed for 20 ms, because the threads of "
    "torch spin for a while after a call and would slow whoever comes next. "
    "OpenVINO runs the bundle's own IR with the backend's own properties."
)
_IF_MISSED = (
    "the difference to OpenVINO is what lepton-edge does in Python around the call: the figures "
    "under the table say how long that takes"
)


def measure(work: Workspace, rounds: int, terminal: Terminal) -> Result:
    """``rounds`` rounds of 25 pairs beside each other way."""
    tokens = len(work.tokenizer().encode(texts.SHORT).ids)
    one, several = f"one text of {tokens} tokens", "texts of 5 to 40 tokens in turn"
    cases = {one: [texts.SHORT], several: mixed(work.tokenizer(), _PAIRS, 5, 40)}
    raw = OpenVINO(work)
    turns: list[tuple[str, Contestant]] = [
        (one, raw),
        (several, raw),
        (one, OnnxRuntime(work)),
        (one, Transformers(work, "float32")),
        (one, Transformers(work, "bfloat16")),
    ]
    comparisons = [Comparison(case, other.name, "ms", [], []) for case, other in turns]
    comparisons[0] = structs.replace(comparisons[0], limit=_LIMIT, if_missed=_IF_MISSED)
    with (
        lepton_edge.load(work.bundle.path) as model,
        terminal.steps(rounds * len(turns)) as step,
    ):
        for case, other in turns:
            for text in cases[case]:
                check_same(other.name, model(text).vector[None], other.one(text))
        for _ in range(rounds):
            for (case, other), entry in zip(turns, comparisons, strict=True):
                step(f"{case}: {other.name}")
                for text in islice(cycle(cases[case]), _PAIRS):
                    entry.ours.append(_milliseconds(model, text))
                    entry.theirs.append(_milliseconds(other.one, text))
        details = _overhead(model, texts.SHORT)
    return Result(
        name="latency",
        title="Latency of one short text, warm",
        how=_HOW,
        comparisons=comparisons,
        details=details,
    )


def _milliseconds(call: Callable[[str], object], text: str, settle: float = _SETTLE) -> float:
    settled = time.perf_counter() + settle
    while time.perf_counter() < settled:
        call(text)
    start = time.perf_counter()
    call(text)
    return round((time.perf_counter() - start) * 1000, 4)


def _overhead(model: SessionModel, text: str) -> list[Detail]:
    """What `model(text)` takes when inference takes no time."""
    instant = SessionModel(model.manifest, _Replay(model, text), model.encoder, model.task)

    def microseconds(call: Callable[[str], object]) -> float:
        times = [_milliseconds(call, text, settle=0) for _ in range(3000)]
        return round(summarize(times).median * 1000, 1)

    def encode(text: str) -> object:
        return model.encoder.encode([text])

    return [
        Detail("`model(text)` without the inference", microseconds(instant), "µs"),
        Detail("of that, tokenization", microseconds(encode), "µs"),
    ]


class _Replay(Session):
    """Gives the answer to one text, without computing it again."""

    def __init__(self, model: SessionModel, text: str) -> None:
        self.inputs, self.outputs = model.session.inputs, model.session.outputs
        self.device, self.details = model.session.device, model.session.details
        self._answer = {name: model(text).vector[None] for name in model.task.outputs}

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        return self._answer

    def close(self) -> None:
        pass
