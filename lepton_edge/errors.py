"""Every error that lepton-edge raises on purpose.

    LeptonError
    ├── RecipeError              a recipe that cannot be used
    ├── SourceError              a model to build from: missing, damaged, incomplete
    │   ├── UnsupportedModelError    an architecture that cannot be exported
    │   └── DownloadError            a hub model that cannot be fetched
    ├── BuildError               a step of the build failed
    │   ├── ParityError              the compiled model does not answer like the original
    │   └── QualityError             it is worse at its task than the recipe allows
    ├── BundleError              a bundle or archive that cannot be opened
    │   ├── SchemaError              written by a newer lepton-edge
    │   └── IntegrityError           its files are not what the manifest says
    ├── BackendError             a backend is missing, broken, or refused its work
    │   └── DeferredError            an artifact that this device has to compile first
    ├── SearchIndexError         a search index that cannot be opened, or is another model's
    ├── InputError               what was given to a model
    ├── InferenceError           a model that ran and did not answer
    └── StorageError             disk full, not writable, already there

A message says what failed and with which value; `hint` says what to do next,
with the command where there is one.
"""

from __future__ import annotations


class LeptonError(Exception):
    """Base of the tree. ``str(error)`` is the message followed by the hint."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class LeptonWarning(UserWarning):
    """Something that does not stop the work and that its user should know."""


class RecipeError(LeptonError):
    """A recipe is missing, not YAML, or has a key or value that is not allowed."""


class SourceError(LeptonError):
    """The model to build from is missing, damaged or incomplete."""


class UnsupportedModelError(SourceError):
    """The model's architecture is not one that can be exported."""


class DownloadError(SourceError):
    """A model named by its hub id could not be fetched."""


class BuildError(LeptonError):
    """A step of the build failed; no bundle was left behind."""


class ParityError(BuildError):
    """The compiled model's answers are further from the original's than the recipe allows."""


class QualityError(BuildError):
    """The compiled model lost more of its task's metric than the recipe allows."""


class BundleError(LeptonError):
    """A bundle or a packed archive cannot be opened."""


class SchemaError(BundleError):
    """The manifest's schema is newer than this version of lepton-edge reads."""


class IntegrityError(BundleError):
    """A bundle's file is missing, added, or differs from its size or SHA-256 in the manifest."""


class BackendError(LeptonError):
    """A backend is not installed, cannot be imported, or refused an artifact or device."""


class DeferredError(BackendError):
    """A deferred artifact was not compiled on this device yet: `lepton-edge finalize` does it."""


class SearchIndexError(LeptonError):
    """A search index is missing, damaged, or was made by another model."""


class InputError(LeptonError):
    """An input given to a model is empty, too long, or not text."""


class InferenceError(LeptonError):
    """A model could not answer: closed, NaN in its output, or a failure inside the backend."""


class StorageError(LeptonError):
    """A file or folder cannot be written: disk full, no permission, already there."""
