"""Archives: the same bytes each time, and nothing of a bad one ever reaches the disk."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_edge import Bundle, open_bundle
from lepton_edge.bundle import archive as archives
from lepton_edge.bundle import describe_files
from lepton_edge.bundle.archive import pack, unpack
from lepton_edge.errors import (
    BundleError,
    IntegrityError,
    LeptonError,
    SchemaError,
    StorageError,
)
from lepton_edge.testing import write_fake_bundle
from tests.core.disks import run_on_disk, unprivileged_folder
from tests.core.parts import flip_byte

Bundles = Callable[..., Bundle]
Entries = list[tuple[zipfile.ZipInfo, bytes]]
FAKE = "artifacts/fake/fake.json"
TOKENIZER = "tokenizer/tokenizer.json"


@pytest.fixture
def bundle(fake_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle, and a current folder that is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake_bundle()


@pytest.fixture
def archive(bundle: Bundle, tmp_path: Path) -> Path:
    return pack(bundle.path, tmp_path / "fake.lepton")


def read(archive: Path) -> Entries:
    with zipfile.ZipFile(archive) as opened:
        return [(entry, opened.read(entry)) for entry in opened.infolist()]


def plain(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def write(archive: Path, entries: Entries, manifest: dict[str, Any] | None = None) -> Path:
    """A zip of the entries as they are, with another manifest if one is given."""
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, data in entries:
            replaced = manifest is not None and entry.filename == "manifest.json"
            opened.writestr(entry, json.dumps(manifest) if replaced else data)
    return archive


def refused(archive: Path, kind: type[LeptonError] = BundleError) -> LeptonError:
    """The error of unpacking, which leaves the current folder and the archive's empty of it."""
    before = {folder: sorted(os.listdir(folder)) for folder in (archive.parent, Path.cwd())}
    with pytest.raises(kind) as caught:
        unpack(archive)
    assert {folder: sorted(os.listdir(folder)) for folder in before} == before
    return caught.value


# There and back


