"""Keywords of a file: JSON Lines or CSV, a text a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.errors import InputError
from lepton_edge.keywords import Keyword, extract_keywords
from lepton_edge.runtime.files import Row, input_of, read_rows

if TYPE_CHECKING:
    from lepton_edge.runtime.model import Model

_CHUNK = 32


def keywords_of_file(
    model: Model,
    source: Path,
    *,
    column: str = "text",
    top_k: int = 10,
    max_words: int = 3,
    diversity: float = 0.3,
    stop_words: Collection[str] | None = None,
) -> Iterator[tuple[Row, list[Keyword]]]:
    """Every row of ``source`` (``.jsonl``, or ``.csv`` with a header) and its keywords.

    ``column`` has the text; the rest is as in `extract_keywords`. Raises `InputError` naming file
    and line, and what `extract_keywords` raises.
    """

    def extract(texts: list[str]) -> list[list[Keyword]]:
        return extract_keywords(
            model,
            texts,
            top_k=top_k,
            max_words=max_words,
            diversity=diversity,
            stop_words=stop_words,
        )

    fields = {"text": column}
    rows = read_rows(source, fields)
    found = False
    while chunk := list(islice(rows, _CHUNK)):
        found = True
        texts = [input_of(row, fields, f"{source}:{line}") for line, row in chunk]
        try:
            results = extract(texts)
        except InputError:
            for (line, _), text in zip(chunk, texts, strict=True):
                try:
                    extract([text])
                except InputError as error:
                    message = error.message.replace("text 1", repr(column), 1)
                    raise InputError(f"{source}:{line}: {message}", hint=error.hint) from None
            raise
        yield from zip((row for _, row in chunk), results, strict=True)
    if not found:
        raise InputError(f"{source} has no rows")
