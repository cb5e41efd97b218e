"""Opening a bundle that answers a text with another: an encoder and a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_edge.bundle import TOKENIZER, Bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.errors import BundleError
from lepton_edge.generation.text_to_text import TextToTextGenerator
from lepton_edge.runtime.choice import cache_of, device_of, files_to_read, first_to_open
from lepton_edge.runtime.generative_model import GenerativeModel
from lepton_edge.runtime.source_texts import SourceTexts
from lepton_edge.runtime.text import TextEncoder, Tokenization

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Session
    from lepton_edge.bundle.manifest import Artifact
    from lepton_edge.tasks.text_to_text import TextToText


def open_text_to_text(
    bundle: Bundle, task: TextToText, device: str | None, verify: Verify
) -> GenerativeModel:
    """Arguments and errors as those of `lepton_edge.load`."""

    def opened(artifact: Artifact, backend: Backend) -> list[Session]:
        needed = files_to_read(bundle, artifact)
        check_files(bundle.path, needed, verify)
        return _sessions(bundle, artifact, backend, device)

    text = bundle.manifest.text
    sessions = first_to_open(bundle, device, opened)
    try:
        encoder = TextEncoder(
            bundle.path / TOKENIZER, text, Tokenization(truncation="do_not_truncate")
        )
        generator = TextToTextGenerator(sessions[0], sessions[1], text.max_length)
    except BaseException:
        for session in sessions:
            session.close()
        raise
    return GenerativeModel(bundle.manifest, generator, SourceTexts(task, encoder, text.max_length))


def _sessions(
    bundle: Bundle, artifact: Artifact, backend: Backend, device: str | None
) -> list[Session]:
    """The encoder and the decoder, or none of them."""
    if artifact.decoder is None:
        raise BundleError(
            f"{bundle.path} has no decoder for {artifact.target}", hint="build the bundle again"
        )
    cache = cache_of(files_to_read(bundle, artifact))
    sessions: list[Session] = []
    try:
        for part in artifact.parts:
            sessions.append(
                backend.load(
                    bundle.path / part.directory,
                    part.compiled,
                    device_of(artifact, device),
                    part.cache(cache),
                )
            )
    except BaseException:
        for session in sessions:
            session.close()
        raise
    return sessions
