"""This backend's block in a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorRTOptions:
    """``backends: {tensorrt: ...}`` of a recipe."""

    compute_capabilities: tuple[str | float, ...] = ()
    """For `rtx`: the GPUs to compile for, such as [8.6, 8.9, 12.0]; all that TensorRT for RTX knows
    where it is empty. NVIDIA lists every GPU's."""
    max_batch: int = 32
    """The most texts in one inference; more are split. Every engine has a second profile for one
    text."""
    best_batch: int = 8
    """The number of texts that kernels are chosen for."""
    best_length: int = 128
    """The length in tokens that kernels are chosen for."""
    workspace: int = 1024
    """The most scratch memory of an operation, in MiB."""
    optimization_level: int | None = None
    """How long to look for faster kernels, from 0 to 5; TensorRT's own choice where absent."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "best_batch", "best_length", "workspace"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a number from 1")
        if self.best_batch > self.max_batch:
            raise ValueError(
                f"best_batch is {self.best_batch}, more than max_batch, {self.max_batch}"
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ValueError(
                f"optimization_level is {self.optimization_level}: it is a number from 0 to 5"
            )
        for each in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", str(each)):
                raise ValueError(
                    f"compute_capabilities has {each!r}: each is a number such as 8.6 or 12.0"
                )

    def capabilities(self) -> tuple[str, ...]:
        """``compute_capabilities`` as texts: YAML reads 8.6 as a number."""
        return tuple(str(each) for each in self.compute_capabilities)

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)
