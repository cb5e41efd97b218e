"""The one place that may reach the network: fetching a hub model, at build time only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lepton_edge.errors import DownloadError

# What a build reads. Pickled weights and Python files are not fetched.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.spm", "*.safetensors", "README.md", "*/config.json")
_TIMEOUT = 10.0


def pin(hub_id: str, revision: str | None = None) -> str:
    """The commit that a branch or tag is at now; the main branch where none is named.

    Raises `DownloadError`.
    """
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    _no_telemetry()
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(hub_id, revision=revision, timeout=_TIMEOUT).sha
    except Exception as error:
        raise _unreachable(hub_id, revision, error) from error
    if commit is None:
        raise DownloadError(f"the hub gives no commit for {hub_id}", hint="name it: --revision")
    return commit


def download(hub_id: str, revision: str, *, with_code: bool = False) -> Path:
    """The folder of a hub model at a commit, from the local hub cache or else the network.

    ``with_code`` fetches the model's Python files too, for a build that trusts them. Raises
    `DownloadError` at once where the hub cannot be reached.
    """
    _no_telemetry()
    from huggingface_hub import HfApi, snapshot_download

    patterns = [*_PATTERNS, *(["*.py"] if with_code else [])]
    try:
        if cached := _cached(hub_id, revision, patterns):
            return cached
        # One short request first: the download itself would retry for a long time.
        HfApi().model_info(hub_id, revision=revision, timeout=_TIMEOUT)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the library and its HTTP client raise many kinds
        raise _unreachable(hub_id, revision, error) from error


def _cached(hub_id: str, revision: str, patterns: list[str]) -> Path | None:
    """What an earlier build fetched, if it fetched all."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    # An interrupted download leaves a folder too, which only newer releases of the library notice.
    needed = ("config.json", "model*.safetensors", *(["*.py"] if "*.py" in patterns else []))
    return found if all(any(found.glob(pattern)) for pattern in needed) else None


def _unreachable(hub_id: str, revision: str | None, error: Exception) -> DownloadError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    pinned = f" --revision {revision}" if revision else ""
    folder = hub_id.rpartition("/")[2]
    return DownloadError(
        f"the hub model {hub_id} cannot be fetched: {type(error).__name__}: {reason}",
        hint="on a machine with internet access: "
        f"hf download {hub_id}{pinned} --local-dir {folder}\n"
        f"  then copy that folder here and: lepton-edge build {folder}",
    )


def _no_telemetry() -> None:
    # Read when huggingface_hub is imported; the requests would otherwise carry usage data.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
