"""lepton-edge chat"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.generation import (
    SAMPLED,
    chosen_adapters,
    describe_speed,
    generation_options,
    loading,
    loading_options,
    print_stream,
)
from lepton_edge.cli.output import json_option, note, to_json
from lepton_edge.errors import LeptonError

if TYPE_CHECKING:
    from lepton_edge.runtime.model import Model

_COMMANDS = """/reset      forget the conversation
/undo       forget the last message and its answer
/system …   begin again with another system message
/help       this list
/exit       end (so does Ctrl-D)"""


@click.command("chat")
@click.argument("bundle")
@generation_options
@loading_options
@click.option("--system", help="A message to the model about how to answer.")
@click.option("--thinking/--no-thinking", default=None, help="Where the model has such a switch.")
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@json_option
def command(
    bundle: str,
    system: str | None,
    thinking: bool | None,
    device: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Talk with a bundle's model.

    An answer is shown as it comes, and Ctrl-C ends it; what came stays in the conversation.
    Without a terminal, each line of standard input is a message; with --json, each answer a line
    of JSON. /help lists what else there is.
    """
    from lepton_edge.runtime import load

    parameters = {name: given[name] for name in SAMPLED if given[name] is not None}
    parameters |= chosen_adapters(given)
    if thinking is not None:
        parameters["thinking"] = thinking
    with load(bundle, device, **loading(given)) as model:
        conversation = _Conversation(model, parameters, system, as_json)
        conversation.check()
        if sys.stdin.isatty():
            note(f"{model.manifest.name} {model.manifest.version} on {model.device}; /help")
        while (line := _read()) is not None:
            if not conversation.take(line):
                return


class _Conversation:
    """The messages so far."""

    def __init__(
        self, model: Model, parameters: dict[str, Any], system: str | None, as_json: bool
    ) -> None:
        self._model = model
        self._as_json = as_json
        self._parameters = parameters
        self._system = system
        self._messages: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def check(self) -> None:
        """Raise `InputError` for a model that does not chat, before anything is typed."""
        asked = self._model.task.parameters(self._parameters)
        self._model.check_input([*self._messages, {"role": "user", "content": "?"}], asked)

    def take(self, line: str) -> bool:
        """A message or a command; False to end."""
        verb, _, rest = line.strip().partition(" ")
        if not verb:
            return True
        if verb == "/exit":
            return False
        if verb == "/reset":
            self.reset()
        elif verb == "/undo":
            self._undo()
        elif verb == "/system":
            self._system = rest.strip() or None
            self.reset()
        elif verb.startswith("/"):
            note(_COMMANDS if verb == "/help" else f"there is no {verb}\n{_COMMANDS}")
        else:
            self._answer(line)
        return True

    def _answer(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        try:
            with self._model.stream(self._messages, **self._parameters) as answer:
                try:
                    if self._as_json:
                        answer.read()
                    else:
                        print_stream(answer)
                except KeyboardInterrupt:
                    answer.cancel()
                    click.echo()
                    note("interrupted: what came stays in the conversation")
        except LeptonError as error:
            # Such as a conversation that became too long: the user may /undo, and go on.
            self._messages.pop()
            note(f"{click.style('error:', fg='red', bold=True)} {error}")
            return
        said = answer.completion
        if self._as_json:
            click.echo(to_json({"text": text, "result": said}))
        self._messages.append({"role": "assistant", "content": said.text})
        if sys.stdin.isatty():
            note(click.style(describe_speed([said]), dim=True))

    def _undo(self) -> None:
        kept = len(self._messages) - 2
        if kept < (1 if self._system else 0):
            note("there is nothing to forget")
            return
        del self._messages[kept:]


def _read() -> str | None:
    """A line; None at the end of the input, or for Ctrl-C at the prompt."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    import readline  # noqa: F401  (gives `input` its history and its keys)

    try:
        return input(click.style("> ", fg="green", bold=True))
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
