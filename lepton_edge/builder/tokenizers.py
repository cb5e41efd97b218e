"""Reading a source's tokenizer into the one form that the runtime uses: tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lepton_edge.builder.folder import read_json
from lepton_edge.builder.quiet import quiet
from lepton_edge.builder.sentencepiece_tokenizers import converted, is_convertible
from lepton_edge.errors import SourceError

_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "source.spm",
)


@dataclass(frozen=True)
class SourceTokenizer:
    """tokenizer.json as text, the padding token's id, and the limit it states in tokens."""

    json: str
    pad_id: int
    size: int
    max_length: int | None = None
    mask_token: str | None = None


def tokenizer_from_folder(folder: Path, trust_remote_code: bool = False) -> SourceTokenizer:
    """Through transformers, which applies tokenizer_config.json to what tokenizer.json says.

    Raises `SourceError` where there is none, or only one that needs Python to run.
    """
    return from_transformers(transformers_tokenizer(folder, trust_remote_code))


def from_transformers(tokenizer: Any) -> SourceTokenizer:
    """transformers' own tokenizer. Raises `SourceError`."""
    backend = converted(tokenizer) if is_convertible(tokenizer) else tokenizer.backend_tokenizer
    stated = tokenizer.model_max_length
    return SourceTokenizer(
        json=backend.to_str(),
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        size=_size(backend),
        mask_token=tokenizer.mask_token,
        # transformers' way to say "not stated" is a number of about 10**30.
        max_length=int(stated) if stated is not None and 0 < stated < 10**9 else None,
    )


def transformers_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """transformers' own tokenizer of a folder. Raises `SourceError` as `tokenizer_from_folder`."""
    if not any((folder / name).is_file() for name in _FILES):
        raise SourceError(
            f"{folder} has no tokenizer: none of {', '.join(_FILES)} is there",
            hint="save it beside the model: tokenizer.save_pretrained(folder)",
        )
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
        if not is_convertible(tokenizer):
            tokenizer.backend_tokenizer  # noqa: B018  (one that needs Python to run has none)
    except Exception as error:  # transformers raises many kinds for a damaged tokenizer
        raise SourceError(
            f"the tokenizer in {folder} cannot be read: {error}",
            hint="it needs a tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        ) from error
    return tokenizer


def language_tokenizer(folder: Path, tokenizer: Any) -> Any:
    """Where `AutoTokenizer` gave a tokenizer of no class in particular, as it does for NLLB: one of
    the class that the folder names, if that is of those that are told a text's language. Else the
    same. Raises `SourceError`."""
    import transformers

    file = folder / "tokenizer_config.json"
    named = read_json(file, dict).get("tokenizer_class") if file.is_file() else None
    kind: Any = getattr(transformers, str(named).removesuffix("Fast"), object)
    if isinstance(tokenizer, kind) or not hasattr(kind, "set_src_lang_special_tokens"):
        return tokenizer
    try:
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # as above
        raise SourceError(
            f"the tokenizer in {folder} cannot be read as {named}: {error}",
            hint="it needs a tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        ) from error


def tokenizer_from_file(file: Path) -> SourceTokenizer:
    """A tokenizer.json on its own. Raises `SourceError`."""
    from tokenizers import Tokenizer

    if not file.is_file():
        raise SourceError(f"there is no tokenizer at {file}", hint="give a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for any fault
        raise SourceError(f"{file} is not a tokenizer.json that can be read: {error}") from error
    return from_tokenizer(tokenizer)


def from_tokenizer(tokenizer: Any) -> SourceTokenizer:
    """A `tokenizers.Tokenizer`; its own padding settings, if any, name the padding token."""
    padding = tokenizer.padding or {}
    truncation = tokenizer.truncation or {}
    pad_id = padding.get("pad_id")
    if pad_id is None:
        pad_id = tokenizer.token_to_id("[PAD]")
    if pad_id is None:
        pad_id = tokenizer.token_to_id("<pad>")
    masks = (each for each in ("[MASK]", "<mask>") if tokenizer.token_to_id(each) is not None)
    return SourceTokenizer(
        json=tokenizer.to_str(),
        pad_id=pad_id or 0,
        size=_size(tokenizer),
        max_length=truncation.get("max_length"),
        mask_token=next(masks, None),
    )


def lowered(tokenizer: SourceTokenizer) -> SourceTokenizer:
    """The same, after making the text lower case."""
    from tokenizers import Tokenizer, normalizers

    inner: Any = Tokenizer.from_str(tokenizer.json)
    steps = [normalizers.Lowercase(), *([inner.normalizer] if inner.normalizer else [])]
    inner.normalizer = normalizers.Sequence(steps)
    return replace(tokenizer, json=inner.to_str())


def check_vocabulary(tokenizer: SourceTokenizer, rows: int | None) -> None:
    """Raise `SourceError` where the tokenizer gives ids that the model has no embedding for: the
    compiled model would read past its table without a word."""
    if rows is not None and tokenizer.size > rows:
        raise SourceError(
            f"the tokenizer gives ids up to {tokenizer.size - 1}; the model has {rows} embeddings",
            hint="the tokenizer belongs to another model",
        )


def _size(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
