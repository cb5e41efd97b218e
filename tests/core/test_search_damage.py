"""A damaged index: each file that is not what it was is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_edge import Index, Model, load
from lepton_edge.bundle import Bundle
from lepton_edge.errors import SearchIndexError
from tests.core.parts import flip_byte
from tests.core.search_parts import SEGMENT

Bundles = Callable[..., Bundle]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle(task="feature-extraction").path) as opened:
        yield opened


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    """The folder of an index of thirty texts."""
    Index.build(model, [f"w{n}" for n in range(30)], path=tmp_path / "i")
    return tmp_path / "i"


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a")
    for name, problem in (
        ("none", "there is no search index at"),
        ("empty", "is not a search index: it has no index.json"),
        ("file", "is not a search index"),
    ):
        with pytest.raises(SearchIndexError, match=problem) as caught:
            Index.open(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert "lepton-edge index" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["vectors", "documents.jsonl", "offsets.u64", "keys"])
@pytest.mark.parametrize("damage", ["short", "long", "missing", "folder", "empty"])
def test_a_file_of_another_size_is_named(path: Path, name: str, damage: str) -> None:
    file = path / SEGMENT / name
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"short": data[:-1], "long": data + b"\0", "empty": b""}[damage])
    with pytest.raises(SearchIndexError) as caught:
        Index.open(path)
    assert str(file) in caught.value.message
    assert {"missing": "is missing", "folder": "cannot be read"}.get(damage, "the header says") in (
        caught.value.message
    )


def test_a_list_of_removed_rows_that_is_none_is_named(path: Path) -> None:
    Index.open(path).remove([1, 2])
    (file,) = (path / SEGMENT).glob("removed-*.u32")
    for data in (b"\2\0\0\0\1\0\0\0", b"\1\0\0\0\xff\0\0\0", b"\1\0\0\0\1\0\0\0"):
        file.write_bytes(data)
        with pytest.raises(
            SearchIndexError, match=r"removed-\d+\.u32 is damaged: it is not a list"
        ):
            Index.open(path)
    file.unlink()
    with pytest.raises(SearchIndexError, match=r"removed-\d+\.u32 is missing"):
        Index.open(path)


@pytest.mark.parametrize("name", ["vectors", "documents.jsonl", "offsets.u64", "keys"])
def test_verifying_names_the_file_with_a_changed_bit(path: Path, name: str) -> None:
    index = Index.open(path)
    read: list[int] = []
    index.verify(read.append)
    assert sum(read) == index.size
    flip_byte(path / SEGMENT / name)
    with pytest.raises(SearchIndexError, match="has SHA-256") as caught:
        Index.open(path).verify()
    assert str(path / SEGMENT / name) in caught.value.message


@pytest.mark.parametrize("name", ["vectors", "documents.jsonl", "offsets.u64", "keys"])
@pytest.mark.parametrize("change", ["join", "compact"])
def test_what_is_damaged_is_not_copied(model: Model, path: Path, name: str, change: str) -> None:
    """The copy would have a SHA-256 of its own, and be right ever after."""
    index = Index.open(path)
    index.remove([0])
    flip_byte(path / SEGMENT / name)
    before = (path / "index.json").read_bytes()
    more = [f"w{n}" for n in range(40)]
    with pytest.raises(SearchIndexError, match="has SHA-256") as caught:
        index.compact() if change == "compact" else index.add(model, more)
    assert str(path / SEGMENT / name) in caught.value.message
    assert (path / "index.json").read_bytes() == before


def test_a_key_of_a_row_that_is_not_there_is_named(model: Model, path: Path) -> None:
    file = path / SEGMENT / "keys"
    data = file.read_bytes()
    file.write_bytes(data[: 30 * 8] + b"\xff\xff\0\0" * 30)
    index = Index.open(path)
    for use in (
        lambda: index.remove([3]),
        lambda: index.add(model, ["w1"], [3]),
        lambda: 3 in index,
        index._state.segments[0].hashes,
    ):
        with pytest.raises(
            SearchIndexError, match="is damaged: it names row 65,536 of 30"
        ) as caught:
            use()
        assert str(file) in caught.value.message


def test_a_damaged_text_is_named_with_its_line(model: Model, path: Path) -> None:
    file = path / SEGMENT / "documents.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"text": "w3"', b'"text"; "w3"'))
    with pytest.raises(SearchIndexError, match=r"documents\.jsonl:4 is damaged"):
        Index.open(path).query(model, "w3")
    file.write_bytes(file.read_bytes().replace(b'"text"; "w3"', b'"test": "w3"'))
    with pytest.raises(SearchIndexError, match=r"documents\.jsonl:4 is damaged"):
        Index.open(path).query(model, "w3")


def test_damaged_offsets_are_named(model: Model, path: Path) -> None:
    (path / SEGMENT / "offsets.u64").write_bytes(b"\xff" * 31 * 8)
    with pytest.raises(SearchIndexError, match=r"offsets\.u64 is damaged: row"):
        Index.open(path).query(model, "w3")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"schema": 1', '"schema": 2', "has schema 2; this lepton-edge reads up to 1"),
        ('"schema": 1', '"schema": "1"', "is not the header of a search index"),
        ('"float32"', '"float64"', "is not the header of a search index: Invalid enum"),
        ('"rows": 30', '"rows": 31', "vectors has 960 bytes; 31 rows take 992"),
        ('"rows": 30', '"rows": 0', "is not the header of a search index"),
        ("segment-000001", "../outside", "is not the header of a search index"),
        ("segment-000001", "segment-000002", "segment-000002/vectors is missing"),
        ('"kind": "exact"', '"kind": "exact", "x": 1', "unknown field"),
        ("{", "", "is not the header of a search index"),
        ("fake", "\udcff", "is not the header of a search index"),
    ],
)
def test_a_damaged_header_is_named(path: Path, old: str, new: str, problem: str) -> None:
    file = path / "index.json"
    text = file.read_text().replace(old, new, 1)
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SearchIndexError) as caught:
        Index.open(path)
    assert problem in caught.value.message
    assert str(path) in caught.value.message


def test_a_header_that_names_a_segment_twice_is_refused(path: Path) -> None:
    file = path / "index.json"
    header = json.loads(file.read_text())
    header["segments"] *= 2
    file.write_text(json.dumps(header))
    with pytest.raises(SearchIndexError, match="names a segment twice"):
        Index.open(path)
