"""What every verb needs to speak: JSON or text, progress, and errors.

Only this package prints and exits. Results go to standard output; progress, notes and errors go
to standard error.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click
import msgspec

from lepton_edge.errors import LeptonError, LeptonWarning

_JSON = "lepton_edge.json"
_QUIET_SECONDS = 10.0


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    # On the root, so that an error in any verb is printed in the form that was asked for.
    ctx.find_root().meta[_JSON] = value
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, is_eager=True, callback=_remember, help="Print JSON."
)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(to_json(value, indent=2))


def to_json(value: Any, indent: int = 0) -> str:
    """JSON of results, manifests and plain values; arrays become lists."""
    data = msgspec.json.encode(value, enc_hook=lambda array: array.tolist())
    return (msgspec.json.format(data, indent=indent) if indent else data).decode()


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()
) -> None:
    """Aligned columns on standard output, plain enough to cut and grep. The columns in
    ``numbers``, from 0, are aligned to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for number, row in enumerate(table):
        line = "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo(click.style(line.rstrip(), bold=True) if number == 0 else line.rstrip())


def note(text: str) -> None:
    """A line on standard error."""
    click.echo(text, err=True)


def fail(ctx: click.Context, error: LeptonError) -> NoReturn:
    """Print an error and exit with code 1."""
    if ctx.find_root().meta.get(_JSON):
        kind = type(error).__name__
        body = {"error": {"type": kind, "message": error.message, "hint": error.hint}}
        click.echo(to_json(body), err=True)
    else:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    ctx.exit(1)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print our own warnings as lines on standard error, after the block: a spinner would be drawn
    over them meanwhile. Other libraries' warnings go their own way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeptonWarning)
        try:
            yield
        finally:
            ours = [each for each in caught if issubclass(each.category, LeptonWarning)]
    for each in caught:
        if each not in ours:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    for each in ours:
        note(f"{click.style('warning:', fg='yellow', bold=True)} {each.message}")


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show which step is under way: a spinner on a terminal, else a line a step."""
    if quiet:
        yield lambda step: None
        return
    if not sys.stderr.isatty():
        yield lambda step: note(f"{step} …")
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(f"{step} …")


@contextmanager
def progress(
    label: str, total: int | None, unit: str, quiet: bool
) -> Iterator[Callable[[int], None]]:
    """Show how much of ``total`` is done: a bar on a terminal, else a line every ten seconds.

    ``unit`` is ``bytes`` or the name of what is counted.
    """
    if quiet:
        yield lambda amount: None
    elif sys.stderr.isatty():
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _lines(label, total, unit)


@contextmanager
def _bar(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich_progress
    from rich.console import Console

    amount: rich_progress.ProgressColumn = (
        rich_progress.DownloadColumn()
        if unit == "bytes"
        else rich_progress.TextColumn("{task.completed:,.0f} " + unit)
    )
    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        amount,
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Results go to standard output meanwhile, and must stay there.
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda step: bar.advance(task, step)


@contextmanager
def shares(label: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """Show the share that is done, 0 to 1, and the step: a bar on a terminal, else a line for each
    tenth and each ten seconds."""
    if quiet:
        yield lambda share, step: None
    elif sys.stderr.isatty():
        from rich import progress as rich_progress
        from rich.console import Console

        with rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as bar:
            task = bar.add_task(label, total=1.0)
            yield lambda share, step: bar.update(
                task, completed=share, description=f"{label}: {step}"
            )
    else:
        yield _share_lines(label)


def _share_lines(label: str) -> Callable[[float, str], None]:
    told, last = -1, time.monotonic()

    def tell(share: float, step: str) -> None:
        nonlocal told, last
        if int(share * 10) > told or time.monotonic() - last >= _QUIET_SECONDS:
            told, last = int(share * 10), time.monotonic()
            note(f"{label}: {share:.0%}, {step}")

    return tell


def _lines(label: str, total: int | None, unit: str) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= _QUIET_SECONDS:
            last = time.monotonic()
            note(f"{label}: {done:,} of {total:,} {unit}" if total else f"{label}: {done:,} {unit}")

    return advance


def printable(text: str) -> str:
    """Text from a bundle, with what could steer a terminal written as escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def mebibytes(size: int) -> str:
    """A size in MiB with one digit."""
    return f"{size / 1024**2:,.1f} MiB"
