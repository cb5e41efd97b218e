"""Opening a bundle that generates text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Generation
from lepton_edge.bundle import TOKENIZER, Bundle, open_bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.errors import BackendError, BundleError, InputError
from lepton_edge.runtime.choice import cache_of, device_of, files_to_read, first_to_open
from lepton_edge.runtime.generative_model import GenerativeModel
from lepton_edge.runtime.prompts import Prompts
from lepton_edge.runtime.text import TextEncoder, Tokenization

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Generator
    from lepton_edge.bundle.manifest import Artifact

_ADAPTER = "adapter_model.safetensors"  # of a folder that PEFT wrote


def open_generative(
    bundle: Bundle,
    task: Any,
    device: str | None,
    verify: Verify,
    *,
    cache_tokens: int | None = None,
    adapters: Mapping[str, str | os.PathLike[str]] | None = None,
    draft: str | os.PathLike[str] | None = None,
    prompt_lookup: bool = False,
) -> GenerativeModel:
    """Arguments and errors as those of `lepton_edge.load`."""
    if cache_tokens is not None and cache_tokens < 1:
        raise InputError(f"cache_tokens is {cache_tokens}: it is a number from 1")
    if draft is not None and prompt_lookup:
        raise InputError("guesses come from a draft or from the prompt, not from both")
    found = {name: _adapter(name, Path(path)) for name, path in (adapters or {}).items()}

    def opened(artifact: Artifact, backend: Backend) -> Generator:
        needed = files_to_read(bundle, artifact)
        check_files(bundle.path, needed, verify)
        generation = Generation(
            max_length=bundle.manifest.text.max_length,
            tokenizer=bundle.path / TOKENIZER,
            cache_tokens=cache_tokens,
            adapters=found,
            draft=None if draft is None else _draft(bundle, Path(draft), artifact, verify),
            prompt_lookup=prompt_lookup,
        )
        return backend.load_generator(
            bundle.path / artifact.directory,
            artifact.compiled,
            generation,
            device_of(artifact, device),
            cache_of(needed),
        )

    generator = first_to_open(bundle, device, opened)
    try:
        encoder = TextEncoder(
            bundle.path / TOKENIZER,
            bundle.manifest.text,
            Tokenization(truncation="do_not_truncate"),
        )
        prompts = Prompts(bundle.manifest.name, task, encoder, generator.max_length)
        return GenerativeModel(bundle.manifest, generator, prompts)
    except BaseException:
        generator.close()
        raise


def _adapter(name: str, path: Path) -> Path:
    """The file of an adapter. Raises `InputError`."""
    file = path / _ADAPTER if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"there is no adapter {name!r} at {path}",
            hint=f"give a safetensors file, or the folder with {_ADAPTER}",
        )
    return file


def _draft(bundle: Bundle, path: Path, artifact: Artifact, verify: Verify) -> Path:
    """The directory of a draft's artifact for the same backend.

    Raises `InputError` for one with another tokenizer, whose guesses would mean other text, and
    `BundleError`.
    """
    other = open_bundle(path)
    if other.manifest.task != bundle.manifest.task:
        raise InputError(
            f"the draft {path} does {other.manifest.task}, not {bundle.manifest.task}",
            hint="a draft is a smaller model of the same family",
        )
    own, its = bundle.manifest.files.get(TOKENIZER), other.manifest.files.get(TOKENIZER)
    if own is None or its is None or own.sha256 != its.sha256:
        raise InputError(
            f"the draft {path} has another vocabulary than {bundle.path}: their tokenizers differ",
            hint="a draft is a smaller model of the same family, with the same tokenizer.json",
        )
    fitting = [each for each in other.manifest.artifacts if each.backend == artifact.backend]
    if not fitting:
        raise BackendError(
            f"the draft {path} has nothing for {artifact.backend}",
            hint=f"lepton-edge build … --target {artifact.target}",
        )
    check_files(other.path, files_to_read(other, fitting[0]), verify)
    if fitting[0].compiled.deferred:
        raise BundleError(f"the draft {path} is not compiled for {artifact.target} yet")
    return other.path / fitting[0].directory
