"""Opening a bundle that generates text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.backend import Generation
from lepton_edge.bundle import TOKENIZER, Bundle, open_bundle
from lepton_edge.bundle.hashing import Verify, check_files
from lepton_edge.bundle.manifest import adapter_directory
from lepton_edge.errors import BackendError, BundleError, InputError
from lepton_edge.generation.lora import CONFIG, WEIGHTS, find_adapter
from lepton_edge.runtime.choice import cache_of, device_of, files_to_read, first_to_open
from lepton_edge.runtime.generative_model import GenerativeModel
from lepton_edge.runtime.prompts import Prompts
from lepton_edge.runtime.text import TextEncoder, Tokenization

if TYPE_CHECKING:
    from lepton_edge.backend import Backend, Generator
    from lepton_edge.bundle.manifest import Artifact


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
    own = adapter_files(bundle)
    if adapters is None:
        found = {name: bundle.path / files[0] for name, files in own.items()}
    else:
        own, found = {}, {name: find_adapter(name, Path(path)) for name, path in adapters.items()}
    of_adapters = {path: bundle.manifest.files[path] for files in own.values() for path in files}

    def opened(artifact: Artifact, backend: Backend) -> Generator:
        needed = files_to_read(bundle, artifact)
        check_files(bundle.path, {**needed, **of_adapters}, verify)
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


def adapter_files(bundle: Bundle) -> dict[str, list[str]]:
    """Of each adapter in the bundle its files, the weights first.

    Raises `BundleError` where one is not listed.
    """
    found = {}
    for name in bundle.manifest.adapters:
        folder = adapter_directory(name)
        found[name] = [f"{folder}/{WEIGHTS}"]
        if found[name][0] not in bundle.manifest.files:
            raise BundleError(
                f"{bundle.path} lists no files for the adapter {name!r}", hint="build it again"
            )
        if (beside := f"{folder}/{CONFIG}") in bundle.manifest.files:
            found[name].append(beside)
    return found


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
