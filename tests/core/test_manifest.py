"""manifest.json: what is read, what is refused, and that nothing else than our errors comes out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.backend import Compiled, TensorSpec
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.manifest import (
    SCHEMA,
    Artifact,
    Attempt,
    Calibration,
    File,
    GenerationQuality,
    Manifest,
    Parity,
    Quality,
    Source,
    Text,
    decode,
    encode,
    is_safe_path,
)
from lepton_edge.errors import BundleError, SchemaError
from lepton_edge.testing import write_fake_bundle

DIGEST = "0123456789abcdef" * 4
MANIFEST = Manifest(
    schema=SCHEMA,
    name="demo",
    version="1.0.0",
    description="for tests, naïve 🙂",
    license="MIT",
    created="2026-01-01T00:00:00Z",
    task="text-classification",
    task_config={"labels": ["a", "b"], "multi_label": False, "threshold": 0.5},
    text=Text(128, "truncate", 10_000, 0),
    source=Source("hub", "org/model", "BertModel", DIGEST, "0" * 40),
    tools={"lepton-edge": "0.1.0"},
    artifacts=(
        Artifact(
            "intel-cpu",
            "openvino",
            "artifacts/intel-cpu",
            DIGEST,
            Compiled(
                "fp16",
                (TensorSpec("input_ids", "int64", ("batch", "length")),),
                (TensorSpec("logits", "float32", ("batch", 2)),),
                "openvino 2026.4.1",
                {"compute": "auto", "threads": 2},
                ("MatMul_1",),
            ),
            Parity(2, 0.5, 0.25, 0.9, 0.95, 1.0, "bf16"),
            Calibration(300, "calib.jsonl", DIGEST),
            Quality(
                "accuracy",
                "dev.jsonl",
                DIGEST,
                872,
                0.89,
                0.885,
                1.0,
                (Attempt("int8", 23_000_000, 0.885, ("MatMul_1",)),),
            ),
            GenerationQuality(400, "prose.jsonl", 12.5, 12.0, 1.05, 0.75, 256, 0.5),
            Compiled(
                "fp16",
                (TensorSpec("input_ids", "int64", ("batch", "length")),),
                (TensorSpec("logits", "float32", ("batch", 64)),),
                "openvino 2026.4.1",
            ),
        ),
    ),
    files={
        "artifacts/intel-cpu/model.bin": File(10, DIGEST),
        "tokenizer/tokenizer.json": File(0, DIGEST),
    },
)
DATA = encode(MANIFEST)
# Objects whose keys are not fixed: any key may be there, or not.
OPEN = {"task_config", "tools", "settings", "files"}
OPTIONAL = {
    "revision", "equal_labels", "compute", "through", "settings", "kept", "deferred",
    "calibration", "quality", "generation", "decoder", "adapters",
}  # fmt: skip
Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every field of the document, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*place, key))


def is_field(place: Place) -> bool:
    """Whether the place is a field of ours: no list's item, and no key of an open object."""
    return isinstance(place[-1], str) and not (len(place) > 1 and place[-2] in OPEN)


def is_typed(place: Place) -> bool:
    return "task_config" not in place[:-1]


def at(place: Place) -> Any:
    value = DOCUMENT
    for key in place:
        value = value[key]
    return value


DOCUMENT = json.loads(DATA)
PLACES = list(places(DOCUMENT))
OBJECTS = [
    place for place in [(), *PLACES] if isinstance(at(place), dict) and not OPEN & {*place[-1:]}
]


def changed(place: Place, *value: Any) -> bytes:
    """The document with another value at a place, or without what is there."""
    document = copy.deepcopy(DOCUMENT)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value:
        inner[place[-1]] = value[0]
    else:
        del inner[place[-1]]
    return json.dumps(document).encode()


