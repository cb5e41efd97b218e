"""lepton-edge backends"""

from __future__ import annotations

import click

from lepton_edge import registry
from lepton_edge.backend import Device, Probe
from lepton_edge.cli.output import json_option, note, print_json, print_table
from lepton_edge.errors import BackendError


@click.command("backends")
@json_option
def command(as_json: bool) -> None:
    """List the installed backends and the devices that each finds here."""
    found = [(entry, _probe(entry.name)) for entry in registry.entries()]
    if as_json:
        print_json(
            [
                {
                    "name": entry.name,
                    "distribution": entry.distribution,
                    "version": entry.version,
                    "library": probe.version if isinstance(probe, Probe) else None,
                    "devices": probe.devices if isinstance(probe, Probe) else [],
                    "remarks": probe.remarks if isinstance(probe, Probe) else [],
                    "error": None if isinstance(probe, Probe) else str(probe),
                }
                for entry, probe in found
            ]
        )
        return
    rows = []
    for entry, probe in found:
        name = f"{entry.distribution} {entry.version}"
        if isinstance(probe, Probe):
            rows += [
                (entry.name, name, probe.version, device.name, device.description)
                for device in probe.devices or (Device("-", _no_device(probe)),)
            ]
        else:
            rows.append((entry.name, name, "-", "-", f"cannot be used: {probe.message}"))
    print_table(("backend", "distribution", "library", "device", "description"), rows)
    if not found:
        note("none is installed: pip install 'lepton-edge[openvino]'")


def _no_device(probe: Probe) -> str:
    return f"no device: {'; '.join(probe.remarks)}" if probe.remarks else "no device"


def _probe(name: str) -> Probe | BackendError:
    """A backend that fails is a row, not a crash."""
    try:
        return registry.probe(name)
    except BackendError as error:
        return error
