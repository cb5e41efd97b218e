"""lepton-edge targets"""

from __future__ import annotations

import dataclasses

import click

from lepton_edge import registry
from lepton_edge.cli.output import json_option, note, print_json, print_table
from lepton_edge.target import TARGETS, resolved


@click.command("targets")
@json_option
def command(as_json: bool) -> None:
    """List what a model can be built for."""
    installed = {entry.name for entry in registry.entries()}
    if as_json:
        print_json(
            [
                {**dataclasses.asdict(target), "installed": target.backend in installed}
                for target in TARGETS.values()
            ]
        )
        return
    print_table(
        ("target", "backend", "installed", "for"),
        [
            (
                target.name,
                target.backend,
                "yes" if target.backend in installed else "no",
                target.description
                + (f" (here {resolved(target).name})" if target.alias_of else ""),
            )
            for target in TARGETS.values()
        ],
    )
    for backend in sorted({target.backend for target in TARGETS.values()} - installed):
        note(f"{backend}: {registry.how_to_install(backend)}")