def fault(data: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        decode(data, "M")
    assert "M" in caught.value.message
    return caught.value


def label(place: Place) -> str:
    return ".".join(map(str, place))


# Reading and writing


def test_what_is_written_is_read_again() -> None:
    assert decode(DATA, "M") == MANIFEST
    assert encode(decode(DATA, "M")) == DATA


def test_it_is_written_for_people_too() -> None:
    text = DATA.decode()
    assert text.startswith('{\n  "schema": 1,\n  "name": "demo",\n')
    assert text.endswith("}\n")
    assert "naïve 🙂" in text


def test_optional_fields_may_be_absent() -> None:
    for place in PLACES:
        if is_field(place) and place[-1] in OPTIONAL:
            assert decode(changed(place), "M").name == "demo"
    assert decode(changed(("license",), None), "M").license is None


def test_a_manifest_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        MANIFEST.name = "other"  # type: ignore[misc]


# Schemas


def test_a_newer_schema_says_how_to_upgrade() -> None:
    with pytest.raises(SchemaError) as caught:
        decode(changed(("schema",), SCHEMA + 1), "M")
    assert (
        caught.value.message == f"M has schema {SCHEMA + 1}; this lepton-edge reads up to {SCHEMA}"
    )
    assert caught.value.hint == "pip install --upgrade lepton-edge"


def test_a_newer_schema_is_known_whatever_else_it_has() -> None:
    with pytest.raises(SchemaError, match="schema 99"):
        decode(b'{"schema": 99, "everything": {"is": ["different"]}, "name": 5}', "M")


@pytest.mark.parametrize("schema", ["1", 1.5, True, None, [], {}])
def test_a_schema_that_is_no_number_is_refused(schema: object) -> None:
    error = fault(changed(("schema",), schema))
    assert not isinstance(error, SchemaError)
    assert "schema" in error.message


# Fields


@pytest.mark.parametrize(
    "place", [p for p in PLACES if is_field(p) and p[-1] not in OPTIONAL], ids=label
)
def test_a_missing_field_is_named(place: Place) -> None:
    error = fault(changed(place))
    assert f"`{place[-1]}`" in error.message
    assert error.hint == "build or copy the bundle again"


@pytest.mark.parametrize("place", OBJECTS, ids=label)
def test_an_unknown_field_is_named(place: Place) -> None:
    data = changed((*place, "surplus"), 1)
    assert "`surplus`" in fault(data).message


@pytest.mark.parametrize("place", [p for p in PLACES if is_typed(p)], ids=label)
def test_a_field_of_another_type_is_named(place: Place) -> None:
    error = fault(changed(place, [1] if isinstance(at(place), dict) else {"a": 1}))
    # Keys of our own: a key of an open object is shown as [...], an item of a list by its number.
    fields = [key for n, key in enumerate(place) if is_field(place[: n + 1])]
    assert "Expected" in error.message
    assert str(fields[-1]) in error.message
    assert error.hint == "build or copy the bundle again"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("text", "max_length"), 0),
        (("text", "max_characters"), 0),
        (("text", "pad_id"), -1),
        (("text", "on_long_text"), "cut"),
        (("source", "kind"), "magic"),
        (("source", "sha256"), DIGEST[:-1]),
        (("artifacts", 0, "sha256"), DIGEST.upper()),
        (("files", "tokenizer/tokenizer.json", "size"), -1),
        (("files", "tokenizer/tokenizer.json", "sha256"), "g" * 64),
    ],
)
def test_a_value_that_cannot_be_is_refused(place: Place, value: object) -> None:
    assert str(place[-1]) in fault(changed(place, value)).message


# Paths

_OUTSIDE = [
    "../evil",
    "a/../../evil",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    "a/..",
    "a/",
    "",
    ".",
    "..",
    "a\\b",
    "..\\evil",
    "C:evil",
    "a\0b",
]


@pytest.mark.parametrize("path", _OUTSIDE)
def test_a_file_outside_is_refused(path: str) -> None:
    assert not is_safe_path(path)
    error = fault(changed(("files", path), {"size": 1, "sha256": DIGEST}))
    assert error.message == f"M names a path outside the bundle: {path!r}"


@pytest.mark.parametrize("path", _OUTSIDE)
def test_an_artifact_outside_is_refused(path: str) -> None:
    error = fault(changed(("artifacts", 0, "directory"), path))
    assert error.message == f"M names a path outside the bundle: {path!r}"


@pytest.mark.parametrize("path", ["a", "a/b", "a/b.c/d", "...", "..a", "a b", "ü/🙂", "a..b"])
def test_a_plain_path_is_safe(path: str) -> None:
    assert is_safe_path(path)
    assert path in decode(changed(("files", path), {"size": 1, "sha256": DIGEST}), "M").files


@pytest.mark.parametrize("field", ["name", "version"])
@pytest.mark.parametrize("value", ["../evil", "/tmp/evil", "a/b", "", "..", "a\\b", "a\0"])
def test_a_name_that_would_unpack_elsewhere_is_refused(field: str, value: str) -> None:
    error = fault(changed((field,), value))
    assert error.message == f"M has {value!r} for a name or version: not a plain file name"


