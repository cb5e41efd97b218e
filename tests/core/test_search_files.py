"""An index on disk: what is read when, what a kill leaves, who waits for whom."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_edge import Index, Model, load, pack, unpack
from lepton_edge.bundle import Bundle
from lepton_edge.errors import InputError, SearchIndexError, StorageError
from lepton_edge.search import store
from lepton_edge.search.index import beside, find
from lepton_edge.search.store import locked
from tests.core.disks import run_on_disk, unprivileged_folder
from tests.core.parts import rewrite
from tests.core.search_parts import SEGMENT, clustered, ids, index_of_vectors, texts

Bundles = Callable[..., Bundle]
TEXTS = [f"w{n}" for n in range(30)]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle(task="feature-extraction").path) as opened:
        yield opened


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    """The folder of an index of `TEXTS`."""
    Index.build(model, TEXTS, path=tmp_path / "i")
    return tmp_path / "i"


# Saving and opening.


def test_a_saved_index_answers_the_same(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS, metadata=[{"n": n} for n in range(30)])
    index.add(model, ["w50"], ["x"])
    index.remove([3])
    queries = ["w3", "w50", "w7 w8"]
    before = index.query(model, queries, 31)
    index.save(tmp_path / "saved")
    assert index.path == tmp_path / "saved"
    again = Index.open(tmp_path / "saved")
    assert again.query(model, queries, 31) == index.query(model, queries, 31) == before
    again.verify()
    assert again.add(model, ["w51"]) == [30]


def test_from_then_on_changes_go_to_the_folder(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS)
    index.save(tmp_path / "a")
    index.add(model, ["w60"])
    index.remove([0])
    assert texts(Index.open(tmp_path / "a")) == sorted([*TEXTS[1:], "w60"])
    index.save(tmp_path / "b")
    index.remove([1])
    assert (len(Index.open(tmp_path / "a")), len(Index.open(tmp_path / "b"))) == (30, 29)


def test_what_is_there_is_not_replaced_without_force(model: Model, path: Path) -> None:
    index = Index.build(model, ["w1"])
    for write in (
        lambda **options: index.save(path, **options),
        lambda **options: Index.build(model, ["w1"], path=path, **options),
    ):
        with pytest.raises(StorageError, match="already exists"):
            write()
        assert len(Index.open(path)) == 30
    index.save(path, force=True)
    assert len(Index.open(path)) == 1


def test_an_index_may_replace_itself(model: Model, path: Path) -> None:
    index = Index.open(path)
    index.remove([0])
    before = index.query(model, TEXTS, 30)
    index.save(path, force=True)
    index.add(model, ["w1"])
    index.remove([30])
    assert Index.open(path).query(model, TEXTS, 30) == before


def test_what_is_in_memory_leaves_no_open_files(model: Model) -> None:
    def build() -> None:
        index = Index.build(model, TEXTS)
        index.add(model, ["w1"])
        index.remove([1])

    build()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        build()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_removed_in_memory_leaves_no_open_files(model: Model) -> None:
    index = Index.build(model, TEXTS)
    index.remove([0])
    before = len(os.listdir("/proc/self/fd"))
    for n in range(1, 20):
        old = index.query(model, TEXTS, 30)
        index.remove([n])
        assert index.query(model, TEXTS, 30) != old
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    index.verify()


def test_saving_waits_for_a_change_of_another_thread(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS)
    begun, go_on = threading.Event(), threading.Event()

    def feed() -> Iterator[str]:
        begun.set()
        assert go_on.wait(60)
        yield "w70"

    adding = threading.Thread(target=lambda: index.add(model, feed()))
    saving = threading.Thread(target=lambda: index.save(tmp_path / "saved"))
    adding.start()
    assert begun.wait(60)
    saving.start()
    saving.join(0.3)
    go_on.set()
    adding.join(60)
    saving.join(60)
    assert index.path == tmp_path / "saved"
    assert texts(index) == texts(Index.open(tmp_path / "saved")) == sorted([*TEXTS, "w70"])
    index.remove([30])
    assert texts(Index.open(tmp_path / "saved")) == sorted(TEXTS)


def test_texts_that_save_the_index_they_are_added_to_are_refused(model: Model, path: Path) -> None:
    index = Index.open(path)

    def feed() -> Iterator[str]:
        yield "w1"
        index.save(path.with_name("other"))

    with pytest.raises(InputError, match="come from a change of the same index"):
        index.add(model, feed())
    assert index.add(model, ["w1"]) == [30]


def test_force_replaces_no_folder_that_is_not_an_index(model: Model, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("a")
    with pytest.raises(StorageError, match="is a folder and not a search index"):
        Index.build(model, ["w1"], path=tmp_path / "precious", force=True)
    assert (tmp_path / "precious" / "file").read_text() == "a"


def test_a_build_that_fails_leaves_nothing(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="text 600 is empty"):
        Index.build(model, ["w1"] * 599 + [" "], path=tmp_path / "new" / "i")
    assert os.listdir(tmp_path / "new") == []


def test_files_are_what_the_header_says(path: Path) -> None:
    header = json.loads((path / "index.json").read_text())
    assert (header["schema"], header["dtype"], header["kind"]) == (1, "float32", "exact")
    assert header["origin"]["name"] == "fake"
    (segment,) = header["segments"]
    assert sorted(os.listdir(path)) == ["index.json", SEGMENT]
    assert sorted(os.listdir(path / SEGMENT)) == [
        "documents.jsonl",
        "keys",
        "offsets.u64",
        "vectors",
    ]
    assert (path / SEGMENT / "vectors").stat().st_size == segment["vectors"]["size"] == 30 * 8 * 4
    lines = (path / SEGMENT / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": n, "text": text} for n, text in enumerate(TEXTS)
    ]


def _resident(file: Path) -> int:
    """KiB of a mapped file that this process has in memory."""
    maps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)
    assert found, f"{file} is not mapped"
    return sum(map(int, found))


def test_opening_reads_no_vectors_and_no_texts(tmp_path: Path) -> None:
    vectors = clustered(20_000, 32, 10)
    index_of_vectors(tmp_path / "i", vectors)
    index = Index.open(tmp_path / "i")
    assert len(index) == 20_000
    folder = tmp_path / "i" / SEGMENT
    assert [_resident(folder / name) for name in ("vectors", "documents.jsonl", "keys")] == [0] * 3
    assert ids(index.query_vectors(vectors[9:10], 1)[0]) == [9]
    assert _resident(folder / "vectors") >= 20_000 * 32 * 4 // 1024
    assert _resident(folder / "documents.jsonl") < 300, "the hits' texts only"


# Readers and writers.


def test_a_reader_keeps_its_state(model: Model, path: Path) -> None:
    reader, writer = Index.open(path), Index.open(path)
    before = reader.query(model, TEXTS, 30)
    writer.add(model, ["w80"])
    writer.remove(list(range(20)))
    writer.compact()
    assert not (path / SEGMENT).exists()
    assert reader.query(model, TEXTS, 30) == before
    reader.verify()
    reader.save(path.with_name("kept"))
    assert Index.open(path.with_name("kept")).query(model, TEXTS, 30) == before
    assert (len(reader), 0 in reader, "w80" in texts(reader)) == (30, True, False)
    assert len(Index.open(path)) == 11


def test_a_writer_goes_on_from_what_others_wrote(model: Model, path: Path) -> None:
    first, second = Index.open(path), Index.open(path)
    assert first.add(model, ["w70"]) == [30]
    assert len(second) == 30
    assert second.add(model, ["w71"]) == [31]
    assert (len(first), len(second)) == (31, 32)
    with pytest.raises(InputError, match="is in the index already"):
        first.add(model, ["w1"], [31])
    first.remove([31])
    assert len(first) == 31
    with pytest.raises(InputError, match="there is no 31"):
        second.remove([31])


def test_threads_that_write_take_turns(model: Model, path: Path) -> None:
    shared = Index.open(path)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            index = shared if number % 2 else Index.open(path)
            for n in range(5):
                index.add(model, [f"w{n}"], [f"{number}-{n}"])
                index.query(model, "w1")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    index = Index.open(path)
    assert len(index) == 30 + 20
    assert all(f"{number}-{n}" in index for number in range(4) for n in range(5))
    index.verify()


_WRITER = """
import sys
from lepton_edge import Index, load
bundle, path, name = sys.argv[1:]
with load(bundle) as model:
    for n in range(6):
        index = Index.open(path)
        index.add(model, [f"w{n}"], [f"{name}{n}"])
        index.remove([f"{name}{n}"]) if n % 2 else index.compact()
