"""The installed command in a process of its own: pipes, signals, exit codes, clean ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lepton_edge.bundle import Bundle
from tests.core.parts import command, environment, process

Bundles = Callable[..., Bundle]


@pytest.fixture
def bundle(fake_bundle: Bundles) -> Path:
    return fake_bundle().path


def test_the_command_answers(bundle: Path, fake_backend: Path) -> None:
    done = process(["run", bundle, "w1 größe", "--json"], fake_backend)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["text"] == "w1 größe"
    assert done.stderr == b""


def test_standard_input_is_read(bundle: Path, fake_backend: Path) -> None:
    done = process(["run", bundle, "-", "--json"], fake_backend, "w1\n🙂\n".encode())
    assert [row["text"] for row in json.loads(done.stdout)] == ["w1", "🙂"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_an_error_exits_with_1(fake_backend: Path, form: tuple[str, ...]) -> None:
    done = process(["run", "/nowhere", "w1", *form], fake_backend)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"there is no bundle at /nowhere" in done.stderr
    assert b"Traceback" not in done.stderr


def test_wrong_usage_exits_with_2(fake_backend: Path) -> None:
    done = process(["frobnicate"], fake_backend)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No such command" in done.stderr


def test_an_argument_that_is_not_utf8_is_an_error(bundle: Path, fake_backend: Path) -> None:
    arguments: list[str | bytes] = [*command("run", bundle), b"w1 \xff"]
    done = subprocess.run(
        arguments, capture_output=True, env=environment(fake_backend), timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"text 1 is not Unicode text" in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_colours_without_a_terminal(bundle: Path, fake_backend: Path) -> None:
    done = process(["inspect", bundle], fake_backend)
    assert b"\x1b" not in done.stdout
    assert b"\x1b" not in process(["doctor"], fake_backend).stdout


@pytest.mark.parametrize("verb", ["inspect", "run", "run-file", "targets", "doctor"])
def test_a_reader_that_has_gone_ends_the_command_quietly(
    bundle: Path, fake_backend: Path, tmp_path: Path, verb: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "w1"}\n')
    arguments = {
        "inspect": ["inspect", bundle],
        "run": ["run", bundle, "w1"],
        "run-file": ["run", bundle, "-i", source],
    }.get(verb, [verb])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(*arguments),
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(fake_backend),
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert b"Broken pipe" not in done.stderr


def test_a_full_disk_under_standard_output_is_an_error(bundle: Path, fake_backend: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("run", bundle, "w1"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(fake_backend),
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def _interrupted(running: subprocess.Popen[bytes]) -> bytes:
    """Standard error of a command that Ctrl-C must end cleanly."""
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 1
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
    return errors


def test_control_c_while_waiting_for_input_ends_cleanly(bundle: Path, fake_backend: Path) -> None:
    running = subprocess.Popen(
        command("run", bundle, "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(fake_backend),
    )
    assert running.stdin
    # More than a pipe holds: when this returns, the command is reading.
    running.stdin.write(b"w1\n" * 100_000)
    running.stdin.flush()
    assert b"Aborted!" in _interrupted(running)


def test_control_c_during_a_file_leaves_nothing(
    bundle: Path, fake_backend: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    source = folder / "in.jsonl"
    source.write_text('{"text": "w1 w2 w3"}\n' * 400_000)
    running = subprocess.Popen(
        command("run", bundle, "-i", source, "-o", folder / "out.jsonl"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(fake_backend),
    )
    deadline = time.monotonic() + 30
    while len(list(folder.iterdir())) == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(folder.iterdir())) == 2  # the unfinished output
    time.sleep(0.1)
    _interrupted(running)
    assert list(folder.iterdir()) == [source]


def test_shell_completion_offers_the_verbs(fake_backend: Path) -> None:
    script = process([], fake_backend, _LEPTON_EDGE_COMPLETE="bash_source")
    assert b"_LEPTON_EDGE_COMPLETE=bash_complete" in script.stdout
    offered = process(
        [],
        fake_backend,
        _LEPTON_EDGE_COMPLETE="bash_complete",
        COMP_WORDS="lepton-edge ins",
        COMP_CWORD="1",
    )
    assert offered.stdout == b"plain,inspect\n"


def test_help_and_lists_import_nothing_heavy(fake_backend: Path) -> None:
    done = process(["--help"], fake_backend, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"lepton_edge.cli.output" in imported
    heavy = {b"torch", b"transformers", b"openvino", b"numpy", b"pydantic", b"tokenizers"}
    assert imported & heavy == set()


@pytest.mark.parametrize("stdout_is_terminal", [False, True])
def test_results_are_whole_beside_a_progress_bar(
    bundle: Path, fake_backend: Path, tmp_path: Path, stdout_is_terminal: bool
) -> None:
    """With standard error on a terminal, standard output still gets JSON Lines."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": f"w{n} " * 40}) + "\n" for n in range(9)))
    leader, terminal = pty.openpty()
    with (tmp_path / "out").open("wb") as file:
        running = subprocess.Popen(
            command("run", bundle, "--input", source),
            stdout=terminal if stdout_is_terminal else file,
            stderr=terminal,
            env=environment(fake_backend, COLUMNS="40"),
        )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(leader, 65536):
            shown += chunk
    os.close(leader)
    assert running.wait(60) == 0
    printed = shown if stdout_is_terminal else (tmp_path / "out").read_bytes()
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith(b"{")]
    assert [row["text"].split()[0] for row in rows] == [f"w{n}" for n in range(9)]
