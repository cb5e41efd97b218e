"""lepton-edge unpack"""

from __future__ import annotations

from pathlib import Path

import click

from lepton_edge.bundle import archive as archives
from lepton_edge.cli.output import json_option, mebibytes, print_json, progress


@click.command("unpack")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder; NAME-VERSION where absent.",
)
@click.option("--force", is_flag=True, help="Replace a folder of that name.")
@json_option
def command(archive: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Unpack a .lepton file into a bundle folder, hashing every file on the way."""
    size = archive.stat().st_size if archive.is_file() else None
    with progress("unpacking", size, "bytes", quiet=as_json) as advance:
        bundle = archives.unpack(archive, output, force=force, progress=advance)
    if as_json:
        print_json({"path": str(bundle.path), "manifest": bundle.manifest})
    else:
        click.echo(f"{bundle.path}  {mebibytes(bundle.size)}")
