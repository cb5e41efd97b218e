"""manifest.json: what a bundle holds, what it was made from, and what was measured.

Decoded with msgspec rather than pydantic because every start of a model reads one: importing
pydantic and building these models costs about 100 ms, a quarter of a one-shot run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from lepton_edge.backend import Compiled
from lepton_edge.errors import BundleError, SchemaError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1
FILE_NAME = "manifest.json"
ENCODER, DECODER = "encoder", "decoder"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


AdapterName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes."""
    sha256: Sha256
    """Lower-case hexadecimal."""


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How text becomes tokens."""

    max_length: Annotated[int, msgspec.Meta(ge=1)]
    """The longest input in tokens, special tokens included."""
    on_long_text: Literal["truncate", "refuse"]
    """What happens to a longer text. A truncated one is flagged in its result."""
    max_characters: Annotated[int, msgspec.Meta(ge=1)]
    """The longest text that is tokenized at all; a longer one is refused."""
    pad_id: Annotated[int, msgspec.Meta(ge=0)]
    """The token id that fills the shorter rows of a batch."""


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The compiled model beside the original, on the same texts."""

    texts: int
    """How many texts were compared."""
    max_error: float
    """Largest absolute difference of an output element."""
    mean_error: float
    """Mean absolute difference of the output elements."""
    min_cosine: float
    """Smallest cosine of a text's outputs."""
    mean_cosine: float
    """Mean cosine of the texts' outputs."""
    equal_labels: float | None = None
    """Share of texts given the same label or labels, 0 to 1; none where the task has no labels."""
    compute: str = ""
    """The number format that the build machine's device computed in."""
    through: str = ""
    """What ran it, where the build machine had no device for the artifact: the same typed graph in
    another library."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What INT8 was calibrated on."""

    texts: int
    """How many rows."""
    data: str | None
    """The file's name; none for the built-in sentences."""
    sha256: Sha256 | None
    """The file's SHA-256."""


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to compile the model, and how good it was."""

    precision: str
    """As a recipe names it."""
    size: int
    """Bytes of the artifact's files."""
    score: float | None
    """The metric; none where the model's outputs were not numbers."""
    kept: tuple[str, ...] = ()
    """Operations that were left in higher precision."""


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How good the compiled model is at its task, beside the original."""

    metric: str
    """Its name."""
    data: str
    """The name of the file of examples."""
    sha256: Sha256
    """The file's SHA-256."""
    examples: int
    """How many were used."""
    original: float
    """The original's metric, computed in fp32."""
    score: float
    """This artifact's metric."""
    max_drop: float
    """How many points (hundredths) might be lost."""
    attempts: tuple[Attempt, ...]
    """What was tried for this artifact, in order; the last one is what the bundle holds."""


class GenerationQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well a model that generates predicts text, beside the original."""

    tokens: int
    """How many tokens of text were predicted, each from those before it. Of a model that answers a
    text with another: of answers; without data that has some, of the original's own."""
    data: str | None
    """The file's name; none for the built-in text."""
    perplexity: float
    """exp of the mean negative log-likelihood of those tokens."""
    original_perplexity: float | None
    """The original's; none where there is none to run, as of what another exporter made."""
    max_perplexity_ratio: float
    """How many times the original's it might be."""
    equal_tokens: float | None
    """Share of equal tokens, place by place, where both continue the same prompts greedily."""
    greedy_tokens: int
    """How many tokens that is a share of."""
    min_equal_tokens: float
    """The smallest share allowed."""


