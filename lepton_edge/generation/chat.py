"""Chat templates: the prompt that a model was trained to see, made of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_edge.errors import BundleError, InputError
from lepton_edge.generation.messages import Message, as_mapping

# What a rendering gives by itself.
_GIVEN = ("messages", "tools", "add_generation_prompt")
# The file name that Jinja gives a template in tracebacks.
_FILE = "<template>"


class ChatTemplate:
    """A model's Jinja template, compiled once. Safe from many threads.

    It runs in Jinja's sandbox, with no files and with bounded work (`lepton_edge.generation.
    sandbox`), and finds there what transformers gives to templates. ``special_tokens`` are
    variables too, such as ``bos_token``.
    """

    variables: frozenset[str]
    """The names that the template reads, such as ``tools`` and ``enable_thinking``."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises `BundleError` for a source that is no template, or takes in other files."""
        from lepton_edge.generation import sandbox

        try:
            with sandbox.budget():
                self._template, self.variables = sandbox.compile_template(source)
        except Exception as error:  # whatever a text does to a parser, it is no template
            what = getattr(error, "message", None) or str(error) or type(error).__name__
            line = getattr(error, "lineno", None)
            place = f" in line {line}" if line else ""
            raise BundleError(f"the chat template cannot be read: {what}{place}") from error
        self._special_tokens = dict(special_tokens)
        # Few templates know the role that OpenAI gave the name of developer.
        self._knows_developer = "developer" in source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        """The prompt, with the beginning of the answer where ``add_generation_prompt``.

        ``extra`` are other variables, such as ``enable_thinking``; `check_options` refuses those
        that are not for a user to give. An empty list of tools is none.

        Raises `InputError` where the template refuses the conversation, fails on it, comes to no
        end, or has no place for tools.
        """
        from lepton_edge.generation import sandbox

        if tools and "tools" not in self.variables:
            raise InputError(
                "this model's chat template has no place for tools",
                hint="ask without tools, or build with a template that takes them",
            )
        values = {
            "documents": None,
            **self._special_tokens,
            **extra,
            "messages": [self._mapping(message) for message in messages],
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with sandbox.budget():
                return "".join(map(sandbox.spend, self._template.generate(values)))
        except sandbox.RefusedError as error:
            raise InputError(f"the chat template refuses the conversation: {error}") from None
        except sandbox.ExhaustedError:
            raise InputError(
                "the chat template was stopped: it loops without end, or makes too much text",
                hint="give fewer or shorter messages, or build with another template",
            ) from None
        except Exception as error:  # a template is foreign code, and may fail in any way
            raise InputError(
                f"the chat template fails on the conversation{_line(error)}: "
                f"{str(error) or type(error).__name__}",
                hint="it may need other roles or keys of messages; template_options gives "
                "variables",
            ) from error

    def _mapping(self, message: Message) -> dict[str, Any]:
        found = as_mapping(message)
        if message.role == "developer" and not self._knows_developer:
            found["role"] = "system"
        return found


def check_options(options: Mapping[str, object]) -> None:
    """Raise `InputError` unless these may be given to `ChatTemplate.render` as ``extra``."""
    for name in options:
        if not isinstance(name, str) or name in _GIVEN:
            raise InputError(
                f"template_options has {name!r}, which is no variable of one's own",
                hint="messages and tools are given to the call",
            )


def no_template(name: str) -> InputError:
    """What to raise where a model without a template is given messages."""
    return InputError(
        f"{name} has no chat template, so it takes no messages",
        hint='continue a text: model.generate("text"); or build it with a template: '
        "task_options: {chat_template: path/to/template.jinja} in the recipe",
    )


def _line(error: Exception) -> str:
    """Where in the template an error came from; Jinja puts its lines into tracebacks."""
    place, found = error.__traceback__, ""
    while place:
        if place.tb_frame.f_code.co_filename == _FILE:
            found = f" in line {place.tb_lineno}"
        place = place.tb_next
    return found
