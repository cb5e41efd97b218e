"""The command line. A verb is a file here, imported when it is called; each calls the public
function that a Python user calls."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import click

from lepton_edge import __version__
from lepton_edge.cli.output import fail
from lepton_edge.errors import LeptonError

_VERBS = (
    "build",
    "run",
    "inspect",
    "verify",
    "pack",
    "unpack",
    "targets",
    "recipes",
    "backends",
    "doctor",
)


class _Verbs(click.Group):
    """Imports a verb's file when the verb is called, and turns our errors into exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"lepton_edge.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LeptonError as error:
            fail(ctx, error)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has gone: click ends without a word
            where = f"{error.filename}: " if error.filename else ""
            fail(ctx, LeptonError(f"{where}{error.strerror or error}"))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lepton-edge")
def main() -> None:
    """Build language models for edge devices, and run them there, locally.

    \b
    lepton-edge build demo-intents
    lepton-edge run bundles/demo-intents-1.0.0 "where is my new card?"
    """
