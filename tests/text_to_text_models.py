"""Tiny random encoder-decoder models as folders like real checkpoints', each with a tokenizer of
its family's own class."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

from lepton_edge.builder.sentences import PROSE, SENTENCES
from tests.encoder_decoders import tiny_encoder_decoder

NLLB_LANGUAGES = ("eng_Latn", "fra_Latn", "deu_Latn", "fin_Latn")
MARIAN_TARGETS = ("fra", "deu", "por")
LENGTH = 96
MORE = 20
_LETTERS = [*string.ascii_letters, *string.digits, *".,'-éàüß"]
_SPACE = "▁"


def save_text_to_text(folder: Path, family: str, **changes: Any) -> Path:
    """Write a random model with its tokenizer to a new folder. ``changes`` are of the model's
    configuration; those of `generation_config.json` are under ``generation``."""
    generation = changes.pop("generation", {})
    tokenizer = TOKENIZERS[family](folder)
    architecture = "m2m_100" if family == "nllb" else family.split("-", maxsplit=1)[0]
    tokens: dict[str, Any] = {
        "vocab_size": _size(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    if architecture in ("t5", "marian"):
        tokens["decoder_start_token_id"] = tokenizer.pad_token_id
    if architecture == "marian":
        tokens["decoder_vocab_size"] = len(tokenizer)
    if architecture == "t5":
        # transformers' defaults for what is absent are those of the task.
        tokens["task_specific_params"] = T5_TASKS
    model = tiny_encoder_decoder(architecture, **{**tokens, **changes})
    settings = {"no_repeat_ngram_size": 3, "max_new_tokens": MORE, **generation}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _size(tokenizer: Any) -> int:
    ids = [*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder]
    return max(ids + list(getattr(tokenizer, "lang_token_to_id", {}).values())) + 1


T5_TASKS = {
    "summarization": {
        "prefix": "summarize: ",
        "min_length": 9,
        "max_length": 19,
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
    },
    "translation_en_to_de": {
        "prefix": "translate English to German: ",
        "max_length": 15,
        "num_beams": 4,
        "early_stopping": True,
    },
    "translation_en_to_fr": {
        "prefix": "translate English to French: ",
        "max_length": 17,
        "num_beams": 1,
    },
}


def _t5(folder: Path) -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(_SPACE, -2.0), *((letter, -3.0) for letter in _LETTERS)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=LENGTH)


def _nllb(folder: Path) -> Any:
    from transformers import NllbTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", _SPACE, *_LETTERS]
    return NllbTokenizer(
        vocab={piece: place for place, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens=list(NLLB_LANGUAGES),
    )


def _mbart(folder: Path) -> Any:
    from transformers import MBartTokenizer

    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(_SPACE, -2.0), *((letter, -3.0) for letter in _LETTERS)]
    return MBartTokenizer(vocab=[*special, *pieces])


def _bart(folder: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: place for place, piece in enumerate([*special, *letters])}
    inner: Any = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )


def _marian(folder: Path, targets: tuple[str, ...] = ()) -> Any:
    """Over SentencePiece models that are trained here, the other side's on texts in reverse."""
    from transformers import MarianTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for text in (*PROSE, *SENTENCES[:12]) for line in text.split(". ")]
    source = _trained(folder / "source.spm", lines, "unigram")
    target = _trained(folder / "target.spm", [line[::-1] for line in lines], "unigram")
    pieces = ["</s>", "<unk>", *(f">>{code}<<" for code in targets)]
    pieces += [each for each in sorted({*source, *target}) if each not in ("<s>", "</s>", "<unk>")]
    vocabulary = {piece: place for place, piece in enumerate([*pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    return MarianTokenizer(*files, model_max_length=LENGTH)


def _m2m(folder: Path) -> Any:
    from transformers import M2M100Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sentencepiece.bpe.model"
    lines = [line for text in (*PROSE, *SENTENCES[:12]) for line in text.split(". ")]
    pieces = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces += [each for each in _trained(file, lines, "bpe") if each not in pieces]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return M2M100Tokenizer(str(folder / "vocab.json"), str(file))


def _trained(file: Path, lines: list[str], kind: str) -> list[str]:
    """Train a SentencePiece model, and give its pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        vocab_size=300,
        hard_vocab_limit=False,
        character_coverage=0.99,
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())
    opened = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [opened.id_to_piece(place) for place in range(opened.get_piece_size())]


TOKENIZERS = {
    "t5": _t5,
    "bart": _bart,
    "mbart": _mbart,
    "nllb": _nllb,
    "m2m_100": _m2m,
    "marian": _marian,
    "marian-many": lambda folder: _marian(folder, MARIAN_TARGETS),
}
