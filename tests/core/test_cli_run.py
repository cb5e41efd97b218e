"""lepton-edge run: texts from arguments, standard input and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_edge import load
from lepton_edge.bundle import TOKENIZER, Bundle
from tests.core.parts import fails, flip_byte, invoke, printed

Bundles = Callable[..., Bundle]


@pytest.fixture
def bundle(fake_bundle: Bundles) -> Path:
    return fake_bundle().path


def test_one_text_prints_its_result(bundle: Path) -> None:
    result = invoke("run", bundle, "w1 w2")
    with load(bundle) as model:
        assert result.stdout == f"{model('w1 w2')}\n"
    assert re.fullmatch(
        r"1 text, \d+\.\d ms each on FAKE \(fp32\); opened in \d+\.\d\d s\n", result.stderr
    )


def test_several_texts_print_a_line_each_beside_the_text(bundle: Path) -> None:
    texts = ["w1", "w2 w3", "w4 " * 50]
    result = invoke("run", bundle, *texts)
    with load(bundle) as model:
        expected = [str(answer) for answer in model(texts)]
    width = max(map(len, expected))
    assert result.stdout == "".join(
        f"{answer.ljust(width)}  {text}\n" for answer, text in zip(expected, texts, strict=True)
    )
    assert "(text truncated)" in result.stdout
    assert result.stderr.startswith("3 texts, ")


def test_results_are_json_beside_their_texts(bundle: Path) -> None:
    rows = printed("run", bundle, "w1", "größe 🙂")
    assert [row["text"] for row in rows] == ["w1", "größe 🙂"]
    with load(bundle) as model:
        assert rows[0]["result"]["label"] == model("w1").label
    assert invoke("run", bundle, "w1", "--json").stderr == ""


def test_top_k_prints_the_labels_below(bundle: Path) -> None:
    lines = invoke("run", bundle, "w1", "--top-k", 2).stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"    [abc] \d+\.\d%", line) for line in lines[1:])
    assert len(printed("run", bundle, "w1", "--top-k", 2)[0]["result"]["top"]) == 2


def test_embeddings_print_their_start(fake_bundle: Bundles) -> None:
    path = fake_bundle(task="feature-extraction").path
    assert re.fullmatch(r"\[(-?\d\.\d{4}, ){4}…\] 8 dimensions\n", invoke("run", path, "w1").stdout)
    assert len(printed("run", path, "w1")[0]["result"]["vector"]) == 8
    assert "feature-extraction has no option 'top_k'" in fails("run", path, "w1", "--top-k", 3)


def test_a_dash_reads_a_text_a_line(bundle: Path) -> None:
    assert [row["text"] for row in printed("run", bundle, "-", stdin="w1\nw2 w3\n")] == [
        "w1",
        "w2 w3",
    ]
    assert invoke("run", bundle, "-", stdin="w1").exit_code == 0


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (b"", "standard input is empty"),
        (b"w1\n\nw2\n", "text 2 is empty"),
        (b"w1\n\xff\xfe\n", "standard input is not utf-8 text"),
    ],
)
def test_standard_input_that_cannot_be_read_is_an_error(
    bundle: Path, stdin: bytes, problem: str
) -> None:
    assert problem in fails("run", bundle, "-", stdin=stdin)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_source_is_needed_and_one_only(bundle: Path, form: tuple[str, ...]) -> None:
    for arguments in ((), ("w1", "--input", "in.csv"), ("-", "-i", "in.csv")):
        result = invoke("run", bundle, *arguments, *form)
        assert result.exit_code == 2
        assert "give a text, - for standard input, or --input FILE" in result.stderr
    result = invoke("run", bundle, "w1", "-o", "out.csv", *form)
    assert result.exit_code == 2
    assert "--output goes with --input" in result.stderr


def test_a_text_may_begin_with_a_dash(bundle: Path) -> None:
    assert printed("run", bundle, "--json", "--", "-5 degrees", "-")[0]["text"] == "-5 degrees"


def test_an_empty_text_is_an_error(bundle: Path) -> None:
    assert "text 2 is empty" in fails("run", bundle, "w1", "")


def test_a_file_goes_to_a_file(bundle: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text('{"text": "w1"}\n{"text": "w2"}\n')
    result = invoke("run", bundle, "-i", source, "-o", output)
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(
        rf"2 texts to {re.escape(str(output))} in \d+\.\d s, [\d,]+ a second\n", result.stderr
    )
    assert len(output.read_text().splitlines()) == 3
    message = fails("run", bundle, "-i", source, "-o", output)
    assert f"{output} already exists" in message
    assert "--force" in message
    report = printed("run", bundle, "-i", source, "-o", output, "--force")
    assert (report["path"], report["rows"]) == (str(output), 2)
    assert report["seconds"] >= 0


def test_a_file_goes_to_standard_output_as_json_lines(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("body,n\nw1,1\nw2,2\n")
    result = invoke("run", bundle, "--input", source, "--column", "body")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["body"], row["n"]) for row in rows] == [("w1", "1"), ("w2", "2")]
    assert result.stderr.startswith("2 texts in ")
    quiet = invoke("run", bundle, "--input", source, "--column", "body", "--json")
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("in.csv", "body\nw1\n", "in.csv:2: there is no 'text'; it has body"),
        ("in.jsonl", "nonsense\n", "in.jsonl:1: not valid JSON"),
        ("in.txt", "w1\n", "in.txt is neither .jsonl nor .csv"),
        ("in.csv", "", "in.csv has no rows"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_no_output(
    bundle: Path, tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    before = sorted(tmp_path.iterdir())
    assert problem in fails("run", bundle, "-i", tmp_path / name, "-o", tmp_path / "out.csv")
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_or_odd_file_is_an_error(bundle: Path, tmp_path: Path) -> None:
    assert "there is no file at" in fails("run", bundle, "-i", tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "Is a directory" in fails("run", bundle, "-i", tmp_path / "folder.csv")


def test_a_device_is_passed_on(bundle: Path) -> None:
    assert invoke("run", bundle, "w1", "--device", "intel-cpu").exit_code == 0
    assert "has no device 'NPU'" in fails("run", bundle, "w1", "--device", "NPU")


def test_a_damaged_bundle_is_an_error(bundle: Path) -> None:
    flip_byte(bundle / TOKENIZER)
    for verify in ("cached", "always"):
        assert "has SHA-256" in fails("run", bundle, "w1", "--verify", verify)