class Part(NamedTuple):
    """A part of an artifact that is opened by itself."""

    name: str
    """Its folder within the artifact's; empty for the whole."""
    directory: str
    """Where its files are, relative to the bundle."""
    compiled: Compiled

    def cache(self, folder: Path) -> Path:
        """Its own place in the artifact's cache."""
        return folder / self.name


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one backend made of the model for one target."""

    target: str
    """The name of the target."""
    backend: str
    """The backend that opens it."""
    directory: str
    """Where its files are, relative to the bundle."""
    sha256: Sha256
    """SHA-256 over the sorted list of its files' digests and names: what a cache of anything
    derived from it is kept under."""
    compiled: Compiled
    """Precision, inputs, outputs, and the backend's own settings."""
    parity: Parity | None
    """Measured on this artifact as it was written; none where there is no original beside it."""
    calibration: Calibration | None = None
    """What INT8 was calibrated on."""
    quality: Quality | None = None
    """The task's metric, where the recipe has evaluation data."""
    generation: GenerationQuality | None = None
    """Of a model that generates text."""
    decoder: Compiled | None = None
    """Of a model that answers a text with another: its decoder, whose files are in the folder
    `decoder`. `compiled` is its encoder then, whose files are in `encoder`."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is opened of it: one, or the encoder and the decoder."""
        if self.decoder is None:
            return (Part("", self.directory, self.compiled),)
        return (
            Part(ENCODER, f"{self.directory}/{ENCODER}", self.compiled),
            Part(DECODER, f"{self.directory}/{DECODER}", self.decoder),
        )

    @property
    def deferred(self) -> bool:
        """Whether a device has to compile some of it first."""
        return any(part.compiled.deferred for part in self.parts)


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle was built from."""

    kind: Literal["huggingface", "hub", "onnx", "torch", "openvino_ir"]
    """A local Hugging Face folder, a hub id, an ONNX file, or a torch module."""
    name: str
    """The folder's or file's name, the hub id, or the module's class. Never a full path."""
    architecture: str
    """The model's class or type."""
    sha256: Sha256
    """SHA-256 over the source's weights: of the one file, or of the list of their digests."""
    revision: str | None = None
    """The commit of a hub model."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole manifest."""

    schema: int
    """Version of this format. A reader refuses a newer one."""
    name: str
    """Name of the bundle."""
    version: str
    """Version of the bundle."""
    description: str
    """One line for people."""
    license: str | None
    """The model's licence as its card or the recipe gives it."""
    created: str
    """Time of the build in UTC (ISO 8601), or what SOURCE_DATE_EPOCH says."""
    task: str
    """The task, by its name in the field."""
    task_config: dict[str, Any]
    """What the task needs to read the outputs: labels, or how embeddings were pooled."""
    text: Text
    """How text becomes tokens."""
    source: Source
    """What it was built from."""
    tools: dict[str, str]
    """Versions of the libraries that the build used."""
    artifacts: tuple[Artifact, ...]
    """One for each target."""
    files: dict[str, File]
    """Every file of the bundle but this one, by its path with forward slashes."""
    adapters: tuple[AdapterName, ...] = ()
    """LoRA adapters by name, of a model that generates text. The files of each are in
    `adapters/NAME`."""


def encode(manifest: Manifest) -> bytes:
    """The manifest's bytes: UTF-8 JSON, indented, in the order of the fields."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """Read a manifest; ``where`` names it in errors.

    Raises `SchemaError` for a newer schema and `BundleError` for anything else that is wrong.
    """
    try:
        schema = msgspec.json.decode(data, type=_Versioned).schema
        if schema > SCHEMA:
            raise SchemaError(
                f"{where} has schema {schema}; this lepton-edge reads up to {SCHEMA}",
                hint="pip install --upgrade lepton-edge",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    # msgspec's ValidationError is a DecodeError; invalid UTF-8 in a string is not.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{where} is not a valid manifest: {error}", hint="build or copy the bundle again"
        ) from error
    _check_paths(manifest, where)
    return manifest


def adapter_directory(name: str) -> str:
    """Where an adapter's files are, relative to the bundle."""
    return f"adapters/{name}"


def is_safe_path(path: str) -> bool:
    """Whether a path is relative, plain, and stays inside: ``a/b``, never ``../a`` or ``/a``."""
    if not path.isprintable() or "\\" in path or ":" in path:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _check_paths(manifest: Manifest, where: str) -> None:
    for path in (*manifest.files, *(artifact.directory for artifact in manifest.artifacts)):
        if not is_safe_path(path):
            raise BundleError(f"{where} names a path outside the bundle: {path!r}")
    # Unpacking makes a folder NAME-VERSION where no other name is given.
    for part in (manifest.name, manifest.version):
        if "/" in part or not is_safe_path(part):
            raise BundleError(f"{where} has {part!r} for a name or version: not a plain file name")
    if FILE_NAME in manifest.files:
        raise BundleError(f"{where} lists itself among its files")
    taken = {*manifest.files, FILE_NAME}
    for path in manifest.files:
        above = (path[:end] for end, letter in enumerate(path) if letter == "/")
        if folder := next((each for each in above if each in taken), None):
            raise BundleError(f"{where} lists {folder!r} as a file and as the folder of {path!r}")


class _Versioned(msgspec.Struct):
    schema: int
