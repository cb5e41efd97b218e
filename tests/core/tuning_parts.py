"""A backend whose sessions take as long as a script says, by a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from lepton_edge import registry
from lepton_edge.backend import Compiled, Setting
from lepton_edge.bundle import Bundle
from lepton_edge.errors import BackendError
from lepton_edge.testing import FakeBackend, FakeSession, write_fake_distribution
from tests.core.parts import rewrite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

Cost = Callable[[Mapping[str, Setting], int, int], float]
"""Seconds of an inference: with these settings, of so many rows of so many tokens."""


def by_tokens(settings: Mapping[str, Setting], rows: int, tokens: int) -> float:
    """1 ms a token, and 20 ms for each call."""
    return 0.02 + 1e-3 * rows * tokens


@dataclass
class Script:
    """What the backend's sessions do. ``clock`` is theirs."""

    space: list[dict[str, Setting]] = field(default_factory=list)
    cost: Cost = by_tokens
    version: str = "1.0"
    device: str = "FAKE"
    refused: list[dict[str, Setting]] = field(default_factory=list)
    """Settings that cannot be opened."""
    opened: list[dict[str, Setting]] = field(default_factory=list)
    now: float = 0.0
    open_now: int = 0
    most_open: int = 0

    def clock(self) -> float:
        return self.now


SCRIPT = Script()


class ScriptedBackend(FakeBackend):
    """`FakeBackend`, as ``SCRIPT`` says."""

    name: ClassVar[str] = "scripted"

    def version(self) -> str:
        return SCRIPT.version

    def tunings(self, compiled: Compiled) -> Sequence[Mapping[str, Setting]]:
        return SCRIPT.space

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> FakeSession:
        settings = dict(compiled.settings)
        if settings in SCRIPT.refused:
            raise BackendError(f"the device refused {settings}")
        plain = super().load(directory, compiled, device, cache)
        plain.close()
        SCRIPT.opened.append(settings)
        return ScriptedSession(compiled, 0)


class ScriptedSession(FakeSession):
    """Takes its time."""

    def __init__(self, compiled: Compiled, seed: int) -> None:
        super().__init__(compiled, seed)
        self.settings = dict(compiled.settings)
        self.device = SCRIPT.device
        self.details = {"compute": "fp32", "streams": int(self.settings.get("streams", 1))}
        self._open = True
        SCRIPT.open_now += 1
        SCRIPT.most_open = max(SCRIPT.most_open, SCRIPT.open_now)

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        SCRIPT.now += SCRIPT.cost(self.settings, *feeds["input_ids"].shape)
        return super().infer(feeds)

    def close(self) -> None:
        SCRIPT.open_now -= self._open
        self._open = False
        super().close()


@contextmanager
def scripted(folder: Path) -> Iterator[Script]:
    """A new script, and the backend registered by a distribution in ``folder``, on the path."""
    write_fake_distribution(
        folder, backend="scripted", points_to="tests.core.tuning_parts:ScriptedBackend"
    )
    registry._load.cache_clear()
    fresh = Script()
    SCRIPT.__dict__.update(fresh.__dict__)
    yield SCRIPT
    registry._load.cache_clear()


def for_scripted(bundle: Bundle, **settings: Setting) -> Bundle:
    """The bundle, with its artifact for the scripted backend."""
    artifact = bundle.manifest.artifacts[0]
    compiled = artifact.compiled.with_settings(settings)
    artifact = msgspec.structs.replace(artifact, backend="scripted", compiled=compiled)
    return rewrite(bundle, artifacts=(artifact,))
