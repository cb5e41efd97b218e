"""What a run of the benchmarks found: the JSON file, as types.

Fields that are not known are left alone: the files of earlier runs stay readable.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from lepton_edge.benchmark.machine import Machine
from lepton_edge.benchmark.statistics import Summary, ratios, summarize

SCHEMA = 1


class Limit(msgspec.Struct, frozen=True):
    """A target: at most, or at least, so much."""

    relation: Literal["at most", "at least"]
    value: float

    def met(self, measured: float) -> bool:
        return measured <= self.value if self.relation == "at most" else measured >= self.value


class Comparison(msgspec.Struct, frozen=True):
    """lepton-edge and another way on the same case, measured in turn; ``unit`` is of both.

    ``if_missed`` says why, should the target be missed.
    """

    case: str
    other: str
    unit: str
    ours: list[float]
    theirs: list[float]
    limit: Limit | None = None
    if_missed: str = ""

    @property
    def ratio(self) -> Summary:
        return summarize(ratios(self.ours, self.theirs))

    @property
    def met(self) -> bool | None:
        """Whether the median ratio is within the target; None without a target."""
        return self.limit.met(self.ratio.median) if self.limit else None


class Size(msgspec.Struct, frozen=True):
    """An installed package, in units of a million bytes, and the packages that require it."""

    name: str
    version: str
    megabytes: float
    required_by: str = ""


class Detail(msgspec.Struct, frozen=True):
    """A single figure that explains the others."""

    what: str
    value: float
    unit: str


class Result(msgspec.Struct, frozen=True):
    """One benchmark. It compares, or it adds up ``sizes`` up to ``size_limit``.

    ``load`` is the load average (1 minute) when it began, and ``others`` the share of all
    processors' time that other processes took while it ran. ``columns`` names both sides of its
    comparisons.
    """

    name: str
    title: str
    how: str
    comparisons: list[Comparison] = []
    columns: tuple[str, str] = ("lepton-edge", "other")
    sizes: list[Size] = []
    size_limit: Limit | None = None
    if_missed: str = ""
    details: list[Detail] = []
    load: float = 0.0
    seconds: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return sum(size.megabytes for size in self.sizes)


class Report(msgspec.Struct, frozen=True):
    """A whole run. ``load``: the load averages of 1, 5 and 15 minutes at its start. ``made``: the
    command that makes it. ``remarks``: what a reader has to know of how this run was made."""

    date: str
    commit: str
    model: str
    threads: int
    load: tuple[float, float, float]
    machine: Machine
    versions: dict[str, str]
    results: list[Result]
    made: str = "make bench"
    remarks: list[str] = []
    schema: int = SCHEMA


def write(report: Report, path: Path) -> None:
    """JSON with a list of figures on one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    text = re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)
