"""A model over a file: JSON Lines and CSV, in and out, and every way that a file can be wrong."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import load
from lepton_edge.bundle import Bundle
from lepton_edge.errors import InferenceError, InputError, LeptonError, StorageError
from lepton_edge.runtime import files
from lepton_edge.runtime.files import count_lines, read_lines, read_rows, run_file
from lepton_edge.runtime.model import Model
from lepton_edge.testing import FakeSession, write_fake_bundle
from tests.core.parts import byte_model

Bundles = Callable[..., Bundle]
FIELDS = ["label", "score", "labels", "top", "truncated"]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle().path) as opened:
        yield opened


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return byte_model(write_fake_bundle(tmp_path_factory.mktemp("files") / "bundle"))


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _fault(
    model: Model, source: Path, kind: type[LeptonError] = InputError, **options: Any
) -> LeptonError:
    """The error of a run that must fail; nothing may be left of its output."""
    output = source.parent / "out.jsonl"
    before = sorted(source.parent.iterdir())
    with pytest.raises(kind) as caught:
        run_file(model, source, output, **options)
    assert sorted(source.parent.iterdir()) == before
    return caught.value


# Rows go in and come out.


def test_every_row_keeps_its_fields_and_gets_the_results(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"id": 7, "text": "w1 w2"}\n{"id": 8, "text": "w3"}\n')
    assert run_file(model, source, tmp_path / "out.jsonl") == 2
    rows = _jsonl(tmp_path / "out.jsonl")
    assert [list(row) for row in rows] == [["id", "text", *FIELDS]] * 2
    assert [row["id"] for row in rows] == [7, 8]
    assert [row["label"] for row in rows] == [model("w1 w2").label, model("w3").label]
    assert rows[0]["top"][0] == {"label": rows[0]["label"], "score": rows[0]["score"]}


def test_csv_comes_out_as_csv_with_a_header(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "id,text\r\n7,w1 w2\r\n8,w3\r\n")
    assert run_file(model, source, tmp_path / "out.csv") == 2
    rows = _csv(tmp_path / "out.csv")
    assert list(rows[0]) == ["id", "text", *FIELDS]
    assert [row["id"] for row in rows] == ["7", "8"]
    assert json.loads(rows[0]["top"])[0]["label"] == rows[0]["label"] == model("w1 w2").label
    assert rows[0]["truncated"] == "false"


@pytest.mark.parametrize(("come", "go"), [("jsonl", "csv"), ("csv", "jsonl")])
def test_one_format_becomes_the_other(model: Model, tmp_path: Path, come: str, go: str) -> None:
    content = {"jsonl": '{"text": "w1", "n": "5"}\n', "csv": "text,n\nw1,5\n"}[come]
    source, output = _file(tmp_path, f"in.{come}", content), tmp_path / f"out.{go}"
    run_file(model, source, output)
    (row,) = _jsonl(output) if go == "jsonl" else _csv(output)
    assert (row["text"], row["n"], row["label"]) == ("w1", "5", model("w1").label)


def test_a_stream_gets_json_lines(model: Model, tmp_path: Path) -> None:
    stream = io.StringIO()
    assert run_file(model, _file(tmp_path, "in.csv", "text\nw1\nw2\n"), stream) == 2
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["text"] for row in rows] == ["w1", "w2"]


def test_suffixes_are_read_in_any_case(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "IN.JSONL", '{"text": "w1"}')
    assert run_file(model, source, tmp_path / "out.Csv") == 1
    assert _csv(tmp_path / "out.Csv")[0]["text"] == "w1"


def test_a_label_that_the_row_had_survives(model: Model, tmp_path: Path) -> None:
    """Data sets carry gold labels under the very names of results."""
    source = _file(tmp_path, "in.jsonl", '{"text": "w1", "label": "gold", "score": 9}\n')
    run_file(model, source, tmp_path / "out.jsonl")
    (row,) = _jsonl(tmp_path / "out.jsonl")
    assert (row["label"], row["score"]) == ("gold", 9)
    assert row["result_label"] == model("w1").label
    run_file(model, tmp_path / "out.jsonl", tmp_path / "again.csv")
    (row,) = _csv(tmp_path / "again.csv")
    assert row["result_result_label"] == row["result_label"] == model("w1").label


def test_another_column_may_have_the_text(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "text,body\nignored,w1 w2\n")
    run_file(model, source, tmp_path / "out.jsonl", columns={"text": "body"})
    assert _jsonl(tmp_path / "out.jsonl")[0]["label"] == model("w1 w2").label


def test_options_go_to_the_model(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n')
    run_file(model, source, tmp_path / "out.jsonl", top_k=2)
    assert len(_jsonl(tmp_path / "out.jsonl")[0]["top"]) == 2
    assert "top_k is 0" in _fault(model, source, force=True, top_k=0).message


def test_more_rows_than_a_chunk_stay_in_order(model: Model, tmp_path: Path) -> None:
    texts = [" ".join(f"w{(7 * n + k) % 100}" for k in range(1 + n % 40)) for n in range(1300)]
    assert len(texts) > 2 * files._CHUNK
    source = _file(tmp_path, "in.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts))
    told: list[int] = []
    assert run_file(model, source, tmp_path / "out.csv", progress=told.append) == 1300
    rows = _csv(tmp_path / "out.csv")
    assert [row["text"] for row in rows] == texts
    assert [row["label"] for row in rows] == [result.label for result in model(texts)]
    assert [row["truncated"] for row in rows[:40:30]] == ["false", "true"]
    assert sum(told) == 1300
    assert len(told) == 3


def test_embeddings_fit_in_a_cell(fake_bundle: Bundles, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", 'text\n"w1, w2"\n')
    with load(fake_bundle(task="feature-extraction").path) as model:
        run_file(model, source, tmp_path / "out.csv")
        expected = model("w1, w2").vector
    (row,) = _csv(tmp_path / "out.csv")
    np.testing.assert_allclose(json.loads(row["vector"]), expected, rtol=1e-6)


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXTS, st.text(CHARACTERS, max_size=6)), min_size=1, max_size=12))
def test_any_text_survives_both_formats(
    bytes_model: Model, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    with (folder / "in.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "note"), *rows])
    assert run_file(bytes_model, folder / "in.csv", folder / "out.jsonl") == len(rows)
    assert run_file(bytes_model, folder / "out.jsonl", folder / "again.csv") == len(rows)
    # Split at line feeds only: a text may hold what else str.splitlines splits at.
    lines = (folder / "out.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    found = [json.loads(line) for line in lines]
    assert [(row["text"], row["note"]) for row in found] == rows
    assert [(row["text"], row["note"]) for row in _csv(folder / "again.csv")] == rows
    labels = [result.label for result in bytes_model([text for text, _ in rows])]
    assert [row["label"] for row in found] == labels


# What files look like in the wild.


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    content = {"csv": "text\nw1\n", "jsonl": '{"text": "w1"}\n'}[suffix]
    source = _file(tmp_path, f"in.{suffix}", b"\xef\xbb\xbf" + content.encode())
    assert next(read_rows(source, {"text": "text"}))[1] == {"text": "w1"}


def test_cells_may_have_quotes_commas_and_new_lines(tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", 'n,text\n1,"a ""b"", c\nsecond"\n2,"d"\n')
    rows = list(read_rows(source, {"text": "text"}))
    assert rows == [
        (3, {"n": "1", "text": 'a "b", c\nsecond'}),
        (4, {"n": "2", "text": "d"}),
    ]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    lines = _file(tmp_path, "in.jsonl", '\n{"text": "w1"}\n  \n\n{"text": "w2"}')
    assert [line for line, _ in read_rows(lines, {"text": "text"})] == [2, 5]
    cells = _file(tmp_path, "in.csv", "text,n\n\nw1,1\n\nw2,2\n")
    assert [line for line, _ in read_rows(cells, {"text": "text"})] == [3, 5]


def test_line_separators_inside_json_do_not_end_a_line(tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}\r\n')
    assert [row["text"] for _, row in read_rows(source, {"text": "text"})] == [
        "a\u2028b\u0085c",
        "d",
    ]


def test_a_short_row_has_empty_cells(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "text,n\nw1\n")
    run_file(model, source, tmp_path / "out.csv")
    assert _csv(tmp_path / "out.csv")[0]["n"] == ""


def test_empty_cells_beyond_the_header_are_nothing(tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "n,text\n1,w1,,\n")
    assert list(read_rows(source, {"text": "text"})) == [(2, {"n": "1", "text": "w1"})]


# What is refused, and how the message helps.


def test_a_text_with_a_bare_comma_is_refused_rather_than_cut(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "n,text\n1,w1\n2,hello, world\n")
    error = _fault(model, source)
    assert error.message == f"{source}:3: has more cells than the header's 2"
    assert error.hint == 'put a text with commas in quotes: "a, b"'


def test_a_column_named_twice_is_refused(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.csv", "text,label,label\nw1,a,b\n")
    assert _fault(model, source).message == f"{source}:1: two columns have the name 'label'"


@pytest.mark.parametrize(
    ("name", "content", "line", "columns"),
    [
        ("in.csv", "id,body\n1,w1\n", 2, "id, body"),
        ("in.jsonl", '{"text": "w1"}\n\n{"id": 1, "body": "w1"}\n', 3, "id, body"),
        ("in.jsonl", "{}\n", 1, "nothing"),
    ],
)
def test_a_missing_column_names_those_there_are(
    model: Model, tmp_path: Path, name: str, content: str, line: int, columns: str
) -> None:
    source = _file(tmp_path, name, content)
    error = _fault(model, source)
    assert error.message == f"{source}:{line}: there is no 'text'; it has {columns}"
    assert error.hint == "name the one with the text: --column text=NAME"


@pytest.mark.parametrize(
    "line", ["{'text': 'w1'}", '{"text": "w1"', "w1", '{"text": "w1"} x', "[" * 100_000]
)
def test_a_line_that_is_not_json_is_named(model: Model, tmp_path: Path, line: str) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n\n' + line + "\n")
    assert _fault(model, source).message.startswith(f"{source}:3: not valid JSON: ")


@pytest.mark.parametrize("line", ['["w1"]', '"w1"', "3", "null"])
def test_a_line_that_is_no_object_is_named(model: Model, tmp_path: Path, line: str) -> None:
    source = _file(tmp_path, "in.jsonl", f'{{"text": "w1"}}\n{line}\n')
    assert _fault(model, source).message == (
        f'{source}:2: a line is an object such as {{"text": "…"}}'
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('""', "is empty"),
        ('"  "', "is empty"),
        ("null", "is empty"),
        ("3", "is not text"),
        ('["w1"]', "is not text"),
    ],
)
def test_a_text_that_is_empty_or_no_text_names_its_line(
    model: Model, tmp_path: Path, value: str, problem: str
) -> None:
    source = _file(tmp_path, "in.jsonl", f'{{"text": "w1"}}\n{{"text": {value}}}\n')
    assert _fault(model, source).message == f"{source}:2: 'text' {problem}"


def test_a_text_that_the_model_refuses_names_its_line(fake_bundle: Bundles, tmp_path: Path) -> None:
    lines = ['{"text": "w1"}\n'] * 700
    lines[600] = "\n" + json.dumps({"text": "w1 " * 60}) + "\n"
    source = _file(tmp_path, "in.jsonl", "".join(lines))
    with load(fake_bundle(on_long_text="refuse").path) as model:
        error = _fault(model, source)
    assert error.message.startswith(f"{source}:602: 'text' has about ")
    assert error.message.endswith(" tokens; this bundle takes up to 32")
    assert "text.on_long_text: truncate" in str(error.hint)


def test_a_lone_surrogate_names_its_line(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n{"text": "a\\ud800"}\n')
    assert _fault(model, source).message.startswith(f"{source}:2: 'text' is not Unicode text: ")
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n{"text": "w1", "note": "\\ud800"}\n')
    assert f"{source}:2: cannot be written: 'utf-8' codec" in _fault(model, source).message


def test_an_answer_that_is_not_a_number_names_the_lines(model: Model, tmp_path: Path) -> None:
    assert isinstance(model.session, FakeSession)
    model.session._vectors["logits"][5] = np.nan
    source = _file(tmp_path, "in.csv", "text\nw2\nw1\n")
    error = _fault(model, source, InferenceError)
    assert error.message.startswith(f"{source}: of the rows in lines 2 to 3, the model's output ")
    assert "for text 2 is not a number" in error.message


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_bytes_that_are_not_utf8_are_named(model: Model, tmp_path: Path, name: str) -> None:
    source = _file(tmp_path, name, b"text\n" + "größe\n".encode("latin-1"))
    error = _fault(model, source)
    assert f"{source} is not UTF-8 text: invalid " in error.message
    assert "at byte 7" in error.message


@pytest.mark.parametrize(("content", "line"), [('text\n"w1" w2\n', 2), ('text\nw1\n"w2\n', 3)])
def test_csv_with_a_broken_quote_names_its_line(
    model: Model, tmp_path: Path, content: str, line: int
) -> None:
    source = _file(tmp_path, "in.csv", content)
    assert _fault(model, source).message.startswith(f"{source}:{line}: not valid CSV: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.csv", ""), ("in.csv", "text\n"), ("in.jsonl", ""), ("in.jsonl", "\n \n")],
)
def test_a_file_without_rows_is_refused(
    model: Model, tmp_path: Path, name: str, content: str
) -> None:
    source = _file(tmp_path, name, content)
    assert _fault(model, source).message == f"{source} has no rows"


def test_a_missing_file_is_named(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "none.csv"
    assert _fault(model, source).message == f"there is no file at {source}"


def test_a_folder_or_unreadable_file_says_why(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "in.jsonl"
    folder.mkdir()
    assert _fault(model, folder).message == f"{folder} cannot be read: Is a directory"
    secret = _file(tmp_path, "secret.csv", "text\nw1\n")
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read every file")
    assert _fault(model, secret).message == f"{secret} cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["in.txt", "in.json", "in", "in.csv.gz"])
def test_another_format_is_refused_with_those_there_are(
    model: Model, tmp_path: Path, name: str
) -> None:
    source = _file(tmp_path, name, "w1\n")
    error = _fault(model, source)
    assert error.message == f"{source} is neither .jsonl nor .csv"
    assert error.hint == "rename or convert it"
    good = _file(tmp_path, "good.jsonl", '{"text": "w1"}\n')
    with pytest.raises(InputError, match=r"is neither \.jsonl nor \.csv"):
        run_file(model, good, tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()


def test_csv_out_refuses_a_field_that_the_header_lacks(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n{"text": "w2", "note": "n"}\n')
    with pytest.raises(InputError) as caught:
        run_file(model, source, tmp_path / "out.csv")
    assert f"{source}:2: cannot be written: the CSV's header" in caught.value.message
    assert "has no note; an output in .jsonl needs none" in caught.value.message
    assert not (tmp_path / "out.csv").exists()


# The output file.


def test_an_output_that_exists_is_kept_unless_told(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n')
    output = _file(tmp_path, "out.jsonl", "mine")
    with pytest.raises(StorageError, match=r"out\.jsonl already exists") as caught:
        run_file(model, source, output)
    assert "--force" in str(caught.value.hint)
    assert output.read_text() == "mine"
    run_file(model, source, output, force=True)
    assert _jsonl(output)[0]["text"] == "w1"


def test_a_failed_run_keeps_the_output_that_was_there(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n' * 600 + "broken\n")
    output = _file(tmp_path, "out.jsonl", "mine")
    assert ":601: not valid JSON" in _fault(model, source, force=True).message
    assert output.read_text() == "mine"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_may_be_replaced_by_its_own_results(
    model: Model, tmp_path: Path, suffix: str
) -> None:
    content = {"csv": "text\n" + "w1\n" * 700, "jsonl": '{"text": "w1"}\n' * 700}[suffix]
    source = _file(tmp_path, f"in.{suffix}", content)
    with pytest.raises(StorageError, match="already exists"):
        run_file(model, source, source)
    assert run_file(model, source, source, force=True) == 700
    rows: list[Any] = _csv(source) if suffix == "csv" else _jsonl(source)
    assert len(rows) == 700
    assert rows[-1]["label"] == model("w1").label


def test_the_output_appears_only_when_it_is_complete(model: Model, tmp_path: Path) -> None:
    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n' * 600)
    output = tmp_path / "out" / "out.jsonl"
    seen: list[bool] = []
    run_file(model, source, output, progress=lambda _: seen.append(output.exists()))
    assert seen == [False, False]
    assert len(_jsonl(output)) == 600
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupted_run_leaves_nothing(model: Model, tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    source = _file(tmp_path, "in.jsonl", '{"text": "w1"}\n' * 600)
    with pytest.raises(KeyboardInterrupt):
        run_file(model, source, tmp_path / "out.jsonl", progress=interrupt)
    assert list(tmp_path.glob("*out*")) == []
    assert list(tmp_path.glob(".lepton*")) == []


# Small readers.


def test_lines_are_counted_for_progress_only_where_they_can_be(tmp_path: Path) -> None:
    assert count_lines(_file(tmp_path, "in.csv", "a\nb\nc")) == 2
    assert count_lines(tmp_path / "none.csv") is None
    assert count_lines(tmp_path) is None


def test_a_stream_has_a_text_a_line() -> None:
    assert read_lines(io.StringIO("w1\r\n\n  w2 \nw3")) == ["w1", "", "  w2 ", "w3"]


def test_a_stream_that_is_empty_or_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="standard input is empty"):
        read_lines(io.StringIO(""))
    stream = io.TextIOWrapper(io.BytesIO(b"w1\n\xff\n"), encoding="utf-8")
    with pytest.raises(InputError, match="standard input is not utf-8 text: invalid start byte"):
        read_lines(stream)
