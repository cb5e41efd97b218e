"""How far decoding is from what memory allows, and what was tried to come nearer.

A token needs every weight once, so the time to read them bounds how fast tokens come:
tokens a second <= bytes read a second / bytes of weights a token.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import structs

from lepton_edge.backend import Setting
from tests.benchmarks.generation_cases import Plan
from tests.benchmarks.generation_materials import Materials, variant
from tests.benchmarks.generation_rivals import (
    Case,
    Worker,
    compare,
    lepton_edge,
    measure,
    openvino_genai,
    prompts_of,
)
from tests.benchmarks.results import Comparison, Detail, Result
from tests.benchmarks.terminal import Terminal

_DECODE = Case("decode", "rate", 64, 65)
_CASES = (_DECODE, Case("first token, prompt of 256", "first", 256, 1))
_LARGE = 2**31  # bytes, beyond a processor's caches
_READING = 0.5  # s
# What lies between stored weights and the product that takes them.
_DECOMPRESSION = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Trial:
    """Something else than the default. ``settings`` are the backend's, as a recipe gives them, and
    ``options`` those of `load`; the rest goes to openvino-genai, which is called directly then."""

    name: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    pipeline: str = "batching"


TRIALS = (
    Trial("nothing changed"),
    Trial("products in bf16", {"dynamic_quantization_group_size": 0, "compute": "auto"}),
    Trial("products in fp32", {"dynamic_quantization_group_size": 0}),
    *(
        Trial(f"activations in groups of {each}", {"dynamic_quantization_group_size": each})
        for each in (32, 64, 896)
    ),
    *(
        Trial(f"key-value cache in {each}", {"kv_cache_precision": each})
        for each in ("u4", "f16", "f32")
    ),
    Trial("one thread", {"threads": 1}),
    Trial("guesses from the prompt", options={"prompt_lookup": True}),
)
"""Through our API."""

DIRECT = (
    Trial("nothing changed"),
    Trial("large pages of memory", environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    *(
        Trial(f"{name}={value}", properties={name: value})
        for name, value in (
            ("ENABLE_CPU_PINNING", True),
            ("ENABLE_CPU_PINNING", False),
            ("ENABLE_HYPER_THREADING", False),
            ("PERFORMANCE_HINT", "THROUGHPUT"),
        )
    ),
    *(
        Trial(f"{name}={value}", scheduler={name: value})
        for name, value in (
            ("max_num_batched_tokens", 1024),
            ("enable_prefix_caching", True),
        )
    ),
    Trial("LLMPipeline, paged attention", pipeline="llm", properties={"ATTENTION_BACKEND": "PA"}),
    Trial("LLMPipeline, plain attention", pipeline="llm", properties={"ATTENTION_BACKEND": "SDPA"}),
)
"""What lepton-edge has no setting for, with openvino-genai called directly."""


def ceiling(materials: Materials, plan: Plan, terminal: Terminal) -> Result:
    """Decoding beside what the reading of weights allows, measured in turn."""
    size = weights_per_token(materials.ir)
    rates: list[float] = []
    reads: list[float] = []
    with lepton_edge(materials.bundle) as worker, terminal.steps(plan.rounds + 1) as step:
        for number in range(plan.rounds + 1):
            step("ceiling")
            read = read_rate(size, plan.threads)
            prompts = prompts_of(_DECODE, number, materials.vocabulary)
            rate = _DECODE.figure_of(worker.generate(prompts, _DECODE.tokens))
            if number:
                reads.append(read)
                rates.append(rate)
    return Result(
        "ceiling",
        "The ceiling of memory",
        f"Weights that a token reads over the bytes that {plan.threads} threads read in a second "
        "(memchr over as many bytes as these weights have, again and again). Keys and values are "
        "not in it: at these lengths they are below a hundredth of the weights.",
        comparisons=[
            Comparison("decode", "the ceiling", "tokens/s", rates, [read / size for read in reads])
        ],
        details=[
            Detail("weights read for a token", size / 1e6, "MB"),
            Detail("reading as many bytes", max(reads) / 1e9, "GB/s at best"),
            Detail("reading 2 GiB", read_rate(_LARGE, plan.threads) / 1e9, "GB/s"),
        ],
        columns=("lepton-edge", "ceiling"),
    )


def weights_per_token(ir: Path) -> int:
    """Bytes of the constants that a matrix product takes, as they are stored: all of them are read
    for each token. A table that is only looked up is not among them."""
    from lepton_edge_openvino.library import openvino
    from lepton_edge_openvino.vocabulary import GENERATIVE_MODEL

    model = openvino().Core().read_model(ir / GENERATIVE_MODEL)
    found: dict[str, int] = {}
    waiting = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    while waiting:
        for each in waiting.pop().input_values():
            node = each.get_node()
            if node.get_type_name() == "Constant":
                found[node.get_friendly_name()] = node.get_byte_size()
            elif node.get_type_name() in _DECOMPRESSION:
                waiting.append(node)
    return sum(found.values())


def read_rate(size: int, threads: int) -> float:
    """Bytes a second that so many threads read together, each a part of ``size`` bytes.

    The C library's memchr looks for a byte that is not there: it only reads, with the widest
    vectors that it has, and Python waits without its lock meanwhile.
    """
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    share = size // threads
    buffer = bytearray(b"\1") * (share * threads)
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    barrier = threading.Barrier(threads)
    rates: list[float] = []

    def read(number: int) -> None:
        memchr(start + number * share, 0, share)  # the first time brings the pages in
        barrier.wait()
        begin, passes = time.perf_counter(), 0
        while (taken := time.perf_counter() - begin) < _READING:
            memchr(start + number * share, 0, share)
            passes += 1
        rates.append(passes * share / taken)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return sum(rates)


def trials(materials: Materials, plan: Plan, folder: Path, terminal: Terminal) -> Result:
    """Settings of lepton-edge, each beside the default."""

    def worker(number: int, trial: Trial) -> Worker:
        bundle = materials.bundle
        if trial.settings:
            bundle = variant(bundle, trial.settings, folder / f"trial-{number}")
        return lepton_edge(bundle, trial.name, **trial.options)

    workers = [worker(number, trial) for number, trial in enumerate(TRIALS)]
    found, failed = beside_default(
        lepton_edge(materials.bundle), workers, materials, plan, terminal
    )
    return Result(
        "trials",
        "What was tried",
        "Settings of lepton-edge, each beside the default in turn; `nothing changed` shows the "
        "noise. Random weights soon write the same tokens again and again: guesses from the prompt "
        "come true more often than with a trained model." + _not_measured(failed),
        comparisons=found,
        columns=("trial", "default"),
    )


def direct_trials(materials: Materials, plan: Plan, terminal: Terminal) -> Result:
    """What lepton-edge has no setting for."""

    def worker(trial: Trial) -> Worker:
        made = openvino_genai(
            materials.ir,
            threads=plan.threads,
            pipeline="llm" if trial.pipeline == "llm" else "batching",
            properties={**own, **trial.properties},
            scheduler=trial.scheduler,
            environment=trial.environment,
        )
        made.name = trial.name
        return made

    own = materials.properties
    default = openvino_genai(materials.ir, threads=plan.threads, properties=own)
    found, failed = beside_default(default, [*map(worker, DIRECT)], materials, plan, terminal)
    return Result(
        "direct-trials",
        "What was tried in openvino-genai",
        f"Each beside {default.name} in turn, called directly with lepton-edge's arithmetic."
        + _not_measured(failed),
        comparisons=found,
        columns=("trial", "default"),
    )


def beside_default(
    default: Worker,
    workers: Sequence[Worker],
    materials: Materials,
    plan: Plan,
    terminal: Terminal,
) -> tuple[list[Comparison], list[str]]:
    """Each worker beside the first one; and what became of those that could not be measured."""
    found: list[Comparison] = []
    failed: list[str] = []
    with default, terminal.steps(len(workers)) as step:
        for number, worker in enumerate(workers):
            step(worker.name)
            try:
                with worker:
                    figures = measure(
                        (worker, default),
                        _CASES,
                        plan.rounds,
                        materials.vocabulary,
                        _quietly,
                        first=number * (plan.rounds + 1),  # other prompts than for the one before
                    )
            except SystemExit as error:
                reason = str(error).strip().splitlines()[-1]
                failed.append(f"{worker.name} ({reason})")
                continue
            found += [
                structs.replace(each, case=f"{worker.name}: {each.case}", other="the default")
                for each in compare(figures, _CASES, worker.name, default.name)
            ]
    return found, failed


def _not_measured(failed: Sequence[str]) -> str:
    return f" Not measured: {'; '.join(failed)}." if failed else ""


def _quietly(step: str) -> None:
    """A trial is one step."""
