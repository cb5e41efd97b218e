"""lepton-edge keywords"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lepton_edge.cli.output import json_option, print_json
from lepton_edge.errors import InputError

if TYPE_CHECKING:
    from lepton_edge.runtime.files import Row


@click.command("keywords")
@click.argument("bundle")
@click.argument("text", required=False)
@click.option(
    "-i",
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="A .jsonl or .csv file of texts; its rows are printed as JSON Lines, with keywords.",
)
@click.option("--column", default="text", show_default=True, help="The input's text column.")
@click.option(
    "--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="Keywords."
)
@click.option(
    "--max-words", type=click.IntRange(min=1), default=3, show_default=True, help="Of a keyword."
)
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="0: the nearest to the text; towards 1: the least alike.",
)
@click.option(
    "--stop-words",
    type=click.Path(path_type=Path),
    help="A file of words that a keyword neither begins nor ends with.",
)
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@json_option
def command(
    bundle: str,
    text: str | None,
    source: Path | None,
    column: str,
    stop_words: Path | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the phrases of a text that are nearest in meaning to the whole.

    BUNDLE is one of feature-extraction. A keyword has its score, the cosine of the embeddings,
    and its place in the text. Stop words are those of the text's language where none are given.
    """
    if (source is None) == (text is None):
        raise click.UsageError("give a text, or --input FILE")
    from lepton_edge.keywords import extract_keywords
    from lepton_edge.keywords.rows import keywords_of_file
    from lepton_edge.runtime import load
    from lepton_edge.runtime.files import merged

    if stop_words:
        options["stop_words"] = _words(stop_words)
    with load(bundle, device) as model:
        if source:
            for row, found in keywords_of_file(
                model, source, column=column.removeprefix("text="), **options
            ):
                click.echo(_line(merged(row, {"keywords": msgspec.to_builtins(found)})))
            return
        keywords = extract_keywords(model, str(text), **options)
    if as_json:
        print_json(keywords)
        return
    for keyword in keywords:
        click.echo(str(keyword))


def _line(row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: as it came, by its escape
        return json.dumps(row)
    return line


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error.reason}") from None
