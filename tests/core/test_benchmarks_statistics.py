"""The benchmarks' statistics: medians, spreads and ratios of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge.benchmark.machine import Machine
from lepton_edge.benchmark.statistics import Summary, percentile, ratios, summarize
from tests.benchmarks import document, results, wording
from tests.benchmarks.results import Comparison, Limit, Report, Result, Size

_positive = st.floats(min_value=1e-3, max_value=1e6)


def test_a_percentile_lies_between_two_values_in_proportion() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2.5
    assert percentile([10, 20], 0.1) == pytest.approx(11)
    assert percentile([7], 0.9) == 7


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 0.5)


@settings(deadline=None, max_examples=50)
@given(st.lists(_positive, min_size=1, max_size=40))
def test_a_summary_is_in_order_and_within_the_values(values: list[float]) -> None:
    summary = summarize(values)
    assert min(values) <= summary.low <= summary.median <= summary.high <= max(values)
    assert summary.spread >= 0


def test_spread_is_a_share_of_the_median() -> None:
    assert Summary(median=2.0, low=1.5, high=2.5).spread == 0.5
    assert Summary(median=0.0, low=0.0, high=0.0).spread == 0.0


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine ran at half its speed for the second pair: the ratios do not notice.
    assert ratios([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]) == [0.5, 0.5, 0.5]


def test_ratios_of_series_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("relation", "measured", "met"),
    [
        ("at most", 1.14, True),
        ("at most", 1.15, True),
        ("at most", 1.16, False),
        ("at least", 1.16, True),
        ("at least", 1.15, True),
        ("at least", 1.14, False),
    ],
)
def test_a_limit_is_met_up_to_its_value(relation: str, measured: float, met: bool) -> None:
    assert Limit(relation, 1.15).met(measured) is met  # type: ignore[arg-type]


def test_a_comparison_without_a_target_has_no_verdict() -> None:
    assert Comparison("case", "other", "ms", [1.0], [2.0]).met is None
    assert Comparison("case", "other", "ms", [1.0], [2.0], Limit("at most", 0.5)).met is True


def _report(measured: float, megabytes: float, others: float = 0.0) -> Report:
    slow = Comparison(
        "one text", "another way", "ms", [measured], [1.0], Limit("at most", 1.15), "it is slow"
    )
    return Report(
        date="2026-11-22T12:00:00Z",
        commit="abc",
        model="a model",
        threads=2,
        load=(0.1, 0.2, 0.3),
        machine=Machine("a processor", 2, ("avx2",), True, 8.0, "a system", "CPython 3.11.7"),
        versions={"openvino": "1.0"},
        results=[
            Result("latency", "Latency", "In turn.", comparisons=[slow], others=others),
            Result(
                *("install", "Size", "Installed."),
                sizes=[Size("a", "1", megabytes), Size("b", "2", 1.0, "a")],
                size_limit=Limit("at most", 330),
                if_missed="it is large",
            ),
        ],
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = _report(1.0, 300.0)
    results.write(report, tmp_path / "run.json")
    assert results.read(tmp_path / "run.json") == report


def test_the_page_says_what_is_met_and_gives_no_reasons(tmp_path: Path) -> None:
    results.write(_report(1.0, 300.0), tmp_path / "run.json")
    page = document.write(tmp_path / "run.json").read_text()
    assert page.count("**met**") == 2
    assert "missed" not in page
    assert "it is slow" not in page
    assert "2 of 2" in (tmp_path / "README.md").read_text()


def test_the_page_says_what_is_missed_and_why(tmp_path: Path) -> None:
    results.write(_report(2.0, 400.0), tmp_path / "run.json")
    page = document.write(tmp_path / "run.json").read_text()
    assert page.count("**missed**") == 2
    assert "2.00x, and the target is at most 1.15x. Why: it is slow." in page
    assert "401 MB, and the target is at most 330 MB. Why: it is large." in page
    assert "0 of 2" in (tmp_path / "README.md").read_text()


def test_the_page_says_that_other_processes_were_busy(tmp_path: Path) -> None:
    for others, said in [(0.04, False), (0.31, True)]:
        results.write(_report(1.0, 300.0, others), tmp_path / "run.json")
        page = document.write(tmp_path / "run.json").read_text()
        assert ("other processes took 31% of the processors' time" in page) is said


def test_a_spread_above_a_fifth_is_called_noisy() -> None:
    calm = Comparison("case", "calm", "ms", [1.0, 1.1, 1.0], [1.0, 1.0, 1.0])
    wild = Comparison("case", "wild", "ms", [1.0, 3.0, 1.0], [1.0, 1.0, 1.0])
    assert wording.disturbances(Result("a", "A", "", comparisons=[calm])) == []
    (found,) = wording.disturbances(Result("a", "A", "", comparisons=[calm, wild]))
    assert "1 of 2 ratios" in found
    assert "wild" in found
