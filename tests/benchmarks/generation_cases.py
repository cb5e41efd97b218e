"""lepton-edge generating, beside others and beside itself: the cases that have targets."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark.statistics import percentile
from tests.benchmarks.generation_materials import Materials
from tests.benchmarks.generation_rivals import (
    CASES,
    OURS,
    STREAMS,
    Answer,
    Case,
    Worker,
    compare,
    lepton_edge,
    llama_cpp,
    measure,
    openvino_genai,
    prompts_of,
    steps,
)
from tests.benchmarks.results import Comparison, Limit, Result
from tests.benchmarks.terminal import Terminal

if TYPE_CHECKING:
    from lepton_edge.runtime.generative_model import GenerativeModel

_DECODE, _AT_256, _AT_1024 = (case.name for case in CASES)
_BESIDE_GENAI = {_DECODE: Limit("at least", 0.97)}
_BESIDE_LLAMA = {
    _DECODE: Limit("at least", 1.1),
    _AT_256: Limit("at most", 0.5),
    _AT_1024: Limit("at most", 0.5),
}
_MANY = Limit("at least", 2.5)
_FIRST = Limit("at most", 1.3)
_CACHED = Limit("at most", 0.5)
_NOT_CACHED = (
    "OpenVINO 2026.4.1 cannot open a model with paged attention from its cache of compiled models "
    "(what it writes leaves out the sizes of the heads), so the cache saves the hashing of files "
    "alone; and the longest part of a load, the first inference, which lays the weights out for "
    "the processor, is in no cache"
)
_SECOND = Limit("at most", 0.2)

_LENGTHS = (32, 256, 1024)  # of first prompts
_LATER = 3  # requests after the first one of a process
_ANSWER = 16  # tokens
_HISTORY = 1000  # tokens
_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo")

Message = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """How often things are measured, and with how many threads."""

    rounds: int
    starts: int
    """Fresh processes of each kind."""
    threads: int


def beside_others(materials: Materials, plan: Plan, terminal: Terminal) -> list[Result]:
    """Decode and first token beside the others; several streams beside one."""
    alike = openvino_genai(materials.ir, threads=plan.threads, properties=materials.properties)
    alike.name += ", set as lepton-edge is"
    genai = [
        openvino_genai(materials.ir, threads=plan.threads, pipeline="batching"),
        openvino_genai(materials.ir, threads=plan.threads, pipeline="llm"),
        alike,
    ]
    llama = []
    if materials.gguf and materials.llama_python:
        gguf, python = materials.gguf, materials.llama_python
        llama = [
            llama_cpp(gguf, threads=plan.threads, weights="plain", python=python),
            llama_cpp(gguf, threads=plan.threads, weights="repacked", python=python),
        ]
    workers = [lepton_edge(materials.bundle), *genai, *llama]
    batching = [worker for worker in workers if worker.several]
    with ExitStack() as stack:
        for worker in workers:
            terminal.say(f"opening {worker.name}")
            stack.enter_context(worker)
        total = steps(len(workers), len(CASES), plan.rounds)
        with terminal.steps(total + steps(len(batching), len(STREAMS), plan.rounds)) as step:
            figures = measure(workers, CASES, plan.rounds, materials.vocabulary, step)
            figures |= measure(batching, STREAMS, plan.rounds, materials.vocabulary, step)
    limits = [_BESIDE_GENAI, _BESIDE_GENAI, _BESIDE_GENAI, _BESIDE_LLAMA, {}]
    beside = [
        comparison
        for worker, limit in zip(workers[1:], limits, strict=False)
        for comparison in compare(figures, CASES, OURS, worker.name, limit)
    ]
    return [_rivals(beside), _streams(figures, batching[1])]


def _rivals(beside: list[Comparison]) -> Result:
    decode, short, long = CASES
    return Result(
        "rivals",
        "Beside others",
        f"Decode: the {decode.tokens - 1} tokens after the first, of a prompt of {decode.prompt}. "
        f"First token: prompts of {short.prompt} and {long.prompt:,} tokens. All get the same "
        "random token ids, choose greedily and have a process of their own; they are asked in "
        "turn. lepton-edge and openvino-genai open the same files, and lepton-edge makes text of "
        "the tokens too. On this processor openvino-genai computes in bf16 where nobody says "
        "otherwise, and lepton-edge with weights of 4 and 8 bits in 8 bits: tokens come faster, "
        "and a prompt is read more slowly (`dynamic_quantization_group_size: 0` in a recipe's "
        "block `openvino` is bf16). llama.cpp has the weights in Q4_0: plain "
        "(`use_extra_bufts=False`), and repacked for vector instructions; its AMX layout crashes "
        "on this kind of processor.",
        comparisons=beside,
    )


def _streams(figures: dict[str, dict[str, list[float]]], genai: Worker) -> Result:
    one, several = STREAMS

    def beside_one(name: str, limit: Limit | None) -> Comparison:
        return Comparison(
            case=f"{several.name}, {name}",
            other=one.name,
            unit=several.unit,
            ours=figures[several.name][name],
            theirs=figures[one.name][name],
            limit=limit,
        )

    return Result(
        "streams",
        "Several streams",
        f"Total tokens a second of {several.prompts} answers at once beside one, of "
        f"{several.tokens} tokens after prompts of {several.prompt}; reading the prompts is in "
        "the time.",
        comparisons=[beside_one(OURS, _MANY), beside_one(genai.name, None)],
        columns=(several.name, one.name),
    )


def first_requests(materials: Materials, plan: Plan, terminal: Terminal) -> Result:
    """What a process answers first, beside what it answers later."""
    found = []
    with terminal.steps(len(_LENGTHS) * plan.starts) as step:
        for length in _LENGTHS:
            case = Case(f"prompt of {length:,}", "first", length, _ANSWER)
            answers = []
            for number in range(plan.starts):
                step(case.name)
                with lepton_edge(materials.bundle) as worker:
                    answers.append(
                        [
                            worker.generate(
                                prompts_of(case, number * 100 + later, materials.vocabulary),
                                case.tokens,
                            )
                            for later in range(1 + _LATER)
                        ]
                    )
            found += first_and_later(case, answers)
    return Result(
        "first",
        "The first request of a process",
        f"In {plan.starts} fresh processes for each length: the request right after `load`, "
        f"beside the median of the {_LATER} after it.",
        comparisons=found,
        columns=("first", "later"),
    )


def first_and_later(case: Case, processes: Sequence[Sequence[Answer]]) -> list[Comparison]:
    """Of each process, its first answer beside the median of the others: until the first token,
    and the whole answer."""

    def seconds(answer: Answer, place: int) -> float:
        return answer.seconds[0][place]

    return [
        Comparison(
            case=f"{case.name}: {what}",
            other="later ones",
            unit="s",
            ours=[seconds(answers[0], place) for answers in processes],
            theirs=[
                percentile([seconds(answer, place) for answer in answers[1:]], 0.5)
                for answers in processes
            ],
            limit=limit,
        )
        for what, place, limit in (
            ("first token", 0, _FIRST),
            (f"{case.tokens} tokens", -1, None),
        )
    ]


def loads(materials: Materials, plan: Plan, folder: Path, terminal: Terminal) -> Result:
    """`load` in a fresh process that finds an empty cache, then one that finds what that left."""
    kinds: dict[str, dict[str, Any]] = {"load": {}, "load without its warm-up": {"warm_up": False}}
    found: dict[str, list[tuple[Worker, Worker]]] = {name: [] for name in kinds}
    before = os.environ.get("XDG_CACHE_HOME")
    with terminal.steps((plan.starts + 1) * len(kinds)) as step:
        for number in range(plan.starts + 1):
            for name, options in kinds.items():
                step(name)
                os.environ["XDG_CACHE_HOME"] = str(folder / "loads")
                pair = (
                    _opened(lepton_edge(materials.bundle, **options)),
                    _opened(lepton_edge(materials.bundle, **options)),
                )
                shutil.rmtree(folder / "loads")
                if number:  # the first pair brings the files into the system's memory
                    found[name].append(pair)
    _restore("XDG_CACHE_HOME", before)

    def compared(name: str, figure: Callable[[Worker], float], limit: Limit | None) -> Comparison:
        pairs = found[name.partition(",")[0]]
        return Comparison(
            case=name,
            other="with an empty cache",
            unit="s",
            ours=[figure(second) for _, second in pairs],
            theirs=[figure(first) for first, _ in pairs],
            limit=limit,
            if_missed=_NOT_CACHED,
        )

    first, bare = kinds
    return Result(
        "load",
        "Loading",
        "Fresh processes in pairs: the first finds an empty cache folder (it hashes every "
        "file), the second what the first left. Python's imports are not in the "
        "figures, except where they begin with the process.",
        comparisons=[
            compared(first, lambda worker: worker.loaded, _CACHED),
            compared(bare, lambda worker: worker.loaded, None),
            compared(f"{first}, from the process's start", lambda worker: worker.started, None),
        ],
        columns=("with the cache", "without"),
    )


def _opened(worker: Worker) -> Worker:
    with worker:
        return worker


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def chat(materials: Materials, plan: Plan, terminal: Terminal) -> Result:
    """The second turn of a conversation, beside the same length with nothing kept of it."""
    import lepton_edge
    from lepton_edge.runtime.generative_model import GenerativeModel

    second: list[float] = []
    cold: list[float] = []
    first: list[float] = []
    terminal.say("opening the model for a chat")
    model = lepton_edge.load(materials.bundle)
    assert isinstance(model, GenerativeModel)
    with model, terminal.steps(plan.rounds + 1) as step:
        for number in range(plan.rounds + 1):
            step("chat")
            ours, other = (history(model, Random(f"{number} {who}")) for who in ("ours", "other"))
            one = _first_token(model, ours)
            answer = model.generate(ours, max_tokens=_ANSWER, temperature=0.0).text
            rest = [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": "And then?"},
            ]
            two, alone = _first_token(model, ours + rest), _first_token(model, other + rest)
            if number:
                first.append(one)
                second.append(two)
                cold.append(alone)
    return Result(
        "chat",
        "The second turn of a chat",
        f"Messages with a history of {_HISTORY:,} tokens, through `model.stream(messages)` and the "
        "model's chat template: from the call to the first token. Cold: a conversation of the same "
        "length that the model has not seen.",
        comparisons=[
            Comparison("second turn", "the same length, cold", "s", second, cold, _SECOND),
            Comparison("first turn", "the same length, cold", "s", first, cold),
        ],
        columns=("turn", "cold"),
    )


def history(model: GenerativeModel, chance: Random) -> list[Message]:
    """A user's message of random words, so long that the whole has `_HISTORY` tokens."""
    asked = model.task.parameters({"max_tokens": 1})
    words: list[str] = []
    while True:
        words += ["".join(chance.choices(_SYLLABLES, k=3)) for _ in range(8)]
        messages = [{"role": "user", "content": " ".join(words)}]
        (request,) = model.prompts.read(messages, asked, 1).requests
        if len(request.prompt) >= _HISTORY:
            return messages


def _first_token(model: GenerativeModel, messages: list[Message]) -> float:
    """Seconds from the call to the first token, the making of the prompt's tokens among them."""
    start = time.perf_counter()
    stream = model.stream(messages, max_tokens=1, temperature=0.0)
    begun = time.perf_counter() - start
    stream.read()
    first = stream.completion.timing.first_token
    assert first is not None
    return begun + first