"""


def test_processes_that_write_take_turns(
    fake_bundle: Bundles, fake_backend: Path, model: Model, path: Path
) -> None:
    bundle = fake_bundle("again", task="feature-extraction").path
    environment = {**os.environ, "PYTHONPATH": str(fake_backend)}
    command = [sys.executable, "-c", _WRITER, str(bundle), str(path)]
    writers = [
        subprocess.Popen([*command, name], env=environment, stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    index = Index.open(path)
    assert len(index) == 30 + 6
    assert {f"{name}{n}" for name in "ab" for n in range(0, 6, 2)} <= {
        *ids(index.query(model, "w1", 100))
    }
    index.verify()


def test_a_writer_waits_for_the_other(model: Model, path: Path) -> None:
    index, done = Index.open(path), threading.Event()

    def add() -> None:
        index.add(model, ["w1"])
        done.set()

    with locked(path):
        thread = threading.Thread(target=add)
        thread.start()
        assert not done.wait(0.3)
        assert len(Index.open(path)) == 30
    assert done.wait(60)
    thread.join()
    assert len(Index.open(path)) == 31


def test_a_writer_that_waited_for_a_replaced_index_sees_the_new_one(
    model: Model, path: Path
) -> None:
    index = Index.open(path)
    thread = threading.Thread(target=lambda: index.add(model, ["w9"]))
    with locked(path):
        thread.start()
        Index.build(model, ["w1"], path=path.with_name("other"))
        shutil.move(path, path.with_name("old"))
        shutil.move(path.with_name("other"), path)
    thread.join(60)
    assert texts(Index.open(path)) == ["w1", "w9"]
    assert len(Index.open(path.with_name("old"))) == 30


@pytest.mark.parametrize("replacement", [TEXTS[::-1], TEXTS[:20]], ids=["same size", "other size"])
def test_an_index_that_is_replaced_while_it_is_opened_is_never_half_of_each(
    model: Model, path: Path, monkeypatch: pytest.MonkeyPatch, replacement: list[str]
) -> None:
    """Between its header and its files: another process may be there at any time."""
    real, left = store.open_all, [path]

    def open_all(*arguments: Any) -> Any:
        if left:
            Index.build(model, replacement, path=left.pop(), force=True)
        return real(*arguments)

    monkeypatch.setattr(store, "open_all", open_all)
    index = Index.open(path)
    index.verify()
    assert texts(index) == sorted(replacement)
    assert index.query(model, "w3", 1)[0].id == replacement.index("w3")


def test_opening_an_index_that_never_rests_ends(
    model: Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, file, generation = store.open_all, path / "index.json", iter(range(9, 9999))

    def open_all(*arguments: Any) -> Any:
        header = json.loads(file.read_text()) | {"generation": next(generation)}
        file.write_text(json.dumps(header))
        return real(*arguments)

    monkeypatch.setattr(store, "open_all", open_all)
    with pytest.raises(SearchIndexError, match="was changed 100 times while it was opened"):
        Index.open(path)


# A kill at any point.


def _left_by_kills(model: Model, plugins: Path, original: Path, name: str) -> list[dict[str, Any]]:
    """What a kill at each step of a change leaves; the last is the change without a kill."""
    bundle = original.parent / "bundle"
    assert bundle.is_dir()
    command = [sys.executable, "-m", "tests.core.search_kills"]
    result = subprocess.run(
        [*command, str(bundle), str(original), str(original.parent / "work" / "i"), name],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(plugins), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", ["add", "replace", "remove", "compact"])
def test_a_kill_leaves_the_old_state_or_the_new(
    model: Model, fake_backend: Path, path: Path, name: str
) -> None:
    """And the next writer goes on, and leaves no rest."""
    index = Index.open(path)
    index.add(model, ["w40", "w41"])
    index.remove([0])
    old = texts(index)
    left = _left_by_kills(model, fake_backend, path, name)
    new = left[-1]["texts"]
    assert [each["killed"] for each in left] == [True] * (len(left) - 1) + [False]
    assert len(left) > 5
    assert (new != old) == (name != "compact")
    for each in left:
        assert each["texts"] in (old, new)
        assert each["after"] == sorted([*each["texts"], "w99"])
        assert each["rest"] == []
    assert left[0]["texts"] == old


def test_a_kill_while_an_index_is_built_leaves_none(
    model: Model, fake_backend: Path, tmp_path: Path
) -> None:
    left = _left_by_kills(model, fake_backend, tmp_path / "none", "build")
    assert len(left) > 5
    assert left[-1]["texts"] == ["w90", "w91"]
    for each in left[:-1]:
        if "error" in each:
            assert "there is no search index at" in each["error"]
        else:
            assert each["texts"] == ["w90", "w91"]
    assert "error" in left[0]


def test_what_a_killed_build_left_is_not_opened(path: Path) -> None:
    left = path.rename(path.with_name(".lepton-i-abc"))
    with pytest.raises(SearchIndexError, match="left by a build that was interrupted"):
        Index.open(left)


# A disk that is full, or must not be written.

_ADD = """
import os, sys
from lepton_edge import Index, load
from lepton_edge.errors import StorageError
disk, bundle, plugins = sys.argv[1:]
sys.path.insert(0, plugins)
path = disk + "/i"
with load(bundle) as model:
    Index.build(model, ["w1"] * 50, path=path)
    before = sorted(os.listdir(path))
    try:
        Index.open(path).add(model, ["w2"] * 200, metadata=[{"x": "y" * 9000}] * 200)
    except StorageError as error:
        print(error.message)
    index = Index.open(path)
    index.verify()
    print(len(index), set(os.listdir(path)) - set(before) - {"lock"})
    print(index.add(model, ["w3"]))
    try:
        Index.build(model, ["w2"] * 200, metadata=[{"x": "y" * 9000}] * 200, path=disk + "/j")
    except StorageError as error:
        print(error.message)
    print(os.listdir(disk))
