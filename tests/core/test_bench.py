"""lepton-edge bench: what is measured of a bundle, and how it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import lepton_edge
from lepton_edge import BenchSettings
from lepton_edge.benchmark import wording
from lepton_edge.benchmark.bench import noise_of
from lepton_edge.benchmark.machine import allowed_cpus
from lepton_edge.benchmark.page import page_of
from lepton_edge.benchmark.report import Case, Noise, Report, Timing
from lepton_edge.benchmark.startup import Start, Startup
from lepton_edge.benchmark.statistics import extent
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.hashing import sha256
from lepton_edge.cli import inputs
from lepton_edge.errors import BackendError, InputError, SourceError
from tests.core.parts import fails, invoke, printed
from tests.core.test_page import Reader

Bundles = Callable[..., Bundle]

# As short as a run can be: the warm-up of each case takes longest.
SHORT = BenchSettings(batches=(1, 4), lengths=(8,), rounds=2, seconds=0.01, starts=0)
OPTIONS = ("--batch", "1,4", "--length", "8", "--rounds", 2, "--seconds", 0.01, "--starts", 0)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One with everything in it, made up."""

    def timing(name: str, factor: float, batch: int) -> Timing:
        rounds = tuple(factor * value for value in (2.0, 2.1, 1.9))
        ratios = () if name == "lepton-edge" else (factor, factor * 1.02, factor * 0.9)
        return Timing(
            name,
            300,
            2 * factor,
            2.2 * factor,
            3 * factor,
            500 * batch / factor,
            4000 * batch / factor,
            rounds,
            ratios,
            extent(ratios) if ratios else None,
        )

    cases = tuple(
        Case(
            batch,
            length,
            float(length),
            "p50" if batch == 1 else "throughput",
            timing("lepton-edge", length / 8, batch),
            (timing("torch fp32", length / 2, batch), timing("torch bf16", length / 4, batch)),
        )
        for batch in (1, 8)
        for length in (8, 32)
    )
    cold = Start(0.1, 0.2, 1.3, 0.4, 100.0, 110.0, 220.0)
    warm = Start(0.1, 0.2, 0.3, 0.1, 90.0, 95.0, 205.0)
    folder = tmp_path_factory.mktemp("made-up")
    from lepton_edge.testing import write_fake_bundle

    bundle = write_fake_bundle(folder / "bundle")
    return replace(
        _empty(bundle),
        cases=cases,
        startup=Startup((cold,) * 3, (warm,) * 3, "dropped"),
        original="models/<original>",
        noise=(Noise("1 text of 8 tokens", 0.5),),
        others=0.3,
        notes=wording.notes_of(SHORT, Startup((cold,), (warm,), "kept"), ("torch",)),
    )


def _empty(bundle: Bundle) -> Report:
    from lepton_edge.benchmark.machine import describe
    from lepton_edge.benchmark.report import SCHEMA, Subject

    subject = Subject(
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        manifest_sha256="a" * 64,
        task="text-classification",
        source="s",
        source_sha256="b" * 64,
        target="intel-cpu",
        backend="fake",
        requires="fake 1.0",
        weights="fp16",
        compute="bf16",
        device="FAKE",
        session={"streams": 1},
        profile=None,
        max_length=32,
        size_mib=1.5,
    )
    return Report(
        SCHEMA,
        "2026-11-22T12:00:00Z",
        subject,
        describe(),
        {"numpy": "2"},
        replace(SHORT, cpus=(0, 1)),
        "made up",
        None,
        (),
        None,
        0.5,
        0.0,
        12.0,
    )


# What is measured


def test_a_report_has_a_case_for_each_batch_and_length(
    fake_bundle: Bundles, fake_backend: Path
) -> None:
    bundle = fake_bundle()
    steps: list[str] = []
    settings = replace(SHORT, lengths=(8, 16))
    found = lepton_edge.bench(bundle.path, settings, progress=steps.append)
    assert [(case.batch, case.length, case.tokens) for case in found.cases] == [
        (1, 8, 8.0),
        (1, 16, 16.0),
        (4, 8, 8.0),
        (4, 16, 16.0),
    ]
    for case in found.cases:
        timing = case.ours
        assert timing.name == "lepton-edge"
        assert timing.calls >= 2
        assert 0 < timing.p50_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.tokens_per_second == pytest.approx(
            timing.inputs_per_second * case.tokens, rel=1e-4
        )
        assert len(timing.rounds) == 2
        assert case.objective == ("p50" if case.batch == 1 else "throughput")
        assert case.others == ()
    assert found.startup is None
    assert "3 of 4: 4 texts of 8 tokens" in steps


