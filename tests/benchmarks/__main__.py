"""``python -m tests.benchmarks``: run them all, or those named."""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.benchmark.machine import Watch, describe, versions
from tests.benchmarks import machine

if TYPE_CHECKING:
    from tests.benchmarks.results import Result
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import Workspace

NAMES = ("latency", "throughput", "oneshot", "install")
OUTPUT = Path(__file__).parents[2] / "docs" / "benchmarks" / "2026-11-foundation.json"


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    unknown = [name for name in arguments.benchmarks if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: {', '.join(NAMES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}: it is 1 or more")
    if arguments.model and not arguments.model.is_dir():
        parser.error(f"there is no model folder at {arguments.model}")
    if arguments.markdown:
        from tests.benchmarks import document

        print(f"wrote {document.write(arguments.markdown)}")
        return
    chosen = [name for name in NAMES if name in arguments.benchmarks] or list(NAMES)
    output = arguments.output
    # Part of a run, or a short one, does not replace the page of a whole one by itself.
    if output is None and chosen == list(NAMES) and arguments.rounds is None:
        output = OUTPUT
    with tempfile.TemporaryDirectory(prefix="lepton-edge-benchmarks-") as folder:
        _prepare_environment(Path(folder))
        _run(chosen, arguments.rounds, arguments.model, output, Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure speed and size of lepton-edge beside other ways to run the same "
        "model. Results go to the terminal, to a JSON file and to a Markdown page made from it.",
    )
    parser.add_argument(
        "benchmarks", nargs="*", metavar="NAME", help=f"all where absent: {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each benchmark, instead of its own number"
    )
    parser.add_argument(
        "--model", type=Path, help="a sentence-transformers folder; all-MiniLM-L6-v2 where absent"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help=f"where the figures go; docs/benchmarks/{OUTPUT.name} where absent, unless only some "
        "benchmarks or another number of rounds were asked for",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE.json",
        help="measure nothing: write the page of an earlier run's file, and the folder's index",
    )
    return parser


def _prepare_environment(folder: Path) -> None:
    """Before any library is imported: no network, no usage reports, the same threads for all."""
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "true",
            "OMP_NUM_THREADS": str(machine.cores()),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
    )


def _run(
    chosen: list[str], rounds: int | None, model: Path | None, output: Path | None, folder: Path
) -> None:
    from tests.benchmarks import document, results
    from tests.benchmarks.results import Report
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import REPOSITORY, Workspace, packaged_model

    terminal = Terminal()
    load = os.getloadavg()
    terminal.say(f"the load average is {load[0]:.2f} on {machine.cores()} cores")
    work = Workspace(model or packaged_model(), folder, terminal.say)
    terminal.say(f"the bundle has {work.bundle.size / 1e6:.1f} MB")
    found = [_measure(name, work, rounds, terminal) for name in chosen]
    report = Report(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=machine.commit(REPOSITORY),
        model=model.resolve().name if model else "all-MiniLM-L6-v2",
        threads=work.threads,
        load=(round(load[0], 2), round(load[1], 2), round(load[2], 2)),
        machine=describe(),
        versions=versions(machine.PACKAGES),
        results=found,
    )
    if output is None:
        terminal.say("nothing written: --output FILE.json keeps the figures")
        return
    results.write(report, output)
    terminal.console.print(f"wrote {output} and {document.write(output)}")


def _measure(name: str, work: Workspace, rounds: int | None, terminal: Terminal) -> Result:
    from importlib import import_module

    from msgspec import structs

    module = import_module(f"tests.benchmarks.{name}")
    terminal.console.rule(name)
    watch = Watch()
    result: Result = module.measure(work, rounds or module.ROUNDS, terminal)
    result = structs.replace(result, load=watch.load, seconds=watch.seconds, others=watch.others)
    terminal.show(result)
    return result


if __name__ == "__main__":
    main()
