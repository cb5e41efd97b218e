"""Opening a bundle on this machine. Light: no torch, no transformers, nothing of the builder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from lepton_edge.bundle import TOKENIZER, Bundle, open_bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.errors import BackendError, DeferredError, InputError
from lepton_edge.runtime.batching import DEFAULT
from lepton_edge.runtime.choice import cache_of, device_of, files_to_read, first_to_open
from lepton_edge.runtime.profile import Profile, fits, read_profile
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.tasks import session_task, task_class
from lepton_edge.tasks.base import Task

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Session, Setting
    from lepton_edge.bundle.manifest import Artifact
    from lepton_edge.runtime.model import Model
    from lepton_edge.tasks.base import AnyTask

T = TypeVar("T")


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    verify: Verify = "cached",
    warm_up: bool | None = None,
    profile: Profile | Literal["beside"] | None = "beside",
    finalize: bool = False,
    cache_tokens: int | None = None,
    adapters: Mapping[str, str | os.PathLike[str]] | None = None,
    draft: str | os.PathLike[str] | None = None,
    prompt_lookup: bool = False,
) -> Model:
    """Open a bundle folder on this machine.

    ``device`` is a target's name (`intel-cpu`) or a device that ``lepton-edge backends`` lists
    (`CPU`); by default the first artifact that opens here is used. Every file that will be read
    is hashed against the manifest first: once for as long as its size and times stay the same,
    or each time with ``verify="always"``. ``warm_up`` answers one sentence before returning; by
    default only generators do. ``profile`` is what `lepton-edge tune` found best: by default the
    one beside the bundle, or one kept elsewhere (`Profile.read`); None for the bundle's own
    settings. One that was not measured on this artifact and this machine is passed over: the
    model's ``profile`` is the one that is used. ``finalize`` compiles a deferred artifact that was
    not compiled on this device yet, which can take minutes: see `lepton_edge.finalize`.

    The rest is for text-generation. ``cache_tokens`` is how many tokens the key-value
    cache holds, of all the answers at a time and of earlier conversations; by default as many as
    four of the longest texts, as far as memory allows. ``adapters`` are LoRA adapters by name,
    each a safetensors file or a folder of PEFT's, in place of those of the bundle; a call chooses.
    ``draft`` is another bundle, of a small model with the same vocabulary, whose guesses this one
    checks; ``prompt_lookup`` guesses from the prompt: answers are the same, and come sooner where
    the guesses are good.

    Raises `BundleError`, `IntegrityError`, `BackendError`; `DeferredError` where only a deferred
    artifact is for this device, and it was not compiled yet.
    """
    generating: dict[str, Any] = {
        "cache_tokens": cache_tokens,
        "adapters": adapters,
        "draft": draft,
        "prompt_lookup": prompt_lookup,
    }
    if finalize:
        return _load_finalized(
            path, device, verify=verify, warm_up=warm_up, profile=profile, **generating
        )
    bundle = open_bundle(path)
    task = task_class(bundle.manifest.task).from_manifest(bundle.manifest.task_config)
    model: Model
    if bundle.manifest.task == "text-generation":
        from lepton_edge.runtime.generative import open_generative

        model = open_generative(bundle, task, device, verify, **generating)
    else:
        if given := [name for name, value in generating.items() if value]:
            raise InputError(
                f"{bundle.manifest.task} has no {given[0]}: that is for text-generation"
            )
        model = _opened_model(bundle, task, device, verify, profile)
    try:
        if task.warm_up if warm_up is None else warm_up:
            model.warm_up()
    except BaseException:
        model.close()
        raise
    return model


def _opened_model(
    bundle: Bundle,
    task: AnyTask,
    device: str | None,
    verify: Verify,
    profile: Profile | Literal["beside"] | None,
) -> Model:
    """One that a session answers, or an encoder and a decoder."""
    if isinstance(task, Task):
        return _session_model(bundle, task, device, verify, profile)
    from lepton_edge.runtime.text_to_text import open_text_to_text
    from lepton_edge.tasks.text_to_text import TextToText

    assert isinstance(task, TextToText)
    return open_text_to_text(bundle, task, device, verify)


def load_session(
    path: str | os.PathLike[str], device: str | None = None, *, purpose: str
) -> SessionModel:
    """As `load`, for what only a model with a session can do. ``purpose`` is that, for messages.

    Raises `InputError` for a bundle that generates text.
    """
    session_task(open_bundle(path).manifest.task, purpose)
    model = load(path, device)
    assert isinstance(model, SessionModel)
    return model


def _session_model(
    bundle: Bundle,
    task: Task[Any, Any],
    device: str | None,
    verify: Verify,
    profile: Profile | Literal["beside"] | None,
) -> SessionModel:
    opened = open_artifact(bundle, task, device, verify=verify, profile=profile)
    try:
        tuned = opened.profile
        limits = tuned.limits if tuned else DEFAULT
        return SessionModel(bundle.manifest, opened.session, opened.encoder, task, limits, tuned)
    except BaseException:
        opened.session.close()
        raise


def _load_finalized(path: str | os.PathLike[str], device: str | None, **options: Any) -> Model:
    """As `load`; where that finds a deferred artifact only, compile it and load again."""
    try:
        return load(path, device, **options)
    except DeferredError:
        from lepton_edge.runtime.finalize import finalize

        finalize(path, device, verify=options["verify"])
        return load(path, device, **options)


@dataclass(frozen=True)
class Opened:
    """The artifact of a bundle that was opened, and what a model is made of."""

    artifact: Artifact
    backend: Backend
    session: Session
    encoder: TextEncoder
    profile: Profile | None
    """The one that was used."""


def open_artifact(
    bundle: Bundle,
    task: Task[Any, Any],
    device: str | None = None,
    *,
    verify: Verify = "cached",
    profile: Profile | Literal["beside"] | None = None,
) -> Opened:
    """Open the first artifact that can be opened here; arguments and errors as those of `load`."""

    def opened(artifact: Artifact, backend: Backend) -> Opened:
        return _open(bundle, task, artifact, device, verify, backend, profile)

    return first_to_open(bundle, device, opened)


def _open(
    bundle: Bundle,
    task: Task[Any, Any],
    artifact: Artifact,
    device: str | None,
    verify: Verify,
    backend: Backend,
    profile: Profile | Literal["beside"] | None,
) -> Opened:
    """Verify the files that will be read, then open the session and the tokenizer side by side:
    compiling takes most of a start and leaves the interpreter free."""
    needed = files_to_read(bundle, artifact)
    check_files(bundle.path, needed, verify)
    named = device_of(artifact, device)
    tokenizer = _Background(
        lambda: TextEncoder(bundle.path / TOKENIZER, bundle.manifest.text, task.tokenization())
    )
    cache = cache_of(needed)

    def session_with(settings: Mapping[str, Setting]) -> Session:
        compiled = artifact.compiled.with_settings(settings)
        return backend.load(bundle.path / artifact.directory, compiled, named, cache)

    tuned = _fitting(profile, bundle, artifact, backend, named)
    session = _tuned_session(session_with, tuned) if tuned else None
    if session is None:
        session, tuned = session_with({}), None  # the artifact's own settings always work
    try:
        return Opened(artifact, backend, session, tokenizer.result(), tuned)
    except BaseException:
        session.close()
        raise


def _fitting(
    profile: Profile | Literal["beside"] | None,
    bundle: Bundle,
    artifact: Artifact,
    backend: Backend,
    device: str | None,
) -> Profile | None:
    """The profile to try, if any."""
    if profile == "beside":
        profile = read_profile(bundle.path, artifact, backend)
    elif profile and not fits(profile, artifact, backend):
        return None
    return profile if profile and device in (None, profile.device) else None


def _tuned_session(
    session_with: Callable[[Mapping[str, Setting]], Session], profile: Profile
) -> Session | None:
    """None where the profile's settings do not work here after all, or are another device's."""
    try:
        session = session_with(profile.settings)
    except BackendError:
        return None
    if session.device == profile.device:
        return session
    session.close()
    return None


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
