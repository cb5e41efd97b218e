"""The names of a decoder's tensors: those of its one step, and of the cache between steps."""

from __future__ import annotations

POSITION_IDS = "position_ids"
ENCODER_ATTENTION_MASK = "encoder_attention_mask"
LOGITS = "logits"
_PAST, _PRESENT, _CROSS = "past", "present", "cross"
_PARTS = ("key", "value")


def past_names(layers: int) -> tuple[str, ...]:
    """The inputs that hold the cache: ``past.0.key``, ``past.0.value``, ``past.1.key`` …"""
    return tuple(f"{_PAST}.{layer}.{part}" for layer in range(layers) for part in _PARTS)


def present_names(layers: int) -> tuple[str, ...]:
    """The outputs that hold the cache, each the past of its place with the new tokens appended."""
    return tuple(f"{_PRESENT}.{layer}.{part}" for layer in range(layers) for part in _PARTS)


def cross_names(layers: int) -> tuple[str, ...]:
    """The keys and values that an encoder makes of a text, and that the decoder attends to: outputs
    of the one, inputs of the other."""
    return tuple(f"{_CROSS}.{layer}.{part}" for layer in range(layers) for part in _PARTS)
