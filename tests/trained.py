"""Tiny tokenizers of the three kinds that encoders have, trained in a moment."""

from __future__ import annotations

from typing import Any

CORPUS = """
Ada Lovelace was born in London, in December 1815, and worked with Charles Babbage on his engine.
Das Café in der Schillerstraße öffnet um neun Uhr. El niño comió una manzana en São Paulo.
Η Αθήνα είναι η πρωτεύουσα. Москва и Санкт-Петербург. 東京は日本の首都です。北京是中国的首都。
القاهرة عاصمة مصر. ירושלים היא עיר הבירה. 서울은 대한민국의 수도이다. नई दिल्ली भारत की राजधानी है।
Who was born in London? Where does the café open, and when? The United Nations met in New York.
""".strip().split("\n")

KINDS = ("WordPiece", "byte-level BPE", "Unigram")


def trained(kind: str, size: int = 400) -> Any:
    """A `tokenizers.Tokenizer` for one text or two; padding is token 0, and there are [CLS] and
    [SEP], by the names that such tokenizers have for them."""
    from tokenizers import (
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind != "WordPiece":
        names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    _, unknown, first, last, _ = names
    trainer: Any
    if kind == "WordPiece":
        tokenizer: Any = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=names, show_progress=False
        )
    elif kind == "byte-level BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=names, unk_token=unknown, show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = {token: tokenizer.token_to_id(token) for token in (first, last)}
    if kind == "byte-level BPE":
        tokenizer.post_processor = processors.RobertaProcessing(
            (last, ends[last]), (first, ends[first]), trim_offsets=True, add_prefix_space=False
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=list(ends.items()),
        )
    return tokenizer
