"""What there is to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from lepton_edge.backend import Setting
from lepton_edge.runtime.batching import DEFAULT, Limits

# Rows of a micro-batch, around the default's 32; a single input has a call of its own below p99.
_ROWS = (8, 16, 64, 128)
_ROWS_OF_CALLS = (1, 2, 4, 8, 16, 64)


@dataclass(frozen=True)
class Choice:
    """Settings of a session in place of the artifact's own, and limits of micro-batches."""

    settings: Mapping[str, Setting]
    limits: Limits = DEFAULT

    @property
    def name(self) -> str:
        """What it has that the default has not, such as ``streams=2, rows=64, tokens=8192``."""
        parts = [f"{key}={value}" for key, value in self.settings.items()]
        for key in ("rows", "tokens"):
            value = getattr(self.limits, key)
            if value != getattr(DEFAULT, key):
                parts.append(f"{key}={value}")
        return ", ".join(parts) or "default"


OWN = Choice({})
"""The default: the artifact's own settings, and the runtime's own limits."""


def limits_of_lists() -> list[Limits]:
    """For calls with many sequences. Rows and tokens grow together: the default's 128 tokens a row
    stay."""
    share = DEFAULT.tokens // DEFAULT.rows
    return [Limits(rows, rows * share) for rows in _ROWS]


def limits_of_calls() -> list[Limits]:
    """For calls with as many inputs as a micro-batch has rows: with no fewer tokens than the
    default, so that no call of few long inputs is cut."""
    share = DEFAULT.tokens // DEFAULT.rows
    return [Limits(rows, max(rows * share, DEFAULT.tokens)) for rows in _ROWS_OF_CALLS]


def by_settings(choices: Sequence[Choice]) -> Iterator[tuple[Mapping[str, Setting], list[Choice]]]:
    """The choices that can share a session, together."""

    def key(choice: Choice) -> list[tuple[str, str]]:
        return sorted((name, repr(value)) for name, value in choice.settings.items())

    for _, group in groupby(sorted(choices, key=key), key):
        same = list(group)
        yield same[0].settings, same
