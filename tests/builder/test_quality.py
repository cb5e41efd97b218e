"""The quality gate: the task's metric, original beside compiled, and INT8 that must keep it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lepton_edge
from lepton_edge import Bundle, Recipe
from lepton_edge.bundle.hashing import sha256
from lepton_edge.errors import (
    InputError,
    LeptonWarning,
    ParityError,
    QualityError,
    RecipeError,
)
from lepton_edge.recipe import Source
from tests.builder.parts import TEXTS, left_behind, refused
from tests.core.parts import invoke


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def data(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples whose right answers are the original's own, so that it scores 1."""
    folder = tmp_path_factory.mktemp("data")
    recipe = Recipe(name="exact", source=Source(path=str(tiny_bert)), precision="fp32")
    bundle = lepton_edge.build(recipe, output=folder / "out")
    texts = [f"{a} and {b}" for a in TEXTS for b in TEXTS]
    with lepton_edge.load(bundle.path) as model:
        rows = [
            {"text": text, "label": result.label}
            for text, result in zip(texts, model(texts), strict=True)
        ]
    return write(folder / "labelled.jsonl", rows)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def recipe_for(folder: Path, data: Path | None, **changes: Any) -> Recipe:
    quality = {"data": None if data is None else str(data), "compare": ()}
    # At fp32 both models agree on every example; at others a random one may change its mind.
    given = {"precision": "fp32", "quality": quality | changes.pop("quality", {}), **changes}
    return Recipe(name="tiny", source=Source(path=str(folder)), **given)


