"""A text's embedding with OpenVINO and tokenizers alone, on the IR of a bundle."""

import sys

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

ir, tokenizer_file, text = sys.argv[1:]
tokenizer = Tokenizer.from_file(tokenizer_file)
tokenizer.no_padding()
model = ov.Core().compile_model(ir, "CPU")
encoding = tokenizer.encode(text)
values = {
    "input_ids": encoding.ids,
    "attention_mask": encoding.attention_mask,
    "token_type_ids": encoding.type_ids,
}
inputs = {port: np.array([values[port.get_any_name()]]) for port in model.inputs}
print(model(inputs)[0][0, :4])
