"""A change of an index, killed at each of its steps on the disk in turn.

A program of its own, that has one thread and so may fork: ``python -m tests.core.search_kills
BUNDLE ORIGINAL WORK CHANGE`` copies the index ORIGINAL to WORK before each step (where there is
one) and prints what each kill left, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_edge import Index, Model, load
from lepton_edge.errors import SearchIndexError
from tests.core.search_parts import texts

# Each may be the last thing that a process does.
_STEPS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")

CHANGES: dict[str, Callable[[Model, Path], Any]] = {
    "build": lambda model, path: Index.build(model, ["w90", "w91"], path=path),
    "add": lambda model, path: Index.open(path).add(model, ["w90"]),
    "replace": lambda model, path: Index.open(path).add(model, ["w90"], [3], replace=True),
    "remove": lambda model, path: Index.open(path).remove([3, 4]),
    "compact": lambda model, path: Index.open(path).compact(),
}


def killed_at(step: int, change: Callable[[], Any]) -> bool:
    """Run ``change`` in a child that is killed before its ``step``-th step on the disk; whether
    it came that far."""
    child = os.fork()
    if child == 0:
        _count_down(step)
        try:
            change()
        except BaseException:
            os._exit(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the change itself failed"
    return os.WIFSIGNALED(status)


def _count_down(step: int) -> None:
    """Kill this process before its ``step``-th call of a function that changes the disk."""
    left = step

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))


def left_by_a_kill(model: Model, path: Path) -> dict[str, Any]:
    """What is found, and what the next writer makes of it."""
    try:
        opened = Index.open(path)
    except SearchIndexError as error:
        return {"error": error.message}
    opened.verify()
    found = texts(opened)
    opened.add(model, ["w99"])
    named = {segment.name for segment in opened.header.segments}
    return {
        "texts": found,
        "after": texts(Index.open(path)),
        "rest": sorted(set(os.listdir(path)) - named - {"index.json", "lock"}),
    }


def main(bundle: str, original: str, work: str, name: str) -> None:
    os.fsync = lambda _: None  # a kill loses nothing that a file has
    path, step = Path(work), 0
    with load(bundle) as model:
        while True:
            step += 1
            if path.exists():
                shutil.rmtree(path)
            if Path(original).exists():
                shutil.copytree(original, path)
            killed = killed_at(step, lambda: CHANGES[name](model, path))
            print(json.dumps({"killed": killed, **left_by_a_kill(model, path)}))
            if not killed:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