def quietly(recipe: Recipe, out: Path, **options: Any) -> Bundle:
    """Build without the warnings that others' tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeptonWarning)
        return lepton_edge.build(recipe, output=out, **options)


# What is written.


def test_the_metric_of_both_models_is_in_the_manifest(
    tiny_bert: Path, data: Path, out: Path
) -> None:
    bundle = quietly(recipe_for(tiny_bert, data), out)
    quality = bundle.manifest.artifacts[0].quality
    assert quality is not None
    assert (quality.metric, quality.examples) == ("accuracy", 36)
    assert (quality.data, quality.sha256) == ("labelled.jsonl", sha256(data))
    assert quality.original == 1.0
    assert quality.score == 1.0
    assert [(each.precision, each.score) for each in quality.attempts] == [("fp32", 1.0)]
    shown = invoke("inspect", bundle.path).stdout
    assert "accuracy  1.0000    1.0000    36 of labelled.jsonl" in shown
    size = sum(f.size for p, f in bundle.manifest.files.items() if p.startswith("artifacts/"))
    assert quality.attempts[0].size == size


def test_the_report_is_one_page_that_fetches_nothing(
    tiny_bert: Path, data: Path, out: Path
) -> None:
    recipe = recipe_for(tiny_bert, data, quality={"compare": ("auto",)})
    bundle = quietly(recipe, out)
    assert "quality.html" in bundle.manifest.files
    page = (bundle.path / "quality.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|src=|https?://|url\(", page)
    for part in ("Quality of tiny 1.0.0", "accuracy", "fp32", "labelled.jsonl", sha256(data)):
        assert part in page
    assert "worst examples" in page
    assert TEXTS[0] in page
    assert "<svg" in page


def test_a_text_cannot_break_out_of_the_report(tiny_bert: Path, tmp_path: Path, out: Path) -> None:
    evil = "<script>alert(1)</script> my card & bank"
    rows = [{"text": evil, "label": label} for label in (0, 1)]
    file = write(tmp_path / "evil.jsonl", rows)
    bundle = quietly(recipe_for(tiny_bert, file), out)
    page = (bundle.path / "quality.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_without_evaluation_data_there_is_no_report(tiny_bert: Path, out: Path) -> None:
    bundle = lepton_edge.build(recipe_for(tiny_bert, None), output=out)
    assert bundle.manifest.artifacts[0].quality is None
    assert "quality.html" not in bundle.manifest.files


def test_labels_may_be_numbers_and_columns_have_other_names(
    tiny_bert: Path, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("review,stars\nmy bank,0\na late card,1\nthe film was good,1\n")
    quality = {"columns": {"text": "review", "label": "stars"}, "max_drop": 100}
    bundle = quietly(recipe_for(tiny_bert, file, quality=quality), out)
    measured = bundle.manifest.artifacts[0].quality
    assert measured is not None
    assert measured.original in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)


def test_samples_are_spread_over_the_file(tiny_bert: Path, data: Path, out: Path) -> None:
    bundle = quietly(recipe_for(tiny_bert, data, quality={"samples": 9}), out)
    assert bundle.manifest.artifacts[0].quality.examples == 9  # type: ignore[union-attr]


# What is refused.


def test_a_model_that_lost_too_much_is_refused_with_its_figures(
    tiny_bert: Path, data: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    target = crooked("AlwaysWrong")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeptonWarning)
        recipe = recipe_for(tiny_bert, data, precision="auto")
        error = refused(QualityError, recipe, out, target=target)
    assert "accuracy fell by " in error.message
    assert "from 1.0000 to 0." in error.message
    assert "1 are allowed" in error.message
    assert "max_drop" in str(error.hint)


def test_as_much_may_be_lost_as_the_recipe_allows(
    tiny_bert: Path, data: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = recipe_for(tiny_bert, data, precision="auto", quality={"max_drop": 100})
    bundle = quietly(recipe, out, target=crooked("AlwaysWrong"))
    quality = bundle.manifest.artifacts[0].quality
    assert quality is not None
    assert quality.score < 0.5 < quality.original


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "has no rows"),
        ([{"text": "a"}], ":1: there is no 'label'; it has text"),
        ([{"text": "my bank", "label": "angry"}], ":1: the model has no label 'angry'; it has 3"),
        ([{"text": "my bank", "label": 7}], ":1: the model has no label 7; it has 3"),
        ([{"text": "my bank", "label": None}], ":1: the model has no label None"),
        ([{"text": 5, "label": 1}], ":1: the text is of type int"),
        ([{"text": " ", "label": 1}], ":1: the text is empty"),
    ],
)
def test_a_faulty_row_is_named_before_the_slow_work(
    tiny_bert: Path, tmp_path: Path, out: Path, rows: list[dict[str, Any]], fault: str
) -> None:
    file = write(tmp_path / "rows.jsonl", rows)
    steps: list[str] = []
    error = refused(InputError, recipe_for(tiny_bert, file), out, progress=steps.append)
    assert error.message.startswith(str(file))
    assert fault in error.message
    assert steps == ["reading the model"]


def test_a_missing_file_is_named(tiny_bert: Path, tmp_path: Path, out: Path) -> None:
    error = refused(InputError, recipe_for(tiny_bert, tmp_path / "none.jsonl"), out)
    assert error.message == f"there is no file at {tmp_path / 'none.jsonl'}"


def test_a_metric_that_the_task_lacks_is_refused_with_those_it_has(
    tiny_bert: Path, data: Path, out: Path
) -> None:
    error = refused(RecipeError, recipe_for(tiny_bert, data, quality={"metric": "bleu"}), out)
    assert error.message == ("text-classification has no metric 'bleu'; it has accuracy, label_f1")


def test_a_metric_that_the_task_lacks_is_refused_without_data_too(
    tiny_bert: Path, out: Path
) -> None:
    refused(RecipeError, recipe_for(tiny_bert, None, quality={"metric": "bleu"}), out)


def test_an_unknown_column_is_refused_with_those_that_are_read(
    tiny_bert: Path, data: Path, out: Path
) -> None:
    error = refused(
        InputError, recipe_for(tiny_bert, data, quality={"columns": {"txt": "text"}}), out
    )
    assert "columns names 'txt'; what is read here is text, label" in error.message


def test_a_parameter_that_the_task_lacks_is_refused(tiny_bert: Path, data: Path, out: Path) -> None:
    recipe = recipe_for(tiny_bert, data, quality={"parameters": {"temperature": 2}})
    assert "no option 'temperature'" in refused(InputError, recipe, out).message


def test_a_label_without_an_example_is_a_warning(
    tiny_bert: Path, tmp_path: Path, out: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", [{"text": "my bank", "label": 0}])
    with pytest.warns(LeptonWarning, match="rows.jsonl has no example of neutral, pos"):
        lepton_edge.build(recipe_for(tiny_bert, file, quality={"max_drop": 100}), output=out)


@pytest.mark.filterwarnings("ignore:.*has no example of")
def test_a_metric_that_says_nothing_is_a_warning_and_other_limits_decide(
    tiny_bert: Path, data: Path, tmp_path: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    """Labels that neither model ever gives: nothing is lost, whatever the compiled one says."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    labels = ["negative", "neutral", "positive"]
    for row in rows:
        row["label"] = labels[(labels.index(row["label"]) + 1) % 3]
    file = write(tmp_path / "rows.jsonl", rows)
    recipe = recipe_for(tiny_bert, file, precision="auto")
    with pytest.warns(LeptonWarning, match=r"accuracy on .* is 0, so it says nothing"):
        error = refused(ParityError, recipe, out, target=crooked("AlwaysWrong"))
    assert "cosine is -" in error.message


