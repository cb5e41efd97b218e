"""Mixtures of experts: computing them so that a graph does not depend on who is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAME = "every_expert"


@contextmanager
def every_expert(config: Any) -> Iterator[None]:
    """Inside, a model of this configuration computes all of its experts for each token, and weighs
    those that the router did not choose with 0.

    transformers loops over the chosen experts, which no export takes, or gathers a copy of their
    weights for each token, which a long prompt has no memory for.
    """
    if not hasattr(config, "num_experts_per_tok"):
        yield
        return
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_NAME, _forward)
    before = config._experts_implementation
    config._experts_implementation = _NAME
    try:
        yield
    finally:
        config._experts_implementation = before


def experts_of(config: Any) -> tuple[int, int] | None:
    """How many experts a layer has, and how many of them a token is for; None without experts."""
    chosen = getattr(config, "num_experts_per_tok", None)
    count = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    return (count, chosen) if chosen and count else None


def _forward(
    experts: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """``hidden`` [tokens, size], ``chosen`` int64 and ``weights`` [tokens, chosen experts]."""
    tokens, size = hidden.shape
    count = experts.num_experts
    shares = torch.zeros(tokens, count, dtype=weights.dtype).scatter(1, chosen, weights)
    repeated = hidden.repeat(count, 1).view(count, -1, size)
    gate, up = torch.bmm(repeated, experts.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
    inner = experts.act_fn(gate) * up
    outer = torch.bmm(inner, experts.down_proj.transpose(1, 2)).view(count, -1, size)
    weighed = outer * shares.transpose(0, 1).view(count, -1)[..., None]
    return weighed.sum(dim=0).to(hidden.dtype)
