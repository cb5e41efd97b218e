"""lepton-edge tune"""

from __future__ import annotations

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
    from lepton_edge.tuning.report import Tuning


@click.command("tune")
@click.argument("bundle")
@click.option(
    "--objective",
    default="latency",
    show_default=True,
    metavar="latency|throughput|p99=TIME",
    help="The median call with one text; texts a second; or the same, in calls of which 99 of 100 "
    "take no longer than a time such as 20ms.",
)
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure your own texts, a .jsonl or .csv file, instead of made-up ones: recommended.",
)
@click.option("--column", default="text", show_default=True, help="The text column of --texts.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="About how long it may take; a large model takes longer.",
)
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@click.option(
    "--profile",
    "keep",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the profile in this file, not beside the bundle.",
)
@click.option("--dry-run", is_flag=True, help="Measure only; keep nothing.")
@click.option(
    "--show", "action", flag_value="show", help="Say what the profile is, and whether it is used."
)
@click.option("--reset", "action", flag_value="reset", help="Remove the profile beside the bundle.")
@json_option
def command(
    bundle: str,
    texts: Path | None,
    column: str,
    action: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the settings that suit a bundle on this machine, and keep them in a profile beside it.

    Threads, streams, arithmetic and the size of micro-batches are measured in turn with the
    default, which stays unless another is better by more than the noise. `run` and every program
    that loads the bundle then use the profile on this machine.
    """
    if given["dry_run"] and given["keep"]:
        raise click.UsageError("--dry-run keeps nothing: leave --profile out")
    if action:
        if texts or given["dry_run"] or given["keep"]:
            raise click.UsageError(f"--{action} measures nothing, and goes alone")
        (_show if action == "show" else _reset)(bundle, as_json)
        return
    from lepton_edge.tuning.tune import tune

    with steps(quiet=as_json) as step:
        tuning = tune(
            bundle, texts=read_texts(texts, column) if texts else None, progress=step, **given
        )
    if as_json:
        print_json(tuning)
        return
    _print(tuning, bundle, given["keep"])


def _print(tuning: Tuning, bundle: str, keep: Path | None) -> None:
    from lepton_edge.tuning import wording

    click.echo(click.style(printable(wording.headline(tuning)), bold=True))
    click.echo()
    header, rows = wording.table(tuning)
    print_table(header, rows, numbers=range(1, len(header) - 1))
    click.echo()
    click.echo(wording.verdict(tuning))
    for line in wording.warnings_of(tuning):
        note(f"{click.style('warning:', fg='yellow', bold=True)} {line}")
    if keep:
        note(f"kept in {keep}: load(bundle, profile=Profile.read({str(keep)!r})) uses it")
    elif tuning.path:
        note(f"kept in {tuning.path}, which is used on this machine from now on")
        note(f"lepton-edge tune {bundle} --reset removes it")
    else:
        note("nothing was kept")
    note(f"took {tuning.took_seconds:.0f} s")


def _show(bundle: str, as_json: bool) -> None:
    from lepton_edge.bundle import open_bundle
    from lepton_edge.runtime.profile import find_profile
    from lepton_edge.tuning import wording

    kept = find_profile(open_bundle(bundle))
    if as_json:
        print_json(kept)
    elif kept is None:
        click.echo("none: the bundle's own settings are used")
    else:
        click.echo(printable(wording.state(kept)))


def _reset(bundle: str, as_json: bool) -> None:
    from lepton_edge.bundle import open_bundle
    from lepton_edge.runtime.profile import remove_profile

    removed = remove_profile(open_bundle(bundle).path)
    if as_json:
        print_json({"removed": str(removed) if removed else None})
    elif removed:
        click.echo(f"removed {removed}")
    else:
        click.echo("there is no profile")
