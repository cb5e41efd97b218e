"""lepton-edge finalize"""

from __future__ import annotations

import click

from lepton_edge.cli.output import json_option, note, print_json, shares


@click.command("finalize")
@click.argument("bundle")
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@json_option
def command(bundle: str, device: str | None, as_json: bool) -> None:
    """Compile on this device what the build could only prepare, once.

    An engine for a Jetson fits that GPU and that TensorRT alone, so a bundle that was built
    elsewhere has the model ready to compile. It is compiled into this user's cache; the bundle
    stays as it is. Ctrl-C ends it, and the next call goes on with what was measured.
    """
    from lepton_edge.runtime.finalize import finalize

    with shares(f"compiling {bundle}", quiet=as_json) as progress:
        done = finalize(bundle, device, progress=progress)
    if as_json:
        print_json(done)
    elif done is None:
        click.echo(f"{bundle} has nothing to compile for this machine")
    else:
        state = "compiled" if done.compiled else "was compiled before"
        click.echo(f"{done.target}: {state}, in {done.cache}")
        note(f'next: lepton-edge run {bundle} "some text"')
