"""Opening a decoder with openvino-genai: how large its cache is, and what it is opened with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge.memory import available_memory
from lepton_edge_openvino.backend import generator_properties
from lepton_edge_openvino.cache import model_cache
from lepton_edge_openvino.generator import OpenVINOGenerator
from lepton_edge_openvino.library import last_line, openvino
from lepton_edge_openvino.session import COMPUTE
from lepton_edge_openvino.stateful import cache_specs
from lepton_edge_openvino.vocabulary import GENERATIVE_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_edge.backend import Compiled, Generation

_MIB = 2**20
# Tokens in a page of the cache on a CPU, which is also the least that a prefix is shared by.
_PAGE = 32
_BITS = {"u4": 4, "u8": 8, "f16": 16, "bf16": 16, "f32": 32}
# A scale and a zero point, float32 each, of each head's keys or values of a token.
_SCALES = {"u4": 8, "u8": 8}
# How many texts of full length the cache holds where nobody says.
_TEXTS = 4
# openvino-genai's own defaults are 256 sequences, and 256 tokens a step, so that a long prompt is
# many steps.
_MOST_TEXTS = 64


def open_generator(
    core: Any,
    directory: Path,
    compiled: Compiled,
    generation: Generation,
    device: str,
    cache: Path | None,
) -> OpenVINOGenerator:
    """Raises `BackendError`, also where the cache has no room in memory."""
    genai = _genai()
    properties: dict[str, Any] = dict(generator_properties(core, device, compiled.settings))
    tokens = cache_tokens(compiled, generation)
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-tokens // _PAGE) + 1  # one is openvino-genai's own
    scheduler.enable_prefix_caching = True
    scheduler.max_num_seqs = _MOST_TEXTS
    version = openvino().__version__
    path = directory.resolve()
    asked = f"{path / GENERATIVE_MODEL} {sorted(properties.items())} {tokens}"
    try:
        with model_cache(core, device, version, cache, asked) as cached:
            pipeline = genai.ContinuousBatchingPipeline(
                str(path), scheduler, device, {**properties, **cached}
            )
    except RuntimeError as error:
        raise BackendError(
            f"openvino-genai cannot open {directory} on {device}: {last_line(error)}",
            hint=f"it was built with {compiled.requires}: install that, or build it again",
        ) from error
    return OpenVINOGenerator(
        pipeline=pipeline,
        genai=genai,
        device=device,
        details={
            "compute": _compute(core, device, properties),
            "cache_tokens": tokens,
            "cache_mib": round(tokens * bytes_per_token(compiled) / _MIB, 1),
        },
        max_length=min(generation.max_length, tokens),
        adapters={},
        guesses={},
    )


def cache_tokens(compiled: Compiled, generation: Generation) -> int:
    """How many tokens the cache holds. Raises `BackendError` where they have no room in memory."""
    each = bytes_per_token(compiled)
    free = available_memory()
    wanted = generation.cache_tokens
    if wanted is not None:
        if free is not None and wanted * each > free:
            raise BackendError(
                f"a cache of {wanted:,} tokens takes {wanted * each // _MIB:,} MiB, and "
                f"{free // _MIB:,} MiB of memory are free",
                hint=f"load with cache_tokens={max(free // 2 // each, 1)} or fewer, or build with "
                "backends: {openvino: {kv_cache_precision: u4}}",
            )
        return wanted
    if free is None:
        return generation.max_length * _TEXTS
    room = free // 2 // each
    if room < generation.max_length:
        raise BackendError(
            f"a text of {generation.max_length:,} tokens takes a cache of "
            f"{generation.max_length * each // _MIB:,} MiB, and half of the free memory is "
            f"{free // 2 // _MIB:,} MiB",
            hint=f"build with text: {{max_length: {room}}}, or load with cache_tokens={room}",
        )
    return min(generation.max_length * _TEXTS, room)


def bytes_per_token(compiled: Compiled) -> int:
    """What the keys and values of one token take."""
    precision = str(compiled.settings.get("kv_cache_precision", "u8"))
    found = 0
    for spec in cache_specs(compiled.inputs):
        heads, size = int(spec.shape[1]), int(spec.shape[3])
        found += heads * (size * _BITS.get(precision, 8) // 8 + _SCALES.get(precision, 0))
    return found


def _compute(core: Any, device: str, properties: dict[str, Any]) -> str:
    """The number format of the arithmetic, as OpenVINO chooses it where nobody does."""
    hint = properties.get("INFERENCE_PRECISION_HINT")
    if hint is not None:
        return COMPUTE.get(str(hint), str(hint))
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in able else "fp32"


def _genai() -> Any:
    """The module `openvino_genai`. Raises `BackendError`."""
    openvino()  # without its telemetry, which openvino-genai's own import would bring
    try:
        return import_module("openvino_genai")
    except ImportError as error:
        raise BackendError(
            f"openvino-genai cannot be imported: {error}",
            hint="pip install --upgrade openvino-genai openvino openvino-tokenizers: the three are "
            "of one version",
        ) from error
