"""The command line. A verb is a file here, imported when it is called; each calls the public
function that a Python user calls."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

from lepton_edge import __version__
from lepton_edge.cli.output import fail
from lepton_edge.errors import LeptonError

_VERBS = (
    "build",
    "finalize",
    "run",
    "chat",
    "index",
    "search",
    "keywords",
    "bench",
    "tune",
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


def program() -> None:
    """The installed command: `main`, and then the end of the process.

    Taking an inference library down piece by piece takes 35 to 60 ms, a tenth of a short run, and
    frees what the end of the process frees anyway.
    """
    code = 0
    try:
        main(prog_name="lepton-edge")
    except SystemExit as end:
        if isinstance(end.code, str):  # a message: printed on the way out
            raise
        code = end.code or 0
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # a closed pipe, or a full disk under what was printed
        code = code or 1
    os._exit(code)
