"""Text to tokens to tensors, with the `tokenizers` library on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from lepton_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Encoding

    from lepton_edge.backend import TensorSpec
    from lepton_edge.bundle.manifest import Text
    from lepton_edge.runtime.batching import Batch
    from lepton_edge.runtime.pairs import Frame, Part
    from lepton_edge.runtime.windows import Window

INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
_PARTS_AT_ONCE = 64


@dataclass(frozen=True)
class Tokenization:
    """How a task's sequences are made. The tokenizers library's own words.

    ``truncation`` says which of two texts is cut where they are too long together; nothing is,
    for `TextEncoder.pair_windows`, with ``do_not_truncate``. ``window`` is the longest sequence in
    tokens, where that is less than the bundle's ``max_length``; ``stride``, how many tokens
    neighbouring windows share (at most half of a window that is cut to ``max_length``);
    ``offsets`` keeps the place in the text of each token.
    """

    truncation: Literal["longest_first", "only_first", "only_second", "do_not_truncate"] = (
        "longest_first"
    )
    window: int | None = None
    stride: int = 0
    offsets: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """A sequence that a model reads: special tokens included, without padding.

    ``truncated``: the text goes on past it. ``encoding`` has the offsets, where the task asks for
    them.
    """

    ids: list[int]
    type_ids: list[int]
    truncated: bool
    encoding: Encoding | None = None

    def __len__(self) -> int:
        return len(self.ids)


class TextEncoder:
    """Tokenizes texts and lays batches of them out as a session's inputs. Safe from threads."""

    def __init__(
        self, tokenizer: Path, text: Text, tokenization: Tokenization = Tokenization()
    ) -> None:
        """Raises `BundleError` where the tokenizer's file cannot be read, or windows would share
        more than they hold."""
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises bare Exception for any fault
            raise BundleError(
                f"{tokenizer} is not a tokenizer that can be read: {error}",
                hint="build the bundle again",
            ) from error
        self.text = text
        self.max_length = min(text.max_length, tokenization.window or text.max_length)
        self._offsets = tokenization.offsets
        self._truncation = tokenization.truncation
        self._stride = tokenization.stride
        if tokenization.window and tokenization.window > self.max_length:
            self._stride = min(self._stride, self.max_length // 2)
        self._frame: Frame | None = None
        self._tokenizer.no_padding()
        if self._truncation == "do_not_truncate":
            self._tokenizer.no_truncation()
            return
        room = self.max_length - self._tokenizer.num_special_tokens_to_add(False)
        if self._stride and self._stride >= room:
            raise BundleError(
                f"windows that share {self._stride} tokens have to be longer than that: "
                f"this bundle's have {room} of a text",
                hint="build with a lower stride (task_options), or a higher text.max_length",
            )
        self._tokenizer.enable_truncation(
            self.max_length, stride=self._stride, strategy=self._truncation
        )

    def encode(self, texts: Sequence[str], first: int = 1) -> list[Tokens]:
        """A sequence for each text, cut to the longest input.

        Raises `InputError` for an empty text, one that is not text or not Unicode, one without a
        token, or one over a limit of the bundle. Positions in messages count from ``first``.
        """
        encodings = self._encodings(texts, _position(first))
        for position, encoding in enumerate(encodings, first):
            self._refuse_long(f"text {position}", encoding)
        return [self._tokens(encoding, bool(encoding.overflowing)) for encoding in encodings]

    def windows(self, texts: Sequence[str], first: int = 1) -> list[list[Tokens]]:
        """As many overlapping sequences as each text needs. Raises `InputError` as `encode`."""
        return [
            [self._tokens(window, False) for window in (encoding, *encoding.overflowing)]
            for encoding in self._encodings(texts, _position(first))
        ]

    def pair_windows(self, first: str, second: str, names: tuple[str, str]) -> list[Window]:
        """Two texts as one sequence, and as many of them as the second needs where it is long.

        Windows share the stride, and no more than three quarters of what the first text leaves
        of a window, so that a long one does not make them countless. ``names`` are the texts' own,
        for messages. Raises `InputError`, also where the first leaves less than a quarter.
        """
        from lepton_edge.runtime.windows import cut, span_of

        encoding = self._pair(first, second, names)
        for index, name in enumerate(names):
            begin, end = span_of(encoding, index)
            if begin == end:
                self._refuse_nothing(name)
        room = self.max_length - (len(encoding) - (end - begin))
        if room < min(end - begin, max(self.max_length // 4, 1)):
            raise InputError(
                f"{names[0]} is too long: it leaves {max(room, 0)} of the {self.max_length:,} "
                f"tokens that the model reads at once for another text of {end - begin:,}",
                hint="shorten it",
            )
        return cut(encoding, (begin, end), room, min(self._stride, room * 3 // 4))

    def pieces(self, texts: Sequence[str], name: Callable[[int], str]) -> list[list[int]]:
        """The tokens of texts alone, without special ones. ``name`` as for `parts`; raises
        `InputError` as `encode`."""
        return [each.ids for each in self._encodings(texts, name, special=False)]

    def parts(self, texts: Sequence[str], name: Callable[[int], str]) -> list[Part]:
        """Texts to `join`, for the truncations ``longest_first`` and ``only_first``. ``name``
        gives the name, for messages, of the text at an index.

        Raises `InputError` as `encode`, and `BundleError` where the model cannot read two texts.
        """
        from lepton_edge.runtime.pairs import Part

        parts: list[Part] = []
        # A few at a time: the library's own account of a text takes a hundred bytes a token.
        for start in range(0, len(texts), _PARTS_AT_ONCE):
            some = texts[start : start + _PARTS_AT_ONCE]
            encodings = self._encodings(some, partial(_later, name, start), special=False)
            parts += map(Part.of, encodings)
        if parts and self._frame is None:
            self._frame = self._learn_frame(texts[0])
        return parts

    def join(self, first: Part, second: Part, names: tuple[str, str]) -> Tokens:
        """Two texts as one sequence, cut to the longest input: as the tokenizer would encode them
        together. Raises `InputError`."""
        from lepton_edge.runtime.pairs import JoinedTokens, room_for

        assert self._frame is not None, "parts() comes first"
        added, total = self._frame.added, first.length + second.length
        if self.text.on_long_text == "refuse" and total + added > self.max_length:
            self._refuse_tokens(" with ".join(names), total + added)
        kept = room_for(first.length, second.length, self.max_length - added, self._truncation)
        if kept is None:
            self._refuse_pair(names[1])
        return JoinedTokens(first, second, self._frame, kept)

    def token_of(self, text: str) -> int | None:
        """The id of a token by its own text, such as ``[MASK]``."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    @property
    def subword_prefix(self) -> str | None:
        """What a token that continues a word begins with, such as ``##``; None for a tokenizer
        that marks where words begin instead."""
        return getattr(self._tokenizer.model, "continuing_subword_prefix", None) or None

    @property
    def unknown_id(self) -> int | None:
        """The id of the token for what the vocabulary does not have; None where it has all."""
        model = self._tokenizer.model
        if hasattr(model, "unk_token"):
            return None if model.unk_token is None else self.token_of(model.unk_token)
        # A Unigram model does not tell: ask for a code point that is no character.
        try:
            found = model.tokenize("\U0010ffff")
        except Exception:  # bare, where there is no such token
            return None
        return found[0].id if len(found) == 1 else None

    def feeds(
        self, sequences: Sequence[Tokens], batch: Batch, specs: Sequence[TensorSpec]
    ) -> dict[str, NDArray[np.generic]]:
        """A session's inputs for one batch: each of shape [rows, length], padded on the right."""
        import numpy as np

        shape = (len(batch.rows), batch.length)
        feeds: dict[str, NDArray[np.generic]] = {}
        for spec in specs:
            array = np.full(shape, self.text.pad_id if spec.name == INPUT_IDS else 0, spec.dtype)
            for place, row in zip(array, batch.rows, strict=True):
                tokens = sequences[row]
                if spec.name == ATTENTION_MASK:
                    place[: len(tokens)] = 1
                else:
                    place[: len(tokens)] = tokens.ids if spec.name == INPUT_IDS else tokens.type_ids
            feeds[spec.name] = array
        return feeds

    def _encodings(
        self, texts: Sequence[str], name: Callable[[int], str], *, special: bool = True
    ) -> list[Encoding]:
        for index, text in enumerate(texts):
            self._check(text, name, index)
        try:
            if len(texts) == 1:  # without the thread pool that a batch starts
                encodings: list[Encoding] = [
                    self._tokenizer.encode(texts[0], add_special_tokens=special)
                ]
            else:
                # The fast one leaves the offsets out.
                encode = (
                    self._tokenizer.encode_batch
                    if self._offsets
                    else self._tokenizer.encode_batch_fast
                )
                encodings = encode(list(texts), add_special_tokens=special)
        except (TypeError, UnicodeEncodeError):  # the library's word for a lone surrogate
            for index, text in enumerate(texts):
                _check_unicode(text, name(index))
            raise
        for index, encoding in enumerate(encodings):
            if not len(encoding):
                self._refuse_nothing(name(index))
        return encodings

    def _pair(self, first: str, second: str, names: tuple[str, str]) -> Encoding:
        """Both texts in one encoding, special tokens included."""
        for index, text in enumerate((first, second)):
            self._check(text, names.__getitem__, index)
        try:
            encoding: Encoding = self._tokenizer.encode(first, second)
        except (TypeError, UnicodeEncodeError):  # the library's word for a lone surrogate
            for text, name in zip((first, second), names, strict=True):
                _check_unicode(text, name)
            raise
        return encoding

    def _tokens(self, encoding: Encoding, truncated: bool) -> Tokens:
        kept = encoding if self._offsets else None
        return Tokens(encoding.ids, encoding.type_ids, truncated, kept)

    def _check(self, text: object, name: Callable[[int], str], index: int = 0) -> None:
        if not isinstance(text, str):
            raise InputError(
                f"{name(index)} is of type {type(text).__name__}: a model takes text (str) "
                "or a list of texts"
            )
        if not text.strip():
            raise InputError(f"{name(index)} is empty", hint="leave empty texts out")
        if len(text) > self.text.max_characters:
            raise InputError(
                f"{name(index)} has {len(text):,} characters; "
                f"this bundle takes up to {self.text.max_characters:,}",
                hint="split the text, or build with a higher text.max_characters",
            )

    def _refuse_long(self, name: str, encoding: Encoding) -> None:
        if self.text.on_long_text == "refuse" and encoding.overflowing:
            tokens = len(encoding) + sum(len(rest) for rest in encoding.overflowing)
            self._refuse_tokens(name, tokens)

    def _refuse_tokens(self, name: str, tokens: int) -> NoReturn:
        raise InputError(
            f"{name} has about {tokens:,} tokens; this bundle takes up to {self.max_length:,}",
            hint="split the text, or build with text.on_long_text: truncate",
        )

    def _refuse_nothing(self, name: str) -> NoReturn:
        raise InputError(
            f"{name} has no token: nothing in it is in the tokenizer's vocabulary",
            hint="leave such texts out",
        )

    def _refuse_pair(self, name: str) -> NoReturn:
        """The text that may not be cut leaves no room for the other."""
        raise InputError(
            f"{name} is too long: it leaves no room for the other text within the "
            f"{self.max_length:,} tokens that the model reads at once",
            hint="shorten it",
        )

    def _learn_frame(self, text: str) -> Frame:
        """From the first token of any text."""
        from lepton_edge.runtime.pairs import Frame

        added = self._tokenizer.num_special_tokens_to_add(True)
        if added + 3 > self.max_length:  # of the texts one token, and two
            raise BundleError(
                f"{self.max_length} tokens are too few for two texts: "
                f"the tokenizer adds {added} of its own",
                hint="build with a higher text.max_length",
            )
        # As little of it as has a token: what is cut off an encoding stays in it, and joining two
        # pairs each piece of one with each piece of the other.
        start = 1
        while not len(token := self._tokenizer.encode(text[:start], add_special_tokens=False)):
            start *= 2
        token.truncate(1)
        return Frame.of(self._tokenizer, token)


def _later(name: Callable[[int], str], start: int, index: int) -> str:
    return name(start + index)


def _position(first: int) -> Callable[[int], str]:
    return lambda index: f"text {first + index}"


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} is not Unicode text: it has the lone surrogate "
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
