"""What a benchmark found, as values. `Report` is also the JSON document, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lepton_edge.backend import Setting
from lepton_edge.benchmark.contest import Objective
from lepton_edge.benchmark.machine import Machine
from lepton_edge.benchmark.startup import Startup
from lepton_edge.benchmark.statistics import Summary
from lepton_edge.errors import InputError
from lepton_edge.runtime.profile import Profile

SCHEMA = 1
"""Version of the JSON document; raised when a field changes its meaning or goes."""
OURS = "lepton-edge"


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how long."""

    batches: tuple[int, ...] = (1, 8, 32)
    """Inputs a call."""
    lengths: tuple[int, ...] | None = None
    """Tokens of a text; 8, 32, 128 and the bundle's longest where None. Not for texts of one's
    own, which have the lengths that they have."""
    rounds: int = 5
    """How often each way takes its turn in a case."""
    seconds: float = 2.0
    """Timed calls of each way in a case, over all rounds; one call a round at least."""
    starts: int = 3
    """Fresh processes started, cold and warm each; 0 leaves start and memory out."""
    cpus: tuple[int, ...] | None = None
    """The processors to run on; those that the process may use where None."""

    def __post_init__(self) -> None:
        for name, values in (("batches", self.batches), ("lengths", self.lengths)):
            if values is not None and (not values or min(values) < 1):
                raise InputError(f"{name} are {values}: one or more numbers from 1")
        if self.rounds < 1 or not 0 < self.seconds < inf or self.starts < 0:
            raise InputError(
                f"rounds {self.rounds}, seconds {self.seconds:g}, starts {self.starts}: rounds is "
                "1 or more, seconds above 0, and starts 0 or more"
            )


@dataclass(frozen=True)
class Subject:
    """The bundle, and how it was opened."""

    name: str
    version: str
    manifest_sha256: str
    """Of manifest.json, which holds the SHA-256 of every file of the bundle."""
    task: str
    source: str
    source_sha256: str
    target: str
    backend: str
    requires: str
    """The library and version that it was compiled with."""
    weights: str
    """Number format of the stored weights."""
    compute: str
    """Number format that the device computes in."""
    device: str
    session: dict[str, Setting]
    """What the backend says of the opened session."""
    profile: Profile | None
    """What `lepton-edge tune` found best on this machine, where it was used."""
    max_length: int
    size_mib: float


@dataclass(frozen=True)
class Timing:
    """One way to answer, in one case. Times are in milliseconds, of a call with a whole batch,
    from the text to the result."""

    name: str
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    inputs_per_second: float
    tokens_per_second: float
    """Tokens of the inputs, those that the tokenizer adds among them; padding is not counted."""
    rounds: tuple[float, ...]
    """The case's objective, round by round: the median call in ms, or inputs a second."""
    ratios: tuple[float, ...] = ()
    """Round by round: how many times as fast as this way lepton-edge was. Empty for itself."""
    ratio: Summary | None = None
    """Median, smallest and largest of them."""


@dataclass(frozen=True)
class Case:
    """Batches of one size of inputs of one length."""

    batch: int
    length: int | None
    """Tokens of the texts that the inputs were made of; None for texts of one's own."""
    tokens: float
    """Tokens that an input has in fact, on average: with more than its text for some tasks."""
    objective: Objective
    ours: Timing
    others: tuple[Timing, ...] = ()


@dataclass(frozen=True)
class Noise:
    """A figure whose rounds differ by more than a fifth of their median."""

    figure: str
    spread: float


@dataclass(frozen=True)
class Report:
    """A whole run."""

    schema: int
    created: str
    """UTC, ISO 8601."""
    subject: Subject
    machine: Machine
    versions: dict[str, str]
    settings: BenchSettings
    """As they were applied: with the lengths and processors that were left open."""
    texts: str
    """Where the texts come from."""
    original: str | None
    """The original that was compared with; None where there was none."""
    cases: tuple[Case, ...]
    startup: Startup | None
    load_average: float
    """Over one minute, at the start."""
    others: float
    """Share of all processors' time that other processes took meanwhile, 0 to 1."""
    took_seconds: float
    noise: tuple[Noise, ...] = ()
    notes: tuple[str, ...] = ()
    """What each figure holds, in words."""
