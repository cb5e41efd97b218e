"""``python -m lepton_edge`` is the command ``lepton-edge``."""

from lepton_edge.cli import program

program()
