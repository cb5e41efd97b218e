"""``python -m tests.benchmarks.generation_rivals``: how fast others write text.

llama.cpp on a GGUF file and openvino-genai on a stateful IR, each in a process of its own that
opens the model once. They are asked in turn (A B A B ...): what disturbs the machine for a while
disturbs them alike, and their ratios less than their figures.

`tests.benchmarks.generation` asks lepton-edge in the same way; `workers/generation_worker.py` says
how a worker is asked.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal

import msgspec

from lepton_edge.benchmark.machine import Watch
from lepton_edge.benchmark.statistics import extent, ratios
from lepton_edge.benchmark.wording import between, times
from tests.benchmarks import machine
from tests.benchmarks.results import Comparison, Limit
from tests.benchmarks.shapes import QWEN, SHAPES
from tests.benchmarks.terminal import Terminal

ROUNDS = 5
OURS = "lepton-edge"

_WORKERS = Path(__file__).parent / "workers"
_SETTLE = 0.2  # s: the threads of llama.cpp's OpenMP spin for a while after a step
_ENDING = 10.0  # s
_PATIENCE = 300.0  # s, for one line of a worker's
_FIRST_IDS = 256  # a vocabulary begins with the bytes
_SEED = 20261123


class Answer(msgspec.Struct, frozen=True):
    """For each prompt: the ids of its tokens, and when each was there, in seconds since asked."""

    tokens: list[list[int]]
    seconds: list[list[float]]


class _Loaded(msgspec.Struct, frozen=True):
    loaded: float


class Worker:
    """One way to generate text: a process with an open model, from ``with`` to its end.

    Its processor time counts as this process's once it has ended: end the workers before asking a
    `Watch` what others took. Raises `SystemExit`, with the end of what it wrote to its log, where
    the process ends by itself, or gives nothing for five minutes.
    """

    def __init__(self, name: str, command: Sequence[str | Path], *, several: bool = False) -> None:
        self.name = name
        self.several = several
        """Whether it takes several prompts at once."""
        self.loaded = 0.0
        """Seconds that opening the model took, libraries imported before."""
        self.started = 0.0
        """Seconds from the process's start to the open model."""
        self._command = [str(each) for each in command]

    def __enter__(self) -> Worker:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        start = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self.loaded = msgspec.json.decode(self._line(), type=_Loaded).loaded
        except BaseException:
            self._end()
            raise
        self.started = time.perf_counter() - start
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> Answer:
        """So many greedy tokens for each prompt, ends of text among them; all at once."""
        assert self._process.stdin
        request = json.dumps({"prompts": prompts, "tokens": tokens}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = msgspec.json.decode(self._line(), type=Answer)
        for ids, seconds in zip(answer.tokens, answer.seconds, strict=True):
            if not len(ids) == len(seconds) == tokens:
                raise SystemExit(
                    f"{self.name} gave {len(ids)} tokens where {tokens} were asked for"
                )
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout
        # A line is an answer: between two there is nothing in the buffer that hides the pipe.
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            self._process.kill()
            raise SystemExit(f"{self.name} gave nothing for {_PATIENCE:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> SystemExit:
        code = self._process.wait(_ENDING)
        self._log.seek(0)
        return SystemExit(f"{self.name} ended with {code}:\n{self._log.read()[-2000:]}")

    def _end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.close()
            self._process.wait(_ENDING)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def llama_cpp(
    gguf: Path,
    *,
    threads: int,
    weights: Literal["plain", "repacked", "default"] = "plain",
    context: int = 2048,
    python: str | Path = sys.executable,
) -> Worker:
    """llama.cpp, by a Python that has llama-cpp-python.

    Its own choice of ``weights`` on a processor with AMX crashed. ``plain`` is what turning that
    choice off gives (`use_extra_bufts=False`), which also turns off the layout for AVX-512:
    ``repacked`` has that one.
    """
    settings = json.dumps({"threads": threads, "context": context, "weights": weights})
    name = f"llama.cpp, {weights}"
    return Worker(name, [python, _WORKERS / "run_llama_cpp.py", gguf, settings])


def openvino_genai(
    ir: Path,
    *,
    threads: int,
    pipeline: Literal["batching", "llm"] = "batching",
    properties: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    python: str | Path = sys.executable,
) -> Worker:
    """openvino-genai called directly: ``properties`` of the device beside the number of threads,
    ``scheduler`` the fields of its SchedulerConfig, ``environment`` more variables of the process.
    """
    settings = json.dumps(
        {
            "pipeline": pipeline,
            "properties": {"INFERENCE_NUM_THREADS": threads, **(properties or {})},
            "scheduler": dict(scheduler or {}),
        }
    )
    name = {"batching": "ContinuousBatchingPipeline", "llm": "LLMPipeline"}[pipeline]
    return Worker(
        f"openvino-genai, {name}",
        [*_with(environment), python, _WORKERS / "run_openvino_genai.py", ir, settings],
        several=pipeline == "batching",
    )


def _with(environment: Mapping[str, str] | None) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in (environment or {}).items())]


def lepton_edge(bundle: Path, name: str = OURS, **options: Any) -> Worker:
    """lepton-edge's own API; ``options`` are those of `lepton_edge.load`."""
    script, given = _WORKERS / "run_lepton_edge.py", json.dumps(options)
    return Worker(name, [sys.executable, script, bundle, given], several=True)