def test_a_report_says_what_was_measured_and_where(fake_bundle: Bundles) -> None:
    bundle = fake_bundle(name="bundle")
    found = lepton_edge.bench(bundle.path, replace(SHORT, batches=(1,)))
    assert found.schema == 1
    assert found.subject.manifest_sha256 == sha256(bundle.path / "manifest.json")
    assert (found.subject.backend, found.subject.device) == ("fake", "FAKE")
    assert (found.subject.weights, found.subject.compute) == ("fp32", "fp32")
    assert found.settings.cpus == allowed_cpus()
    assert found.settings.lengths == (8,)
    assert found.machine.cores == len(allowed_cpus())
    assert found.versions["lepton-edge"] == lepton_edge.__version__
    assert found.versions["tokenizers"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.created)
    assert found.notes


def test_a_report_is_json_that_can_be_read_again(fake_bundle: Bundles, report: Report) -> None:
    for each in (lepton_edge.bench(fake_bundle().path, replace(SHORT, batches=(1,))), report):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Report) == each


def test_texts_of_ones_own_are_measured_in_their_order(fake_bundle: Bundles) -> None:
    texts = ["w1", "w1 w2 w3", "w1 w2"]
    found = lepton_edge.bench(fake_bundle().path, replace(SHORT, lengths=None), texts=texts)
    assert [(case.batch, case.length, case.tokens) for case in found.cases] == [
        (1, None, 4.0),
        (4, None, 3.8),  # the first text comes again to fill the batch: (3 + 5 + 4 + 3) / 4
    ]
    assert found.settings.lengths is None
    assert found.texts == "3 texts of one's own, in their order"


def test_tokens_are_those_of_the_texts_that_were_timed(fake_bundle: Bundles) -> None:
    texts = ["w1 w2"] * 40 + ["w1 " * 20] * 200  # sorted by length, as a file may be
    settings = replace(SHORT, batches=(8,), lengths=None, seconds=1e-6)  # a call a round
    (case,) = lepton_edge.bench(fake_bundle().path, settings, texts=texts).cases
    assert case.ours.calls == 2
    assert case.tokens == 4.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="seconds above 0"):
        replace(SHORT, seconds=seconds)


def test_processors_are_pinned_meanwhile_only(fake_bundle: Bundles) -> None:
    before = allowed_cpus()
    found = lepton_edge.bench(fake_bundle().path, replace(SHORT, batches=(1,), cpus=before[:1]))
    assert found.settings.cpus == before[:1]
    assert found.machine.cores == 1
    assert allowed_cpus() == before


def test_every_start_is_of_a_process_of_its_own(
    fake_bundle: Bundles, fake_backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_backend))
    settings = replace(SHORT, batches=(1,), starts=1)
    found = lepton_edge.bench(fake_bundle().path, settings)
    assert found.startup is not None
    assert (len(found.startup.cold), len(found.startup.warm)) == (1, 1)
    assert any(note.startswith("A start is a new process") for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batches": ()}, "batches are"),
        ({"batches": (0,)}, "batches are"),
        ({"lengths": (8, -1)}, "lengths are"),
        ({"rounds": 0}, "rounds 0"),
        ({"seconds": 0.0}, "seconds 0"),
        ({"starts": -1}, "starts -1"),
    ],
)
def test_settings_that_measure_nothing_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        replace(SHORT, **changes)


def test_what_cannot_be_measured_is_refused(fake_bundle: Bundles) -> None:
    bundle = fake_bundle().path
    with pytest.raises(InputError, match="takes up to 32 tokens"):
        lepton_edge.bench(bundle, replace(SHORT, lengths=(64,)))
    with pytest.raises(InputError, match="no texts"):
        lepton_edge.bench(bundle, replace(SHORT, lengths=None), texts=[])
    with pytest.raises(InputError, match="have the lengths that they have"):
        lepton_edge.bench(bundle, SHORT, texts=["w1"])
    with pytest.raises(BackendError, match="no device 'NPU'"):
        lepton_edge.bench(bundle, SHORT, device="NPU")


