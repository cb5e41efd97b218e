"""The build plan: all that decides what an engine is, but the library and the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lepton_edge.errors import BackendError
from lepton_edge.generation.tensors import past_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_edge.backend import TensorSpec
    from lepton_edge_tensorrt.options import TensorRTOptions

ONNX = "model.onnx"
ENGINE = "model.engine"
PLAN = "plan.json"
SCHEMA = 1
_DEFAULT_LENGTH = 512
# New tokens of a decoder's step: a longer prompt is given in turns (`stepper`). The scores of
# attention are as many as these times the context, for each row and head, and scratch memory has
# room for them from the beginning.
_LONGEST_STEP = 256
# Of a text alone, most are short.
_SINGLE_LENGTH = 32

Shape = tuple[int, ...]


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The shapes of an input in one optimization profile."""

    smallest: Shape
    best: Shape
    """The shape that kernels are chosen for."""
    largest: Shape


class BuildPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the typed ONNX graph becomes an engine."""

    schema: int = SCHEMA
    graph: str
    """SHA-256 over the typed ONNX graph's files."""
    precision: str
    """What is computed in: fp32, fp16 or bf16; and how weights and products are quantized."""
    profiles: tuple[dict[str, Range], ...]
    """Optimization profiles: each input's shapes."""
    workspace: int
    """Bytes of scratch memory that an operation may use."""
    tf32: bool = False
    """Whether fp32 products may be computed in TF32, with 10 bits of mantissa."""
    optimization_level: int | None = None
    capabilities: tuple[str, ...] = ()
    """Compute capabilities that it is compiled for ahead of time; none for the GPU at hand."""
    memory: int
    """Estimated peak memory of the compilation, in bytes."""

    @property
    def max_length(self) -> int:
        """Of a decoder: the most tokens of a text, those in its cache and a new one."""
        name = past_names(1)[0]
        return max(profile[name].largest[2] for profile in self.profiles) + 1

    def encoded(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def digest(self) -> str:
        """SHA-256 of the plan, which names the graph by its own: what an engine is kept under."""
        import hashlib

        return hashlib.sha256(self.encoded()).hexdigest()


class _Versioned(msgspec.Struct):
    schema: int


def read_plan(directory: Path) -> BuildPlan:
    """Raises `BackendError`."""
    try:
        data = (directory / PLAN).read_bytes()
        schema = msgspec.json.decode(data, type=_Versioned).schema
        if schema > SCHEMA:
            raise BackendError(
                f"{directory / PLAN} has schema {schema}; this lepton-edge-tensorrt reads up to "
                f"{SCHEMA}",
                hint="pip install --upgrade lepton-edge-tensorrt",
            )
        return msgspec.json.decode(data, type=BuildPlan)
    except OSError as error:
        raise BackendError(
            f"{directory} has no build plan: {error.strerror}", hint="build the bundle again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BackendError(
            f"{directory / PLAN} is no build plan: {error}", hint="build the bundle again"
        ) from error


def profiles_of(
    specs: Sequence[TensorSpec], largest: Mapping[str, int], options: TensorRTOptions
) -> tuple[dict[str, Range], ...]:
    """One profile for a single text, and one for batches; a decoder has one alone, as TensorRT for
    RTX (1.7) keeps a weight of its own for each."""
    length = largest.get("length", _DEFAULT_LENGTH)
    if any("past" in spec.shape for spec in specs):
        context = largest.get("total", max(length, _DEFAULT_LENGTH))
        source = largest.get("source", context)
        if "source" not in largest:
            length = min(length, _LONGEST_STEP)
        return (_decoder_profile(specs, length, context, source, options),)
    one = _profile(
        specs,
        {"batch": 1, "length": 1},
        {"batch": 1, "length": min(_SINGLE_LENGTH, length)},
        {"batch": 1, "length": length},
    )
    if options.max_batch == 1:
        return (one,)
    many = _profile(
        specs,
        {"batch": 1, "length": 1},
        {"batch": options.best_batch, "length": min(options.best_length, length)},
        {"batch": options.max_batch, "length": length},
    )
    return one, many


def _decoder_profile(
    specs: Sequence[TensorSpec], length: int, context: int, source: int, options: TensorRTOptions
) -> dict[str, Range]:
    """``length`` is the new tokens, ``past`` those in the cache, and ``total`` both, in each of the
    three shapes: at the largest that is more than the context, which no text reaches. ``source`` is
    the text that an encoder read.

    A decoder mostly takes one token after another of one text: that is what its kernels are chosen
    for.
    """
    half = context // 2
    return _profile(
        specs,
        {"batch": 1, "length": 1, "past": 0, "total": 1, "source": 1},
        {
            "batch": 1,
            "length": 1,
            "past": half,
            "total": half + 1,
            "source": min(options.best_length, source),
        },
        {
            "batch": options.max_batch,
            "length": length,
            "past": context - 1,
            "total": context - 1 + length,
            "source": source,
        },
    )


def _profile(
    specs: Sequence[TensorSpec],
    smallest: Mapping[str, int],
    best: Mapping[str, int],
    largest: Mapping[str, int],
) -> dict[str, Range]:
    return {
        spec.name: Range(_shape(spec, smallest), _shape(spec, best), _shape(spec, largest))
        for spec in specs
    }


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> Shape:
    return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
