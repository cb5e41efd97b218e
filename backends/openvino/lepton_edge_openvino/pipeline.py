"""Opening a decoder with openvino-genai: how large its cache is, and what it is opened with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge.memory import available_memory
from lepton_edge_openvino.adapters import Adapters
from lepton_edge_openvino.backend import computes_in, generator_properties
from lepton_edge_openvino.generator import OpenVINOGenerator
from lepton_edge_openvino.library import last_line, openvino
from lepton_edge_openvino.requests import Requests
from lepton_edge_openvino.session import COMPUTE
from lepton_edge_openvino.stateful import cache_specs
from lepton_edge_openvino.vocabulary import DETOKENIZER, GENERATIVE_MODEL, end_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_edge.backend import Compiled, Generation, Generator

_MIB = 2**20
# Tokens in a page of the cache on a CPU, which is also the least that a prefix is shared by.
_PAGE = 32
_BYTES = {"f16": 2, "bf16": 2, "f32": 4}
# How many texts of full length the cache holds where nobody says.
_TEXTS = 4
# openvino-genai's own default is 256: then the pages of each are few.
_MOST_TEXTS = 64
# Rows of a batch where the model keeps its own cache.
_ROWS = 8
# How many tokens are guessed at a time, and the longest words that are looked up for it.
_GUESSES = 4
_WORDS = 3


def open_generator(
    core: Any,
    directory: Path,
    compiled: Compiled,
    generation: Generation,
    device: str,
) -> Generator:
    """Raises `BackendError`, also where the cache has no room in memory.

    OpenVINO's cache of compiled models is not used: a model with paged attention cannot be opened
    from it (2026.4.1), and what would be saved, the first inference takes more.
    """
    properties = dict(generator_properties(core, device, compiled.settings))
    tokens = cache_tokens(compiled, generation)
    if not compiled.settings.get("paged", True):
        return _by_steps(core, directory, compiled, generation, device, tokens)
    genai = _genai()
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-tokens // _PAGE)
    # Pages that an adapter filled are no other's.
    scheduler.enable_prefix_caching = not generation.adapters
    scheduler.max_num_seqs = _MOST_TEXTS
    guesses: dict[str, int] = {}
    given: dict[str, Any] = {}
    if generation.adapters and (generation.draft or generation.prompt_lookup):
        raise BackendError(
            "openvino-genai does not guess tokens for a model with adapters",
            hint="load(path, adapters={}, …) opens none of a bundle's",
        )
    if generation.prompt_lookup:
        given["prompt_lookup"] = True
        guesses = {"num_assistant_tokens": _GUESSES, "max_ngram_size": _WORDS}
    try:
        adapters = None
        if generation.adapters:
            model = core.read_model(str(directory / GENERATIVE_MODEL))
            adapters = Adapters(genai, generation.adapters, model)
            given["adapters"] = adapters.config()
        if generation.draft is not None:
            given["draft_model"] = genai.draft_model(str(generation.draft), device, **properties)
            guesses = {"num_assistant_tokens": _GUESSES}
        pipeline = genai.ContinuousBatchingPipeline(
            str(directory), scheduler, device, {**properties, **given}
        )
        requests = Requests(
            genai,
            adapters.names if adapters else (),
            guesses,
            samples=generation.draft is None,
            end=end_tokens(directory / DETOKENIZER),
        )
    except RuntimeError as error:
        raise BackendError(
            f"openvino-genai cannot open {directory} on {device}: {last_line(error)}",
            hint=f"it was built with {compiled.requires}: install that, or build it again",
        ) from error
    if adapters is not None:
        adapters.use(requests)
    return OpenVINOGenerator(
        pipeline=pipeline,
        requests=requests,
        adapters=adapters,
        device=device,
        details={
            "compute": COMPUTE[computes_in(core, device, properties)],
            "cache_tokens": tokens,
            "cache_mib": round(tokens * bytes_per_token(compiled) / _MIB, 1),
        },
        max_length=min(generation.max_length, tokens),
    )


def _by_steps(
    core: Any,
    directory: Path,
    compiled: Compiled,
    generation: Generation,
    device: str,
    tokens: int,
) -> Generator:
    """For a model whose attention paged attention cannot compute."""
    from lepton_edge.generation.stepping import Limits, StepGenerator
    from lepton_edge_openvino.stepper import open_stepper

    if generation.adapters or generation.draft or generation.prompt_lookup:
        raise BackendError(
            "this model is not one that openvino-genai computes, as its attention caps its scores: "
            "it takes no adapters, no draft and no prompt_lookup",
            hint="load it without them",
        )
    size = compiled.outputs[0].shape[-1]
    limits = Limits(
        _ROWS, min(generation.max_length, tokens), tokens, size if isinstance(size, int) else None
    )
    stepper = open_stepper(core, directory, compiled, device)
    return StepGenerator(stepper, limits, generation.tokenizer, device)


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
                "backends: {openvino: {kv_cache_precision: u8}}",
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
    """What the keys and values of one token take.

    In 8 bits, a page has a scale and a zero point, float32 each, for each number of a key, and for
    each token's value.
    """
    precision = str(compiled.settings.get("kv_cache_precision", "u8"))
    found = 0
    for place, spec in enumerate(cache_specs(compiled.inputs)):
        heads, size = int(spec.shape[1]), int(spec.shape[3])
        if precision in _BYTES:
            found += heads * size * _BYTES[precision]
        else:
            found += heads * (size + (8 * size // _PAGE if place % 2 == 0 else 8))
    return found


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
