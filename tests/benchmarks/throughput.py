"""Many texts of mixed length in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

import lepton_edge
from lepton_edge.benchmark.inputs import mixed
from lepton_edge.runtime import batching
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

    from lepton_edge.runtime.model import Model
    from tests.benchmarks.contestants import Feeds
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import Workspace

    Embed = Callable[[], NDArray[np.float32]]

ROUNDS = 5

_TEXTS, _FEW = 1000, 200
_SHORTEST, _LONGEST = 8, 256
_BATCH = 32
_LIMIT = Limit("at least", 1.5)
_HOW = (
    f"{_TEXTS:,} texts of {_SHORTEST} to {_LONGEST} tokens, every length as likely, in random "
    "order, made of the tokenizer's own words (the same texts each time). In each round "
    "`model(texts)`, which includes tokenization, then every other way once; the ratio is taken "
    f"round by round. The others take batches of {_BATCH}, padded to the longest in the batch: in "
    "arrival order, or sorted by length first. The slower ones and lepton-edge beside them take "
    f"the first {_FEW} texts. `same IR` is the bundle's own, with the backend's own properties; "
    "`pre-tokenized` means that its padded arrays were laid out before the clock started."
)
_IF_MISSED = (
    "sorting by length saves the padding, and nothing else differs: compare the shares of padding "
    "under the table"
)


@dataclass(frozen=True)
class _Way:
    name: str
    sample: Sequence[str]
    embed: Embed


def measure(work: Workspace, rounds: int, terminal: Terminal) -> Result:
    """``rounds`` rounds of every way once."""
    many = mixed(work.tokenizer(), _TEXTS, _SHORTEST, _LONGEST)
    few = many[:_FEW]
    ir = OpenVINO(work)
    ways = [*_same_ir(ir, many), *_others(work, few)]
    comparisons = [
        Comparison(f"{len(way.sample):,} texts", way.name, "texts/s", [], []) for way in ways
    ]
    comparisons[0] = structs.replace(comparisons[0], limit=_LIMIT, if_missed=_IF_MISSED)
    with (
        lepton_edge.load(work.bundle.path) as model,
        terminal.steps((rounds + 1) * (len(ways) + 2)) as step,
    ):
        for number in range(rounds + 1):
            ours: dict[int, float] = {}
            for way, entry in zip(ways, comparisons, strict=True):
                if len(way.sample) not in ours:
                    step(f"lepton-edge, {entry.case}")
                    embed = _lepton(model, way.sample)
                    ours[len(way.sample)], vectors = _rate(embed, len(way.sample))
                step(f"{way.name}, {entry.case}")
                theirs, answers = _rate(way.embed, len(way.sample))
                if number == 0:  # a round to warm up, and to see that all answer the same
                    check_same(way.name, vectors, answers)
                else:
                    entry.ours.append(ours[len(way.sample)])
                    entry.theirs.append(theirs)
    return Result(
        name="throughput",
        title="Throughput of texts of mixed length",
        how=_HOW,
        comparisons=comparisons,
        details=_padding(work, many),
    )


def _same_ir(ir: OpenVINO, many: Sequence[str]) -> list[_Way]:
    """OpenVINO on the bundle's IR; the first is what the target speaks of."""
    arrival = list(range(len(many)))
    by_length = _by_length(many)
    return [
        _pre_tokenized(f"{ir.name}, arrival order, pre-tokenized", ir, many, arrival),
        _Way(f"{ir.name}, arrival order", many, lambda: _embed(ir, many, arrival)),
        _pre_tokenized(f"{ir.name}, sorted, pre-tokenized", ir, many, by_length),
    ]


def _others(work: Workspace, few: Sequence[str]) -> list[_Way]:
    def way(other: Contestant, order: str, rows: list[int]) -> _Way:
        return _Way(f"{other.name}, {order}", few, lambda: _embed(other, few, rows))

    arrival, by_length = list(range(len(few))), _by_length(few)
    fp32, bf16 = Transformers(work, "float32"), Transformers(work, "bfloat16")
    return [
        way(OnnxRuntime(work), "sorted", by_length),
        way(fp32, "arrival order", arrival),
        way(fp32, "sorted", by_length),
        way(bf16, "arrival order", arrival),
        way(bf16, "sorted", by_length),
    ]


def _by_length(sample: Sequence[str]) -> list[int]:
    """Longest first, by characters: what can be known before tokenization."""
    return sorted(range(len(sample)), key=lambda row: -len(sample[row]))


def _batches(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]


def _pre_tokenized(name: str, ir: OpenVINO, sample: Sequence[str], rows: list[int]) -> _Way:
    feeds: list[Feeds] = [ir.feeds([sample[row] for row in batch]) for batch in _batches(rows)]
    return _Way(name, sample, lambda: _ordered([ir.run(batch) for batch in feeds], rows))


def _embed(other: Contestant, sample: Sequence[str], rows: list[int]) -> NDArray[np.float32]:
    parts = [other.batch([sample[row] for row in batch]) for batch in _batches(rows)]
    return _ordered(parts, rows)


def _ordered(parts: list[NDArray[np.float32]], rows: list[int]) -> NDArray[np.float32]:
    vectors = np.concatenate(parts)
    ordered = np.empty_like(vectors)
    ordered[rows] = vectors
    return ordered


def _lepton(model: Model, sample: Sequence[str]) -> Embed:
    return lambda: np.asarray(model(sample))


def _rate(embed: Embed, count: int) -> tuple[float, NDArray[np.float32]]:
    start = time.perf_counter()
    vectors = embed()
    return round(count / (time.perf_counter() - start), 3), vectors


def _padding(work: Workspace, many: Sequence[str]) -> list[Detail]:
    """Padding as a share of the tokens that carry text."""
    lengths = [len(encoding.ids) for encoding in work.tokenizer().encode_batch(list(many))]
    arrival = sum(
        len(batch) * max(lengths[row] for row in batch)
        for batch in _batches(list(range(len(lengths))))
    )
    planned = sum(
        len(batch.rows) * batch.length
        for batch in batching.plan(lengths, work.bundle.manifest.text.max_length)
    )
    return [
        Detail("tokens", sum(lengths), ""),
        Detail("padding in arrival order", 100 * (arrival / sum(lengths) - 1), "% of them"),
        Detail("padding in lepton-edge", 100 * (planned / sum(lengths) - 1), "% of them"),
    ]
