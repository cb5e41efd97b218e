"""The cache of compiled models: shared by processes, and never another library's or processor's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")

from lepton_edge_openvino import backend as module
from lepton_edge_openvino.backend import OpenVINOBackend, cache_properties
from lepton_edge_openvino.library import openvino
from lepton_edge_openvino.options import OpenVINOOptions

from lepton_edge.backend import Compiled
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig
from tests.conformance.test_backends import Bag

BACKEND = OpenVINOBackend()
IDS = np.arange(18, dtype=np.int64).reshape(2, 9)
FEEDS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}

CHILD = """
import sys
from pathlib import Path
import msgspec
import numpy as np
from lepton_edge.backend import Compiled
from lepton_edge_openvino import OpenVINOBackend
folder, cache = map(Path, sys.argv[1:])
compiled = msgspec.json.decode((folder.parent / "compiled.json").read_bytes(), type=Compiled)
ids = np.arange(18, dtype=np.int64).reshape(2, 9)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
print("ready", flush=True)
sys.stdin.readline()
with OpenVINOBackend().load(folder, compiled, cache=cache) as session:
    print(session.infer(feeds)["logits"].tolist(), flush=True)
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compiled]:
    folder = tmp_path_factory.mktemp("artifact") / "model"
    folder.mkdir()
    original = TorchOriginal(Bag(), ("input_ids", "attention_mask"))
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    graph = original.graph("text-classification", config, folder)
    compiled = BACKEND.build(graph, TARGETS["intel-cpu"], "fp32", OpenVINOOptions(), folder)
    (folder.parent / "compiled.json").write_bytes(msgspec.json.encode(compiled))
    return folder, compiled


def answer(artifact: tuple[Path, Compiled], cache: Path | None) -> Any:
    with BACKEND.load(*artifact, cache=cache) as session:
        return session.infer(FEEDS)["logits"]


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_processes_that_start_at_once_share_a_cold_cache(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    expected = answer(artifact, None).tolist()
    for _ in range(2):  # cold, then warm
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(artifact[0]), str(tmp_path / "cache")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:  # all are waiting for this line
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            printed, _ = child.communicate(timeout=60)
            assert child.returncode == 0
            np.testing.assert_allclose(eval(printed), expected, rtol=1e-5)
    assert list((tmp_path / "cache").rglob("*.blob"))


def test_a_cache_that_is_read_only_is_read(artifact: tuple[Path, Compiled], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = answer(artifact, cache)
    files = [path for path in cache.rglob("*") if path.is_file()]
    for path in (*files, *(path for path in cache.rglob("*") if path.is_dir())):
        path.chmod(0o555 if path.is_dir() else 0o444)
    times = {path: path.stat().st_mtime_ns for path in files}
    try:
        np.testing.assert_array_equal(answer(artifact, cache), expected)
    finally:
        for path in cache.rglob("*"):
            path.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in files} == times


def test_another_library_or_processor_has_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, version = openvino().Core(), openvino().__version__
    cache_properties(core, "CPU", version, tmp_path)
    assert len(folders(tmp_path)) == 1
    cache_properties(core, "CPU", version, tmp_path)
    assert len(folders(tmp_path)) == 1  # the same library on the same processor
    cache_properties(core, "CPU", "2027.1.0-1-releases/2027/1", tmp_path)
    assert len(folders(tmp_path)) == 2
    # The same model name, after the hypervisor hid an instruction set from the guest.
    flags = module._processor_flags().replace("avx512f", "")
    monkeypatch.setattr(module, "_processor_flags", lambda: f"{flags} another")
    cache_properties(core, "CPU", version, tmp_path)
    assert len(folders(tmp_path)) == 3


def test_what_another_library_left_is_not_read(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    expected = answer(artifact, tmp_path)
    (mine,) = tmp_path.iterdir()
    stale = tmp_path / mine.name.replace("openvino-", "openvino-1999-")
    mine.rename(stale)
    for blob in stale.rglob("*.blob"):
        blob.write_bytes(b"of another time")
    np.testing.assert_array_equal(answer(artifact, tmp_path), expected)
    assert all(blob.read_bytes() == b"of another time" for blob in stale.rglob("*.blob"))
    assert list(mine.rglob("*.blob"))