"""


def test_a_full_disk_leaves_the_index_as_it_was(
    fake_bundle: Bundles, fake_backend: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    bundle = fake_bundle(task="feature-extraction").path
    output = run_on_disk(tmp_path / "disk", _ADD, bundle, fake_backend).splitlines()
    assert "the disk is full" in output[0]
    assert output[1:3] == ["50 set()", "[50]"]
    assert "the disk is full" in output[3]
    assert output[4] == "['i']"


def test_a_change_that_failed_leaves_its_space_to_the_next(
    model: Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its very end, where all of the segment is there already."""

    def full(*_: Any, **__: Any) -> Any:
        raise StorageError("the disk is full")

    def files() -> set[Path]:
        return {*path.rglob("*")} - {path / "lock"}

    index, before, seen = Index.open(path), files(), []

    def feed() -> Iterator[str]:
        seen.append(files())
        yield "w2"

    with monkeypatch.context() as patch:
        patch.setattr(store, "new_file", full)
        with pytest.raises(StorageError, match="the disk is full"):
            index.add(model, ["w1"], [3], replace=True)
    assert {file.name for file in files() - before} >= {"segment-000002", "removed-2.u32"}
    assert index.add(model, feed()) == [30]
    assert seen == [before]
    assert texts(Index.open(path)) == sorted([*TEXTS, "w2"])


