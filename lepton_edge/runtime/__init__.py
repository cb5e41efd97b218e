"""Opening a bundle on this machine. Light: no torch, no transformers, nothing of the builder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from lepton_edge import registry
from lepton_edge.bundle import TOKENIZER, Bundle, open_bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.errors import BackendError, BundleError
from lepton_edge.runtime.batching import DEFAULT
from lepton_edge.runtime.model import Model
from lepton_edge.runtime.profile import Profile, read_profile
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.storage import cache_directory
from lepton_edge.target import TARGETS
from lepton_edge.tasks import task_class

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Session
    from lepton_edge.bundle.manifest import Artifact, File
    from lepton_edge.tasks.base import Task

T = TypeVar("T")


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    verify: Verify = "cached",
    warm_up: bool | None = None,
    profile: Profile | Literal["beside"] | None = "beside",
) -> Model:
    """Open a bundle folder on this machine.

    ``device`` is a target's name (`intel-cpu`) or a device that ``lepton-edge backends`` lists
    (`CPU`); by default the first artifact that opens here is used. Every file that will be read
    is hashed against the manifest first: once for as long as its size and times stay the same,
    or each time with ``verify="always"``. ``warm_up`` answers one sentence before returning; by
    default only generators do. ``profile`` is what `lepton-edge tune` found best: by default the
    one beside the bundle, where it is of this artifact and this machine; None for the bundle's own
    settings.

    Raises `BundleError`, `IntegrityError`, `BackendError`.
    """
    bundle = open_bundle(path)
    task = task_class(bundle.manifest.task).from_manifest(bundle.manifest.task_config)
    reasons: list[str] = []
    for artifact in _candidates(bundle, device):
        try:
            backend = registry.get(artifact.backend)
            tuned = read_profile(bundle.path, artifact, backend) if profile == "beside" else profile
            session, encoder = _open(bundle, task, artifact, device, verify, backend, tuned)
        except BackendError as error:
            reasons.append(f"{artifact.target} ({artifact.backend}): {error}")
            continue
        try:
            limits = tuned.limits if tuned else DEFAULT
            model = Model(bundle.manifest, session, encoder, task, limits, tuned)
            if task.warm_up if warm_up is None else warm_up:
                model.warm_up()
        except BaseException:
            session.close()
            raise
        return model
    raise BackendError(
        f"{path} cannot be opened on this machine:\n  " + "\n  ".join(reasons),
        hint="lepton-edge doctor shows what this machine has",
    )


def _candidates(bundle: Bundle, device: str | None) -> list[Artifact]:
    """The artifacts to try. A device that is no target's name is for the backends to judge."""
    artifacts = bundle.manifest.artifacts
    if not artifacts:
        raise BundleError(f"{bundle.path} has no artifact", hint="build the bundle again")
    named = [artifact for artifact in artifacts if artifact.target == device]
    if device in TARGETS and not named:
        raise BackendError(
            f"{bundle.path} was not built for {device}; "
            f"it has {', '.join(artifact.target for artifact in artifacts)}",
            hint=f"lepton-edge build … --target {device}",
        )
    return named or list(artifacts)


def _open(
    bundle: Bundle,
    task: Task[Any, Any],
    artifact: Artifact,
    device: str | None,
    verify: Verify,
    backend: Backend,
    profile: Profile | None,
) -> tuple[Session, TextEncoder]:
    """Verify the files that will be read, then open the session and the tokenizer side by side:
    compiling takes most of a start and leaves the interpreter free."""
    needed = bundle.files_of(artifact)
    if not needed or TOKENIZER not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path} lists no files for {artifact.target}", hint="build it again"
        )
    needed[TOKENIZER] = bundle.manifest.files[TOKENIZER]
    check_files(bundle.path, needed, verify)
    named = None if device == artifact.target else device
    tokenizer = _Background(
        lambda: TextEncoder(bundle.path / TOKENIZER, bundle.manifest.text, task.tokenization())
    )
    cache = cache_directory() / "artifacts" / _key(needed)
    compiled = artifact.compiled
    if profile and profile.settings:
        settings = {**compiled.settings, **profile.settings}
        compiled = msgspec.structs.replace(compiled, settings=settings)
    session = backend.load(bundle.path / artifact.directory, compiled, named, cache)
    try:
        return session, tokenizer.result()
    except BaseException:
        session.close()
        raise


def _key(files: Mapping[str, File]) -> str:
    """The name of the cache of these very files, whose digests were just verified.

    Of each digest as much as fits in a file name, rather than a digest of them: hashlib alone
    maps 3 MB.
    """
    share = max(200 // len(files), 1)
    return "".join(files[name].sha256[:share] for name in sorted(files))


class _Background(Generic[T]):
    """One call in a thread of its own. Less to import than concurrent.futures."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> T:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
