"""lepton-edge index, search and keywords: files in, hits out, and every way to ask wrongly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_edge import Index, extract_keywords, load
from lepton_edge.bundle import Bundle
from tests.core.parts import fails, invoke, printed
from tests.core.search_parts import texts
from tests.core.test_imports import NOT_AT_RUN_TIME, heavy, loaded_after

Bundles = Callable[..., Bundle]
ROWS = [
    {"text": "w1 w2", "key": "a", "topic": "cards"},
    {"text": "w3 w4", "key": "b", "topic": "größe 🙂"},
    {"text": "w5 " * 60, "key": "c", "topic": None},
]


@pytest.fixture
def bundle(fake_bundle: Bundles) -> Path:
    return fake_bundle("name-1.0.0", task="feature-extraction").path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


# index


def test_a_file_becomes_an_index_beside_the_bundle(bundle: Path, source: Path) -> None:
    result = invoke("index", bundle, "--input", source)
    path = bundle.parent / "name-1.0.0.index"
    assert result.exit_code == 0
    assert re.fullmatch(rf"{re.escape(str(path))}  3 texts, \d\.\d MiB\n", result.stdout)
    assert re.search(r"^3 texts in \d+\.\d s, [\d,]+ a second$", result.stderr, re.MULTILINE)
    assert "1 longer than the model takes" in result.stderr
    assert f'lepton-edge search {bundle} "some text"' in result.stderr
    with load(bundle) as model:
        hits = Index.open(path).query(model, "w3 w4")
    assert (hits[0].id, hits[0].metadata) == (1, {"key": "b", "topic": "größe 🙂"})


def test_columns_are_chosen(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "docs.csv"
    source.write_text("body,key\nw1,x1\nw2,x2\n")
    arguments = ("--column", "body", "--id-column", "key", "-o", tmp_path / "out", "--dtype")
    report = printed("index", bundle, "-i", source, *arguments, "float16")
    assert (report["path"], report["added"], report["texts"]) == (str(tmp_path / "out"), 2, 2)
    assert report["truncated"] == 0
    index = Index.open(tmp_path / "out")
    assert report["bytes"] == index.size
    assert index.header.dtype == "float16"
    assert "x2" in index
    assert invoke("index", bundle, "-i", source, "--column", "text=body", "--force").exit_code == 0


def test_texts_are_added_and_replaced(bundle: Path, source: Path, tmp_path: Path) -> None:
    invoke("index", bundle, "-i", source, "--id-column", "key")
    path = bundle.parent / "name-1.0.0.index"
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "w8", "key": "d"}\n{"text": "w9", "key": "a"}\n')
    message = fails("index", bundle, "-i", more, "--id-column", "key", "--add")
    assert f"{more}:2: the id 'a' is in the index already" in message
    assert "--replace" in message
    assert len(Index.open(path)) == 3
    report = printed("index", bundle, "-i", more, "--id-column", "key", "--add", "--replace")
    assert (report["added"], report["texts"]) == (2, 4)
    assert texts(Index.open(path)) == sorted([ROWS[1]["text"], ROWS[2]["text"], "w8", "w9"])  # type: ignore[type-var]


def test_what_is_there_is_kept_without_force(bundle: Path, source: Path) -> None:
    assert invoke("index", bundle, "-i", source).exit_code == 0
    assert "already exists" in fails("index", bundle, "-i", source)
    assert invoke("index", bundle, "-i", source, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--add", "--force"), "--add keeps the index as it is"),
        (("--add", "--dtype", "float16"), "--add keeps the index as it is"),
        (("--replace",), "--replace goes with --add"),
        (("--dtype", "int8"), "'int8' is not one of"),
    ],
)
def test_options_that_do_not_go_together(
    bundle: Path, source: Path, arguments: tuple[str, ...], problem: str
) -> None:
    result = invoke("index", bundle, "-i", source, *arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ("", (), "docs.jsonl has no rows"),
        ('{"body": "w1"}', (), "docs.jsonl:1: there is no 'text'; it has body"),
        ('{"text": "w1"}\n{"text": " "}', (), "docs.jsonl:2: 'text' is empty"),
        ('{"text": "w1"}\n{"text": 5}', (), "docs.jsonl:2: 'text' is not text"),
        ('{"text": "w1"}\n{"text": "\\ud800"}', (), "docs.jsonl:2: 'text' is not Unicode text"),
        ('{"text": "w1"}', ("--id-column", "id"), "docs.jsonl:1: there is no 'id'; it has text"),
        ('{"text": "w1", "id": ""}', ("--id-column", "id"), "docs.jsonl:1: 'id' is empty"),
        ('{"text": "w1", "id": [1]}', ("--id-column", "id"), "docs.jsonl:1: [1] is no id"),
        (
            '{"text": "w1", "id": 1}\n{"text": "w1", "id": 1}',
            ("--id-column", "id"),
            "docs.jsonl:2: the id 1 is given twice",
        ),
        ('{"text": "w1", "x": NaN}', (), "docs.jsonl:1: its metadata cannot be written as JSON"),
        ("nonsense", (), "docs.jsonl:1: not valid JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_leaves_nothing(
    bundle: Path, tmp_path: Path, content: str, options: tuple[str, ...], problem: str
) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_text(content)
    before = sorted(tmp_path.iterdir())
    assert problem in fails("index", bundle, "-i", source, *options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_bundle_that_does_not_embed_is_refused(fake_bundle: Bundles, source: Path) -> None:
    classifier = fake_bundle("classifier").path
    message = fails("index", classifier, "-i", source)
    assert "fake does text-classification; semantic search needs a bundle of feature-ext" in message


# search


@pytest.fixture
def indexed(bundle: Path, source: Path) -> Path:
    invoke("index", bundle, "-i", source, "--id-column", "key")
    return bundle


def test_hits_are_lines_with_score_id_and_text(indexed: Path) -> None:
    result = invoke("search", indexed, "w3 w4")
    lines = result.stdout.splitlines()
    assert lines[0] == " 1.0000  b  w3 w4"
    assert len(lines) == 3
    assert any(re.fullmatch(r" ?-?0\.\d{4}  c  (w5 )+w?5?…", line) for line in lines[1:])
    assert len(invoke("search", indexed, "w3", "--top-k", 1).stdout.splitlines()) == 1


def test_hits_are_json(indexed: Path) -> None:
    first, *_ = printed("search", indexed, indexed.parent / "name-1.0.0.index", "w1 w2")
    assert list(first) == ["id", "score", "text", "metadata", "truncated"]
    assert (first["id"], first["metadata"]) == ("a", {"topic": "cards"})


def test_a_text_that_would_steer_the_terminal_is_escaped(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_text(json.dumps({"text": "w1\n\x1b[31mred"}) + "\n")
    invoke("index", bundle, "-i", source)
    (line,) = invoke("search", bundle, "w1").stdout.splitlines()
    assert line.endswith("w1\\n\\x1b[31mred")


def test_an_index_that_is_not_there_or_another_models_is_an_error(
    fake_bundle: Bundles, indexed: Path
) -> None:
    other = fake_bundle(
        "other", task="feature-extraction", task_config={"pooling": "cls", "normalize": True}
    ).path
    message = fails("search", other, "w1")
    assert f"there is no search index at {other.parent / 'other.index'}" in message
    assert "lepton-edge index" in message
    message = fails("search", other, indexed.parent / "name-1.0.0.index", "w1")
    assert "this index was made with fake 1.0.0" in message
    result = invoke("search", indexed, "a", "b", "c")
    assert result.exit_code == 2
    assert "give one text, in quotes" in result.stderr
    assert "text 1 is empty" in fails("search", indexed, "")


# keywords


def test_keywords_are_lines_with_their_score(bundle: Path) -> None:
    text = "w1 w2, w30 w31. w1 again"
    result = invoke("keywords", bundle, text, "--top-k", 3)
    with load(bundle) as model:
        expected = extract_keywords(model, text, top_k=3)
    assert result.stdout == "".join(f"{keyword}\n" for keyword in expected)
    found = printed("keywords", bundle, text, "--max-words", 1, "--diversity", 0)
    assert all(text[each["start"] : each["end"]] == each["text"] for each in found)
    assert not any(" " in each["text"] for each in found)


def test_keywords_of_a_file_are_its_rows(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("body,n\nw1 w2,1\nwörter: größe,2\n", encoding="utf-8")
    result = invoke("keywords", bundle, "-i", source, "--column", "body", "--top-k", 2)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["body"], row["n"]) for row in rows] == [("w1 w2", "1"), ("wörter: größe", "2")]
    for row in rows:
        assert 1 <= len(row["keywords"]) <= 2
        for each in row["keywords"]:
            assert row["body"][each["start"] : each["end"]] == each["text"]
    source.write_text("body\nw1\n\n \n", encoding="utf-8")
    assert (
        "in.csv:4: 'body' is empty"
        in invoke("keywords", bundle, "-i", source, "--column", "body").stderr
    )


def test_a_rows_own_columns_come_out_as_they_came_in(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "w1 w2", "keywords": "gold", "note": "\\ud800"}\n')
    result = invoke("keywords", bundle, "-i", source)
    assert result.exit_code == 0
    row = json.loads(result.stdout)
    assert (row["keywords"], row["note"]) == ("gold", "\ud800")
    assert row["result_keywords"]


def test_stop_words_come_from_a_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "stop.txt").write_text("w1 w2\nÄrger\n", encoding="utf-8")
    text = "w1 w3 ärger w2"
    arguments = ("keywords", bundle, text, "--stop-words", tmp_path / "stop.txt")
    assert [each["text"] for each in printed(*arguments)] == ["w3"]
    (tmp_path / "stop.txt").write_bytes(b"\xff")
    assert "stop.txt is not UTF-8 text" in fails(*arguments)
    (tmp_path / "stop.txt").unlink()
    assert "No such file" in fails(*arguments)


def test_a_text_or_a_file_is_needed(bundle: Path) -> None:
    for arguments in ((), ("w1", "-i", "x.csv")):
        result = invoke("keywords", bundle, *arguments)
        assert result.exit_code == 2
        assert "give a text, or --input FILE" in result.stderr
    assert "there is no file at" in fails("keywords", bundle, "-i", "x.csv")


# What they load.


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "BUNDLE", "-i", "SOURCE", "--force"],
        ["search", "BUNDLE", "w1"],
        ["keywords", "BUNDLE", "w1 w2"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_verb_loads_nothing_heavy(
    indexed: Path, source: Path, fake_backend: Path, arguments: list[str]
) -> None:
    words = {"BUNDLE": str(indexed), "SOURCE": str(source)}
    given = [words.get(argument, argument) for argument in arguments]
    loaded = loaded_after(
        f"from lepton_edge.cli import main\nmain({given!r}, standalone_mode=False)", fake_backend
    )
    assert heavy(loaded, *NOT_AT_RUN_TIME, "usearch") == []


def test_importing_search_and_keywords_loads_no_numpy() -> None:
    code = "import lepton_edge.search.rows, lepton_edge.keywords.rows"
    loaded = loaded_after(code)
    assert "lepton_edge.search.index" in loaded
    assert heavy(loaded, *NOT_AT_RUN_TIME, "numpy", "usearch", "tokenizers") == []
