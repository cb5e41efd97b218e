"""lepton-edge run"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from lepton_edge.cli.generation import (
    generation_options,
    loading,
    loading_options,
    run_prompts,
    search_options,
)
from lepton_edge.cli.inputs import Asked, input_options
from lepton_edge.cli.output import json_option, note, print_json, progress, to_json

if TYPE_CHECKING:
    from lepton_edge.runtime.model import Model


@click.command("run")
@click.argument("bundle")
@click.argument("texts", nargs=-1, metavar="[TEXT]... | -")
@click.option(
    "-i",
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="A .jsonl or .csv file of texts.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where its rows go with the results added; standard output, as JSON Lines, where absent.",
)
@input_options
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@click.option("--verify", type=click.Choice(["cached", "always"]), default="cached")
@click.option("--force", is_flag=True, help="Replace the output file.")
@generation_options
@loading_options
@search_options
@click.option("--stream", is_flag=True, help="With a model that generates: print as it comes.")
@click.option(
    "--raw",
    is_flag=True,
    help="With a model that generates: continue the text, rather than answer it as a message.",
)
@json_option
def command(
    bundle: str,
    texts: Sequence[str],
    source: Path | None,
    output: Path | None,
    device: str | None,
    verify: Any,
    force: bool,
    stream: bool,
    raw: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer texts with a bundle.

    A model that generates continues a text; one with a chat template answers it as a message; one
    that translates or summarizes gives that of each text.

    Texts are arguments, lines of standard input (-), or rows of a file (--input). A row of a file
    keeps its fields: a result's field of the same name becomes result_NAME.
    """
    if (source is None) == (not texts):
        raise click.UsageError("give a text, - for standard input, or --input FILE")
    if output and not source:
        raise click.UsageError("--output goes with --input")
    if stream and (source or as_json):
        raise click.UsageError(f"--stream goes without {'--input' if source else '--json'}")
    asked = Asked.of(given, from_file=source is not None)
    from lepton_edge.runtime import load

    start = time.perf_counter()
    with load(bundle, device, verify=verify, **loading(given)) as model:
        opened = time.perf_counter()
        if source:
            _run_file(model, source, output, asked, force, as_json)
            return
        if list(texts) == ["-"]:
            from lepton_edge.runtime.files import read_lines

            texts = read_lines(sys.stdin)
        if model.task.generates:
            run_prompts(model, texts, asked.parameters, opened - start, stream, raw, as_json)
            return
        inputs = asked.inputs(model.task, texts)
        results = model(inputs, **asked.parameters)
        answered = time.perf_counter()
        if as_json:
            name = "text" if model.task.fields == ("text",) else "input"
            answers = zip(inputs, results, strict=True)
            print_json([{name: each, "result": result} for each, result in answers])
            return
        _print_results(inputs, results, asked.parameters.get("top_k"))
        each = (answered - opened) / len(texts) * 1000
        note(
            f"{len(texts)} {'text' if len(texts) == 1 else 'texts'}, {each:.1f} ms each on "
            f"{model.device} ({model.compute}); "
            f"opened in {opened - start:.2f} s"
        )


def _print_results(inputs: Sequence[Any], results: Sequence[Any], top_k: int | None) -> None:
    """One input: its answer. Several: each answer beside its input, or below it if it is long."""
    shown = [str(result) for result in results]
    width = max((len(text) for text in shown if "\n" not in text), default=0)
    for given, answer, result in zip(inputs, shown, results, strict=True):
        text = given if isinstance(given, str) else next(iter(given.values()))
        if len(inputs) == 1:
            click.echo(answer)
        elif "\n" in answer:
            click.echo(f"{text}\n{indent(answer, '    ')}")
        else:
            click.echo(f"{answer.ljust(width)}  {text}")
        if top_k:
            for entry in getattr(result, "top", ())[:top_k]:
                click.echo(f"    {entry}")


def _run_file(
    model: Model,
    source: Path,
    output: Path | None,
    asked: Asked,
    force: bool,
    as_json: bool,
) -> None:
    from lepton_edge.runtime.files import count_lines, run_file

    total = count_lines(source)
    stream = output or sys.stdout
    # On a terminal the rows themselves show how far it is, and a bar would be drawn over them.
    quiet = as_json or (output is None and sys.stdout.isatty())
    start = time.perf_counter()
    with progress("running", total, "texts", quiet=quiet) as advance:
        rows = run_file(
            model,
            source,
            stream,
            columns=asked.columns(model.task),
            force=force,
            progress=advance,
            **asked.parameters,
        )
    seconds = time.perf_counter() - start
    if as_json and output:
        click.echo(to_json({"path": str(output), "rows": rows, "seconds": round(seconds, 3)}))
    elif not as_json:
        where = f" to {output}" if output else ""
        texts = "text" if rows == 1 else "texts"
        note(f"{rows:,} {texts}{where} in {seconds:.1f} s, {rows / seconds:,.0f} a second")