def test_the_manifest_does_not_list_itself() -> None:
    error = fault(changed(("files", "manifest.json"), {"size": 1, "sha256": DIGEST}))
    assert error.message == "M lists itself among its files"


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("tokenizer", "tokenizer"),
        ("artifacts/intel-cpu", "artifacts/intel-cpu"),
        ("artifacts", "artifacts"),
        ("tokenizer/tokenizer.json/more", "tokenizer/tokenizer.json"),
        ("manifest.json/x", "manifest.json"),
    ],
)
def test_a_path_is_not_a_file_and_a_folder(path: str, file: str) -> None:
    error = fault(changed(("files", path), {"size": 1, "sha256": DIGEST}))
    assert error.message.startswith(f"M lists {file!r} as a file and as the folder of ")


# Whatever comes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"PK\x03\x04",
        DATA[:-10],
        DATA + b"x",
        b"[" * 100_000,
        b'{"schema": 1, "task_config": ' + b'{"a":' * 100_000,
        DATA.replace("🙂".encode(), b"\xff\xff"),
        DATA.replace(b'"demo"', b'"\\ud800"'),
        DATA.replace(b"0.25", b"NaN"),
        DATA.replace(b"0.25", b"1e999"),
        DATA.decode().encode("utf-16"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    error = fault(data)
    assert error.message.startswith("M is not a valid manifest: ")
    assert len(error.message) < 300


def _is_a_manifest_or_refused(data: bytes) -> None:
    try:
        found = decode(data, "M")
    except BundleError:
        return
    assert all(is_safe_path(path) for path in found.files)
    assert found.schema <= SCHEMA


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(DATA)) | st.none(),
)
def test_changed_bytes_are_a_manifest_or_refused(
    changes: list[tuple[int, int]], end: int | None
) -> None:
    data = bytearray(DATA)
    for position, byte in changes:
        data[position] = byte
    _is_a_manifest_or_refused(bytes(data[:end]))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLACES), _json)
def test_any_value_in_any_place_is_a_manifest_or_refused(place: Place, value: object) -> None:
    _is_a_manifest_or_refused(changed(place, value))


_name = st.text(st.characters(exclude_characters="/\\:").filter(str.isprintable), min_size=1)
_plain = _name.filter(lambda name: name not in (".", ".."))
_digest = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
_number = st.floats(allow_nan=False, allow_infinity=False)
_specs = st.lists(
    st.builds(
        TensorSpec,
        st.text(),
        st.text(),
        st.lists(st.integers(0, 2**40) | st.text(), max_size=3).map(tuple),
    ),
    max_size=2,
).map(tuple)
_artifacts = st.builds(
    Artifact,
    target=st.text(),
    backend=st.text(),
    directory=st.lists(_plain, min_size=1, max_size=3).map("/".join),
    sha256=_digest,
    compiled=st.builds(
        Compiled,
        st.text(),
        _specs,
        _specs,
        st.text(),
        st.dictionaries(
            st.text(), st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _number
        ),
    ),
    parity=st.builds(
        Parity,
        st.integers(0, 10**6),
        _number,
        _number,
        _number,
        _number,
        st.none() | _number,
        st.text(),
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    st.builds(
        Manifest,
        schema=st.just(SCHEMA),
        name=_plain,
        version=_plain,
        description=st.text(),
        license=st.none() | st.text(),
        created=st.text(),
        task=st.text(),
        task_config=st.dictionaries(st.text(), st.text() | st.booleans() | st.none()),
        text=st.builds(
            Text,
            st.integers(1, 2**31),
            st.sampled_from(["truncate", "refuse"]),
            st.integers(1, 2**31),
            st.integers(0, 2**31),
        ),
        source=st.builds(
            Source,
            st.sampled_from(["huggingface", "hub", "onnx", "torch"]),
            st.text(),
            st.text(),
            _digest,
            st.none() | st.text(),
        ),
        tools=st.dictionaries(st.text(), st.text()),
        artifacts=st.lists(_artifacts, max_size=2).map(tuple),
        files=st.dictionaries(
            _plain.filter(lambda name: name != manifests.FILE_NAME),
            st.builds(File, st.integers(0, 2**60), _digest),
            max_size=3,
        ),
    )
)
def test_any_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    again = decode(encode(manifest), "M")
    assert again == manifest
    assert encode(again) == encode(manifest)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202eb"])
def test_a_name_that_could_steer_a_terminal_is_refused(tmp_path: Path, name: str) -> None:
    values = json.loads((write_fake_bundle(tmp_path / "b").path / "manifest.json").read_bytes())
    with pytest.raises(BundleError, match="not a plain file name"):
        manifests.decode(json.dumps({**values, "name": name}).encode(), "m")
