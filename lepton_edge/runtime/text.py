"""Text to tokens to tensors, with the `tokenizers` library on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Encoding

    from lepton_edge.backend import TensorSpec
    from lepton_edge.bundle.manifest import Text
    from lepton_edge.runtime.batching import Batch

INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)


class TextEncoder:
    """Tokenizes texts and lays batches of them out as a session's inputs. Safe from threads."""

    def __init__(self, tokenizer: Path, text: Text) -> None:
        """Raises `BundleError` where the tokenizer's file cannot be read."""
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises bare Exception for any fault
            raise BundleError(
                f"{tokenizer} is not a tokenizer that can be read: {error}",
                hint="build the bundle again",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(text.max_length)
        self.text = text

    def encode(self, texts: Sequence[str], first: int = 1) -> list[Encoding]:
        """Tokens of every text, cut to the longest input.

        Raises `InputError` for an empty text, one that is not text or not Unicode, one without a
        token, or one over a limit of the bundle. Positions in messages count from ``first``.
        """
        for position, text in enumerate(texts, first):
            self._check(text, position)
        try:
            if len(texts) == 1:  # without the thread pool that a batch starts
                encodings: list[Encoding] = [self._tokenizer.encode(texts[0])]
            else:
                # Without character offsets, which nothing here reads: it is faster.
                encodings = self._tokenizer.encode_batch_fast(list(texts))
        except (TypeError, UnicodeEncodeError):  # the library's word for a lone surrogate
            for position, text in enumerate(texts, first):
                _check_unicode(text, position)
            raise
        for position, encoding in enumerate(encodings, first):
            if not len(encoding):
                raise InputError(
                    f"text {position} has no token: nothing in it is in the tokenizer's vocabulary",
                    hint="leave such texts out",
                )
            if self.text.on_long_text == "refuse":
                self._check_length(encoding, position)
        return encodings

    def feeds(
        self, encodings: Sequence[Encoding], batch: Batch, specs: Sequence[TensorSpec]
    ) -> dict[str, NDArray[np.generic]]:
        """A session's inputs for one batch: each of shape [rows, length], padded on the right."""
        import numpy as np

        shape = (len(batch.rows), batch.length)
        feeds: dict[str, NDArray[np.generic]] = {}
        for spec in specs:
            array = np.full(shape, self.text.pad_id if spec.name == INPUT_IDS else 0, spec.dtype)
            for place, row in zip(array, batch.rows, strict=True):
                values = _values(encodings[row], spec.name)
                place[: len(values)] = values
            feeds[spec.name] = array
        return feeds

    def _check(self, text: object, position: int) -> None:
        if not isinstance(text, str):
            raise InputError(
                f"text {position} is of type {type(text).__name__}: a model takes text (str) "
                "or a list of texts"
            )
        if not text.strip():
            raise InputError(f"text {position} is empty", hint="leave empty texts out")
        if len(text) > self.text.max_characters:
            raise InputError(
                f"text {position} has {len(text):,} characters; "
                f"this bundle takes up to {self.text.max_characters:,}",
                hint="split the text, or build with a higher text.max_characters",
            )

    def _check_length(self, encoding: Encoding, position: int) -> None:
        if encoding.overflowing:
            tokens = len(encoding) + sum(len(rest) for rest in encoding.overflowing)
            raise InputError(
                f"text {position} has about {tokens:,} tokens; "
                f"this bundle takes up to {self.text.max_length:,}",
                hint="split the text, or build with text.on_long_text: truncate",
            )


def _check_unicode(text: str, position: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {position} is not Unicode text: it has the lone surrogate "
            f"{text[error.start]!a} at character {error.start + 1}",
            hint="decode the bytes again, with errors='replace' if need be",
        ) from None


def check_inputs(specs: Sequence[TensorSpec]) -> None:
    """Raise `BundleError` where a session takes an input that text does not give."""
    unknown = [spec.name for spec in specs if spec.name not in _INPUTS]
    if unknown:
        raise BundleError(
            f"the model takes {', '.join(unknown)}; text gives {', '.join(_INPUTS)} only"
        )


def takes_padding(specs: Sequence[TensorSpec]) -> bool:
    """Whether the model can tell padding from text."""
    return any(spec.name == ATTENTION_MASK for spec in specs)


def _values(encoding: Encoding, name: str) -> list[int]:
    values: list[int]
    if name == INPUT_IDS:
        values = encoding.ids
    elif name == ATTENTION_MASK:
        values = encoding.attention_mask
    else:
        values = encoding.type_ids
    return values
