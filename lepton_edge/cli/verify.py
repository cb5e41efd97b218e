"""lepton-edge verify"""

from __future__ import annotations

import click

from lepton_edge.bundle import open_bundle
from lepton_edge.cli.output import json_option, mebibytes, print_json, progress


@click.command("verify")
@click.argument("bundle")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Hash every file of a bundle again and compare with its manifest."""
    opened = open_bundle(bundle)
    with progress("hashing", opened.size, "bytes", quiet=as_json) as advance:
        opened.verify(progress=advance)
    files = len(opened.manifest.files)
    if as_json:
        print_json({"path": bundle, "ok": True, "files": files, "bytes": opened.size})
    else:
        click.echo(f"{bundle}: {files} files, {mebibytes(opened.size)}, all as the manifest says")
