"""A decoder's vocabulary in the form that openvino-genai takes for answers held to a grammar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.errors import BackendError
from lepton_edge_openvino.library import openvino

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_edge.backend import Vocabulary

# The files that openvino-genai looks for.
GENERATIVE_MODEL = "openvino_model.xml"
TOKENIZER = "openvino_tokenizer.xml"
DETOKENIZER = "openvino_detokenizer.xml"


def write_vocabulary(vocabulary: Vocabulary, file: Path) -> None:
    """Write a detokenizer that holds the bytes of each token, and nothing else of a tokenizer.

    openvino-genai gives the constants of its `VocabDecoder` to the grammar engine, which takes each
    token for these very bytes; text is made by the core. One that openvino-tokenizers converts
    holds the tokens' own writing for some tokenizers, such as ``▁do`` and ``<0x7B>``, which fit no
    grammar.

    Raises `BackendError`.
    """
    library = openvino()
    try:
        from openvino_tokenizers import _get_factory
    except ImportError as error:
        raise BackendError(
            f"openvino-tokenizers cannot be imported: {error}",
            hint="pip install openvino-tokenizers, of the version that openvino has",
        ) from error
    import numpy as np
    from openvino import opset15 as ops

    factory = _get_factory()
    ids = ops.parameter([-1, -1], np.int64, name="ids")
    # What is skipped may not be empty: openvino-genai's own changes to the model fail then
    # (2026.4.1).
    skipped = ops.constant(np.array(vocabulary.end or (0,), np.int32))
    decoded = factory.create(
        "VocabDecoder",
        [ops.convert(ids, "i32").output(0), *_packed(vocabulary.tokens), skipped.output(0)],
        {},
    )
    whole = factory.create("FuzeRagged", decoded.outputs()[:4], {})
    text = ops.string_tensor_pack(whole.output(0), whole.output(1), decoded.output(4))
    text.output(0).get_tensor().set_names({"text"})
    model = library.Model([text.output(0)], [ids], "detokenizer")
    if vocabulary.end:
        model.set_rt_info(vocabulary.end[0], "eos_token_id")
    for place, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{place}")
    library.save_model(model, str(file), compress_to_fp16=False)


def end_tokens(file: Path) -> tuple[int, ...]:
    """The token that ends an answer, by what `write_vocabulary` wrote, if there is such a file.

    openvino-genai does not say it: it asks a tokenizer, of which there is none (2026.4.1).
    """
    from xml.etree import ElementTree

    if not file.is_file():
        return ()
    try:
        found = ElementTree.parse(file).find("rt_info/eos_token_id")
    except ElementTree.ParseError as error:
        raise BackendError(f"{file} cannot be read: {error}", hint="build it again") from error
    return () if found is None else (int(found.attrib["value"]),)


def write_tokenizer(file: Path) -> None:
    """Write a tokenizer that takes every text for one token. The core makes tokens; openvino-genai
    only asks whether a model's and its draft's tokenizers give the same."""
    import numpy as np
    from openvino import opset15 as ops

    library = openvino()
    text = ops.parameter([-1], dtype=library.Type.string, name="text")
    begins = ops.string_tensor_unpack(text).output(0)
    rows = ops.shape_of(begins, output_type="i64")
    shape = ops.concat([rows, ops.constant(np.array([1], np.int64))], axis=0)
    results = []
    for name, value in (("input_ids", 0), ("attention_mask", 1)):
        tokens = ops.broadcast(ops.constant(np.int64(value)), shape)
        tokens.output(0).get_tensor().set_names({name})
        results.append(ops.result(tokens))
    model = library.Model(results, [text], "tokenizer")
    _number(model)
    library.save_model(model, str(file), compress_to_fp16=False)


def _number(model: Any) -> None:
    """Names by place: the same bytes, whatever was made before."""
    for place, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{place}")


def _packed(tokens: Sequence[bytes]) -> list[Any]:
    """Where each one begins and ends, and all of them."""
    import numpy as np
    from openvino import opset15 as ops

    ends = np.cumsum([len(token) for token in tokens]).astype(np.int32)
    begins = np.concatenate([np.zeros(1, np.int32), ends[:-1]])
    letters = np.frombuffer(b"".join(tokens), np.uint8)
    return [ops.constant(each).output(0) for each in (begins, ends, letters)]
