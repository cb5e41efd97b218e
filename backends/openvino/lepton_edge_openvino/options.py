"""This backend's block in a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OpenVINOOptions:
    """``backends: {openvino: ...}`` of a recipe. Read at run time, from the manifest."""

    performance_hint: Literal["latency", "throughput"] = "latency"
    """Aim at a single request's latency, or at the throughput of many concurrent requests."""
    threads: int | None = None
    """Threads of inference; the library's own choice, all cores, where absent."""
    streams: int | None = None
    """Inferences that run at the same time, sharing the threads; the hint's own choice where
    absent."""

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("streams", self.streams)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it is a number from 1")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)
