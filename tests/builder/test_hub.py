"""Models from a hub: fetched by a pinned commit at build time, and by nothing else.

huggingface_hub reads its settings when it is imported, so all of it runs in a Python of its own,
with a hub on loopback inside; the tests look at what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lepton_edge.errors import RecipeError
from lepton_edge.recipe import parse_recipe
from tests.builder.test_huggingface import write_own_code

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRIPT = """
import json, shutil, sys, time
from pathlib import Path

from lepton_edge import LeptonError, Recipe, build, load
from tests.builder.hub_server import Hub

work, port, commit = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
hub = Hub({f"org/{path.name}": path for path in (work / "models").iterdir()}, commit, tags=("v1",))
found = {}


def recipe(name, revision=commit):
    return Recipe(name="tiny", source={"hub": name, "revision": revision})


def attempt(scenario, source, **options):
    hub.requests.clear()
    start = time.monotonic()
    result = found[scenario] = {}
    try:
        bundle = build(source, output=work / "out" / scenario, **options)
    except LeptonError as error:
        result |= {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    else:
        manifest = bundle.manifest
        with load(bundle.path) as model:
            result["label"] = model("where is my new card").label
        result |= {"bundle": bundle.path.name, "license": manifest.license}
        result |= {"source": manifest.source.name, "revision": manifest.source.revision}
        result["kind"] = manifest.source.kind
    result["seconds"] = time.monotonic() - start
    result["asked"] = list(hub.requests)
    result["agents"] = sorted(hub.agents)
    result["left"] = [path.name for path in (work / "out" / scenario).glob("*")]
    result["code ran"] = (work / "ran").exists()


attempt("offline", recipe("org/tiny"))
attempt("offline, newest", "org/tiny")
attempt("no hub id", recipe("a hub/model"))
with hub.serving(port):
    attempt("first", recipe("org/tiny"))
    attempt("again", recipe("org/tiny"))
    attempt("newest", "org/tiny")
    attempt("tag", "org/tiny", revision="v1")
    attempt("recipe at a tag", recipe("org/tiny", "f" * 40), revision="v1")
    attempt("no such tag", "org/tiny", revision="v9")
    attempt("no such commit", recipe("org/tiny", "f" * 40))
    attempt("no such model", "org/none")
    attempt("code", recipe("org/code"))
    attempt("code, trusted", recipe("org/code"), trust_remote_code=True)
attempt("alone", recipe("org/tiny"))
snapshot = work / "home" / "hub" / "models--org--tiny" / "snapshots" / commit
weights = snapshot / "model.safetensors"
weights.resolve().unlink()
weights.unlink()
attempt("interrupted", recipe("org/tiny"))
with hub.serving(port):
    attempt("completed", recipe("org/tiny"))
print("\\n" + json.dumps(found))
"""

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Results:
    """What came of each attempt, by its scenario."""
    work = tmp_path_factory.mktemp("hub")
    _write_models(work / "models", tiny_bert)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(work), str(port), COMMIT],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(work / "home"),
            "NO_PROXY": "127.0.0.1",
            "TINY_CODE_RAN": str(work / "ran"),
        },
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    values: Results = json.loads(result.stdout.splitlines()[-1])
    return values


def _write_models(folder: Path, tiny_bert: Path) -> None:
    """A model with more in it than a build needs, and one with code of its own."""
    for name in ("tiny", "code"):
        shutil.copytree(tiny_bert, folder / name)
    tiny = folder / "tiny"
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n")
    (tiny / "pytorch_model.bin").write_bytes(b"a pickle")
    (tiny / "setup.py").write_text("raise SystemExit('never')")
    (tiny / "onnx").mkdir()
    (tiny / "onnx" / "model.onnx").write_bytes(b"large")
    write_own_code(folder / "code")


def test_a_model_is_fetched_by_its_commit_and_recorded(found: Results) -> None:
    first = found["first"]
    assert first["left"] == [first["bundle"]] == ["tiny-1.0.0"]
    assert (first["kind"], first["source"], first["revision"]) == ("hub", "org/tiny", COMMIT)
    assert first["license"] == "mit"
    assert all(COMMIT in line for line in first["asked"])


def test_only_what_a_build_reads_is_fetched(found: Results) -> None:
    """Nothing that can run code, no weights in another form, and no word about the user."""
    asked = found["first"]["asked"]
    files = {line.rpartition("/")[2] for line in asked if line.startswith("GET /org/")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not files & {"pytorch_model.bin", "setup.py", "model.onnx"}
    assert not [line for line in asked if "telemetry" in line]
    # The library tells a hub which frameworks are installed, unless it is told not to.
    assert found["first"]["agents"]
    assert not [agent for agent in found["first"]["agents"] if "torch" in agent]


@pytest.mark.parametrize("scenario", ["again", "alone"])
def test_what_was_fetched_needs_no_network_again(found: Results, scenario: str) -> None:
    assert found[scenario]["asked"] == []
    for key in ("label", "revision", "source", "bundle"):
        assert found[scenario][key] == found["first"][key]


@pytest.mark.parametrize("scenario", ["newest", "tag", "recipe at a tag"])
def test_a_branch_or_tag_is_pinned_to_its_commit_of_now(found: Results, scenario: str) -> None:
    assert found[scenario]["revision"] == COMMIT


@pytest.mark.parametrize(
    ("scenario", "hub_id", "fetched"),
    [
        ("offline", "org/tiny", f"org/tiny --revision {COMMIT}"),
        ("offline, newest", "org/tiny", "org/tiny"),
        ("interrupted", "org/tiny", f"org/tiny --revision {COMMIT}"),
    ],
)
def test_offline_it_fails_at_once_and_says_what_to_do(
    found: Results, scenario: str, hub_id: str, fetched: str
) -> None:
    failed = found[scenario]
    assert failed["kind"] == "DownloadError"
    assert f"the hub model {hub_id} cannot be fetched: ConnectError" in failed["message"]
    assert f"hf download {fetched} --local-dir tiny\n" in failed["hint"]
    assert "lepton-edge build tiny" in failed["hint"]
    assert failed["left"] == []
    # At once: without the minutes of repeated attempts that the library makes by itself.
    assert failed["seconds"] < 15


@pytest.mark.parametrize(
    ("scenario", "hub_id", "reason"),
    [
        ("no such tag", "org/tiny", "404"),
        ("no such commit", "org/tiny", "404"),
        ("no such model", "org/none", "404"),
        ("no hub id", "a hub/model", "Repo id must"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    found: Results, scenario: str, hub_id: str, reason: str
) -> None:
    failed = found[scenario]
    assert failed["kind"] == "DownloadError"
    assert f"the hub model {hub_id} cannot be fetched" in failed["message"]
    assert reason in failed["message"]
    assert failed["left"] == []


def test_what_an_interrupted_download_left_is_completed(found: Results) -> None:
    assert found["completed"]["revision"] == COMMIT
    assert any(line.endswith("/model.safetensors") for line in found["completed"]["asked"])


def test_code_of_a_model_is_not_even_fetched_unless_trusted(found: Results) -> None:
    refused = found["code"]
    assert refused["kind"] == "SourceError"
    assert "runs code of its own" in refused["message"]
    assert refused["asked"]
    assert not [line for line in refused["asked"] if line.endswith(".py")]
    assert not refused["code ran"]


def test_code_of_a_trusted_model_is_fetched_and_runs(found: Results) -> None:
    trusted = found["code, trusted"]
    assert trusted["revision"] == COMMIT
    assert [line for line in trusted["asked"] if line.endswith("/modeling_tiny.py")]
    assert trusted["code ran"]


def test_a_recipe_pins_its_revision() -> None:
    with pytest.raises(RecipeError, match="a hub model needs its revision: a commit") as caught:
        parse_recipe("name: x\nsource: {hub: org/tiny}\n", "x.yaml")
    assert "x.yaml:2" in caught.value.message
    with pytest.raises(RecipeError, match=r"source\.revision is 'main'"):
        parse_recipe("name: x\nsource: {hub: org/tiny, revision: main}\n", "x.yaml")
