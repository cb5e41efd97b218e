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

    group_size: int = 128
    """With int4-weights: how many weights along what a product sums over share a scale; fewer where
    it does not divide them, and all of a channel with -1."""
    symmetric: bool = False
    """With int4-weights: scales alone, without zero points: smaller and a little less exact."""
    ratio: float = 1.0
    """With int4-weights: the share of the weights that are in 4 bits, those that lose most by it
    being in 8; embeddings and the last layer always are."""
    awq: bool = False
    """With int4-weights and calibration data: scale the weights by what activations need (AWQ, Lin
    et al. 2023)."""
    scale_estimation: bool = False
    """With int4-weights and calibration data: choose scales by the error of the products."""
    kv_cache_precision: Literal["u8", "f16", "bf16", "f32"] | None = None
    """The number format of a generator's key-value cache; where absent f32 with precision fp32,
    and otherwise the library's own choice, 8 bits on a CPU."""
    dynamic_quantization_group_size: int = 128
    """With int8-weights and int4-weights, a generator's products are computed in 8 bits, and so
    many activations share a scale. 0: in the processor's 16-bit arithmetic where it has some, whose
    first token comes sooner and whose others come later."""

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("streams", self.streams)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it is a number from 1")
        if self.group_size < 1 and self.group_size != -1:
            raise ValueError(f"group_size is {self.group_size}: it is a number from 1, or -1")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}: it is from 0 to 1")
        size = self.dynamic_quantization_group_size
        if size < 0:
            raise ValueError(f"dynamic_quantization_group_size is {size}: it is a number from 0")

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)
