"""lepton-edge search"""

from __future__ import annotations

from pathlib import Path

import click

from lepton_edge.cli.output import json_option, note, print_json, printable

_SHOWN = 160


@click.command("search")
@click.argument("bundle")
@click.argument("index_and_text", nargs=-1, required=True, metavar="[INDEX] TEXT")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Hits.")
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@json_option
def command(
    bundle: str, index_and_text: tuple[str, ...], top_k: int, device: str | None, as_json: bool
) -> None:
    """Find the texts of an index that are nearest in meaning to a text.

    INDEX is what lepton-edge index made; NAME-VERSION.index beside the bundle where absent, or the
    one that the bundle was built with. The score is the cosine of the embeddings, -1 to 1.
    """
    if len(index_and_text) > 2:
        raise click.UsageError("give one text, in quotes, after the index if that is given")
    from lepton_edge.runtime import load
    from lepton_edge.search.index import Index, find

    *folder, text = index_and_text
    index = Index.open(folder[0] if folder else find(Path(bundle)))
    with load(bundle, device) as model:
        hits = index.query(model, text, top_k)
    if as_json:
        print_json(hits)
        return
    if not hits:
        note("the index is empty")
    width = max((len(printable(str(hit.id))) for hit in hits), default=0)
    for hit in hits:
        line = printable(hit.text if len(hit.text) <= _SHOWN else f"{hit.text[:_SHOWN]}…")
        click.echo(f"{hit.score:7.4f}  {printable(str(hit.id)).ljust(width)}  {line}")
