"""Real obstacles: a disk that is full or read-only, and a user who may not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run_on_disk(folder: Path, code: str, *arguments: object, options: str = "size=1m") -> str:
    """What ``code`` prints in a process that has a small new disk mounted on ``folder``.

    The code finds the folder and the arguments in ``sys.argv``. The mount is seen by no other
    process and ends with it. Skips the test where this user may not mount.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare, of util-linux, to mount a disk of its own")
    namespace = (
        [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--mount", "--map-root-user"]
    )
    mount = [*namespace, "mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"may not mount a disk of its own here: {tried.stderr.strip()}")
    shell = f'mount -t tmpfs -o {options} none "$1" && exec "$0" -c "$2" "$1" "${{@:3}}"'
    command = [*namespace, "bash", "-c", shell, sys.executable, str(folder), code]
    result = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@contextmanager
def unprivileged_folder() -> Iterator[Path]:
    """A new folder, for a block that runs without root's right to read and write everything.

    What the block needs must be imported before: the interpreter's own files may be root's alone.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        user = os.geteuid()
        if user == 0:
            os.chown(folder, _NOBODY, -1)
            os.seteuid(_NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


_NOBODY = 65534
