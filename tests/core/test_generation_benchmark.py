"""The benchmark of generation, less its times: what is compared with what, and how it is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lepton_edge.benchmark.machine import Machine
from lepton_edge.bundle import Bundle, open_bundle
from tests.benchmarks import (
    document,
    generation_cases,
    generation_ceiling,
    generation_materials,
    generation_rivals,
    results,
)
from tests.benchmarks.generation_cases import Plan, first_and_later, loads
from tests.benchmarks.generation_ceiling import beside_default, read_rate
from tests.benchmarks.generation_materials import Materials, variant
from tests.benchmarks.generation_rivals import Answer, Case, Worker
from tests.benchmarks.results import Comparison, Limit, Report, Result
from tests.benchmarks.shapes import QWEN
from tests.benchmarks.terminal import Terminal

_FOLDER = Path(generation_rivals.__file__).parent / "workers"
_PLAN = Plan(rounds=2, starts=2, threads=2)
_NOTHING = Materials(Path("bundle"), None, None, 1000)


class _Paced(Worker):
    """Answers at once, as if a token took ``pace`` seconds."""

    def __init__(self, name: str, pace: float) -> None:
        super().__init__(name, [])
        self._pace = pace

    def __enter__(self) -> Worker:
        if self._pace <= 0:
            raise SystemExit(f"{self.name} ended with 1:\nTraceback\nit has no such setting\n")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> Answer:
        seconds = [self._pace * (place + 1) for place in range(tokens)]
        return Answer([[0] * tokens for _ in prompts], [seconds for _ in prompts])


def _answer(*seconds: float) -> Answer:
    return Answer([[0] * len(seconds)], [list(seconds)])


def _report(result: Result, *remarks: str) -> Report:
    return Report(
        date="2026-11-23T12:00:00Z",
        commit="abc",
        model="A shape",
        threads=2,
        load=(0.1, 0.2, 0.3),
        machine=Machine("a processor", 2, ("avx2",), True, 8.0, "a system", "CPython 3.11.7"),
        versions={"openvino": "1.0"},
        results=[result],
        made="make generation",
        remarks=list(remarks),
    )


def _page(tmp_path: Path, result: Result, *remarks: str) -> str:
    results.write(_report(result, *remarks), tmp_path / "run.json")
    return document.write(tmp_path / "run.json").read_text(encoding="utf-8")


# What is compared


def test_a_first_request_is_compared_with_the_median_of_its_own_process() -> None:
    processes = [
        [_answer(1.3, 2.0), _answer(9.0, 9.0), _answer(1.0, 1.6), _answer(0.5, 0.5)],
        [_answer(2.6, 4.0), _answer(2.0, 3.2), _answer(1.0, 1.0), _answer(8.0, 8.0)],
    ]

    first, whole = first_and_later(Case("prompt of 8", "first", 8, 2), processes)

    assert (first.case, first.ours, first.theirs) == (
        *("prompt of 8: first token", [1.3, 2.6]),
        [1.0, 2.0],
    )
    assert first.met is True
    assert first.ratio.median == pytest.approx(1.3)
    assert (whole.case, whole.ours, whole.theirs) == (
        *("prompt of 8: 2 tokens", [2.0, 4.0]),
        [1.6, 3.2],
    )
    assert whole.met is None


def test_a_trial_is_the_ratio_to_the_default_and_one_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation_rivals, "_SETTLE", 0.0)
    workers = [_Paced("fast", 0.25), _Paced("wrong", 0.0), _Paced("slow", 1.0)]

    found, failed = beside_default(_Paced("default", 0.5), workers, _NOTHING, _PLAN, Terminal())

    assert [(each.case, each.other, each.ratio.median) for each in found] == [
        ("fast: decode", "the default", 2.0),
        ("fast: first token, prompt of 256", "the default", 0.5),
        ("slow: decode", "the default", 0.5),
        ("slow: first token, prompt of 256", "the default", 2.0),
    ]
    assert failed == ["wrong (it has no such setting)"]


def test_every_trial_has_a_name_of_its_own() -> None:
    for trials in (generation_ceiling.TRIALS, generation_ceiling.DIRECT):
        assert len({trial.name for trial in trials}) == len(trials)


def test_loads_come_in_pairs_and_the_first_finds_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        f"import os, sys, pathlib\nsys.path.insert(0, {str(_FOLDER)!r})\n"
        "from generation_worker import serve\n"
        "folder = pathlib.Path(os.environ['XDG_CACHE_HOME'])\n"
        f"with open({str(tmp_path / 'seen')!r}, 'a') as seen:\n"
        "    print(sys.argv[1], folder.exists(), file=seen)\n"
        "folder.mkdir(exist_ok=True)\nserve(lambda: None)\n",
        encoding="utf-8",
    )

    def worker(bundle: Path, **options: Any) -> Worker:
        return Worker("ours", [sys.executable, script, str(options.get("warm_up", True))])

    monkeypatch.setattr(generation_cases, "lepton_edge", worker)
    result = loads(_NOTHING, Plan(rounds=1, starts=1, threads=2), tmp_path, Terminal())

    # A pair more of each kind was opened than is counted.
    assert (tmp_path / "seen").read_text(encoding="utf-8").splitlines() == [
        *("True False", "True True", "False False", "False True"),
        *("True False", "True True", "False False", "False True"),
    ]
    assert [len(each.ours) for each in result.comparisons] == [1, 1, 1]
    assert os.environ["XDG_CACHE_HOME"] == str(cache)


def test_reading_a_buffer_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_ceiling, "_READING", 0.01)

    assert read_rate(1_000_000, 2) > 1_000_000


# What is measured


def test_a_worker_that_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_rivals, "_PATIENCE", 0.2)
    script = tmp_path / "worker.py"
    script.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    worker = Worker("the worker", [sys.executable, script])

    with pytest.raises(SystemExit, match=r"the worker gave nothing for 0\.2 s"), worker:
        pass

    assert worker._process.returncode == -9


def test_without_llama_cpp_the_rest_is_measured_and_the_reason_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP_PYTHON", str(tmp_path / "no-python"))

    given = generation_materials.materials(
        QWEN, tmp_path, tmp_path, lambda step: None, bundle=tmp_path
    )

    assert (given.gguf, given.llama_python) == (None, None)
    (reason,) = given.missing
    assert reason.startswith("llama.cpp was not measured: ")
    assert "no-python has no llama-cpp-python (LLAMA_CPP_PYTHON names" in reason


def test_a_variant_has_the_same_files_and_other_settings(
    fake_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = fake_bundle()
    before = bundle.manifest

    folder = variant(bundle.path, {"kv_cache_precision": "u4"}, tmp_path / "variant")

    changed = open_bundle(folder).manifest
    (own,), (others) = changed.artifacts, before.artifacts
    assert own.compiled.settings == {
        **others[0].compiled.settings,
        "kv_cache_precision": "u4",
    }
    assert changed.files == before.files
    assert open_bundle(bundle.path).manifest == before
    for name in before.files:
        assert (folder / name).read_bytes() == (bundle.path / name).read_bytes()


# How it is said


def test_the_page_names_its_command_its_remarks_and_both_sides(tmp_path: Path) -> None:
    streams = Comparison("8 streams", "one stream", "tokens/s", [60.0], [20.0])
    result = Result("a", "Streams", "In turn.", comparisons=[streams], columns=("8", "1"))

    page = _page(tmp_path, result, "llama.cpp was not measured: it is not here.")

    assert page.startswith("<!-- Written by `make generation`: ")
    assert "\nllama.cpp was not measured: it is not here.\n" in page
    assert "| case | beside | 8 | 1 | ratio |" in page
    assert "the ratio is 8 over the 1, with its 10th and 90th percentile" in page
    assert "| 8 streams | one stream | 60.0 tokens/s | 20.0 tokens/s | 3.00x |" in page


def test_a_target_that_is_missed_is_explained_where_a_reason_is_known(tmp_path: Path) -> None:
    def missed(reason: str) -> Result:
        load = Comparison("load", "none", "s", [2.0], [2.0], Limit("at most", 0.5), reason)
        return Result("load", "Loading", "In pairs.", comparisons=[load])

    assert "at most 0.50x. Why: it cannot.\n" in _page(tmp_path, missed("it cannot"))
    unexplained = _page(tmp_path, missed(""))
    assert "at most 0.50x.\n" in unexplained
    assert "Why" not in unexplained


def test_the_index_counts_the_targets_that_are_met(tmp_path: Path) -> None:
    comparisons = [
        Comparison("load", "none", "s", [ours], [2.0], Limit("at most", 0.5)) for ours in (1.0, 1.1)
    ]

    _page(tmp_path, Result("load", "Loading", "In pairs.", comparisons=comparisons))

    index = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| [run](run.md) | 2026-11-23 | a processor, 2 cores | 1 of 2 |" in index
    assert "`make generation`" in index
