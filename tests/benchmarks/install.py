"""What an installation that only runs models takes on disk."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import texts
from tests.benchmarks.results import Detail, Limit, Result, Size
from tests.benchmarks.workspace import REPOSITORY

if TYPE_CHECKING:
    from tests.benchmarks.terminal import Terminal
    from tests.benchmarks.workspace import Workspace

ROUNDS = 1

_LIMIT = Limit("at most", 330)
_GENAI = "openvino-genai"
_TOOLS = {"pip", "setuptools", "wheel"}  # what a virtual environment brings
_DOWNLOADING = {"huggingface-hub", "hf-xet", "fsspec", "filelock", "tqdm", "packaging"} | {
    *("httpx", "httpcore", "anyio", "h11", "idna", "certifi", "typer", "shellingham")
}
_HOW = (
    "The wheels of lepton-edge and lepton-edge-openvino, built from this tree, installed with pip "
    "in a fresh virtual environment, without the extra `build`. openvino-genai is counted though "
    "nothing imports it yet. Sizes are those of the files in site-packages, with the bytecode that "
    "pip compiles and without pip and setuptools; 1 MB is a million bytes. The installation then "
    "answered a text with the bundle of the other benchmarks."
)


def measure(work: Workspace, rounds: int, terminal: Terminal) -> Result:
    """Once: a size does not vary. ``rounds`` is not used."""
    wheels, environment = work.folder / "wheels", work.folder / "runtime"
    with terminal.steps(4) as step:
        step("building the wheels")
        _pip(
            sys.executable,
            *("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)),
            *(str(REPOSITORY), str(REPOSITORY / "backends" / "openvino")),
        )
        step("making a virtual environment")
        venv.create(environment, with_pip=True, symlinks=True)
        step("installing")
        python = str(environment / "bin" / "python")
        constraints = str(REPOSITORY / "constraints.txt")
        _pip(python, "install", "-c", constraints, *map(str, sorted(wheels.iterdir())), _GENAI)
        step("answering a text")
        command = str(environment / "bin" / "lepton-edge")
        _call([command, "run", str(work.bundle.path), texts.SHORT])
    (site,) = environment.glob("lib/python*/site-packages")
    packages = {_normal(found.name): found for found in distributions(path=[str(site)])}
    files = {name: _files(found) for name, found in packages.items() if name not in _TOOLS}
    everything = set().union(*files.values())
    bytecode = _megabytes({path for path in everything if path.suffix == ".pyc"})
    downloading = _megabytes(set().union(*(files.get(name, set()) for name in _DOWNLOADING)))
    return Result(
        name="install",
        title="Size of an installation for running models",
        how=_HOW,
        sizes=_sizes(packages, files),
        size_limit=_LIMIT,
        if_missed=(
            f"OpenVINO and openvino-genai take what they take; of the rest, {bytecode:.0f} MB is "
            "bytecode that pip compiles (`pip install --no-compile` leaves it out, for slower "
            f"starts), and {downloading:.0f} MB is huggingface-hub and what it requires, which "
            "tokenizers requires and running a bundle never imports"
        ),
        details=[
            Detail("Python bytecode", bytecode, "MB"),
            Detail("huggingface-hub and what it requires", downloading, "MB"),
            *_largest(site, everything),
        ],
    )


def _files(package: Distribution) -> set[Path]:
    """What the package's own list (RECORD) says it put into site-packages."""
    site = Path(str(package.locate_file("")))
    record = package.read_text("RECORD") or ""
    names = (row[0] for row in csv.reader(record.splitlines()) if row)
    paths = {site / name for name in names if not name.startswith("..")}
    return {path for path in paths if path.is_file()}


def _sizes(packages: dict[str, Distribution], files: dict[str, set[Path]]) -> list[Size]:
    """Largest first, each with the packages that require it."""
    parents: dict[str, list[str]] = {name: [] for name in files}
    for name in files:
        for needed in packages[name].requires or ():
            requirement = _normal(re.split(r"[^\w.-]", needed, maxsplit=1)[0])
            if "extra ==" not in needed and requirement in parents:
                parents[requirement].append(name)
    sizes = [
        Size(name, packages[name].version, _megabytes(found), ", ".join(sorted(parents[name])))
        for name, found in files.items()
    ]
    return sorted(sizes, key=lambda size: -size.megabytes)


def _largest(site: Path, files: set[Path]) -> list[Detail]:
    ordered = sorted(files, key=lambda path: -path.stat().st_size)
    return [Detail(f"`{path.relative_to(site)}`", _megabytes({path}), "MB") for path in ordered[:8]]


def _megabytes(files: set[Path]) -> float:
    return round(sum(path.stat().st_size for path in files) / 1e6, 2)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(python: str, *arguments: str) -> None:
    _call([python, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"])


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout)[-3000:]}")
