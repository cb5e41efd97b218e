"""A tiny random chat model as a folder: a byte-level tokenizer, special tokens, a chat template."""

from __future__ import annotations

from pathlib import Path

from tests.decoders import tiny_decoder

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
{%- if enable_thinking is defined and enable_thinking %}{{ '<think>\\n' }}{% endif %}
{#- calls are written as <tool_call>…</tool_call> -#}
"""
END = 257  # <|im_end|>
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
VOCABULARY = 256 + len(SPECIAL)


def save_chat_model(
    folder: Path, *, template: str | None = TEMPLATE, family: str = "qwen2"
) -> Path:
    """Write the model to a new folder. Each byte is a token."""
    model = tiny_decoder(
        family,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END + 1,
    )
    model.generation_config.eos_token_id = [END, END + 1]
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def tokenizer(template: str | None = TEMPLATE) -> object:
    """Bytes, each a token, and the special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        model_max_length=512,
    )