@pytest.mark.filterwarnings("ignore:.*has no example of")
def test_a_precision_to_compare_with_that_fails_is_left_out(
    tiny_bert: Path, data: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = recipe_for(tiny_bert, data, quality={"compare": ("auto", "auto")})
    with pytest.warns(LeptonWarning, match=r"auto is not in the quality report: .* not a number"):
        bundle = lepton_edge.build(recipe, output=out, target=crooked("NaNInHalf"))
    assert "quality.html" in bundle.manifest.files


# int8


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "texts.jsonl"
    return write(file, [{"text": text} for text in TEXTS])


def int8(folder: Path, data: Path | None, calibration: Path | None, **changes: Any) -> Recipe:
    given = {"data": None if calibration is None else str(calibration)}
    return recipe_for(folder, data, precision="int8", calibration=given, **changes)


def test_int8_is_smaller_and_answers_alike(
    tiny_bert: Path, data: Path, calibration: Path, out: Path
) -> None:
    recipe = int8(tiny_bert, data, calibration, quality={"compare": ("fp32",), "max_drop": 10})
    bundle = quietly(recipe, out)
    (artifact,) = bundle.manifest.artifacts
    assert artifact.compiled.precision == "int8"
    assert artifact.compiled.kept == ()
    assert artifact.calibration is not None
    assert artifact.calibration.texts == len(TEXTS)
    assert artifact.calibration.sha256 == sha256(calibration)
    assert "nncf" in bundle.manifest.tools
    weights = (bundle.path / artifact.directory / "model.bin").stat().st_size
    exact = lepton_edge.build(recipe_for(tiny_bert, None, precision="fp32"), output=out / "fp32")
    full = (exact.path / "artifacts/intel-cpu/model.bin").stat().st_size
    assert weights < 0.4 * full
    with lepton_edge.load(bundle.path) as small, lepton_edge.load(exact.path) as large:
        pairs = zip(small(TEXTS), large(TEXTS), strict=True)
        assert all(abs(a.score - b.score) < 0.05 for a, b in pairs)


def test_int8_is_the_same_each_time(tiny_bert: Path, calibration: Path, out: Path) -> None:
    first = lepton_edge.build(int8(tiny_bert, None, calibration), output=out / "a")
    second = lepton_edge.build(int8(tiny_bert, None, calibration), output=out / "b")
    assert first.manifest.files == second.manifest.files


def test_int8_without_calibration_data_warns_and_says_so(tiny_bert: Path, out: Path) -> None:
    with pytest.warns(LeptonWarning, match="calibrated on 32 built-in sentences") as caught:
        bundle = lepton_edge.build(int8(tiny_bert, None, None), output=out)
    assert "calibration: {data:" in str(caught[0].message)
    calibration = bundle.manifest.artifacts[0].calibration
    assert calibration is not None
    assert (calibration.texts, calibration.data) == (32, None)


def test_int8_weights_need_no_calibration(tiny_bert: Path, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeptonWarning)
        recipe = recipe_for(tiny_bert, None, precision="int8-weights")
        bundle = lepton_edge.build(recipe, output=out)
    (artifact,) = bundle.manifest.artifacts
    assert artifact.compiled.precision == "int8"
    assert artifact.calibration is None
    assert artifact.parity.mean_cosine > 0.99


def test_int8_that_loses_too_much_is_tried_again_under_control(
    tiny_bert: Path, data: Path, calibration: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    steps: list[str] = []
    bundle = quietly(
        int8(tiny_bert, data, calibration, quality={"max_drop": 10}),
        out,
        target=crooked("WrongInEightBits"),
        progress=steps.append,
    )
    (artifact,) = bundle.manifest.artifacts
    assert artifact.quality is not None
    first, second = artifact.quality.attempts
    assert first.score is not None
    assert second.score is not None
    assert first.score < 0.5
    assert first.kept == ()
    assert second.score == artifact.quality.score >= 0.9
    assert second.kept == artifact.compiled.kept
    assert len(second.kept) > 0
    assert any("accuracy under control" in step for step in steps)
    page = (bundle.path / "quality.html").read_text(encoding="utf-8")
    assert "Tried before, and given up" in page
    assert "left in higher precision" in page
    assert second.kept[0] in page


def test_int8_that_gave_no_numbers_at_first_can_be_read_again(
    tiny_bert: Path, data: Path, calibration: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = int8(tiny_bert, data, calibration, quality={"max_drop": 10})
    bundle = quietly(recipe, out, target=crooked("NaNInEightBits"))
    quality = bundle.manifest.artifacts[0].quality
    assert quality is not None
    first, second = quality.attempts
    assert first.score is None
    assert second.score == quality.score >= 0.9


def test_what_parity_alone_refuses_is_not_tried_again(
    tiny_bert: Path, data: Path, calibration: Path, out: Path
) -> None:
    steps: list[str] = []
    recipe = int8(
        tiny_bert, data, calibration, quality={"max_drop": 100}, parity={"max_error": 1e-9}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeptonWarning)
        error = refused(ParityError, recipe, out, progress=steps.append)
    assert "max_error is" in error.message
    assert not any("under control" in step for step in steps)


def test_int8_that_cannot_be_saved_says_what_each_attempt_measured(
    tiny_bert: Path, data: Path, calibration: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = int8(tiny_bert, data, calibration)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeptonWarning)
        error = refused(QualityError, recipe, out, target=crooked("AlwaysWrong"))
    assert "1. int8: accuracy fell by" in error.message
    assert re.search(r"2\. int8, \d+ operations kept: accuracy fell by", error.message)
    assert "int8-weights" in str(error.hint)


def test_int8_that_makes_no_numbers_is_refused(
    tiny_bert: Path, calibration: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = int8(tiny_bert, None, calibration)
    error = refused(ParityError, recipe, out, target=crooked("GivesNaN"))
    assert "the compiled model's output is not a number" in error.message


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "has no rows"),
        ([{"body": "a"}], ":1: there is no 'text'; it has body"),
        ([{"text": "a"}, {"text": 3}], ":2: text 1 is of type int"),
        ([{"text": "a"}, {"text": ""}], ":2: the text is empty"),
    ],
)
def test_a_faulty_calibration_file_is_named_before_the_slow_work(
    tiny_bert: Path, tmp_path: Path, out: Path, rows: list[dict[str, Any]], fault: str
) -> None:
    file = write(tmp_path / "rows.jsonl", rows)
    steps: list[str] = []
    error = refused(InputError, int8(tiny_bert, None, file), out, progress=steps.append)
    assert error.message.startswith(str(file))
    assert fault in error.message
    assert steps == ["reading the model"]


def test_a_missing_calibration_file_is_named(tiny_bert: Path, tmp_path: Path, out: Path) -> None:
    error = refused(InputError, int8(tiny_bert, None, tmp_path / "none.csv"), out)
    assert "there is no file at" in error.message
    assert left_behind(out) == []


def test_a_recipe_is_used_for_a_model(tiny_bert: Path, out: Path) -> None:
    bundle = lepton_edge.build("text-classification", model=tiny_bert, output=out)
    assert bundle.path.name == "tiny-bert-1.0.0"
    assert bundle.manifest.task == "text-classification"


def test_a_recipe_without_a_model_says_how_to_give_one(out: Path) -> None:
    error = refused(RecipeError, "text-classification", out)
    assert "lepton-edge build text-classification --model" in str(error.hint)


def test_calibration_is_read_once_for_every_target(
    tiny_bert: Path, out: Path, crooked: Callable[[str], str]
) -> None:
    recipe = int8(tiny_bert, None, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeptonWarning)
        lepton_edge.build(recipe, output=out, target=f"intel-cpu,{crooked('Crooked')}")
    built_in = [each for each in caught if "built-in sentences" in str(each.message)]
    assert len(built_in) == 1