@dataclass(frozen=True)
class Case:
    """What is asked, and the figure of an answer: ``first`` is when the first token was there;
    ``rate`` the tokens a second after it; ``total`` those of all prompts together, the prompts'
    own time in it."""

    name: str
    figure: Literal["first", "rate", "total"]
    prompt: int
    tokens: int
    prompts: int = 1

    @property
    def unit(self) -> str:
        return "s" if self.figure == "first" else "tokens/s"

    def figure_of(self, answer: Answer) -> float:
        if self.figure == "total":
            return self.prompts * self.tokens / max(times[-1] for times in answer.seconds)
        (times,) = answer.seconds
        if self.figure == "first":
            return times[0]
        return (len(times) - 1) / (times[-1] - times[0])


CASES = (
    Case("decode", "rate", 64, 129),
    Case("first token, prompt of 256", "first", 256, 1),
    Case("first token, prompt of 1,024", "first", 1024, 1),
)
STREAMS = (Case("one stream", "total", 32, 64), Case("8 streams", "total", 32, 64, prompts=8))
"""For workers that answer several prompts at once."""

Figures = dict[str, dict[str, list[float]]]
"""By case, by worker: a figure a round."""


def measure(
    workers: Sequence[Worker],
    cases: Sequence[Case],
    rounds: int,
    vocabulary: int,
    step: Callable[[str], None],
    first: int = 0,
) -> Figures:
    """Each round asks every worker every case in turn; a round before the first warms up.

    In a round all get the same prompts, of random ids below ``vocabulary``, and no prompt comes
    twice: what a worker keeps of earlier prompts is of no use to it. ``first`` is the number of the
    first round's prompts, for who measures a worker again.
    """
    found: Figures = {case.name: {worker.name: [] for worker in workers} for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            prompts = prompts_of(case, first + number, vocabulary)
            for worker in workers:
                step(f"{case.name}: {worker.name}")
                time.sleep(_SETTLE)
                answer = worker.generate(prompts, case.tokens)
                if number:
                    found[case.name][worker.name].append(round(case.figure_of(answer), 4))
    return found


def steps(workers: int, cases: int, rounds: int) -> int:
    """How often `measure` calls its ``step``."""
    return workers * cases * (rounds + 1)


def compare(
    figures: Figures,
    cases: Sequence[Case],
    ours: str,
    other: str,
    limits: Mapping[str, Limit] | None = None,
) -> list[Comparison]:
    """Two workers, round by round, in every case; ``limits`` by the case's name."""
    return [
        Comparison(
            case=case.name,
            other=other,
            unit=case.unit,
            ours=figures[case.name][ours],
            theirs=figures[case.name][other],
            limit=(limits or {}).get(case.name),
        )
        for case in cases
    ]


def prompts_of(case: Case, number: int, vocabulary: int) -> list[list[int]]:
    """What a round asks: ids below ``vocabulary``, the same each time that it is called."""
    chance = Random(f"{_SEED} {case.name} {number}")
    return [
        [chance.randrange(_FIRST_IDS, vocabulary) for _ in range(case.prompt)]
        for _ in range(case.prompts)
    ]


def main() -> None:
    arguments = _arguments()
    _run(
        _workers(arguments),
        arguments.rounds,
        min(SHAPES[arguments.shape].special),
        Terminal(),
    )


def _workers(arguments: argparse.Namespace) -> list[Worker]:
    threads = arguments.threads
    genai = [
        openvino_genai(
            arguments.ir,
            threads=threads,
            pipeline=pipeline,
            properties=arguments.properties,
            scheduler=arguments.scheduler,
        )
        for pipeline in (arguments.pipeline if arguments.ir else ())
    ]
    llama = [
        llama_cpp(arguments.gguf, threads=threads, weights=weights, python=arguments.llama_python)
        for weights in (arguments.weights if arguments.gguf else ())
    ]
    return [*genai, *llama]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generation_rivals")
    parser.add_argument("--ir", type=Path, metavar="DIR", help="a stateful IR")
    parser.add_argument("--pipeline", nargs="+", choices=("batching", "llm"), default=["batching"])
    parser.add_argument("--properties", type=json.loads, default={}, help="the device's, in JSON")
    parser.add_argument("--scheduler", type=json.loads, default={}, help="its fields, in JSON")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument(
        "--weights", nargs="+", choices=("plain", "repacked", "default"), default=["plain"]
    )
    parser.add_argument(
        "--llama-python",
        default=sys.executable,
        metavar="PYTHON",
        help="one that has llama-cpp-python; this one where absent",
    )
    parser.add_argument("--shape", choices=SHAPES, default=QWEN.name)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if not (arguments.ir or arguments.gguf):
        parser.error("nothing to measure: give --ir, --gguf or both")
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}: it is 1 or more")
    return arguments


def _run(workers: Sequence[Worker], rounds: int, vocabulary: int, terminal: Terminal) -> None:
    watch = Watch()
    with ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
            terminal.say(f"{worker.name}: opened in {worker.loaded:.2f} s")
        batching = [worker for worker in workers if worker.several]
        total = steps(len(workers), len(CASES), rounds) + steps(len(batching), len(STREAMS), rounds)
        with terminal.steps(total) as step:
            figures = measure(workers, CASES, rounds, vocabulary, step)
            figures |= measure(batching, STREAMS, rounds, vocabulary, step)
    for case in (*CASES, *STREAMS):
        _show(case, figures[case.name], terminal)
    terminal.console.print(f"other processes took {watch.others:.0%} of the processors' time")


def _show(case: Case, found: Mapping[str, Sequence[float]], terminal: Terminal) -> None:
    """Every worker's figure, and its ratio to the first one's."""
    terminal.console.rule(case.name)
    first = next(iter(found), "")
    for name, own in found.items():
        beside = between(extent(ratios(own, found[first])), times)
        terminal.console.print(f"{name}: {between(extent(own))} {case.unit}; {beside} of {first}")


if __name__ == "__main__":
    main()
