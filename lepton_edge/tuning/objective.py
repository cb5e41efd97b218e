"""What a bundle is tuned for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lepton_edge.errors import InputError

_BOUND = re.compile(r"p99\s*<?=\s*(\d+(?:\.\d+)?)\s*(ms|s)")
_SCALES = {"ms": 1000.0, "s": 1.0}


@dataclass(frozen=True)
class Objective:
    """``latency`` is the median time of a call with one input. ``throughput`` is the inputs
    answered a second, of a list of mixed lengths in one call. ``p99`` is the throughput too, in
    calls of as many inputs as a micro-batch has rows, where 99 of 100 calls take no longer than
    ``bound`` seconds.
    """

    kind: Literal["latency", "throughput", "p99"]
    bound: float | None = None

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From ``latency``, ``throughput``, or a bound such as ``p99=20ms`` or ``p99=0.5s``.

        Raises `InputError`.
        """
        given = text.strip().lower()
        if given == "latency":
            return cls("latency")
        if given == "throughput":
            return cls("throughput")
        found = _BOUND.fullmatch(given)
        if found and (bound := float(found[1]) / _SCALES[found[2]]) > 0:
            return cls("p99", bound)
        raise InputError(
            f"there is no objective {text!r}",
            hint="there is latency, throughput, and a bound such as p99=20ms",
        )

    def __str__(self) -> str:
        return self.kind if self.bound is None else f"p99={self.bound * 1000:g}ms"
