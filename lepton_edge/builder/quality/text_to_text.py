"""How well a compiled model that answers a text with another does so, beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge.builder.quality.logits import (
    Difference,
    losses_of,
    max_ratio,
    min_equal,
    perplexity,
    sound,
)
from lepton_edge.builder.quality.rows import read_data, refuse_blank
from lepton_edge.builder.sentences import PROSE, SENTENCES
from lepton_edge.bundle.manifest import GenerationQuality, Parity
from lepton_edge.errors import InputError, QualityError
from lepton_edge.generation.beams import greedy
from lepton_edge.runtime.files import read_rows
from lepton_edge.runtime.text import ATTENTION_MASK, INPUT_IDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.builder.seq2seq import Seq2SeqLM
    from lepton_edge.generation.beams import EncoderDecoder
    from lepton_edge.generation.decoding import Decoding
    from lepton_edge.recipe import Quality
    from lepton_edge.runtime.source_texts import SourceTexts

# One batch of texts: the sample is read once by the compiled model.
_TEXTS = 16
_TEXT, _TARGET = "text", "target"
_LONGEST = 64
# Logits of the original that are kept to compare with; over a large vocabulary each has a megabyte.
_KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Sample:
    """Texts in tokens, with those around them, and how they are answered; ``answers`` are what the
    data says is right, none where it does not. ``data`` is the file's name."""

    texts: list[list[int]]
    answers: list[list[int]] | None
    decoding: Decoding
    data: str | None


@dataclass(frozen=True)
class Reference:
    """The original's: ``greedy`` answers; the ``answers`` that are predicted, which are the greedy
    ones where the data has none; ``losses`` [text] of each token of those, float64; ``logits``
    [text] of the first ones, float32 [kept, vocabulary]."""

    greedy: list[list[int]]
    answers: list[list[int]]
    losses: list[NDArray[np.float64]]
    logits: list[NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """What was found, for the manifest."""

    parity: Parity
    quality: GenerationQuality


def read_sample(
    reader: SourceTexts, original: Seq2SeqLM, quality: Quality, texts: Sequence[str]
) -> Sample:
    """The recipe's rows; without them ``texts``, and without those built-in ones.

    ``parameters`` of the recipe's quality are those of a call, such as languages. Raises
    `InputError` naming file and line.
    """
    asked = reader.task.asked(
        reader.task.parameters({**reader.task.example(), **quality.parameters})
    )
    decoding = replace(
        asked.decoding,
        num_beams=1,
        max_new_tokens=min(_LONGEST, reader.max_length),
        min_new_tokens=0,
        no_repeat_ngram_size=0,
        repetition_penalty=1.0,
        forced_eos_token_id=None,
    )
    given = [(f"text {place}", text) for place, text in enumerate(texts or _BUILT_IN, 1)]
    answers: list[list[int]] | None = None
    if quality.data is not None:
        rows = _rows(Path(quality.data), quality)
        given = [(place, row[_TEXT]) for place, row in rows]
        if _TARGET in rows[0][1]:
            answers = [
                original.answer(str(row[_TARGET]), decoding)[: reader.max_length] for _, row in rows
            ]
    found = [reader.tokens(text, asked, place)[0] for place, text in given]
    return Sample(found, answers, decoding, Path(quality.data).name if quality.data else None)


_BUILT_IN = (*PROSE, *SENTENCES[:8])


def _rows(file: Path, quality: Quality) -> list[tuple[str, dict[str, Any]]]:
    """Rows with a text and, where the file has one or the recipe names its column, a target."""
    _, first = next(read_rows(file, {}), (0, {}))
    has_target = quality.columns.get(_TARGET, _TARGET) in first or _TARGET in quality.columns
    columns = (_TEXT, _TARGET) if has_target else (_TEXT,)
    rows = read_data(file, columns, quality.columns, min(quality.samples or _TEXTS, 4 * _TEXTS))
    for place, row in rows:
        for name in columns:
            if not isinstance(row[name], str):
                raise InputError(f"{place}: {quality.columns.get(name, name)!r} is not text")
        try:
            refuse_blank(row)
        except InputError as error:
            raise InputError(f"{place}: {error.message}", hint=error.hint) from None
    return rows


def refer(original: Seq2SeqLM, sample: Sample) -> Reference:
    """Run the original. Raises `QualityError` where its answers are not numbers."""
    wanted = [original.greedy(text, sample.decoding) for text in sample.texts]
    answers = sample.answers or wanted
    losses, kept = [], []
    for text, answer in zip(sample.texts, answers, strict=True):
        ids = np.array([text])
        starts = [sample.decoding.decoder_start_token_id, *answer[:-1]]
        logits = original.run(
            {
                INPUT_IDS: ids,
                ATTENTION_MASK: np.ones_like(ids),
                "decoder_input_ids": np.array([starts]),
            }
        )["logits"][0]
        if not np.isfinite(logits).all():
            raise QualityError(
                "the original's own answers are not numbers: NaN or infinite",
                hint="its weights may be damaged",
            )
        losses.append(losses_of(logits, np.array(answer)))
        count = max(_KEPT_BYTES // (len(sample.texts) * logits.shape[1] * 4), 1)
        kept.append(logits[:count].copy())
    return Reference(wanted, answers, losses, kept)


def measure(
    model: EncoderDecoder, sample: Sample, reference: Reference, limits: Quality, precision: str
) -> Measured:
    """Run the compiled model, step by step as it will answer, and compare it with the original.
    Raises `ParityError` where its logits are not numbers, or all zero."""
    difference = Difference()
    losses = _predicted(model, sample, reference, difference)
    found: list[list[int]] = [[] for _ in sample.texts]
    for step in greedy(model, sample.texts, sample.decoding):
        for row, token in zip(found, step.tokens, strict=True):
            if token is not None:
                row.append(token)
    equal = sum(
        a == b
        for row, wanted in zip(found, reference.greedy, strict=True)
        for a, b in zip(row, wanted, strict=False)
    )
    tokens = sum(map(len, reference.greedy))
    return Measured(
        difference.parity(len(sample.texts), model.decoder.details),
        GenerationQuality(
            tokens=losses.size,
            data=sample.data,
            perplexity=perplexity(losses),
            original_perplexity=perplexity(np.concatenate(reference.losses)),
            max_perplexity_ratio=max_ratio(limits.max_perplexity_ratio, precision),
            equal_tokens=equal / tokens,
            greedy_tokens=tokens,
            min_equal_tokens=min_equal(limits.min_equal_tokens, precision),
        ),
    )


def _predicted(
    model: EncoderDecoder, sample: Sample, reference: Reference, difference: Difference
) -> NDArray[np.float64]:
    """Losses of all tokens of the answers, each after those before it."""
    answers, decoding = reference.answers, sample.decoding
    rows = model.encode(sample.texts, decoding.pad_token_id, 1)
    last = np.full(len(answers), decoding.decoder_start_token_id, np.int64)
    losses = []
    for place in range(max(map(len, answers))):
        logits = rows.step(last)
        going = [row for row, answer in enumerate(answers) if place < len(answer)]
        tokens = np.array([answers[row][place] for row in going])
        losses.append(losses_of(sound(logits[going]), tokens))
        for row in going:
            if place < len(reference.logits[row]):
                difference.add(logits[row][None], reference.logits[row][place][None])
        last = np.full(len(answers), decoding.pad_token_id, np.int64)
        last[going] = tokens
    return np.concatenate(losses)
