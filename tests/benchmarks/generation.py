"""``python -m tests.benchmarks.generation``: how fast text is generated.

On the shape of Qwen2.5-0.5B with weights of 4 bits and two threads: beside openvino-genai called
directly and llama.cpp, beside itself (streams, first requests, loads, turns of a chat), beside
what memory allows, and what was tried to come nearer to that. The shape of Llama-3.2-1B on demand.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from msgspec import structs

from lepton_edge.benchmark.machine import Watch, allowed_cpus, describe, pinned, versions
from tests.benchmarks import document, machine, results
from tests.benchmarks.generation_cases import (
    Plan,
    beside_others,
    chat,
    first_requests,
    loads,
)
from tests.benchmarks.generation_ceiling import ceiling, direct_trials, trials
from tests.benchmarks.generation_materials import Materials, materials
from tests.benchmarks.results import Report, Result
from tests.benchmarks.shapes import LLAMA, QWEN
from tests.benchmarks.terminal import Terminal
from tests.benchmarks.workspace import REPOSITORY

OUTPUT = REPOSITORY / "docs" / "benchmarks" / "2026-11-generation.json"
PACKAGES = (
    "lepton-edge",
    "lepton-edge-openvino",
    "openvino",
    "openvino-genai",
    "tokenizers",
    "numpy",
)
THREADS = 2
_FULL = Plan(rounds=5, starts=5, threads=THREADS)
_QUICK = Plan(rounds=2, starts=2, threads=THREADS)

Section = Callable[[Materials, Plan, Path, Terminal], list[Result]]
SECTIONS: dict[str, Section] = {
    "rivals": lambda given, plan, _, terminal: beside_others(given, plan, terminal),
    "first": lambda given, plan, _, terminal: [first_requests(given, plan, terminal)],
    "load": lambda given, plan, folder, terminal: [loads(given, plan, folder, terminal)],
    "chat": lambda given, plan, _, terminal: [chat(given, plan, terminal)],
    "ceiling": lambda given, plan, _, terminal: [ceiling(given, plan, terminal)],
    "trials": lambda given, plan, folder, terminal: [trials(given, plan, folder, terminal)],
    "direct-trials": lambda given, plan, _, terminal: [direct_trials(given, plan, terminal)],
}
_RIVALS = "rivals"


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    plan = _QUICK if arguments.quick else _FULL
    if len(allowed_cpus()) < plan.threads:
        parser.error(f"{plan.threads} processors are needed")
    chosen = arguments.only or list(SECTIONS)
    output = arguments.output
    if output is None and not (arguments.quick or arguments.only or arguments.llama):
        output = OUTPUT
    with (
        tempfile.TemporaryDirectory(prefix="lepton-edge-benchmarks-") as name,
        pinned(allowed_cpus()[: plan.threads]),
    ):
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.environ["HF_HUB_OFFLINE"] = os.environ["DO_NOT_TRACK"] = "1"
        report = _measured(arguments, chosen, plan, folder, Terminal())
    if output is None:
        print("nothing written: --output FILE.json keeps the figures")
        return
    results.write(report, output)
    print(f"wrote {output} and {document.write(output)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generation")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="NAME", help="; ".join(SECTIONS)
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing written")
    parser.add_argument(
        "--shapes",
        type=Path,
        default=REPOSITORY / "out" / "shapes",
        metavar="DIR",
        help="checkpoints of the published shapes and their GGUF files, made where absent",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="of the shape, at int4-weights; built if absent"
    )
    parser.add_argument(
        "--llama", action="store_true", help=f"the shape {LLAMA.name} instead of {QWEN.name}"
    )
    parser.add_argument("--remark", action="append", default=[], help="for the page")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    return parser


def _measured(
    arguments: argparse.Namespace,
    chosen: Sequence[str],
    plan: Plan,
    folder: Path,
    terminal: Terminal,
) -> Report:
    shape = LLAMA if arguments.llama else QWEN
    load = os.getloadavg()
    given = materials(
        shape,
        arguments.shapes,
        folder,
        terminal.say,
        bundle=arguments.bundle,
        llama=_RIVALS in chosen,
    )
    for reason in given.missing:
        terminal.say(reason)
    found: list[Result] = []
    for name in chosen:
        terminal.console.rule(name)
        watch = Watch()
        for result in SECTIONS[name](given, plan, folder, terminal):
            found.append(
                structs.replace(result, load=watch.load, seconds=watch.seconds, others=watch.others)
            )
            terminal.show(found[-1])
    return Report(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=machine.commit(REPOSITORY),
        model=f"The shape of {shape.name} with random weights, at int4-weights,",
        threads=plan.threads,
        load=(round(load[0], 2), round(load[1], 2), round(load[2], 2)),
        machine=describe(),
        versions=versions(PACKAGES),
        results=found,
        made="make generation",
        remarks=[*given.missing, *arguments.remark],
    )


if __name__ == "__main__":
    main()
