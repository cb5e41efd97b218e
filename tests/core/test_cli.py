"""The command line: every verb in both forms, its errors, and its help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from lepton_edge import __version__, open_bundle, registry
from lepton_edge.backend import Device, Probe
from lepton_edge.bundle import TOKENIZER, Bundle
from lepton_edge.cli import main
from lepton_edge.cli.output import _lines, print_table
from lepton_edge.errors import LeptonError
from lepton_edge.recipe import Recipe, load_recipe
from lepton_edge.target import TARGETS
from lepton_edge.testing import FakeBackend, write_fake_distribution
from tests.core.parts import fails, flip_byte, invoke, printed, rewrite

Bundles = Callable[..., Bundle]
VERBS = main.list_commands(click.Context(main))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a verb writes without a path goes to the current folder."""
    monkeypatch.chdir(tmp_path)


# The frame: help, usage, and how errors are printed.


def test_help_lists_every_verb_with_a_line() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert f"  {verb} " in result.stdout
    assert invoke("-h").stdout == result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_lists_all_its_options(verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    command = main.get_command(click.Context(main), verb)
    assert command
    assert command.help
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert "--json" in [name for option in options for name in option.opts]
    for option in options:
        assert all(name in result.stdout for name in option.opts)
    assert invoke(verb, "-h").stdout == result.stdout


def test_the_version_is_printed() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"lepton-edge, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["inspect"], "Missing argument 'BUNDLE'"),
        (["inspect", "a", "b"], "unexpected extra argument"),
        (["verify", "a", "--frob"], "No such option"),
        (["run", "a", "text", "--verify", "never"], "'never' is not one of"),
        (["run", "a", "text", "--top-k", "0"], "0 is not in the range"),
        (["build", "x", "--precision", "int3"], "'int3' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(arguments: list[str], problem: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


ERRORS = [
    ("inspect", "nowhere"),
    ("verify", "nowhere"),
    ("pack", "nowhere"),
    ("unpack", "nowhere"),
    ("run", "nowhere", "w1"),
    ("recipes", "nowhere"),
]


@pytest.mark.parametrize("arguments", ERRORS, ids=lambda arguments: arguments[0])
def test_an_error_is_a_line_and_a_hint_on_standard_error(arguments: tuple[str, ...]) -> None:
    message = fails(*arguments)
    assert "nowhere" in message
    assert message.count("error:") == 1


@pytest.mark.parametrize("arguments", ERRORS, ids=lambda arguments: arguments[0])
def test_with_json_an_error_is_one_object_on_standard_error(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    error = json.loads(result.stderr)["error"]
    assert list(error) == ["type", "message", "hint"]
    assert error["type"].endswith("Error")
    assert "nowhere" in error["message"]
    assert invoke("--help").exit_code == 0  # the form of errors is not remembered
    assert fails(*arguments)


def _all_kinds(kind: type[LeptonError] = LeptonError) -> list[type[LeptonError]]:
    return [kind, *(below for each in kind.__subclasses__() for below in _all_kinds(each))]


@pytest.mark.parametrize("kind", _all_kinds(), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_is_printed_without_a_trace(
    kind: type[LeptonError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> Bundle:
        raise kind("what failed", hint="what to do")

    monkeypatch.setattr("lepton_edge.cli.inspect.open_bundle", fail)
    assert fails("inspect", "x") == "error: what failed\n  what to do\n"
    error = json.loads(invoke("inspect", "x", "--json").stderr)["error"]
    assert error == {"type": kind.__name__, "message": "what failed", "hint": "what to do"}


def test_what_the_system_refuses_is_an_error_too() -> None:
    message = fails("inspect", "x" * 300)
    assert "File name too long" in message
    result = invoke("inspect", "x" * 300, "--json")
    assert "File name too long" in json.loads(result.stderr)["error"]["message"]


# inspect, verify, pack, unpack


def test_inspect_shows_what_the_manifest_says(fake_bundle: Bundles) -> None:
    bundle = rewrite(fake_bundle(), license="Apache-2.0", tools={"torch": "2.13.0"})
    lines = invoke("inspect", bundle.path).stdout.splitlines()
    facts = {line[:12].strip(): line[13:] for line in lines[: lines.index("")]}
    assert facts["bundle"].startswith("fake 1.0.0, 0.0 MiB")
    assert facts["task"] == "text-classification, 3 labels"
    assert facts["text"] == "up to 32 tokens, then truncate"
    assert facts["licence"] == "Apache-2.0"
    assert facts["source"] == "torch fake, Fake"
    assert facts["tools"] == "torch 2.13.0"
    table = "\n".join(lines)
    for name, file in bundle.manifest.files.items():
        assert f"{name} " in table
        assert file.sha256 in table
    artifact = next(line for line in lines if line.startswith("intel-cpu"))
    assert artifact.split() == [
        "intel-cpu", "fake", "fp32", "fake", "1.0", "1", "itself", "0", "1.000000", "100.0%",
    ]  # fmt: skip


def test_inspect_gives_the_manifest_as_json(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    data = printed("inspect", bundle.path)
    assert data == json.loads((bundle.path / "manifest.json").read_text())


def test_inspect_leaves_out_what_a_task_does_not_have(fake_bundle: Bundles) -> None:
    bundle = fake_bundle(task="feature-extraction", description="")
    artifact = bundle.manifest.artifacts[0]
    parity = msgspec.structs.replace(artifact.parity, equal_labels=None)
    bundle = rewrite(bundle, artifacts=(msgspec.structs.replace(artifact, parity=parity),))
    output = invoke("inspect", bundle.path).stdout
    assert "task         feature-extraction\n" in output
    assert "licence      not stated\n" in output
    assert "description" not in output
    row = next(line for line in output.splitlines() if line.startswith("intel-cpu"))
    assert row.split()[-1] == "-"


def test_inspect_names_the_gpus_that_an_engine_is_for(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    artifact = bundle.manifest.artifacts[0]
    compiled = artifact.compiled.with_settings({"compute_capabilities": "8.6, 8.9"})
    bundle = rewrite(bundle, artifacts=(msgspec.structs.replace(artifact, compiled=compiled),))
    lines = invoke("inspect", bundle.path).stdout.splitlines()
    row = next(line for line in lines if line.startswith("intel-cpu"))
    assert "  fake 1.0 for SM 8.6, 8.9  " in row


def test_verify_counts_what_it_hashed(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    result = invoke("verify", bundle.path)
    assert result.exit_code == 0
    assert result.stdout == f"{bundle.path}: 2 files, 0.0 MiB, all as the manifest says\n"
    assert printed("verify", bundle.path) == {
        "path": str(bundle.path),
        "ok": True,
        "files": 2,
        "bytes": bundle.size,
    }


def test_verify_finds_a_flipped_bit_and_a_strange_file(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    (bundle.path / "extra.bin").write_bytes(b"1")
    assert "1 file(s) that its manifest does not list: extra.bin" in fails("verify", bundle.path)
    (bundle.path / "extra.bin").unlink()
    flip_byte(bundle.path / TOKENIZER)
    assert f"{TOKENIZER} has SHA-256" in fails("verify", bundle.path)


def test_a_bundle_goes_through_pack_and_unpack(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    packed = invoke("pack", bundle.path)
    assert packed.exit_code == 0
    assert packed.stdout == "fake-1.0.0.lepton  0.0 MiB\n"
    unpacked = invoke("unpack", "fake-1.0.0.lepton")
    assert unpacked.stdout == "fake-1.0.0  0.0 MiB\n"
    assert open_bundle(tmp_path / "fake-1.0.0").manifest == bundle.manifest
    assert invoke("run", "fake-1.0.0", "w1").exit_code == 0


def test_pack_and_unpack_say_where_in_json(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    packed = printed("pack", bundle.path, "-o", tmp_path / "to" / "one.lepton")
    file = tmp_path / "to" / "one.lepton"
    assert packed == {"path": str(file), "bytes": file.stat().st_size}
    unpacked = printed("unpack", file, "--output", tmp_path / "again")
    assert unpacked["path"] == str(tmp_path / "again")
    assert unpacked["manifest"]["name"] == "fake"


def test_pack_and_unpack_replace_only_with_force(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle()
    invoke("pack", bundle.path, "-o", "one.lepton")
    message = fails("pack", bundle.path, "-o", "one.lepton")
    assert "one.lepton already exists" in message
    assert "--force" in message
    assert invoke("pack", bundle.path, "-o", "one.lepton", "--force").exit_code == 0
    (tmp_path / "there").mkdir()
    assert "there already exists" in fails("unpack", "one.lepton", "-o", "there")
    assert invoke("unpack", "one.lepton", "-o", "there", "--force").exit_code == 0
    assert open_bundle("there").manifest == bundle.manifest


def test_unpack_refuses_what_is_no_archive(fake_bundle: Bundles, tmp_path: Path) -> None:
    (tmp_path / "broken.lepton").write_bytes(b"PK, but not really")
    assert "broken.lepton is not a valid archive" in fails("unpack", "broken.lepton")
    assert "is a folder" in fails("unpack", fake_bundle().path)


# targets, recipes, backends


def test_targets_are_a_table_with_what_is_installed(fake_backend: Path) -> None:
    result = invoke("targets")
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["target", "backend", "installed", "for"]
    assert [row.split()[0] for row in rows] == list(TARGETS)
    installed = {entry.name for entry in registry.entries()}
    for row, target in zip(rows, TARGETS.values(), strict=True):
        assert row.split()[2] == ("yes" if target.backend in installed else "no")
    for backend in {target.backend for target in TARGETS.values()} - installed:
        assert f"{backend}: {registry.how_to_install(backend)}" in result.stderr


def test_targets_are_json() -> None:
    rows = printed("targets")
    assert [row["name"] for row in rows] == list(TARGETS)
    assert all(isinstance(row["installed"], bool) for row in rows)
    jetson = next(row for row in rows if row["name"] == "jetson")
    assert jetson["alias_of"] == ["jetson-orin", "jetson-thor"]


def test_recipes_are_listed_and_printed_to_start_from(tmp_path: Path) -> None:
    listed = invoke("recipes").stdout.splitlines()
    assert any(line.split()[:2] == ["demo-intents", "text-classification"] for line in listed)
    shown = invoke("recipes", "demo-intents").stdout
    head, _, text = shown.partition("\n")
    assert head.startswith("# ")
    assert Path(head[2:]).read_text(encoding="utf-8") == text
    (tmp_path / "mine.yaml").write_text(shown, encoding="utf-8")
    assert isinstance(load_recipe(tmp_path / "mine.yaml"), Recipe)  # the comment does no harm


def test_recipes_are_json() -> None:
    rows = printed("recipes")
    assert "demo-intents" in [row["name"] for row in rows]
    one = printed("recipes", "demo-intents")
    assert Path(one["path"]).is_file()
    assert one["recipe"] in rows


def test_an_unknown_recipe_names_those_there_are() -> None:
    message = fails("recipes", "demo-intent")
    assert "there is no built-in recipe 'demo-intent'" in message
    assert "demo-intents" in message


def test_the_schema_of_recipes_is_json_for_editors() -> None:
    plain = json.loads(invoke("recipes", "--schema").stdout)
    assert plain == printed("recipes", "--schema")
    assert {"name", "source", "task"} <= set(plain["properties"])
    assert plain["additionalProperties"] is False


def _row(name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = printed("backends")
    (row,) = [row for row in rows if row["name"] == name]
    return row


def test_backends_are_rows_with_their_devices(fake_backend: Path) -> None:
    output = invoke("backends").stdout.splitlines()
    assert output[0].split() == ["backend", "distribution", "library", "device", "description"]
    row = next(line for line in output if line.startswith("fake "))
    assert row.split(maxsplit=5) == [
        "fake", "lepton-edge-fake", "1.0", "1.0", "FAKE", "a device that is not there",
    ]  # fmt: skip
    assert _row("fake") == {
        "name": "fake",
        "distribution": "lepton-edge-fake",
        "version": "1.0",
        "library": "1.0",
        "devices": [
            {"name": "FAKE", "description": "a device that is not there", "capabilities": []}
        ],
        "remarks": [],
        "error": None,
    }


@pytest.mark.parametrize(
    ("points_to", "reason"),
    [
        ("no_such_module_at_all:Backend", "ModuleNotFoundError: No module named"),
        ("lepton_edge.testing:NoSuchClass", "AttributeError"),
        ("lepton_edge.backend:Backend", "TypeError"),
    ],
)
def test_a_backend_that_does_not_import_is_a_row(
    fake_backend: Path, points_to: str, reason: str
) -> None:
    write_fake_distribution(fake_backend, backend="broken", points_to=points_to)
    result = invoke("backends")
    assert result.exit_code == 0
    assert any(line.startswith("fake ") for line in result.stdout.splitlines())
    row = next(line for line in result.stdout.splitlines() if line.startswith("broken "))
    assert "cannot be used: the backend 'broken' (lepton-edge-broken 1.0) cannot be" in row
    assert reason in row
    data = _row("broken")
    assert (data["library"], data["devices"]) == (None, [])
    assert reason in data["error"]


def test_a_backend_whose_library_fails_is_a_row(
    fake_backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(_: FakeBackend) -> Probe:
        raise RuntimeError("the driver is from another age")

    monkeypatch.setattr(FakeBackend, "probe", probe)
    row = next(line for line in invoke("backends").stdout.splitlines() if "fake" in line)
    assert "cannot be used: the backend 'fake' failed while it looked at this machine" in row
    assert "RuntimeError: the driver is from another age" in row
    assert "another age" in _row("fake")["error"]


def test_a_backend_without_devices_is_a_row(
    fake_backend: Path, without_tensorrt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "probe", lambda _: Probe("2.0", ()))
    row = next(line for line in invoke("backends").stdout.splitlines() if "fake" in line)
    assert row.split(maxsplit=4)[-1].split(maxsplit=1) == ["-", "no device"]
    monkeypatch.setattr(FakeBackend, "probe", lambda _: Probe("2.0", (), ("the cable is out",)))
    assert "no device: the cable is out" in invoke("backends").stdout
    (row,) = [
        each for each in json.loads(invoke("backends", "--json").stdout) if each["name"] == "fake"
    ]
    assert row["remarks"] == ["the cable is out"]
    monkeypatch.setattr(FakeBackend, "probe", lambda _: Probe("2.0", (Device("A", "b"),)))
    assert "no device" not in invoke("backends").stdout


@pytest.mark.parametrize("verb", ["backends", "targets"])
def test_two_backends_of_one_name_are_an_error_with_both(
    fake_backend: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    other = write_fake_distribution(tmp_path, backend="other")
    (other / "entry_points.txt").write_text("[lepton_edge.backends]\nfake = elsewhere:Backend\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    message = fails(verb)
    assert "two distributions provide the backend 'fake'" in message
    assert "lepton-edge-fake 1.0 and lepton-edge-other 1.0" in message
    assert "pip uninstall lepton-edge-other" in message


def test_no_backend_at_all_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entries", lambda: ())
    result = invoke("backends")
    assert result.exit_code == 0
    assert "pip install 'lepton-edge[openvino]'" in result.stderr
    assert printed("backends") == []


# doctor


def test_doctor_prints_each_finding_and_the_command_that_fixes_it(
    fake_backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lepton_edge import doctor

    monkeypatch.setattr(doctor, "_EXTRAS", {"serve": ("no-such-package-here",)})
    result = invoke("doctor")
    assert result.exit_code == 0
    findings = printed("doctor")
    names = [finding["name"] for finding in findings]
    for name in ("python", "processor", "memory", "disk", "cache", "fake", "serve"):
        assert name in names
    for finding in findings:
        assert set(finding) == {"name", "status", "detail", "fix"}
        assert finding["status"] in ("ok", "warning", "missing")
        assert finding["detail"]
        start = f"{finding['status']:8} {finding['name']:12} "
        assert any(line.startswith(start) for line in result.stdout.splitlines())
    serve = next(finding for finding in findings if finding["name"] == "serve")
    assert serve["status"] == "warning"
    assert serve["fix"] == "pip install 'lepton-edge[serve]'"
    assert f"{'':21} fix: pip install 'lepton-edge[serve]'" in result.stdout


# What the verbs speak with.


def test_a_table_is_as_wide_as_its_widest_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "long header"), [("wide cell", "x"), ("y", "z")])
    assert capsys.readouterr().out == "a          long header\nwide cell  x\ny          z\n"


def test_progress_off_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    advance = _lines("running", 5000, "texts")
    advance(1000)
    assert capsys.readouterr().err == ""
    now = 111.0
    advance(1000)
    advance(1000)
    assert capsys.readouterr().err == "running: 2,000 of 5,000 texts\n"
