"""lepton-edge doctor"""

from __future__ import annotations

import click

from lepton_edge.cli.output import json_option, print_json

_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show what this machine has, what is missing, and the command that fixes each."""
    from lepton_edge.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
        return
    for finding in findings:
        mark = click.style(f"{finding.status:8}", fg=_COLOURS[finding.status])
        click.echo(f"{mark} {finding.name:12} {finding.detail}")
        if finding.fix:
            click.echo(f"{'':21} fix: {finding.fix}")
