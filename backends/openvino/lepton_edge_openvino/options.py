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

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}: it is a number from 1")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)
