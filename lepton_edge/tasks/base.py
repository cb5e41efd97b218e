"""What a task is: how a model's outputs become results that people can use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from lepton_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Facts:
    """What a source says about its model; the build turns it into the task's ``Config``.

    ``labels`` are in the order of the outputs. ``pooling`` and ``normalize`` are None where the
    source does not say, or has them in its graph already.
    """

    labels: tuple[str, ...] | None = None
    multi_label: bool | None = None
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool | None = None


class Task(ABC, Generic[R_co]):
    """One task of one model. Stateless after it is made, so safe from many threads.

    ``Options`` is the task's block in a recipe and ``Config`` its block in a manifest: frozen
    dataclasses both. ``output`` names the tensor that the task reads.
    """

    name: ClassVar[str]
    output: ClassVar[str]
    warm_up: ClassVar[bool] = False
    Options: ClassVar[type]
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def from_manifest(cls, config: Mapping[str, Any]) -> Self:
        """Raises `BundleError` where the manifest's block does not fit this task."""
        try:
            return cls(msgspec.convert(config, cls.Config))
        except msgspec.ValidationError as error:
            raise BundleError(
                f"the manifest's task_config does not fit {cls.name}: {error}",
                hint="build or copy the bundle again",
            ) from None

    @staticmethod
    @abstractmethod
    def configure(options: Any, facts: Facts) -> Any:
        """The ``Config`` from the recipe's options and the source's facts: options win.

        Raises `SourceError` where both leave something open.
        """

    @abstractmethod
    def results(
        self, output: NDArray[np.float32], truncated: Sequence[bool], **options: Any
    ) -> list[R_co]:
        """The results of a batch: ``output`` has one row a text, ``truncated`` one flag a text."""

    def labels_of(self, output: NDArray[np.float32]) -> NDArray[np.generic] | None:
        """What the parity gate compares for equality, one row a text; None without labels."""
        return None


def refuse_options(task: str, unknown: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that a call gave and the task does not have."""
    if unknown:
        raise InputError(f"{task} has no option {', '.join(map(repr, unknown))}")