def test_an_index_that_may_only_be_read_answers_and_is_not_changed(
    model: Model, path: Path
) -> None:
    index = Index.open(path)
    index.remove([0])  # what that imports is imported before
    with unprivileged_folder() as folder:
        index.save(folder / "i")
        (folder / "i").chmod(0o555)
        index = Index.open(folder / "i")
        assert index.query(model, "w3", 1)[0].id == 3
        for change in (lambda: index.add(model, ["w1"]), lambda: index.remove([3])):
            with pytest.raises(StorageError, match="cannot be written: Permission denied"):
                change()
        (folder / "i").chmod(0o755)


# Beside and inside a bundle.


def test_an_index_is_kept_beside_its_bundle(fake_bundle: Bundles, model: Model) -> None:
    bundle = fake_bundle("name-1.0.0", task="feature-extraction").path
    assert beside(bundle) == bundle.parent / "name-1.0.0.index"
    (bundle.parent / "active").symlink_to(bundle)
    assert beside(bundle.parent / "active") == bundle.parent / "name-1.0.0.index"
    assert find(bundle) == beside(bundle)
    Index.build(model, ["w1"], path=bundle / ".." / "near")  # through it is not inside it


def test_an_index_inside_a_bundle_can_be_read_and_not_changed(
    fake_bundle: Bundles, model: Model, tmp_path: Path
) -> None:
    """A build may put one there: the manifest lists its files, and it travels with the bundle."""
    from lepton_edge.bundle import describe_files, open_bundle

    bundle = fake_bundle("built", task="feature-extraction")
    (bundle.path / "manifest.json").rename(tmp_path / "aside.json")
    Index.build(model, TEXTS, path=bundle.path / "index")
    (tmp_path / "aside.json").rename(bundle.path / "manifest.json")
    files = {**bundle.manifest.files, **describe_files(bundle.path, "index")}
    sealed = rewrite(bundle, files=files)
    sealed.verify()
    pack(sealed.path, tmp_path / "b.lepton")
    copy = unpack(tmp_path / "b.lepton", tmp_path / "copy")
    assert find(copy.path) == copy.path / "index"
    index = Index.open(find(copy.path))
    assert ids(index.query(model, "w3", 1)) == [3]
    for change in (
        lambda: index.add(model, ["w1"]),
        lambda: index.remove([3]),
        index.compact,
        lambda: Index.build(model, ["w1"], path=copy.path / "more"),
        lambda: index.save(copy.path / "index" / "deep" / "er"),
    ):
        with pytest.raises(StorageError, match="is inside the bundle") as caught:
            change()
        assert f"keep the index beside it: {copy.path}.index" in str(caught.value.hint)
    open_bundle(copy.path).verify()
    index.save(beside(copy.path))
    index.remove([3])
    assert find(copy.path) == beside(copy.path)
    open_bundle(copy.path).verify()


def test_an_index_whose_folder_is_gone_is_not_made_again(model: Model, path: Path) -> None:
    index = Index.open(path)
    shutil.rmtree(path)
    with pytest.raises(SearchIndexError, match="there is no search index at"):
        index.add(model, ["w1"])
    assert not path.exists()
    assert index.query(model, "w3", 1)[0].text == "w3"