@pytest.mark.parametrize(
    ("compare", "original", "problem"),
    [
        (("jax",), "model", "there is no comparison with 'jax'"),
        (("torch",), None, "needs the model that the bundle was built from"),
    ],
)
def test_a_comparison_needs_a_way_and_the_original(
    fake_bundle: Bundles, compare: tuple[str, ...], original: str | None, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        lepton_edge.bench(fake_bundle().path, SHORT, compare=compare, original=original)


def test_a_comparison_without_its_libraries_names_the_extra(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lepton_edge.benchmark import originals

    monkeypatch.setattr(originals, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="needs onnx, onnxruntime, safetensors, torch") as caught:
        lepton_edge.bench(fake_bundle().path, SHORT, compare=["torch"], original="model")
    assert caught.value.hint == "pip install 'lepton-edge[build]'"


# Noise


def _case(rounds: tuple[float, ...], ratios: tuple[float, ...] = ()) -> Case:
    ours = Timing("lepton-edge", 1, 1.0, 1.0, 1.0, 1.0, 1.0, rounds)
    other = Timing("torch", 1, 1.0, 1.0, 1.0, 1.0, 1.0, rounds, ratios)
    return Case(1, 8, 8.0, "p50", ours, (other,) if ratios else ())


def test_noise_is_a_spread_above_a_fifth_the_widest_first() -> None:
    assert noise_of([_case((1.0, 1.19, 1.0))], None) == ()
    (found,) = noise_of([_case((1.0, 1.3, 1.0))], None)
    assert (found.figure, found.spread) == ("1 text of 8 tokens", pytest.approx(0.3))
    two = noise_of([_case((1.0, 1.3, 1.0), (2.0, 4.0, 2.0))], None)
    assert [each.figure for each in two] == [
        "1 text of 8 tokens beside torch",
        "1 text of 8 tokens",
    ]


def test_starts_are_noisy_too() -> None:
    calm = (Start(0, 0, 1.0, 0, 1, 1, 1),) * 2
    wild = (*calm, Start(0, 0, 2.0, 0, 1, 1, 1))
    (found,) = noise_of([], Startup(wild, calm, "kept"))
    assert found.figure == "cold start"


def test_warnings_name_the_figures(report: Report) -> None:
    noisy, busy = wording.warnings_of(report)
    assert "by more than 20% of their median for 1 text of 8 tokens (50%)." in noisy
    assert "Other processes took 30%" in busy
    many = tuple(Noise(f"figure {n}", 0.9 - n / 100) for n in range(9))
    (line,) = wording.warnings_of(replace(report, noise=many, others=0.01))
    assert "figure 3 (87%) and 5 more" in line
    assert wording.warnings_of(replace(report, noise=(), others=0.0)) == []


# How it is shown


def test_the_page_shows_every_figure_and_loads_nothing(report: Report) -> None:
    html = page_of(report)
    reader = Reader(html)
    for shown in ("fake 1.0.0", "torch fp32", "models/<original>", "a" * 64, "p99 ms", "20%"):
        assert shown in reader.text
    assert {"svg", "table", "figure"} <= set(reader.tags)
    assert "http" not in html.replace("http-equiv", "")
    assert "script" not in reader.tags
    # A plot of ratios a way, one of latency, one of throughput a length, two of starts.
    assert html.count("<svg") == 2 + 1 + 2 + 2
    _, rows = wording.all_calls_table(report.cases)
    assert all(cell in reader.text for row in rows for cell in row)


def test_a_page_without_comparison_starts_or_noise_is_shorter(report: Report) -> None:
    cases = tuple(replace(case, others=()) for case in report.cases)
    html = page_of(replace(report, cases=cases, startup=None, noise=(), others=0.0, original=None))
    assert html.count("<svg") == 1 + 2
    assert "as the original" not in Reader(html).text
    assert "notice" not in re.sub("<style>.*</style>", "", html, flags=re.S)


def test_a_page_of_texts_of_ones_own(report: Report) -> None:
    cases = tuple(replace(each, length=None) for each in report.cases[::2])
    assert "texts of one's own" in Reader(page_of(replace(report, cases=cases))).text


def test_tables_have_a_cell_for_every_column(report: Report) -> None:
    assert report.startup
    for header, rows in (
        wording.calls_table(report.cases),
        wording.all_calls_table(report.cases),
        wording.ratios_table(report.cases),
        wording.start_table(report.startup),
    ):
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    _, ratios = wording.ratios_table(report.cases)
    assert ratios[0] == ("1", "8", "4.00x (3.60x – 4.08x)", "2.00x (1.80x – 2.04x)")


# The command


def test_the_command_prints_a_table(fake_bundle: Bundles) -> None:
    result = invoke("bench", fake_bundle().path, *OPTIONS)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert (
        lines[0] == "fake 1.0.0, text-classification, fp32 weights computing in fp32 on FAKE (fake)"
    )
    header = next(number for number, line in enumerate(lines) if "p99 ms" in line)
    assert lines[header].split() == [
        "batch",
        "tokens",
        "calls",
        "p50",
        "ms",
        "p90",
        "ms",
        "p99",
        "ms",
        "texts/s",
        "tokens/s",
    ]
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [["1", "8"], ["4", "8"]]
    assert "1 of 2: 1 text of 8 tokens …" in result.stderr
    assert "took " in result.stderr


def test_the_command_prints_json_and_writes_a_page(fake_bundle: Bundles, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    found = printed("bench", fake_bundle().path, *OPTIONS, "--html", page)
    assert found["schema"] == 1
    assert [case["batch"] for case in found["cases"]] == [1, 4]
    assert found["settings"]["rounds"] == 2
    assert page.read_text().startswith("<!doctype html>")


def test_a_page_that_is_there_is_kept_unless_forced(fake_bundle: Bundles, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    bundle = fake_bundle().path
    assert f"{page} already exists" in fails("bench", bundle, *OPTIONS, "--html", page)
    assert page.read_text() == "mine"
    assert invoke("bench", bundle, *OPTIONS, "--html", page, "--force").exit_code == 0
    assert "<!doctype html>" in page.read_text()


def test_a_page_that_cannot_be_written_is_told_before_measuring(
    fake_bundle: Bundles, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "page.html"
    folder.mkdir()
    bundle = fake_bundle().path
    for page, why in (
        (folder, "it is a folder"),
        (tmp_path / "file" / "p.html", "file is in the way"),
    ):
        result = invoke("bench", bundle, *OPTIONS, "--html", page, "--force")
        assert result.exit_code == 1
        assert why in result.stderr
        assert "1 of 2" not in result.stderr


def test_a_long_file_of_texts_is_thinned_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_MOST_TEXTS", 10)
    file = tmp_path / "texts.jsonl"
    for count, numbers in ((10, range(10)), (11, range(0, 11, 2)), (50, range(0, 50, 8))):
        rows = (json.dumps({"text": f"t{number}"}) for number in range(count))
        file.write_text("\n".join(rows))
        assert inputs.read_texts(file, "text") == [f"t{number}" for number in numbers]


def test_texts_come_from_a_file(fake_bundle: Bundles, tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("body\nw1 w2\nw3\n")
    options = ("--batch", "2", "--rounds", 1, "--seconds", 0.01, "--starts", 0)
    found = printed("bench", fake_bundle().path, *options, "--texts", texts, "--column", "body")
    assert [(case["length"], case["tokens"]) for case in found["cases"]] == [(None, 3.5)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text\n", "has no rows"),
        ("text\nw1\n \n", "texts.csv:3: 'text' is empty"),
        ("other\nw1\n", "there is no 'text'"),
    ],
)
def test_a_file_without_texts_is_an_error(
    fake_bundle: Bundles, tmp_path: Path, content: str, problem: str
) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text(content)
    assert problem in fails("bench", fake_bundle().path, "--texts", texts)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch", "1,x"), "'1,x' is not numbers with commas between them"),
        (("--original", "model"), "--original goes with --compare"),
        (("--seconds", "0"), "--seconds"),
        (("--rounds", "0"), "--rounds"),
    ],
)
def test_wrong_usage_is_said_before_anything_runs(
    fake_bundle: Bundles, options: tuple[str, ...], problem: str
) -> None:
    result = invoke("bench", fake_bundle().path, *options)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_errors_are_those_of_the_function(fake_bundle: Bundles, tmp_path: Path) -> None:
    bundle = fake_bundle().path
    assert "there is no bundle" in fails("bench", tmp_path / "none")
    assert "there is no comparison with 'jax'" in fails("bench", bundle, "--compare", "torch, jax")
    assert "cannot be pinned" in fails("bench", bundle, *OPTIONS, "--cpus", "4000")
    error = invoke("bench", bundle, "--length", "4000", "--json")
    assert error.exit_code == 1
    assert json.loads(error.stderr)["error"]["type"] == "InputError"


# Beside the original, with sessions that need none of its libraries


def test_the_original_takes_each_batch_as_it_comes(fake_bundle: Bundles) -> None:
    from lepton_edge.benchmark.originals import _as_it_comes

    texts = ["w1 " * 20, "w1", "w1 w2"] * 20
    with lepton_edge.load(fake_bundle().path) as model:
        session: Any = model.session
        beside = _as_it_comes(model, session)
        answers = beside(texts)
        assert session.calls == [(60, 22)]
        session.calls.clear()
        assert [each.label for each in model(texts)] == [each.label for each in answers]
        assert len(session.calls) > 1


def test_a_way_that_answers_otherwise_is_refused(fake_bundle: Bundles) -> None:
    from lepton_edge.benchmark.originals import _check_same
    from lepton_edge.testing import FakeSession

    bundle = fake_bundle()
    with lepton_edge.load(bundle.path) as model:
        compiled = bundle.manifest.artifacts[0].compiled
        texts = ["w1 w2", "w3", "w4 w5 w6"]
        _check_same(model, {"the same": FakeSession(compiled, 0)}, texts)
        with pytest.raises(SourceError, match="another answers otherwise than the bundle"):
            _check_same(model, {"another": FakeSession(compiled, 1)}, texts)
