"""openvino-genai called directly: see generation_worker.py.

Usage: run_openvino_genai.py FOLDER SETTINGS: a stateful IR, and a JSON object with ``pipeline``,
``properties`` of the device and ``scheduler``, fields of its SchedulerConfig. The pipeline is
``batching``, a ContinuousBatchingPipeline step by step, for several prompts at once; or ``llm``, an
LLMPipeline with a streamer, for one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
import openvino
import openvino_genai
from generation_worker import Answer, Generate, serve

_NO_TOKEN = 2**31 - 1  # that no vocabulary has


def load() -> Generate:
    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    scheduler = openvino_genai.SchedulerConfig()
    for name, value in settings["scheduler"].items():
        setattr(scheduler, name, value)
    if settings["pipeline"] == "batching":
        return _batching(
            openvino_genai.ContinuousBatchingPipeline(
                folder, scheduler, "CPU", settings["properties"]
            )
        )
    if settings["scheduler"]:
        settings["properties"]["scheduler_config"] = scheduler
    return _streaming(openvino_genai.LLMPipeline(folder, "CPU", settings["properties"]))


def _batching(pipeline: openvino_genai.ContinuousBatchingPipeline) -> Generate:
    def generate(prompts: list[list[int]], tokens: int, clock: Callable[[], float]) -> Answer:
        config = _greedy(tokens)
        handles = [
            pipeline.add_request(number, _tensor(prompt), config)
            for number, prompt in enumerate(prompts)
        ]
        found: list[list[int]] = [[] for _ in prompts]
        seconds: list[list[float]] = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for number, handle in enumerate(handles):
                while handle.can_read():
                    (output,) = handle.read().values()
                    found[number] += output.generated_ids
                    seconds[number] += [clock()] * len(output.generated_ids)
        return found, seconds

    return generate


def _streaming(pipeline: openvino_genai.LLMPipeline) -> Generate:
    class Times(openvino_genai.StreamerBase):
        def __init__(self, clock: Callable[[], float]) -> None:
            super().__init__()
            self.seconds: list[float] = []
            self.clock = clock

        def write(self, tokens: int | list[int]) -> openvino_genai.StreamingStatus:
            self.seconds += [self.clock()] * (1 if isinstance(tokens, int) else len(tokens))
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    def generate(prompts: list[list[int]], tokens: int, clock: Callable[[], float]) -> Answer:
        (prompt,) = prompts  # a streamer takes one
        times = Times(clock)
        result = pipeline.generate(_tensor(prompt), _greedy(tokens), times)
        return [list(result.tokens[0])], [times.seconds]

    return generate


def _greedy(tokens: int) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.ignore_eos = True
    # A folder without a config.json names no such token, which is then -1, and refused.
    config.eos_token_id = _NO_TOKEN
    config.stop_token_ids = {_NO_TOKEN}
    return config


def _tensor(ids: list[int]) -> openvino.Tensor:
    return openvino.Tensor(np.array([ids], np.int64))


serve(load)
