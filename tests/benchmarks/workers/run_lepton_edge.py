"""lepton-edge through its own API: see generation_worker.py.

Usage: run_lepton_edge.py BUNDLE OPTIONS, a JSON object with what `lepton_edge.load` is given beside
the bundle. Tokens go in as ids, so that all have the same prompts; what comes out is a stream's
deltas, text among them, and a token is there when the delta that tells of it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from threading import Thread

import openvino_genai  # noqa: F401  (`loaded` is without the time that this takes)
from generation_worker import Answer, Generate, serve

import lepton_edge
from lepton_edge.generation.request import Request
from lepton_edge.generation.text import Detokenizer, StopStrings
from lepton_edge.runtime import answers
from lepton_edge.runtime.generative_model import GenerativeModel, TextStream
from lepton_edge.runtime.prompts import Prompt


def load() -> Generate:
    model = lepton_edge.load(sys.argv[1], **json.loads(sys.argv[2]))
    if not isinstance(model, GenerativeModel):
        raise SystemExit(f"{sys.argv[1]} generates no text")

    def generate(prompts: list[list[int]], tokens: int, clock: Callable[[], float]) -> Answer:
        asked = [_prompt(model, prompt, tokens) for prompt in prompts]
        streams = [stream for (stream,) in model._begin(asked)]
        found: list[list[int]] = [[] for _ in prompts]
        seconds: list[list[float]] = [[] for _ in prompts]

        def read(number: int, stream: TextStream) -> None:
            for delta in stream:
                seconds[number] += [clock()] * len(delta.tokens)
                found[number] += delta.tokens

        if len(streams) == 1:
            read(0, streams[0])
        else:
            readers = [Thread(target=read, args=each) for each in enumerate(streams)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
        return found, seconds

    return generate


def _prompt(model: GenerativeModel, ids: list[int], tokens: int) -> Prompt:
    """As the model reads a text, less its tokens' making and what would end an answer early."""
    decode = model.prompts.encoder.decode
    return Prompt(
        (Request(ids, tokens),),
        lambda: answers.Answer(
            Detokenizer(decode, ids), StopStrings(()), None, frozenset(), len(ids)
        ),
    )


serve(load)
