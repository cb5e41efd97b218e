"""Opening a decoder to generate with: what its cache may take of the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_edge.errors import BackendError
from lepton_edge.generation.stepping import Limits, StepGenerator
from lepton_edge.generation.tensors import LOGITS
from lepton_edge.target import MIB

if TYPE_CHECKING:
    from lepton_edge.backend import Compiled, Generation
    from lepton_edge_tensorrt.stepper import TensorRTStepper

# The other part is for the tensors of a step, and whoever else uses the GPU.
_SHARE = 0.9


def check_generation(generation: Generation) -> None:
    """Raise `BackendError` for what only other backends have."""
    for what, asked in (
        ("LoRA adapters", bool(generation.adapters)),
        ("speculative decoding with a draft", generation.draft is not None),
        ("speculative decoding by prompt look-up", generation.prompt_lookup),
    ):
        if asked:
            raise BackendError(
                f"the TensorRT backend has no {what}",
                hint="leave it out, or load the bundle on a device of OpenVINO",
            )


def open_generator(
    stepper: TensorRTStepper, compiled: Compiled, generation: Generation
) -> StepGenerator:
    """Takes over the stepper. Raises `BackendError` where its cache has no room on the GPU."""
    length = min(generation.max_length, stepper.max_length)
    try:
        room = int(stepper.free_memory() * _SHARE) // stepper.bytes_per_token
        limits = Limits(
            rows=stepper.max_batch,
            length=length,
            cache_tokens=_cache_tokens(stepper, generation.cache_tokens, length, room),
            vocabulary=_vocabulary(compiled),
        )
    except BaseException:
        stepper.close()
        raise
    stepper.limit_cache(limits.cache_tokens)
    return StepGenerator(stepper, limits, generation.tokenizer, stepper.device)


def _cache_tokens(stepper: TensorRTStepper, asked: int | None, length: int, room: int) -> int:
    """How many tokens the cache may hold, those of all texts of a batch."""
    needed = length if asked is None else asked
    if needed > room:
        each = stepper.bytes_per_token
        raise BackendError(
            f"a cache of {needed:,} tokens takes {_mib(needed * each)}, and "
            f"{_mib(room * each)} of {stepper.device} are free for it",
            hint=f"load with cache_tokens={room}, or close what else uses the GPU"
            if room
            else "close what else uses the GPU",
        )
    if asked is not None:
        return asked
    return min(stepper.max_batch * length, room)


def _vocabulary(compiled: Compiled) -> int | None:
    (size,) = (spec.shape[-1] for spec in compiled.outputs if spec.name == LOGITS)
    return size if isinstance(size, int) else None


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"
