"""lepton-edge index"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from lepton_edge.cli.output import json_option, mebibytes, note, print_json, progress


@click.command("index")
@click.argument("bundle")
@click.option(
    "-i",
    "--input",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help="A .jsonl or .csv file of texts.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the index; NAME-VERSION.index beside the bundle where absent.",
)
@click.option("--column", default="text", show_default=True, help="The input's text column.")
@click.option("--id-column", help="The column with each text's id; numbered from 0 where absent.")
@click.option("--add", is_flag=True, help="Add the texts to the index that is there.")
@click.option("--replace", is_flag=True, help="With --add: a text takes the place of its id's.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="How vectors are stored.")
@click.option(
    "--kind",
    type=click.Choice(["exact", "approximate"]),
    help="Compare with every vector, or follow a graph: for more than a million texts.",
)
@click.option("--device", help="A target or device, where the bundle or machine has several.")
@click.option("--force", is_flag=True, help="Replace the index that is there.")
@json_option
def command(
    bundle: str,
    source: Path,
    output: Path | None,
    column: str,
    id_column: str | None,
    add: bool,
    replace: bool,
    device: str | None,
    force: bool,
    as_json: bool,
    **storage: Any,
) -> None:
    """Embed the texts of a file and keep them for lepton-edge search.

    BUNDLE is one of feature-extraction. The columns beside the text and the id are kept as the
    text's metadata.
    """
    given: dict[str, Any] = {name: value for name, value in storage.items() if value is not None}
    if add and (force or given):
        raise click.UsageError("--add keeps the index as it is: without --force, --dtype, --kind")
    if replace and not add:
        raise click.UsageError("--replace goes with --add")
    from lepton_edge.runtime import load
    from lepton_edge.runtime.files import count_lines
    from lepton_edge.search.index import beside
    from lepton_edge.search.rows import add_from_file, build_from_file

    path = output or beside(Path(bundle))
    columns: dict[str, Any] = {"column": column.removeprefix("text="), "id_column": id_column}
    start = time.perf_counter()
    with (
        load(bundle, device) as model,
        progress("embedding", count_lines(source), "texts", quiet=as_json) as advance,
    ):
        if add:
            index, added = add_from_file(
                model, source, path, replace=replace, progress=advance, **columns
            )
        else:
            index, added = build_from_file(
                model, source, path, force=force, progress=advance, **columns, **given
            )
    seconds = time.perf_counter() - start
    if as_json:
        print_json(
            {
                "path": str(path),
                "added": len(added.ids),
                "truncated": added.truncated,
                "texts": len(index),
                "bytes": index.size,
                "seconds": round(seconds, 3),
            }
        )
        return
    texts = "text" if len(added.ids) == 1 else "texts"
    note(f"{len(added.ids):,} {texts} in {seconds:.1f} s, {len(added.ids) / seconds:,.0f} a second")
    if added.truncated:
        note(
            f"{added.truncated:,} longer than the model takes: found by their beginnings only; "
            "split such texts"
        )
    click.echo(f"{path}  {len(index):,} texts, {mebibytes(index.size)}")
    where = "" if output is None else f" {path}"
    note(f'next: lepton-edge search {bundle}{where} "some text"')
