"""What the verbs that generate text have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.output import note, print_json

if TYPE_CHECKING:
    from lepton_edge.runtime.answers import Completion
    from lepton_edge.runtime.generative_model import TextStream
    from lepton_edge.runtime.model import Model

SAMPLED = ("max_tokens", "temperature", "seed")
"""The parameters that `generation_options` gives."""
_OPTIONS = (
    click.option("--max-tokens", type=click.IntRange(min=1), help="How long an answer may be."),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        help="How freely it is chosen; 0 takes the most likely token each time.",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="The same seed, the same answer."),
)


_SEARCH_OPTIONS = (
    click.option(
        "--source-language", metavar="CODE", help="With translation: of the text, such as eng_Latn."
    ),
    click.option("--target-language", metavar="CODE", help="With translation: what to write."),
    click.option(
        "--num-beams",
        type=click.IntRange(min=1),
        help="With translation and summarization: of how many beginnings the best answer is found.",
    ),
)


_LOADING_OPTIONS = (
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="NAME[=STRENGTH]",
        help="With a model that generates: answer with a LoRA adapter of the bundle.",
    ),
    click.option("--draft", metavar="BUNDLE", help="Of a small model whose guesses are checked."),
    click.option(
        "--prompt-lookup", is_flag=True, help="With a model that generates: guess from the prompt."
    ),
)


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `loading` reads."""
    for option in reversed(_LOADING_OPTIONS):
        command = option(command)
    return command


def loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `load` is told of how to generate."""
    guesses = {"draft": given["draft"], "prompt_lookup": given["prompt_lookup"]}
    wanted = {name: value for name, value in guesses.items() if value}
    if wanted and given["adapters"]:
        raise click.UsageError("tokens are not guessed for a model with adapters")
    return {**wanted, "adapters": {}} if wanted else {}


def chosen_adapters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter that says which adapters answer, if any was named."""
    found = {}
    for each in given.get("adapters", ()):
        name, equals, strength = each.partition("=")
        try:
            found[name] = float(strength) if equals else 1.0
        except ValueError:
            raise click.UsageError(f"--adapter is {each!r}: it is NAME or NAME=STRENGTH") from None
    return {"adapters": found} if found else {}


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a model that generates."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a model that answers a text with another."""
    for option in reversed(_SEARCH_OPTIONS):
        command = option(command)
    return command


def run_prompts(
    model: Model,
    texts: Sequence[str],
    parameters: Mapping[str, Any],
    opened: float,
    stream: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Answer texts, each a prompt of its own. ``opened`` is how long opening took, in seconds."""
    from lepton_edge.errors import InputError

    if stream and len(texts) != 1:
        raise InputError(f"--stream shows one answer, and {len(texts)} texts were given")
    template = getattr(model.task.config, "chat_template", None)
    chats = template is not None and not raw
    prompts = [[{"role": "user", "content": text}] if chats else text for text in texts]
    if stream:
        with model.stream(prompts[0], **parameters) as answer:
            print_stream(answer)
        _note_speed(model, [answer.completion], opened)
        return
    completions = model.generate(prompts, **parameters)
    if as_json:
        answers = zip(texts, completions, strict=True)
        print_json([{"text": text, "result": result} for text, result in answers])
        return
    for text, completion in zip(texts, completions, strict=True):
        if len(texts) > 1:
            click.echo(click.style(text, bold=True))
        for each in completion.choices or (completion,):
            click.echo(str(each).strip("\n"))
    _note_speed(model, completions, opened)


def print_stream(answer: TextStream) -> None:
    """Print an answer as it comes: what it thinks dimmed, calls of tools a line each."""
    thinking = False
    for delta in answer:
        if delta.thinking:
            thinking = True
            click.secho(delta.thinking, nl=False, dim=True)
        if delta.text:
            click.echo(("\n" if thinking else "") + delta.text, nl=False)
            thinking = False
        for call in delta.tool_calls:
            click.secho(f"\n[{call}]", nl=False, fg="cyan")
    click.echo()


def describe_speed(completions: Sequence[Completion]) -> str:
    """Tokens, the time to the first one, and how fast the others came."""
    each = [choice for found in completions for choice in found.choices or (found,)]
    tokens = sum(found.usage.completion_tokens for found in each)
    first = min((t for found in each if (t := found.timing.first_token) is not None), default=0.0)
    total = max(found.timing.total for found in each)
    rate = f", {(tokens - len(each)) / (total - first):.1f} a second" if total > first else ""
    return f"{tokens} {'token' if tokens == 1 else 'tokens'}, the first after {first:.2f} s{rate}"


def _note_speed(model: Model, completions: Sequence[Completion], opened: float) -> None:
    cut = sum(found.finish_reason == "length" for found in completions)
    if cut:
        note(f"{cut} of {len(completions)} cut at the most tokens: --max-tokens allows more")
    compute = f" ({model.compute})" if model.compute else ""
    note(f"{describe_speed(completions)} on {model.device}{compute}; opened in {opened:.2f} s")
