"""llama.cpp through the C interface of llama-cpp-python: see generation_worker.py.

Usage: run_llama_cpp.py FILE.gguf SETTINGS, a JSON object with ``threads``, ``context`` (the most
tokens of prompt and answer) and ``weights``, what becomes of the file's weights when it is opened:
``plain``, with `use_extra_bufts=False`, leaves them as they are; ``repacked`` also lays them out
for vector instructions; ``default`` is llama.cpp's own choice, which is the layout for AMX where
the processor has it. The class `llama_cpp.Llama` has no word for it, and copies every step's logits
in Python, which would count against llama.cpp.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
from generation_worker import Answer, Generate, serve

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_MATRICES = rb"blk\..*(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)\.weight"


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override: the tensors of a pattern go to a kind of buffer."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer", ctypes.c_void_p))


def load() -> Generate:
    file, settings = sys.argv[1], json.loads(sys.argv[2])
    llama_cpp.llama_backend_init()
    of_model = llama_cpp.llama_model_default_params()
    of_model.n_gpu_layers = 0
    of_model.use_extra_bufts = settings["weights"] == "default"
    if settings["weights"] == "repacked":
        overrides = (_Override * 2)(_Override(_MATRICES, _buffer(b"CPU_REPACK")))  # ends with NULL
        of_model.tensor_buft_overrides = ctypes.addressof(overrides)
    model = llama_cpp.llama_model_load_from_file(file.encode(), of_model)
    if not model:
        raise SystemExit(f"llama.cpp cannot open {file}")
    of_context = llama_cpp.llama_context_default_params()
    of_context.n_ctx = of_context.n_batch = settings["context"]
    of_context.n_threads = of_context.n_threads_batch = settings["threads"]
    context = llama_cpp.llama_init_from_model(model, of_context)
    if not context:
        raise SystemExit(f"llama.cpp cannot make a context of {settings['context']} tokens")
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return _generate(context, vocabulary)


def _generate(context: Any, vocabulary: int) -> Generate:
    def step(tokens: list[int]) -> int:
        """The most likely token after these and those before."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        if status:
            raise SystemExit(f"llama.cpp cannot go on: llama_decode gives {status}")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, (vocabulary,)).argmax())

    def generate(prompts: list[list[int]], tokens: int, clock: Callable[[], float]) -> Answer:
        (given,) = prompts  # one at a time
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        found: list[int] = []
        seconds: list[float] = []
        for _ in range(tokens):
            given = [step(given)]
            found += given
            seconds.append(clock())
        return [found], [seconds]

    return generate


def _buffer(name: bytes) -> int:
    """A kind of buffer that the CPU has beside the usual one, through ggml-backend.h."""
    from llama_cpp._ggml import libggml

    def function(name: str, result: Any, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *arguments)((name, libggml))

    pointer = ctypes.c_void_p
    device = function("ggml_backend_dev_by_type", pointer, ctypes.c_int)(_CPU)
    registry = function("ggml_backend_dev_backend_reg", pointer, pointer)(device)
    find = function("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    list_all = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)
    name_of = function("ggml_backend_buft_name", ctypes.c_char_p, pointer)
    found = {}
    for buffer in list_all(device):
        if buffer is None:
            break
        found[name_of(buffer)] = buffer
    if name not in found:
        raise SystemExit(f"this llama.cpp has no buffer {name!r}, only {list(found)}")
    return int(found[name])


serve(load)
