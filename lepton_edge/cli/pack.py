"""lepton-edge pack"""

from __future__ import annotations

from pathlib import Path

import click

from lepton_edge.bundle import archive, open_bundle
from lepton_edge.cli.output import json_option, mebibytes, print_json, progress


@click.command("pack")
@click.argument("bundle")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file; NAME-VERSION.lepton where absent.",
)
@click.option("--force", is_flag=True, help="Replace a file of that name.")
@json_option
def command(bundle: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Verify a bundle and write it into one .lepton file."""
    size = open_bundle(bundle).size
    with progress("packing", size, "bytes", quiet=as_json) as advance:
        path = archive.pack(bundle, output, force=force, progress=advance)
    if as_json:
        print_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(f"{path}  {mebibytes(path.stat().st_size)}")
