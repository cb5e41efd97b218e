"""Tokenizers that transformers runs in Python, over SentencePiece models, as a tokenizer.json.

Marian has a SentencePiece model for each side, and M2M100 one; in both, vocab.json says which id a
piece has, so what SentencePiece itself calls it does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_edge.errors import SourceError

_CONVERTED = ("MarianTokenizer", "M2M100Tokenizer")
_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2  # sentencepiece_model.proto's ModelType
# Before a piece that only the other side's model has: a text does not have such a character.
_FOREIGN = "\U0010fffd"


def is_convertible(tokenizer: Any) -> bool:
    """Whether this is one of transformers' tokenizers that `converted` takes."""
    return type(tokenizer).__name__ in _CONVERTED


def converted(tokenizer: Any) -> Any:
    """A `tokenizers.Tokenizer` that gives the ids of transformers' own, without the tokens around a
    text, and decodes what the model writes.

    A piece that vocab.json does not have is transformers' unknown token; here the text is cut into
    other pieces. Raises `SourceError` for a SentencePiece model of another kind.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    marian = type(tokenizer).__name__ == "MarianTokenizer"
    file = Path(tokenizer.spm_files[0] if marian else tokenizer.spm_file)
    if marian and tokenizer.separate_vocabs:
        raise SourceError(
            f"the tokenizer beside {file} has a vocabulary for each side, which is not supported",
            hint="take a Marian model with one vocabulary: most have",
        )
    proto = _read(file)
    ids: Mapping[str, int] = tokenizer.encoder
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    special = _special(tokenizer)
    unknown = str(tokenizer.unk_token)
    if proto.trainer_spec.model_type == _UNIGRAM:
        model: Any = models.Unigram(_unigram(ids, scores, special), unk_id=ids[unknown])
    elif proto.trainer_spec.model_type == _BPE:
        merges = _merges(ids, scores, file)
        model = models.BPE(dict(ids), merges, unk_token=unknown, fuse_unk=True)
    else:
        raise SourceError(
            f"{file} is neither a unigram nor a BPE model of SentencePiece", hint=_SAVE_HINT
        )
    inner: Any = Tokenizer(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    inner.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(_FOREIGN, "\ufffd"),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    inner.decoder = decoders.Sequence(
        [decoders.Replace(_FOREIGN, ""), decoders.Metaspace(replacement=_SPACE)]
    )
    _add_special(inner, special)
    return inner


_SAVE_HINT = "it needs a tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)"


def _read(file: Path) -> Any:
    """The model's own description of itself."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as error:
        raise SourceError(
            f"{file} cannot be read without the package protobuf", hint="pip install protobuf"
        ) from error
    proto: Any = getattr(messages, "ModelProto")()  # noqa: B009  (made when it is imported)
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, OSError
        raise SourceError(f"{file} is not a SentencePiece model: {error}") from error
    return proto


def _unigram(
    ids: Mapping[str, int], scores: Mapping[str, float], special: Mapping[str, int]
) -> list[tuple[str, float]]:
    """Each id's piece and its logarithm of a probability, in order."""
    least = min(scores.values())  # what an unknown character costs is less than all of these
    rows = [("", least)] * (max(ids.values()) + 1)
    for piece, number in ids.items():
        known = piece in scores or piece in special
        rows[number] = (piece if known else _FOREIGN + piece, scores.get(piece, least))
    return rows


def _merges(
    ids: Mapping[str, int], scores: Mapping[str, float], file: Path
) -> list[tuple[str, str]]:
    """Pairs of pieces in the order in which they are joined: the best result first."""
    if missing := [piece for piece in scores if piece not in ids]:
        raise SourceError(
            f"vocab.json has no {missing[0]!r}, a piece of {file}, from which others are made",
            hint=_SAVE_HINT,
        )
    pairs = [
        (-scores[piece], end, piece[:end], piece[end:])
        for piece in scores
        for end in range(1, len(piece))
        if piece[:end] in scores and piece[end:] in scores
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def _special(tokenizer: Any) -> dict[str, int]:
    """The tokens that are no text, with their ids: those of a language among them."""
    found = {str(token.content): number for number, token in tokenizer.added_tokens_decoder.items()}
    found |= getattr(tokenizer, "lang_token_to_id", {})
    codes = getattr(tokenizer, "supported_language_codes", ())
    return found | {code: tokenizer.encoder[code] for code in codes}


def _add_special(inner: Any, special: Mapping[str, int]) -> None:
    from tokenizers import AddedToken

    for content, number in sorted(special.items(), key=lambda pair: pair[1]):
        # A new token gets the next id, so gaps are filled with names that no text has.
        while (size := inner.get_vocab_size()) < number:
            inner.add_special_tokens([AddedToken(f"<unused {size}>", normalized=False)])
        inner.add_special_tokens([AddedToken(content, normalized=False)])
        found = inner.token_to_id(content)
        if found != number:
            raise SourceError(
                f"the token {content!r} has the id {number}, and would become {found}",
                hint=_SAVE_HINT,
            )
