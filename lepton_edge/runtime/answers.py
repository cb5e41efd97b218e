"""What a generated answer is, and how it grows from its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lepton_edge.generation.request import now

if TYPE_CHECKING:
    from lepton_edge.generation.messages import ToolCall
    from lepton_edge.generation.replies import ReplyParser
    from lepton_edge.generation.request import Chunk
    from lepton_edge.generation.text import Detokenizer, StopStrings

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer and the natural logarithm of the probability that the model gave it."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Usage:
    """How many tokens a prompt and its answer have."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timing:
    """How long an answer took, in seconds from when it was asked.

    ``first_token`` is the time to the first token, ``per_token`` the mean time of each one after
    it; None for an answer that has none.
    """

    total: float
    first_token: float | None
    per_token: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first."""
        return 1 / self.per_token if self.per_token else None


@dataclass(frozen=True)
class Delta:
    """What came since the last one: any of text, thinking, tool calls, and the end.

    ``tokens`` are the ids that it was made of, which may be more than its text shows yet.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: Finish | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Completion:
    """A generated answer.

    ``text`` leaves out what the model marked as its thinking, and calls of tools, which are in
    ``thinking`` and ``tool_calls``. ``finish_reason`` is ``stop`` for an answer that the model, a
    stop string or the end of a grammar ended, ``length`` for one with as many tokens as allowed,
    ``cancelled`` otherwise. ``truncated``: the prompt lost its beginning, or a text that was to be
    translated or summarized its end. Of several answers to one prompt this is the first, and
    ``choices`` has them all. ``score`` is that of a beam search: the log-probability of the answer
    over its length to the power of the length penalty.
    """

    text: str
    finish_reason: Finish
    usage: Usage
    timing: Timing
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    truncated: bool = False
    choices: tuple[Completion, ...] = ()
    score: float | None = None

    def __str__(self) -> str:
        return self.text


class Answer:
    """One answer while it grows: tokens in, deltas out. For one thread at a time."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopStrings,
        parser: ReplyParser | None,
        stop_tokens: frozenset[int],
        prompt_tokens: int,
        truncated: bool = False,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._parser = parser
        self._stop_tokens = stop_tokens
        self._prompt_tokens = prompt_tokens
        self._truncated = truncated
        self._began = now()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []
        self._tokens: list[int] = []
        self._untold: list[int] = []  # those that no delta has told of yet
        self._logprobs: list[TokenLogprob] = []
        self._first: float | None = None
        self._last = self._began
        self._finish: Finish | None = None
        self._score: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._finish is not None

    def add(self, chunk: Chunk) -> Delta | None:
        """More of it; None where nothing can be told yet."""
        new: list[int] = []
        pieces: list[str] = []
        logprobs = [TokenLogprob(*each) for each in zip(chunk.tokens, chunk.logprobs, strict=False)]
        for token in chunk.tokens:
            new.append(token)
            if token in self._stop_tokens:
                continue  # it ends the answer, and is not part of the text
            pieces.append(self._stops.add(self._detokenizer.add(token)))
            if self._stops.found:
                break
        if chunk.tokens:
            self._first = self._first or chunk.time
            self._last = chunk.time
        self._score = chunk.score
        self._finish = "stop" if self._stops.found else chunk.finish_reason
        if self.ended:
            pieces.append(self._rest())
        self._tokens += new
        self._untold += new
        self._logprobs += logprobs[: len(new)]
        delta = self._parsed("".join(pieces), tuple(self._untold), tuple(logprobs[: len(new)]))
        if delta.text or delta.thinking or delta.tool_calls or delta.logprobs or self.ended:
            self._untold = []
            return delta
        return None

    def cancel(self) -> None:
        """It ends here, unless it is over."""
        if not self.ended:
            self._finish = "cancelled"
            self._parsed(self._rest(), (), ())

    def completion(self) -> Completion:
        """What there is of it."""
        after = len(self._tokens) - 1
        return Completion(
            text="".join(self._text),
            finish_reason=self._finish or "cancelled",
            usage=Usage(self._prompt_tokens, len(self._tokens)),
            timing=Timing(
                total=self._last - self._began,
                first_token=None if self._first is None else self._first - self._began,
                per_token=(self._last - self._first) / after if self._first and after > 0 else None,
            ),
            thinking="".join(self._thinking) or None,
            tool_calls=tuple(self._calls),
            tokens=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            truncated=self._truncated,
            score=self._score,
        )

    def _rest(self) -> str:
        """What was kept back."""
        if self._stops.found:
            return ""
        text = self._stops.add(self._detokenizer.rest())
        return text + self._stops.rest()

    def _parsed(
        self, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]
    ) -> Delta:
        said, thought = text, ""
        calls: list[ToolCall] = []
        if self._parser:
            pieces = self._parser.feed(text) if text else []
            if self.ended:
                pieces = [*pieces, *self._parser.finish()]
            said = "".join(p.text for p in pieces if p.kind == "text")
            thought = "".join(p.text for p in pieces if p.kind == "thinking")
            calls = [p.call for p in pieces if p.call is not None]
        self._text.append(said)
        self._thinking.append(thought)
        self._calls += calls
        return Delta(said, thought, tuple(calls), tokens, logprobs, self._finish)
