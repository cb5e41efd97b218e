"""lepton-edge bench"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.inputs import read_texts
from lepton_edge.cli.output import (
    json_option,
    note,
    print_json,
    print_table,
    printable,
    steps,
)

if TYPE_CHECKING:
    from lepton_edge.benchmark.report import Report
    from lepton_edge.benchmark.wording import Table


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """What stands between commas."""
    return None if value is None else tuple(word.strip() for word in value.split(","))


def _numbers(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(map(int, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not numbers with commas between them") from None


@click.command("bench")
@click.argument("bundle")
@click.option(
    "--compare",
    callback=_words,
    metavar="NAMES",
    help="Run the original beside it in: torch, onnxruntime, or both.",
)
@click.option(
    "--original",
    type=click.Path(),
    metavar="FOLDER|FILE",
    help="The model that the bundle was built from, for --compare.",
)
@click.option(
    "--batch", callback=_numbers, metavar="N,N,…", help="Texts a call.  [default: 1,8,32]"
)
@click.option(
    "--length",
    callback=_numbers,
    metavar="N,N,…",
    help="Tokens of a text.  [default: 8,32,128 and the longest]",
)
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure your own texts, a .jsonl or .csv file, instead of made-up ones.",
)
@click.option("--column", default="text", show_default=True, help="The text column of --texts.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Timed calls of each way in a case.  [default: 2]",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Turns of each way in a case.  [default: 5]"
)
@click.option(
    "--starts",
    type=click.IntRange(min=0),
    help="Fresh processes, cold and warm each; 0 leaves start and memory out.  [default: 3]",
)
@click.option(
    "--cpus",
    callback=_numbers,
    metavar="N,N,…",
    help="Processors to run on, by number.  [default: all]",
)
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots too."
)
@click.option("--force", is_flag=True, help="Replace the page.")
@json_option
def command(
    bundle: str,
    compare: tuple[str, ...] | None,
    original: str | None,
    texts: Path | None,
    column: str,
    device: str | None,
    html: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure a bundle on this machine.

    Latency and throughput of calls from text to result, the start of a fresh process, and peak
    memory; with --compare, how many times as fast as the original.
    """
    if original and not compare:
        raise click.UsageError("--original goes with --compare")
    from lepton_edge.benchmark.bench import bench
    from lepton_edge.benchmark.report import BenchSettings

    if html:
        _check_page(html, force)  # now rather than after minutes
    names = {"batch": "batches", "length": "lengths"}
    chosen = {names.get(name, name): value for name, value in given.items() if value is not None}
    with steps(quiet=as_json) as step:
        report = bench(
            bundle,
            BenchSettings(**chosen),
            texts=read_texts(texts, column) if texts else None,
            compare=compare or (),
            original=original,
            device=device,
            progress=step,
        )
    if as_json:
        print_json(report)
    else:
        _print(report)
    if html:
        _write(report, html, force)
        note(f"page: {html}")


def _check_page(file: Path, force: bool) -> None:
    from lepton_edge.errors import StorageError
    from lepton_edge.storage import refuse_existing, storage_errors, why_not_writable

    refuse_existing(file, force)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    if reason := why_not_writable(file):
        raise StorageError(f"the page {file} cannot be written: {reason}", hint="--html elsewhere")


def _write(report: Report, file: Path, force: bool) -> None:
    from lepton_edge.benchmark.page import page_of
    from lepton_edge.storage import new_file

    with new_file(file, replace=force) as work:
        work.write_text(page_of(report), encoding="utf-8")


def _print(report: Report) -> None:
    from lepton_edge.benchmark import wording

    click.echo(click.style(printable(wording.headline(report)), bold=True))
    click.echo(wording.machine_line(report))
    click.echo(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    _table(wording.calls_table(report.cases), left=())
    if wording.is_compared(report):
        click.echo()
        click.echo(f"times as fast as the original ({report.original}):")
        _table(wording.ratios_table(report.cases), left=(), gap=False)
    if report.startup:
        _table(wording.start_table(report.startup), left=(0,))
    click.echo()
    for line in wording.warnings_of(report):
        note(f"{click.style('warning:', fg='yellow', bold=True)} {line}")
    note(f"took {report.took_seconds:.0f} s; --json has every round, and what each figure holds")


def _table(table: Table, left: Sequence[int], gap: bool = True) -> None:
    header, rows = table
    if gap:
        click.echo()
    numbers = [column for column in range(len(header)) if column not in left]
    print_table(header, rows, numbers=numbers)
