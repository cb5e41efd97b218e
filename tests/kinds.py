"""Small tokenizers of the three kinds that encoders have: WordPiece as in BERT, byte-level BPE as
in RoBERTa, and Unigram as in XLM-RoBERTa; each with its own way to put two texts together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.tiny import save_tiny

_TEXTS = (
    "the film was good and the bank was bad",
    "where is my new card, and how late was my order?",
    "how do i change the film, the order or the card?",
    "unhappy films are good, happier banks are better",
    "filmgood goodcard a##b",
    "größe naïve café 我的卡在哪里 متى يصل طلبي 🙂👍",
)
_ROBERTA = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}


@cache
def _wordpiece() -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _TEXTS, WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    text: str = tokenizer.to_str()
    return text


@cache
def _byte_level() -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    mask = AddedToken(_ROBERTA["mask"], lstrip=True, special=True)
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=340,
        special_tokens=[*list(_ROBERTA.values())[:4], mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text


@cache
def _unigram() -> str:
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from tokenizers.trainers import UnigramTrainer

    mask = AddedToken(_ROBERTA["mask"], lstrip=True, special=True)
    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=140,
        special_tokens=[*list(_ROBERTA.values())[:4], mask],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.decoder = decoders.Metaspace()
    text: str = tokenizer.to_str()
    return text


KINDS: dict[str, Callable[[], str]] = {
    "wordpiece": _wordpiece,
    "byte-level": _byte_level,
    "unigram": _unigram,
}
"""tokenizer.json by the kind's name."""


def save_kind(
    kind: str,
    family: str,
    folder: Path,
    head: str = "AutoModelForSequenceClassification",
    **changes: Any,
) -> Path:
    """A tiny random model of a family, as `tests.tiny.save_tiny`, with a tokenizer of a kind."""
    tokenizer = fast_tokenizer(kind)
    pad = tokenizer.pad_token_id
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": pad,
        "num_hidden_layers": 1,
    }
    if names := changes.get("id2label"):
        options["label2id"] = {name: index for index, name in names.items()}
    save_tiny(family, folder, head, **options | changes)
    tokenizer.save_pretrained(folder)
    return folder


def fast_tokenizer(kind: str, max_length: int = 64) -> Any:
    """A kind as transformers has it."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    inputs = ["input_ids", "attention_mask"]
    if kind == "wordpiece":
        inputs.append("token_type_ids")
        names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    else:
        names = {**_ROBERTA, "mask": AddedToken("<mask>", lstrip=True, special=True)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(KINDS[kind]()),
        model_max_length=max_length,
        model_input_names=inputs,
        **{f"{name}_token": token for name, token in names.items()},
    )
