"""Text ranking: documents in the order in which they answer a query, by a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lepton_edge.errors import InputError, SourceError
from lepton_edge.tasks.base import Dimensions, Facts, Task, check_count, read_mapping, sigmoid
from lepton_edge.tasks.labels import check_labels, labels_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors
    from lepton_edge.runtime.text import TextEncoder, Tokens

Activation = Literal["sigmoid", "identity"]
_SHOWN = 100  # characters of a document on a line of the terminal


@dataclass(frozen=True)
class QueryDocuments:
    """A query, and the documents to rank for it."""

    query: str
    documents: Sequence[str]


@dataclass(frozen=True)
class RankedDocument:
    """A document and how well it answers the query.

    ``index`` is its place among those given, from 0. ``score`` is a probability, 0 to 1, or with
    the activation ``identity`` the model's own number. ``truncated``: the query and the document
    were longer than the model takes together.
    """

    index: int
    score: float
    text: str
    truncated: bool = False

    def __str__(self) -> str:
        text = " ".join(self.text.split())
        cut = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        note = "  (text truncated)" if self.truncated else ""
        return f"{self.score:7.4f}  {cut}{note}"


@dataclass(frozen=True)
class Ranking:
    """The documents, best first; of equal ones the earlier comes first."""

    documents: tuple[RankedDocument, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.documents))


@dataclass(frozen=True)
class TextRankingOptions:
    """``task_options`` of a recipe for text-ranking."""

    labels: tuple[str, ...] | None = None
    """The outputs' names in their order; the model's own where absent."""
    relevant: str | None = None
    """With several outputs: the label whose probability (softmax) is the score."""
    activation: Activation | None = None
    """With one output: the score is its sigmoid, or with `identity` the output itself. What
    sentence-transformers says in config.json where absent, else `sigmoid`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a ClassVar to pydantic)


@dataclass(frozen=True)
class TextRankingConfig:
    """The manifest's block."""

    labels: tuple[str, ...]
    """The outputs' names in their order."""
    relevant: int
    """The place of the output that is the score, from 0."""
    activation: Activation
    """What makes it a score: with several outputs, `sigmoid` is their softmax."""

    def __post_init__(self) -> None:
        if not 0 <= self.relevant < len(self.labels):
            raise ValueError(f"relevant is {self.relevant}: there are {len(self.labels)} labels")


@dataclass(frozen=True)
class TextRankingParameters:
    """What a call may give."""

    top_k: int | None = None
    """How many documents come back; all where None."""

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k, optional="for all documents")


class TextRanking(Task[QueryDocuments, Ranking]):
    """Reads ``logits`` of shape [batch, 1], or [batch, labels] where one label means relevant."""

    name: ClassVar[str] = "text-ranking"
    outputs: ClassVar[Mapping[str, Dimensions]] = {"logits": ("batch", "size")}
    fields: ClassVar[tuple[str, ...]] = ("query", "documents")
    Options = TextRankingOptions
    Config = TextRankingConfig
    Parameters = TextRankingParameters
    config: TextRankingConfig

    @staticmethod
    def configure(options: TextRankingOptions, facts: Facts) -> TextRankingConfig:
        labels = labels_from(options.labels or (None if facts.labels else ("relevance",)), facts)
        if options.relevant is not None and options.relevant not in labels:
            raise SourceError(
                f"task_options.relevant is {options.relevant!r}; "
                f"the model's labels are {', '.join(labels)}",
                hint="name one of these",
            )
        if len(labels) == 1:
            return TextRankingConfig(labels, 0, options.activation or facts.activation or "sigmoid")
        if options.activation is not None:
            raise SourceError(
                f"task_options.activation is for models of one output; this one has {len(labels)}",
                hint="leave it out: the score is the softmax",
            )
        if options.relevant is None:
            raise SourceError(
                f"the model has {len(labels)} outputs, {', '.join(labels)}: "
                "which of them is high for a relevant document?",
                hint="task_options: {relevant: LABEL}; or if it is no ranker, "
                "--task text-classification",
            )
        return TextRankingConfig(labels, labels.index(options.relevant), "sigmoid")

    def read_input(self, given: object, position: int) -> QueryDocuments:
        asked = read_mapping(QueryDocuments, self.name, given, position)
        listed: object = asked.documents
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise InputError(
                f"input {position}: documents is of type {type(listed).__name__}: "
                "it is a list of texts"
            )
        if not listed:
            raise InputError(f"input {position}: documents is empty")
        names = _names(position)
        for index, text in enumerate((asked.query, *listed)):
            if not isinstance(text, str):
                raise InputError(f"{names(index)} is of type {type(text).__name__}: it is text")
        return asked

    def characters(self, given: QueryDocuments, parameters: TextRankingParameters) -> int:
        """Of all pairs: the query goes with every document."""
        return len(given.query) * len(given.documents) + sum(map(len, given.documents))

    def tokenize(
        self,
        inputs: Sequence[QueryDocuments],
        encoder: TextEncoder,
        parameters: TextRankingParameters,
        first: int,
    ) -> list[list[Tokens]]:
        """Of each input as many sequences as documents. Each text is tokenized once."""
        groups: list[list[Tokens]] = []
        for position, given in enumerate(inputs, first):
            names = _names(position)
            query, *documents = encoder.parts([given.query, *given.documents], names)
            pairs = enumerate(documents, 1)
            groups.append(
                [encoder.join(query, each, (names(0), _document(index))) for index, each in pairs]
            )
        return groups

    def read(
        self, outputs: Tensors, sequences: Sequence[Tokens], parameters: TextRankingParameters
    ) -> Sequence[Any]:
        """Of each pair one number: of several outputs, the log of the odds of the relevant one.

        Odds rather than probabilities, which are all 1 for the best documents in 32 bits.
        """
        import numpy as np

        logits: Any = outputs["logits"]
        check_labels(logits, self.config.labels)
        relevant = logits[:, self.config.relevant]
        if logits.shape[1] == 1:
            return list(relevant)
        others = np.delete(logits, self.config.relevant, axis=1)
        highest = others.max(axis=1)
        rest = np.log(np.exp(others - highest[:, None]).sum(axis=1)) + highest
        return list(relevant - rest)

    def result(
        self,
        given: QueryDocuments,
        sequences: Sequence[Tokens],
        values: Sequence[Any],
        parameters: TextRankingParameters,
    ) -> Ranking:
        import numpy as np

        numbers = np.array(values)
        scores = sigmoid(numbers) if self.config.activation == "sigmoid" else numbers
        order = (-numbers).argsort(kind="stable")[: parameters.top_k]
        return Ranking(
            tuple(
                RankedDocument(i, float(scores[i]), given.documents[i], sequences[i].truncated)
                for i in order.tolist()
            )
        )

    def examples(self, texts: Sequence[str]) -> tuple[list[QueryDocuments], TextRankingParameters]:
        """Each text as a document for one query, the shortest of them."""
        query = min(texts, key=len)
        return [QueryDocuments(query, (text,)) for text in texts], TextRankingParameters()

    def labels_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.generic] | None:
        """The best label of a pair; None for a model of one output, which has nothing to choose."""
        if len(self.config.labels) == 1:
            return None
        best: NDArray[np.generic] = outputs["logits"].argmax(axis=-1, keepdims=True)
        return best[None]


def _names(position: int) -> Any:
    """The names, for messages, of an input's query (0) and documents (from 1)."""
    return lambda index: f"input {position}: {_document(index) if index else 'the query'}"


def _document(index: int) -> str:
    return f"document {index}"
