"""Progress and tables while the benchmarks run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tests.benchmarks import wording
from tests.benchmarks.results import Result

_QUIET_SECONDS = 15.0


class Terminal:
    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:  # a log has room for the tables
            self.console = Console(highlight=False, width=140)

    def say(self, step: str) -> None:
        self.console.print(f"{step} …", style="dim")

    @contextmanager
    def steps(self, total: int) -> Iterator[Callable[[str], None]]:
        """Count ``total`` steps; the function given is told the name of each before it starts."""
        if not self.console.is_terminal:
            yield self._lines(total)
            return
        with Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=total)
            started = False

            def step(name: str) -> None:
                nonlocal started
                bar.update(task, description=name, advance=1 if started else 0)
                started = True

            yield step

    def show(self, result: Result) -> None:
        """A benchmark's table and what stands out in it."""
        if result.comparisons:
            self.console.print(_comparisons(result))
        if result.sizes:
            self.console.print(_sizes(result))
        for detail in result.details:
            self.console.print(f"  {detail.what}: {wording.detail(detail)}")
        for disturbance in wording.disturbances(result):
            self.console.print(f"noisy: {disturbance}; a quiet machine helps", style="yellow")
        self.console.print()

    def _lines(self, total: int) -> Callable[[str], None]:
        """For a log: a line now and then."""
        done, last = 0, 0.0

        def step(name: str) -> None:
            nonlocal done, last
            done += 1
            if time.monotonic() - last >= _QUIET_SECONDS:
                last = time.monotonic()
                self.console.print(f"  {done} of {total}: {name}")

        return step


def _comparisons(result: Result) -> Table:
    table = Table(title=result.title, title_justify="left", box=SIMPLE)
    for name in wording.comparison_header(result):
        table.add_column(name, justify="left" if name in wording.LEFT else "right")
    for entry in result.comparisons:
        cells = wording.comparison(entry)
        style = {True: "green", False: "red", None: ""}[entry.met]
        table.add_row(*cells, style=style)
    return table


def _sizes(result: Result) -> Table:
    table = Table(title=result.title, title_justify="left", box=SIMPLE)
    table.add_column("package")
    table.add_column("version")
    table.add_column("MB", justify="right")
    table.add_column("required by")
    for size in result.sizes:
        table.add_row(size.name, size.version, f"{size.megabytes:.1f}", size.required_by)
    table.add_section()
    met = result.size_limit.met(result.total) if result.size_limit else None
    style = {True: "green", False: "red", None: ""}[met]
    table.add_row("total", "", f"{result.total:.1f}", wording.size_verdict(result), style=style)
    return table
