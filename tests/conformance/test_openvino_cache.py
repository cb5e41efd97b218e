"""The cache of compiled models: shared by processes, and never another library's or processor's."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")

from lepton_edge_openvino import backend as backend_module
from lepton_edge_openvino import cache as module
from lepton_edge_openvino.backend import OpenVINOBackend
from lepton_edge_openvino.cache import model_cache
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


def test_another_library_processor_or_model_has_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, version = openvino().Core(), openvino().__version__

    def opened(version: str = version, model: str = "a model") -> int:
        with model_cache(core, "CPU", version, tmp_path, model) as properties:
            assert properties["CACHE_DIR"] in map(str, tmp_path.iterdir())
        return len(folders(tmp_path))

    assert opened() == 1
    assert opened() == 1  # the same library on the same processor
    assert opened(version="2027.1.0-1-releases/2027/1") == 2
    assert opened(model="another") == 3
    # The same model name, after the hypervisor hid an instruction set from the guest.
    flags = module._processor_flags().replace("avx512f", "")
    monkeypatch.setattr(module, "_processor_flags", lambda: f"{flags} another")
    assert opened() == 4


def test_a_cache_that_another_process_writes_is_left_alone(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    expected = answer(artifact, tmp_path)
    (folder,) = tmp_path.iterdir()
    (blob,) = folder.glob("*.blob")
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[: len(whole) // 2])  # as far as the other has come
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        np.testing.assert_array_equal(answer(artifact, tmp_path), expected)
        assert blob.stat().st_size == len(whole) // 2
    finally:
        os.close(handle)
    np.testing.assert_array_equal(answer(artifact, tmp_path), expected)
    assert blob.stat().st_size == len(whole)  # the other died: its file was made again


def test_one_writes_a_cache_or_many_read_it(tmp_path: Path) -> None:
    core, version = openvino().Core(), openvino().__version__

    def properties() -> AbstractContextManager[dict[str, Any]]:
        return model_cache(core, "CPU", version, tmp_path, "a model")

    with properties() as mine, properties() as second:
        assert mine
        assert not second
    Path(mine["CACHE_DIR"], "1.blob").touch()
    with properties() as mine, properties() as second:
        assert mine == second != {}


def test_opening_goes_on_where_the_cache_fails(
    artifact: tuple[Path, Compiled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Core:
        def __init__(self) -> None:
            self.core = openvino().Core()

        def get_property(self, *names: str) -> Any:
            return self.core.get_property(*names)

        def compile_model(self, path: str, device: str, properties: dict[str, Any]) -> Any:
            asked.append("CACHE_DIR" in properties)
            if asked[-1]:
                raise RuntimeError("filesystem error: cannot set permissions")
            return self.core.compile_model(path, device, properties)

    library = SimpleNamespace(Core=Core, __version__=openvino().__version__)
    expected = answer(artifact, None)
    monkeypatch.setattr(backend_module, "openvino", lambda: library)
    np.testing.assert_array_equal(answer(artifact, tmp_path), expected)
    assert asked == [True, False]


def test_a_link_to_a_bundle_shares_its_cache(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    folder, compiled = artifact
    (tmp_path / "link").symlink_to(folder)
    expected = answer(artifact, tmp_path / "cache")
    linked = answer((tmp_path / "link", compiled), tmp_path / "cache")
    np.testing.assert_array_equal(linked, expected)
    assert len(list((tmp_path / "cache").rglob("*.blob"))) == 1


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
