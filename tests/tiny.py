"""Tiny random models: a folder like a real checkpoint's, made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEXT = "the a is was my your card new where order late good bad film bank how do i change"
WORDS = _TEXT.split()
LABELS = ("negative", "neutral", "positive")

# A configuration for each family: what is small, in the family's own words.
_COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 72,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": _COMMON | {"embedding_size": 16},
    "bert": _COMMON,
    "camembert": _COMMON,
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 0,
    },
    "distilbert": {
        "vocab_size": 64,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 72,
        "pad_token_id": 0,
    },
    "electra": _COMMON | {"embedding_size": 16},
    # A layer that sees everything, two that see four tokens to each side, and one more that sees
    # everything: what goes wrong at a padded token reaches the others through the last.
    # OpenVINO's bf16 arithmetic needs an intermediate size that is a multiple of 32 here.
    "modernbert": _COMMON
    | {
        "num_hidden_layers": 4,
        "global_attn_every_n_layers": 3,
        "local_attention": 8,
        "intermediate_size": 64,
    },
    "mpnet": _COMMON,
    "roberta": _COMMON,
    "xlm-roberta": _COMMON,
}


def save_tiny(
    family: str, folder: Path, head: str = "AutoModelForSequenceClassification", **changes: Any
) -> Path:
    """Write a random model of a family, with a word-level tokenizer, to a new folder."""
    import torch
    import transformers

    options = {**FAMILIES[family], **changes}
    if head == "AutoModelForSequenceClassification":
        options.setdefault("id2label", dict(enumerate(LABELS)))
        options.setdefault("label2id", {label: i for i, label in enumerate(LABELS)})
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **options)
    model = getattr(transformers, head).from_config(config).eval()
    for parameter in model.parameters():
        # Larger than the usual start, so that answers differ visibly between texts.
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """Words of ``WORDS``, characters of nothing else; [PAD] is 0."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
