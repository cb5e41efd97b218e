"""What the generation workers share: they open a model once and then answer over pipes.

A worker writes a line of JSON when its model is open, ``{"loaded": seconds}``, and one for each
line that it reads: ``{"prompts": [[id, ...], ...], "tokens": n}`` is answered by as many greedy
tokens for each prompt, ends of text among them, and when each token was there, in seconds since the
line was read: ``{"tokens": [[id, ...], ...], "seconds": [[...], ...]}``. It ends with its input, or
with its parent.

Nothing but the standard library: a worker may run in an environment of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Answer = tuple[list[list[int]], list[list[float]]]
Generate = Callable[[list[list[int]], int, Callable[[], float]], Answer]
"""Prompts, how many tokens, and a clock that is 0 when the request came."""

_PR_SET_PDEATHSIG = 1


def serve(load: Callable[[], Generate]) -> None:
    """Open the model and answer until the input ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be followed
        return
    # The libraries may print: the answers have a pipe of their own, and the rest is for the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = time.perf_counter()
    generate = load()
    _write(answers, {"loaded": time.perf_counter() - start})
    for line in sys.stdin:
        start = time.perf_counter()
        request = json.loads(line)
        tokens, seconds = generate(
            request["prompts"], request["tokens"], lambda start=start: time.perf_counter() - start
        )
        _write(answers, {"tokens": tokens, "seconds": seconds})


def _write(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