def test_a_bundle_comes_back_as_it_was(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    again = unpack(archive, tmp_path / "again")
    assert again.manifest == bundle.manifest
    assert describe_files(again.path) == describe_files(bundle.path)
    again.verify()
    assert open_bundle(again.path) == again


def test_two_packs_are_the_same_bytes(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    """Whatever the times, permissions and order of the files on the disk."""
    for name in bundle.manifest.files:
        os.utime(bundle.path / name, (0, 0))
        (bundle.path / name).chmod(0o600)
    second = pack(bundle.path, tmp_path / "second.lepton")
    assert second.read_bytes() == archive.read_bytes()
    third = pack(unpack(archive, tmp_path / "again").path, tmp_path / "third.lepton")
    assert third.read_bytes() == archive.read_bytes()


def test_names_come_from_the_manifest(bundle: Bundle) -> None:
    archive = pack(bundle.path)
    assert archive == Path("fake-1.0.0.lepton")
    assert unpack(archive).path == Path("fake-1.0.0")
    assert sorted(os.listdir()) == ["fake-1.0.0", "fake-1.0.0.lepton"]


def test_an_archive_is_a_plain_zip_with_the_manifest_first(bundle: Bundle, archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        entries = opened.infolist()
    assert [entry.filename for entry in entries] == [
        "manifest.json",
        *sorted(bundle.manifest.files),
    ]
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.external_attr >> 16 == stat.S_IFREG | 0o644
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_progress_is_told_every_byte(bundle: Bundle, tmp_path: Path) -> None:
    told: list[int] = []
    archive = pack(bundle.path, tmp_path / "a.lepton", progress=told.append)
    assert sum(told) == bundle.size + (bundle.path / "manifest.json").stat().st_size
    told.clear()
    unpack(archive, progress=told.append)
    assert sum(told) == bundle.size


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.lists(
            st.text(st.characters(exclude_characters="/\\:").filter(str.isprintable), max_size=9)
            .map(str.casefold)
            .filter(lambda part: part not in ("", ".", "..", "manifest.json")),
            min_size=1,
            max_size=3,
        ).map(lambda parts: "artifacts/more/" + "/".join(parts) + ".bin"),
        st.binary(max_size=50),
        max_size=4,
    )
)
def test_any_files_come_back_as_they_were(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = write_fake_bundle(folder / "bundle")
        for path, data in files.items():
            (made.path / path).parent.mkdir(parents=True, exist_ok=True)
            (made.path / path).write_bytes(data)
        listed = describe_files(made.path)
        del listed["manifest.json"]
        document = json.loads((made.path / "manifest.json").read_bytes())
        document["files"] = {
            path: {"size": file.size, "sha256": file.sha256} for path, file in listed.items()
        }
        (made.path / "manifest.json").write_text(json.dumps(document))
        first = pack(made.path, folder / "one.lepton")
        again = unpack(first, folder / "again")
        assert describe_files(again.path) == describe_files(made.path)
        assert pack(again.path, folder / "two.lepton").read_bytes() == first.read_bytes()


# Packing what cannot be


def test_a_damaged_bundle_is_not_packed(bundle: Bundle) -> None:
    flip_byte(bundle.path / FAKE)
    with pytest.raises(IntegrityError, match="has SHA-256"):
        pack(bundle.path)
    assert os.listdir() == []


def test_a_bundle_with_an_added_file_is_not_packed(bundle: Bundle) -> None:
    (bundle.path / "added").write_text("")
    with pytest.raises(IntegrityError, match="does not list: added"):
        pack(bundle.path)
    assert os.listdir() == []


def test_an_archive_does_not_land_in_its_own_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from inside the folder: ``lepton-edge pack .``"""
    monkeypatch.chdir(bundle.path)
    with pytest.raises(StorageError, match="is inside the bundle") as caught:
        pack(".")
    assert caught.value.hint == "choose another output: -o ../fake-1.0.0.lepton"
    with pytest.raises(StorageError, match="is inside the bundle"):
        pack(bundle.path, bundle.path / "artifacts" / "x.lepton", force=True)
    bundle.verify()


@pytest.mark.parametrize("pass_on", [pack, unpack])
def test_what_is_at_the_output_stays_unless_forced(
    bundle: Bundle, archive: Path, tmp_path: Path, pass_on: Callable[..., Any]
) -> None:
    source = bundle.path if pass_on is pack else archive
    output = tmp_path / "out"
    pass_on(source, output)
    before = describe_files(tmp_path)
    with pytest.raises(StorageError, match="out already exists") as caught:
        pass_on(source, output)
    assert "--force replaces it" in str(caught.value.hint)
    assert describe_files(tmp_path) == before
    if output.is_dir():
        (output / "added").write_text("")
    else:
        output.write_text("another")
    pass_on(source, output, force=True)
    assert describe_files(tmp_path) == before


def test_the_other_kind_at_the_output_stays(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        pack(bundle.path, bundle.path.parent / "here", force=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file is not a folder"):
        unpack(archive, tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


_ON_DISK = """
import os, sys
from pathlib import Path
from lepton_edge.bundle.archive import pack, unpack
from lepton_edge.errors import StorageError
disk, source = Path(sys.argv[1]), Path(sys.argv[2])
try:
    (pack if source.is_dir() else unpack)(source, disk / "out")
except StorageError as error:
    print(error)
print(os.listdir(disk))
"""


def test_a_full_disk_leaves_nothing(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle(description="long " * 10_000)
    archive = pack(bundle.path, tmp_path / "fake.lepton")
    (tmp_path / "disk").mkdir()
    for source in (bundle.path, archive):
        printed = run_on_disk(tmp_path / "disk", _ON_DISK, source, options="size=16k")
        assert printed.startswith(f"the disk is full: {tmp_path}/disk/out could not be written")
        assert printed.endswith("\n[]\n")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(
    bundle: Bundle, archive: Path, kind: type[BaseException]
) -> None:
    def stop(_: int) -> None:
        raise kind

    with pytest.raises(kind):
        pack(bundle.path, progress=stop)
    with pytest.raises(kind):
        unpack(archive, progress=stop)
    assert os.listdir() == []


# Archives that are none


def test_what_is_not_there_is_an_error() -> None:
    assert refused(Path("none.lepton").absolute()).message.startswith("there is no archive at ")


def test_a_folder_is_no_archive(bundle: Bundle) -> None:
    error = refused(bundle.path)
    assert error.message == f"{bundle.path} is a folder"
    assert error.hint == "it needs no unpacking"


def test_an_archive_that_may_not_be_read_is_an_error() -> None:
    with unprivileged_folder() as folder:
        file = folder / "a.lepton"
        file.write_bytes(b"PK")
        file.chmod(0)
        with pytest.raises(BundleError, match=r"a\.lepton cannot be read: Permission denied"):
            unpack(file, folder / "out")


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", b"text\n" * 100],
    ids=["empty", "short", "header", "no entries", "gzip", "text"],
)
def test_what_is_no_archive_is_an_error(bundle: Bundle, archive: Path, data: bytes) -> None:
    archive.write_bytes(data)
    assert str(archive) in refused(archive).message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("end", ["front", "back"])
def test_an_archive_cut_short_is_an_error(
    bundle: Bundle, archive: Path, share: float, end: str
) -> None:
    data = archive.read_bytes()
    cut = int(len(data) * share)
    archive.write_bytes(data[:cut] if end == "front" else data[len(data) - cut :])
    error = refused(archive)
    # A zip may have anything before it, so its tables at the end are read without the rest.
    faults = ("is not a valid archive: ", "names more bytes than it has")
    assert error.message.startswith(tuple(f"{archive} {fault}" for fault in faults))
    assert error.hint == "copy or pack it again"


@pytest.mark.parametrize("bytes_gone", [1, 2, 21, 22, 23, 60])
def test_an_archive_without_its_last_bytes_is_an_error(
    bundle: Bundle, archive: Path, bytes_gone: int
) -> None:
    archive.write_bytes(archive.read_bytes()[:-bytes_gone])
    assert refused(archive).message.startswith(f"{archive} is not a valid archive: ")


def test_an_archive_without_manifest_is_an_error(bundle: Bundle, archive: Path) -> None:
    write(archive, read(archive)[1:])
    error = refused(archive)
    assert error.message == f"{archive} has no manifest.json"
    assert error.hint == "was it made by pack?"


def test_a_manifest_that_is_none_is_an_error(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    write(archive, [(entries[0][0], b"{}"), *entries[1:]])
    message = refused(archive).message
    assert message.startswith(f"{archive}:manifest.json is not a valid manifest: ")


def test_a_newer_schema_says_how_to_upgrade(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    write(archive, entries, {**json.loads(entries[0][1]), "schema": 2})
    assert refused(archive, SchemaError).hint == "pip install --upgrade lepton-edge"


def test_a_huge_manifest_is_not_read(
    bundle: Bundle, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(read(archive)[0][1])
    monkeypatch.setattr(archives, "_MAX_MANIFEST", size)
    unpack(archive, "fits")
    monkeypatch.setattr(archives, "_MAX_MANIFEST", size - 1)
    assert refused(archive).message == f"the manifest of {archive} has {size:,} bytes"


def test_an_entry_that_claims_more_than_there_is_is_refused(bundle: Bundle, archive: Path) -> None:
    """It would fill the disk, or the memory, before the end of the archive is noticed."""
    entries = read(archive)
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, data in entries:
            opened.writestr(entry, data)
        opened.filelist[0].file_size = opened.filelist[0].compress_size = 2**40
    assert refused(archive).message == f"{archive} names more bytes than it has"


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "../../evil",
        "artifacts/../../evil",
        "/tmp/evil",
        "..",
        ".",
        "./evil",
        "artifacts//evil",
        "C:\\evil",
        "C:evil",
        "..\\evil",
        "artifacts\\evil",
        "/",
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed"])
def test_a_name_outside_is_refused(bundle: Bundle, archive: Path, name: str, listed: bool) -> None:
    entries = read(archive)
    manifest = json.loads(entries[0][1])
    if listed:
        digest = hashlib.sha256(b"evil").hexdigest()
        manifest["files"][name] = {"size": 4, "sha256": digest}
    write(archive, [*entries, (plain(name), b"evil")], manifest)
    assert refused(archive).message == f"the archive names a path outside the bundle: {name!r}"


def test_a_manifest_that_lists_a_file_outside_is_refused(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    manifest = json.loads(entries[0][1])
    manifest["files"]["../evil"] = {"size": 4, "sha256": "0" * 64}
    write(archive, entries, manifest)
    assert refused(archive).message.endswith("names a path outside the bundle: '../evil'")


@pytest.mark.parametrize("field", ["name", "version"])
def test_a_name_that_would_unpack_elsewhere_is_refused(
    bundle: Bundle, archive: Path, field: str
) -> None:
    entries = read(archive)
    write(archive, entries, {**json.loads(entries[0][1]), field: "x/../../../evil"})
    assert "'x/../../../evil' for a name or version" in refused(archive).message


def test_a_name_with_a_nul_is_refused(bundle: Bundle, archive: Path) -> None:
    """zipfile itself cuts the name there: two names for one entry."""
    write(archive, [*read(archive), (plain(f"{FAKE}#evil"), b"evil")])
    archive.write_bytes(archive.read_bytes().replace(b"#evil", b"\0evil"))
    assert refused(archive).message == (
        f"the archive names a path outside the bundle: {f'{FAKE}{chr(0)}evil'!r}"
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [FAKE, "manifest.json", FAKE.upper(), "Manifest.JSON"])
def test_a_name_given_twice_is_refused(bundle: Bundle, archive: Path, name: str) -> None:
    """Letters of another case are one file on some systems."""
    write(archive, [*read(archive), (plain(name), b"second")])
    assert refused(archive).message == f"the archive has {name!r} twice"


def test_a_file_that_is_a_folder_too_is_refused(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    manifest = json.loads(entries[0][1])
    data = b"x"
    file = {"size": 1, "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"] |= {"artifacts/a": file, "artifacts/a/b": file}
    for names in (("artifacts/a", "artifacts/a/b"), ("artifacts/a/b", "artifacts/a")):
        write(archive, [*entries, *((plain(name), data) for name in names)], manifest)
        assert "lists 'artifacts/a' as a file and as the folder of" in refused(archive).message


# Entries


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("link", stat.S_IFLNK | 0o777),
        ("folder", stat.S_IFDIR | 0o755),
        ("folder/", stat.S_IFDIR | 0o755),
        ("artifacts/", 0),
        ("pipe", stat.S_IFIFO | 0o644),
        ("device", stat.S_IFCHR | 0o644),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed"])
def test_an_entry_that_is_no_file_is_refused(
    bundle: Bundle, archive: Path, name: str, mode: int, listed: bool
) -> None:
    entries = read(archive)
    manifest = json.loads(entries[0][1])
    data = b"/etc/passwd"
    if listed:
        file = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["files"][name] = file
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    write(archive, [*entries, (entry, data)], manifest)
    assert refused(archive).message == f"the archive's entry {name!r} is not a regular file"


def test_a_listed_file_that_is_a_link_is_refused(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    for entry, _ in entries:
        if entry.filename == FAKE:
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    write(archive, entries)
    assert refused(archive).message == f"the archive's entry '{FAKE}' is not a regular file"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_entry_is_refused(bundle: Bundle, archive: Path, method: int) -> None:
    entries = read(archive)
    entries[-1][0].compress_type = method
    write(archive, entries)
    assert refused(archive).message == f"the archive's entry '{TOKENIZER}' is compressed"


def test_an_encrypted_entry_is_refused(bundle: Bundle, archive: Path) -> None:
    entries = read(archive)
    with zipfile.ZipFile(archive, "w") as opened:
        for entry, data in entries:
            opened.writestr(entry, data)
        opened.filelist[-1].flag_bits |= 1
    assert refused(archive).message.startswith(f"{archive} is not a valid archive: ")


def test_a_file_that_is_not_listed_is_refused(bundle: Bundle, archive: Path) -> None:
    write(archive, [*read(archive), (plain("added"), b"x")])
    error = refused(archive, IntegrityError)
    assert error.message == f"added is not listed in the manifest of {archive}"
    assert error.hint == "copy or pack it again"


@pytest.mark.parametrize("name", [FAKE, TOKENIZER])
def test_a_listed_file_that_is_missing_is_refused(bundle: Bundle, archive: Path, name: str) -> None:
    write(archive, [(entry, data) for entry, data in read(archive) if entry.filename != name])
    assert refused(archive, IntegrityError).message == f"{name} is missing from {archive}"


def test_other_bytes_are_refused(bundle: Bundle, archive: Path) -> None:
    """With the zip's own checksum right."""
    entries = read(archive)
    other = [
        (entry, data[::-1] if entry.filename == TOKENIZER else data) for entry, data in entries
    ]
    write(archive, other)
    error = refused(archive, IntegrityError)
    expected = bundle.manifest.files[TOKENIZER].sha256
    assert error.message.startswith(f"{TOKENIZER} has SHA-256 ")
    assert error.message.endswith(f"the manifest says {expected}")
    assert "changed or damaged" in str(error.hint)


@pytest.mark.parametrize("more", [b"", b"xx"])
def test_another_size_is_refused(bundle: Bundle, archive: Path, more: bytes) -> None:
    entries = read(archive)
    write(archive, [(e, data + more if e.filename == FAKE else data) for e, data in entries])
    if not more:
        unpack(archive, "fits")
        write(archive, [(e, data[:-1] if e.filename == FAKE else data) for e, data in entries])
    size = bundle.manifest.files[FAKE].size
    found = size + len(more) if more else size - 1
    message = refused(archive, IntegrityError).message
    assert message == f"{FAKE} has {found} bytes; the manifest says {size}"


def test_a_flipped_bit_is_refused(bundle: Bundle, archive: Path) -> None:
    data = archive.read_bytes()
    content = (bundle.path / TOKENIZER).read_bytes()
    place = data.index(content) + len(content) // 2
    archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert refused(archive).message.startswith(f"{archive} is not a valid archive: Bad CRC-32")


# Whatever comes


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("packed")
    return pack(write_fake_bundle(folder / "bundle").path, folder / "a.lepton").read_bytes()


def _unpacks_whole_or_not_at_all(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.lepton").write_bytes(data)
        try:
            found = unpack(folder / "a.lepton", folder / "out")
        except LeptonError:
            assert os.listdir(folder) == ["a.lepton"]
            return
        open_bundle(found.path).verify()


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_changed_bytes_unpack_whole_or_not_at_all(packed: bytes, data: st.DataObject) -> None:
    """Anywhere, and more often in the zip's own tables at the end."""
    size = len(packed)
    table = packed.index(b"PK\x01\x02")
    places = (
        st.integers(0, size - 1) | st.integers(table, size - 1) | st.integers(size - 22, size - 1)
    )
    changed = bytearray(packed)
    changes = st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=6)
    for place, mask in data.draw(changes, label="place and bits"):
        changed[place] ^= mask
    _unpacks_whole_or_not_at_all(bytes(changed))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_cut_and_joined_bytes_unpack_whole_or_not_at_all(
    packed: bytes, data: st.DataObject
) -> None:
    ends = st.integers(0, len(packed))
    first, second = sorted([data.draw(ends), data.draw(ends)])
    middle = data.draw(st.binary(max_size=30))
    _unpacks_whole_or_not_at_all(packed[:first] + middle + packed[second:])


def test_force_never_deletes_a_folder_that_is_no_bundle(
    fake_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    archive = pack(fake_bundle().path, tmp_path / "packed.lepton")
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="not a bundle: replacing it would delete"):
        unpack(archive, folder, force=True)
    assert (folder / "letter.txt").read_text() == "dear"
    (folder / "letter.txt").unlink()
    assert unpack(archive, folder, force=True).path == folder  # an empty folder is nobody's
