"""What the documents show works, and what is generated is up to date."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_edge.builder.decoder import DECODERS
from lepton_edge.builder.encoder_decoder import ENCODER_DECODERS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the README's commands can run, one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "questions.csv").write_text("text\nwhere is my card?\nhow do I change my PIN?\n")
    return folder


def test_the_commands_of_the_readme_work(workplace: Path) -> None:
    commands = [
        line.split("#")[0].strip()
        for line in _block("## Command line", "sh").splitlines()
        if line.startswith("lepton-edge") and "path/to/" not in line
    ]
    assert len(commands) >= 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "lepton-edge"
        # Measuring for longer makes figures surer, and takes two minutes here.
        shorter = ["--seconds", "0.5"] if arguments[0] in ("bench", "tune") else []
        _run("-m", "lepton_edge", *arguments, *shorter, cwd=workplace)
    assert len((workplace / "answers.csv").read_text().splitlines()) == 3
    assert (workplace / "demo-intents-1.0.0.lepton").is_file()


def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    output = _run("-c", _block("## Python", "python"), cwd=tmp_path)
    assert output.startswith("card_arrival 0.9")


def test_generated_pages_are_what_the_code_says(tmp_path: Path) -> None:
    # In a process of its own: other tests' backends are not of these pages.
    _run(str(ROOT / "docs" / "generate.py"), "--check", cwd=tmp_path)


@pytest.mark.parametrize(
    "page",
    sorted(path for path in ROOT.glob("**/*.md") if not {".venv", "out"} & set(path.parts)),
    ids=lambda path: path.name,
)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:lepton_edge|tests|backends|docs)/[\w/.*-]+)`", text):
        assert list(ROOT.glob(path.rstrip("/"))), f"CONTRIBUTING.md names {path}"


def test_every_family_that_generates_is_on_its_page_and_passed() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    rows = {
        row[2].strip(" `"): row[3:-1]
        for row in (line.split("|") for line in page.splitlines() if line.startswith("| "))
    }
    for kind in (*DECODERS, *ENCODER_DECODERS):
        assert kind in rows, f"{kind} is not in docs/families.md: make families"
        assert {mark.strip() for mark in rows[kind]} == {"✓"}, f"{kind}: {rows[kind]}"


def _block(heading: str, language: str) -> str:
    after = README.split(heading, 1)[1]
    found = re.search(rf"```{language}\n(.*?)```", after, re.DOTALL)
    assert found, f"no {language} block under {heading}"
    return found[1]


def _run(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{arguments}:\n{result.stdout}\n{result.stderr}"
    return result.stdout
