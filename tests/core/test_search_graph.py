"""Approximate search by usearch: how much it finds beside exact search, and its absence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_edge import Index, load
from lepton_edge.bundle import Bundle
from lepton_edge.errors import BackendError, SearchIndexError, StorageError
from lepton_edge.search import changes, graph
from tests.core.parts import flip_byte
from tests.core.search_parts import SEGMENT, clustered, ids, index_of_vectors

Bundles = Callable[..., Bundle]
needs_usearch = pytest.mark.skipif(
    find_spec("usearch") is None, reason="needs usearch: pip install 'lepton-edge[search]'"
)
ROWS, DIMENSION, CLUSTERS = 20_000, 48, 200


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(ROWS, DIMENSION, CLUSTERS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32]) -> Path:
    """The folder of an approximate index of `vectors`, large enough for a graph."""
    if find_spec("usearch") is None:
        pytest.skip("needs usearch: pip install 'lepton-edge[search]'")
    path = tmp_path_factory.mktemp("graph") / "i"
    index_of_vectors(path, vectors, kind="approximate")
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    import shutil

    return Path(shutil.copytree(built, tmp_path / "i"))


def asked(queries: int = 100) -> NDArray[np.float32]:
    return clustered(queries, DIMENSION, CLUSTERS, seed=5)


def recall(found: list[list[Any]], true: list[list[Any]]) -> float:
    pairs = zip(found, true, strict=True)
    return float(np.mean([len({*ids(a)} & {*ids(b)}) / len(b) for a, b in pairs]))


def test_it_finds_nearly_all_and_scores_them_the_same(
    built: Path, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    index = Index.open(built)
    assert (built / SEGMENT / "graph.usearch").is_file()
    exact = index_of_vectors(tmp_path / "exact", vectors)
    for top_k in (1, 10, 50):
        found = index.query_vectors(asked(), top_k)
        true = exact.query_vectors(asked(), top_k)
        assert recall(found, true) >= 0.98
        for some, every in zip(found, true, strict=True):
            scores = {hit.id: hit.score for hit in every}
            assert [hit.score for hit in some] == sorted((h.score for h in some), reverse=True)
            assert all(hit.score == scores.get(hit.id, hit.score) for hit in some)
    assert index.query_vectors(vectors[:1], 1)[0][0].id == 0


def test_one_query_finds_what_many_do(built: Path) -> None:
    index = Index.open(built)
    together = index.query_vectors(asked(), 5)
    assert [index.query_vectors(each[None], 5)[0] for each in asked()[:9]] == together[:9]


def test_asking_for_most_of_it_is_exact(
    built: Path, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    exact = index_of_vectors(tmp_path / "exact", vectors)
    top_k = ROWS // 5
    assert Index.open(built).query_vectors(asked(2), top_k) == exact.query_vectors(asked(2), top_k)


def test_what_is_removed_is_not_found(path: Path, vectors: NDArray[np.float32]) -> None:
    index = Index.open(path)
    (near,) = index.query_vectors(vectors[:1], 80)
    index.remove(ids(near[:70]))
    (rest,) = index.query_vectors(vectors[:1], 10)
    assert {*ids(rest)} == {*ids(near[70:])}
    index.remove([n for n in range(ROWS) if n not in ids(near[60:]) and n in index])
    assert sorted(ids(index.query_vectors(vectors[:1], 100)[0])) == sorted(ids(near[70:]))


def test_a_small_segment_needs_no_graph(path: Path, fake_bundle: Bundles) -> None:
    with load(fake_bundle(task="feature-extraction").path) as model:
        small = Index.build(model, ["w1", "w2"], kind="approximate")
        assert small.header.segments[0].graph is None
        assert ids(small.query(model, "w2", 1)) == [1]


def test_segments_that_join_get_a_graph(
    fake_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    monkeypatch.setattr(graph, "MIN_ROWS", 100)
    monkeypatch.setattr(changes, "_SMALL", 100)
    texts = [f"w{n % 99} w{n % 17} w{n % 7}" for n in range(250)]
    with load(fake_bundle(task="feature-extraction").path) as model:
        exact = Index.build(model, texts)
        for path in (None, tmp_path / "i"):
            index = Index.build(model, texts[:90], kind="approximate", path=path)
            assert index.header.segments[0].graph is None
            index.add(model, texts[90:180])
            (joined,) = index.header.segments
            assert (joined.rows, joined.graph is None) == (180, False)
            index.add(model, texts[180:])
            assert recall(index.query(model, texts[:50]), exact.query(model, texts[:50])) > 0.95
            index.remove([0])
            index.compact()
            assert [(each.rows, each.graph is None) for each in index.header.segments] == [
                (249, False)
            ]
        index = Index.build(model, texts, kind="approximate")
        index.save(tmp_path / "saved")
        again = Index.open(tmp_path / "saved")
        assert recall(again.query(model, texts[:50]), exact.query(model, texts[:50])) > 0.95
        again.verify()


def test_a_reader_keeps_its_graph(path: Path, vectors: NDArray[np.float32]) -> None:
    """The graph is opened at the first query, which may be after a writer replaced it."""
    reader, writer = Index.open(path), Index.open(path)
    writer.remove([0])
    writer.compact()
    assert not (path / SEGMENT).exists()
    assert reader.query_vectors(vectors[:1], 1)[0][0].id == 0
    assert writer.query_vectors(vectors[:1], 1)[0][0].id != 0


@pytest.mark.parametrize("place", [0, 40, 5000, -1])
def test_a_damaged_graph_is_named_before_the_library_sees_it(path: Path, place: int) -> None:
    file = path / SEGMENT / "graph.usearch"
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    index = Index.open(path)
    with pytest.raises(SearchIndexError, match="has SHA-256") as caught:
        index.query_vectors(asked(1))
    assert str(file) in caught.value.message
    file.write_bytes(data[:-1])
    with pytest.raises(SearchIndexError, match=r"graph\.usearch has [\d,]+ bytes; the header says"):
        Index.open(path)


def test_a_graph_that_the_library_does_not_know_is_named(path: Path) -> None:
    """Such as that of another version of usearch: whole, and not what it reads."""
    import hashlib

    file = path / SEGMENT / "graph.usearch"
    file.write_bytes(b"not a graph " * 99)
    header = json.loads((path / "index.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    header["segments"][0]["graph"] = {"size": file.stat().st_size, "sha256": digest}
    (path / "index.json").write_text(json.dumps(header))
    with pytest.raises(SearchIndexError, match="cannot be opened by this version of usearch"):
        Index.open(path).query_vectors(asked(1))


@needs_usearch
def test_a_graph_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    writer = graph.GraphWriter(4)
    writer.add(0, np.eye(4, dtype=np.float32))
    with pytest.raises(StorageError, match="could not be written"):
        writer.save(tmp_path / "no folder" / "graph")


@needs_usearch
def test_a_graph_that_was_cut_short_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = graph.GraphWriter(4)
    writer.add(0, np.eye(4, dtype=np.float32))
    real = writer._graph.save

    def save(path: str) -> None:
        real(path)
        with open(path, "r+b") as file:  # as a disk that is full leaves it
            file.truncate(100)

    monkeypatch.setattr(writer._graph, "save", save)
    with pytest.raises(StorageError, match=r"could not be written whole \("):
        writer.save(tmp_path / "graph")


_WITHOUT = """
import sys
sys.modules["usearch"] = None
from lepton_edge import Index
from lepton_edge.errors import BackendError
import numpy as np
index = Index.open(sys.argv[1])
print(len(index))
try:
    index.query_vectors(np.ones((1, 48)))
except BackendError as error:
    print(error)
"""


def test_without_usearch_it_says_what_to_install(built: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(built)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{ROWS}\nan approximate index needs usearch, which cannot")
    assert "pip install 'lepton-edge[search]'" in result.stdout


def test_an_approximate_index_is_not_begun_without_usearch(
    fake_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with load(fake_bundle(task="feature-extraction").path) as model:
        with pytest.raises(BackendError, match="needs usearch"):
            Index.build(model, ["w1"], kind="approximate", path=tmp_path / "i")
        assert not (tmp_path / "i").exists()
        assert len(Index.build(model, ["w1"])) == 1


def test_a_changed_bit_of_a_graph_is_found_by_verifying(path: Path) -> None:
    flip_byte(path / SEGMENT / "graph.usearch")
    with pytest.raises(SearchIndexError, match=r"graph\.usearch has SHA-256"):
        Index.open(path).verify()
