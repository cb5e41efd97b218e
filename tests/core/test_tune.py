"""lepton-edge tune: who wins, who does not, and what is kept. Time is a script's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge import Profile, Tuning, load
from lepton_edge.backend import Setting
from lepton_edge.benchmark.statistics import percentile
from lepton_edge.bundle import Bundle
from lepton_edge.errors import BackendError, InferenceError, InputError, StorageError
from lepton_edge.runtime.batching import DEFAULT, Limits
from lepton_edge.runtime.profile import profile_path
from lepton_edge.testing import write_fake_bundle
from lepton_edge.tuning.objective import Objective
from lepton_edge.tuning.report import Trial
from lepton_edge.tuning.search import MARGIN, beats, lower_bound
from lepton_edge.tuning.space import Choice, by_settings
from lepton_edge.tuning.wording import warnings_of
from tests.core.disks import unprivileged_folder
from tests.core.parts import fails, invoke, printed
from tests.core.tuning_parts import Script, by_tokens, for_scripted, scripted

Bundles = Callable[..., Bundle]
Settings = Mapping[str, Setting]


@pytest.fixture
def script(fake_backend: Path) -> Iterator[Script]:
    with scripted(fake_backend) as script:
        yield script


@pytest.fixture
def bundle(fake_bundle: Bundles, script: Script) -> Bundle:
    return for_scripted(fake_bundle("model-1.0.0", max_length=128))


def tune(script: Script, bundle: Bundle, objective: str = "latency", **options: Any) -> Tuning:
    """With the sessions' own clock, and as little time as the rounds take."""
    return lepton_edge.tune(
        bundle.path, objective, **{"seconds": 2.0, "clock": script.clock, **options}
    )


def scaled(factors: Mapping[int, float]) -> Callable[[Settings, int, int], float]:
    """A cost by the setting ``way``: so many times that of the default."""

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        return by_tokens(settings, rows, tokens) * factors.get(int(settings.get("way", 0)), 1.0)

    return cost


def ways(*numbers: int) -> list[dict[str, Setting]]:
    return [{"way": number} for number in numbers]


def trial(tuning: Tuning, name: str) -> Trial:
    (found,) = (each for each in tuning.candidates if each.name == name)
    return found


# The default is one of the candidates, and ties go to it.


@pytest.mark.parametrize("objective", ["latency", "throughput", "p99=10s"])
def test_a_tie_goes_to_the_default(script: Script, bundle: Bundle, objective: str) -> None:
    script.space = ways(1, 2)
    script.cost = lambda settings, rows, tokens: 1e-3 * rows * tokens  # whatever the batches
    tuning = tune(script, bundle, objective, texts=["w1 w2 w3 w4"] * 64)
    assert (tuning.winner, tuning.gain, tuning.met) == ("default", 1.0, True)
    assert tuning.why == "no candidate beat it by more than the noise"
    assert (tuning.profile.settings, tuning.profile.limits) == ({}, DEFAULT)
    assert {each.name for each in tuning.candidates} >= {"way=1", "way=2"} or objective != "latency"


def test_a_gain_below_the_margin_is_a_tie(script: Script, bundle: Bundle) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 1 / (MARGIN - 0.01)})
    assert tune(script, bundle).winner == "default"
    script.cost = scaled({1: 1 / (MARGIN + 0.01)})
    assert tune(script, bundle).winner == "way=1"


def test_nothing_to_choose_is_no_error(script: Script, bundle: Bundle) -> None:
    tuning = tune(script, bundle)
    assert (tuning.winner, tuning.candidates) == ("default", ())
    assert Profile.read(tuning.path or "").settings == {}


def test_what_is_slower_is_not_chosen(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2, 3)
    script.cost = scaled({1: 1.5, 2: 1.1, 3: 4.0})
    tuning = tune(script, bundle)
    assert tuning.winner == "default"
    assert [(each.name, each.stage) for each in tuning.candidates] == [
        ("way=2", "screening"),
        ("way=1", "screening"),
        ("way=3", "screening"),
    ]
    slowest = trial(tuning, "way=3").ratio
    assert slowest
    assert slowest.median == pytest.approx(0.25)


# The best wins.


def test_the_fastest_of_several_wins_by_what_it_gains(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2, 3, 4, 5)
    script.cost = scaled({1: 0.9, 2: 0.5, 3: 0.8, 4: 2.0, 5: 0.6})
    tuning = tune(script, bundle)
    assert (tuning.winner, tuning.gain) == ("way=2", 2.0)
    assert tuning.why == "better by more than the noise"
    found = trial(tuning, "way=2")
    assert (found.stage, len(found.ratios)) == ("run-off", 15)
    assert found.figure == pytest.approx((found.default_figure or 0) / 2)
    # Three reach the final, and the others do not.
    stages = {each.name: each.stage for each in tuning.candidates}
    assert stages == {
        "way=2": "run-off",
        "way=5": "final",
        "way=3": "final",
        "way=1": "screening",
        "way=4": "screening",
    }
    assert [each.name for each in tuning.candidates] == list(stages)


def test_throughput_finds_small_micro_batches(script: Script, bundle: Bundle) -> None:
    """Where a batch beyond 1,200 tokens costs three times as much a token."""
    script.cost = lambda settings, rows, tokens: (
        rows * tokens * (3e-3 if rows * tokens > 1200 else 1e-3)
    )
    tuning = tune(script, bundle, "throughput", seconds=5000.0)
    assert tuning.texts == "256 made-up texts of 8 to 128 tokens, in a list of 256"
    assert tuning.winner == "rows=8, tokens=1024"
    assert tuning.gain > 1.5
    assert tuning.profile.limits == Limits(8, 1024)


def test_throughput_finds_large_micro_batches(script: Script, bundle: Bundle) -> None:
    """Where every batch costs the same, whatever it holds."""
    script.cost = lambda settings, rows, tokens: 0.01
    tuning = tune(script, bundle, "throughput", seconds=6.0)
    assert tuning.profile.limits == Limits(128, 16384)
    with load(bundle.path) as model:
        model(["w1"] * 100)
        calls: Any = model.session
        assert [rows for rows, _ in calls.calls] == [100]


def test_settings_and_limits_are_found_together(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2)

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        large = rows * tokens > 1200
        return (
            rows
            * tokens
            * {1: 0.5e-3, 2: 2e-3}.get(int(settings.get("way", 0)), 1e-3)
            * (3 if large else 1)
        )

    script.cost = cost
    tuning = tune(script, bundle, "throughput", seconds=5000.0)
    assert tuning.winner == "way=1, rows=8, tokens=1024"
    assert tuning.profile.settings == {"way": 1}


def test_limits_do_not_matter_to_single_texts(script: Script, bundle: Bundle) -> None:
    script.space = ways(1)
    assert [each.name for each in tune(script, bundle).candidates] == ["way=1"]


def test_limits_that_cut_no_input_otherwise_are_not_measured(
    fake_bundle: Bundles, script: Script
) -> None:
    """A text of zero-shot classification is several sequences; its few labels fit in any limits."""
    bundle = for_scripted(fake_bundle(task="zero-shot-classification", max_length=128))
    rows: set[int] = set()

    def cost(settings: Settings, count: int, tokens: int) -> float:
        rows.add(count)
        return 0.01

    script.cost = cost
    assert tune(script, bundle).candidates == ()
    assert 1 < max(rows) <= 8


def test_what_is_kept_is_used(script: Script, bundle: Bundle) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    tuning = tune(script, bundle, "throughput")
    assert tuning.path == str(profile_path(bundle.path))
    script.opened.clear()
    with load(bundle.path) as model:
        assert model.profile == tuning.profile
    assert script.opened == [{"way": 1}]
    assert tuning.profile.objective == "throughput"


def test_the_default_is_the_bundles_own_whatever_was_kept_before(
    script: Script, bundle: Bundle
) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    tune(script, bundle)
    again = tune(script, bundle)
    assert (again.winner, again.gain) == ("way=1", 2.0)
    script.cost = scaled({1: 2.0})
    assert tune(script, bundle).winner == "default"
    with load(bundle.path) as model:
        assert model.profile
        assert model.profile.settings == {}


# Noise.


def noisy(factors: Mapping[int, float], seed: int, noise: float) -> Any:
    """Costs that differ from call to call, by this standard deviation of their logarithm."""
    random, cost = Random(seed), scaled(factors)
    return lambda *given: cost(*given) * random.lognormvariate(0.0, noise)


def test_noise_alone_does_not_beat_the_default(script: Script, bundle: Bundle) -> None:
    """Of four that are no better, the luckiest is taken for better once in fifty times at most."""
    script.space = ways(1, 2, 3, 4)
    winners = []
    for seed in range(12):
        script.cost = noisy({}, seed, 0.3)
        texts = ["w1 w2"] * 8
        winners.append(tune(script, bundle, texts=texts, seconds=0.1, dry_run=True).winner)
    assert winners.count("default") >= 11


@pytest.mark.parametrize("seed", range(4))
def test_a_gain_is_found_in_noise(script: Script, bundle: Bundle, seed: int) -> None:
    script.space = ways(1, 2, 3)
    script.cost = noisy({2: 0.7}, seed, 0.2)
    assert tune(script, bundle, seconds=1.0, dry_run=True).winner == "way=2"


def test_who_does_not_hold_in_the_run_off_does_not_win(script: Script, bundle: Bundle) -> None:
    """Lucky in the screening and in the final: its third session is no better than the default."""
    script.space = ways(1)

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        lucky = settings.get("way") == 1 and script.opened.count({"way": 1}) < 3
        return by_tokens(settings, rows, tokens) * (0.5 if lucky else 1.0)

    script.cost = cost
    tuning = tune(script, bundle)
    assert tuning.winner == "default"
    assert tuning.why == "way=1 won the final, and did not hold in the run-off"
    found = trial(tuning, "way=1")
    assert found.stage == "run-off"
    assert found.ratio
    assert found.ratio.median == 1.0


def test_a_busy_while_in_the_run_off_does_not_cost_the_gain() -> None:
    """Three rounds of fifteen: the lower end of the median's interval is the fourth smallest."""
    assert beats([1.5] * 12 + [0.1, 0.2, 0.3])
    assert not beats([1.5] * 11 + [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("count", "place"), [(1, 0), (4, 0), (5, 0), (8, 0), (9, 1), (11, 1), (12, 2), (15, 3)]
)
def test_the_lower_bound_is_the_ratio_of_that_rank(count: int, place: int) -> None:
    ratios = [float(number) for number in range(count)]
    assert lower_bound(ratios[::-1]) == place


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_the_lower_bound_is_no_more_than_the_median(ratios: list[float]) -> None:
    assert min(ratios) <= lower_bound(ratios) <= percentile(ratios, 0.5)
    assert not beats([1.0] * len(ratios))
    assert not beats([1 / each for each in ratios]) or not beats(ratios)


# A bound on the 99th percentile.


def per_row(seconds: float, **factors: float) -> Any:
    """A call costs 40 ms and so much a row; `way1` and so on multiply it."""

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        return (0.04 + seconds * rows) * factors.get(f"way{settings.get('way', 0)}", 1.0)

    return cost


def test_a_bound_gives_the_largest_calls_within_it(script: Script, bundle: Bundle) -> None:
    script.cost = per_row(0.01)  # 120 ms for 8, 200 ms for 16, 360 ms for 32
    tuning = tune(script, bundle, "p99=150ms", texts=["w1 w2"] * 64)
    assert (tuning.winner, tuning.met) == ("rows=8", True)
    assert tuning.why == "the highest throughput within the bound, which the default exceeds"
    assert tuning.default_p99_ms == pytest.approx(360.0)
    assert trial(tuning, "rows=8").p99_ms == pytest.approx(120.0)
    # 120 ms for 8 inputs, beside 360 ms for 32.
    assert tuning.gain == pytest.approx((8 / 12) / (32 / 36), abs=1e-3)
    assert trial(tuning, "rows=16").ratio is None
    assert tuning.profile.limits == Limits(8, DEFAULT.tokens)
    assert tuning.objective == tuning.profile.objective == "p99=150ms"


def test_other_settings_may_allow_larger_calls(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2)
    script.cost = per_row(0.01, way1=0.7, way2=1.2)
    tuning = tune(script, bundle, "p99=150ms", texts=["w1 w2"] * 64)
    assert tuning.winner == "way=1, rows=16"


def test_a_default_within_the_bound_stays_unless_it_is_beaten(
    script: Script, bundle: Bundle
) -> None:
    script.space = ways(1)
    texts = ["w1 w2"] * 64
    script.cost = per_row(0.01)
    tuning = tune(script, bundle, "p99=400ms", texts=texts)
    assert (tuning.winner, tuning.met) == ("default", True)
    script.cost = per_row(0.01, way1=0.5)
    tuning = tune(script, bundle, "p99=400ms", texts=texts)
    assert tuning.winner == "way=1, rows=64, tokens=8192"
    assert tuning.gain > 2


def test_who_is_faster_and_beyond_the_bound_does_not_win(script: Script, bundle: Bundle) -> None:
    """Its calls are half as long, but for one of twenty."""
    script.space = ways(1)
    count = iter(range(10**9))

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        if "way" not in settings:
            return 0.04 + 0.01 * rows
        return (0.04 + 0.01 * rows) * (10 if next(count) % 20 == 7 else 0.3)

    script.cost = cost
    tuning = tune(script, bundle, "p99=400ms", texts=["w1 w2"] * 64, seconds=60.0)
    assert "way" not in tuning.winner
    assert all(each.ratio is None for each in tuning.candidates if each.settings)


def test_a_bound_that_none_keeps_leaves_the_default_and_says_the_best(
    script: Script, bundle: Bundle
) -> None:
    script.space = ways(1)
    script.cost = per_row(0.01, way1=0.8)
    tuning = tune(script, bundle, "p99=20ms", texts=["w1 w2"] * 64)
    assert (tuning.winner, tuning.gain, tuning.met) == ("default", 1.0, False)
    assert tuning.why == "no candidate keeps to p99=20ms: the best 99th percentile was 40 ms"
    assert tuning.profile.settings == {}
    assert any("p99=20ms is not met" in line for line in warnings_of(tuning))


def test_who_exceeds_the_bound_in_the_run_off_leaves_it_to_the_next(
    script: Script, bundle: Bundle
) -> None:
    script.space = ways(1)

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        worn = settings.get("way") == 1 and script.opened.count({"way": 1}) >= 3
        return (0.04 + 0.01 * rows) * (5.0 if worn else 0.9 if "way" in settings else 1.0)

    script.cost = cost
    tuning = tune(script, bundle, "p99=150ms", texts=["w1 w2"] * 64)
    assert tuning.winner == "rows=8"
    assert trial(tuning, "way=1, rows=8").stage == "run-off"
    assert trial(tuning, "way=1, rows=8").ratio is None


# Candidates that cannot run, and memory.


def test_what_cannot_be_opened_is_said_and_left_out(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2)
    script.refused = [{"way": 1}]
    script.cost = scaled({2: 0.5})
    tuning = tune(script, bundle)
    assert tuning.winner == "way=2"
    found = trial(tuning, "way=1")
    assert found.fault == "the device refused {'way': 1}"
    assert (found.ratio, found.figure) == (None, None)
    assert tuning.candidates[-1] == found
    assert "could not run: the device refused" in invoke_tune(script, bundle).stdout


def test_what_fails_while_it_runs_is_left_out(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2)

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        if settings.get("way") == 1 and script.now > 0.1:
            raise InferenceError("out of memory")
        return by_tokens(settings, rows, tokens)

    script.cost = cost
    tuning = tune(script, bundle)
    assert trial(tuning, "way=1").fault == "out of memory"
    assert trial(tuning, "way=2").fault is None
    assert script.open_now == 0


def test_a_micro_batch_that_is_too_large_is_left_out_alone(script: Script, bundle: Bundle) -> None:
    def cost(settings: Settings, rows: int, tokens: int) -> float:
        if rows > 32 and script.now > 100:
            raise InferenceError("out of memory")
        return rows * tokens * (3e-3 if rows * tokens > 1200 else 1e-3)

    script.cost = cost
    tuning = tune(script, bundle, "throughput", seconds=5000.0, texts=["w1 " * 60] * 256)
    assert tuning.winner == "rows=16, tokens=2048"
    faults = {each.name: each.fault for each in tuning.candidates if each.fault}
    assert faults == {
        "rows=64, tokens=8192": "out of memory",
        "rows=128, tokens=16384": "out of memory",
    }


def test_a_default_that_cannot_run_is_the_error(script: Script, bundle: Bundle) -> None:
    def cost(settings: Settings, rows: int, tokens: int) -> float:
        raise InferenceError("out of memory")

    script.cost = cost
    with pytest.raises(InferenceError, match="out of memory"):
        tune(script, bundle)
    assert script.open_now == 0
    assert not profile_path(bundle.path).exists()


@pytest.mark.parametrize("objective", ["latency", "throughput", "p99=400ms"])
def test_two_sessions_are_open_at_most_and_none_afterwards(
    script: Script, bundle: Bundle, objective: str
) -> None:
    script.space = ways(1, 2, 3, 4)
    script.cost = scaled({number: 1 - number / 20 for number in range(1, 5)})
    tune(script, bundle, objective, texts=["w1 w2"] * 16, seconds=0.5)
    assert script.most_open == 2
    assert script.open_now == 0


def test_an_interruption_closes_everything_and_keeps_nothing(
    script: Script, bundle: Bundle
) -> None:
    script.space = ways(1)

    def interrupt(step: str) -> None:
        if step.startswith("final"):
            raise KeyboardInterrupt

    script.cost = scaled({1: 0.5})
    with pytest.raises(KeyboardInterrupt):
        tune(script, bundle, progress=interrupt)
    assert script.open_now == 0
    assert not profile_path(bundle.path).exists()


def test_choices_that_differ_in_limits_alone_share_a_session(script: Script) -> None:
    choices = [
        Choice({"a": 1, "b": "x"}),
        Choice({}),
        Choice({"b": "x", "a": 1}, Limits(8, 1024)),
        Choice({}, Limits(64, 8192)),
    ]
    groups = [(dict(settings), len(group)) for settings, group in by_settings(choices)]
    assert groups == [({}, 2), ({"a": 1, "b": "x"}, 2)]


def test_time_is_kept_to(script: Script, bundle: Bundle) -> None:
    """The clock is the script's: what the search itself spends, to a call or two."""
    script.space = ways(1, 2, 3)
    script.cost = scaled({1: 0.8, 2: 0.9})
    tune(script, bundle, seconds=150.0, dry_run=True)
    assert 75 < script.now < 180


# What is measured on.


def test_texts_of_ones_own_are_taken_from_all_over_the_file(
    script: Script, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        lengths.append(tokens)
        return 0.5

    script.cost = cost
    texts = ["w1 " * (1 + number // 10) for number in range(1000)]  # sorted by length
    tuning = tune(script, bundle, texts=texts)
    assert tuning.texts == "64 of 1,000 texts of one's own"
    assert len(set(lengths)) == 13  # every multiple of 8 up to 104


def test_a_few_texts_are_repeated_to_a_list(script: Script, bundle: Bundle) -> None:
    seen: list[int] = []

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        seen.append(rows)
        return 0.01

    script.cost = cost
    tuning = tune(script, bundle, "throughput", texts=["w1", "w2 w3", "w4"], seconds=20.0)
    assert tuning.texts == "3 of 3 texts of one's own, in a list of 474"
    assert 474 % 32 in seen  # the rest, after 14 micro-batches of 32 rows


def test_a_short_list_does_not_judge_micro_batches(script: Script, bundle: Bundle) -> None:
    """In a slow model's time: large ones would be padding that a long list has not."""
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    tuning = tune(script, bundle, "throughput")
    assert tuning.texts == (
        "64 made-up texts of 8 to 128 tokens, in a list of 64, too short to judge micro-batches by"
    )
    assert [each.name for each in tuning.candidates] == ["way=1"]


def test_made_up_texts_are_of_many_lengths(script: Script, bundle: Bundle) -> None:
    lengths: set[int] = set()

    def cost(settings: Settings, rows: int, tokens: int) -> float:
        lengths.add(tokens)
        return 0.5

    script.cost = cost
    assert tune(script, bundle).texts == "64 made-up texts of 8 to 128 tokens"
    assert min(lengths) == 8
    assert max(lengths) > 64


def test_made_up_texts_are_no_longer_than_the_bundle_takes(
    fake_bundle: Bundles, script: Script
) -> None:
    bundle = for_scripted(fake_bundle(max_length=24))
    assert tune(script, bundle).texts == "64 made-up texts of 8 to 24 tokens"


@pytest.mark.parametrize("task", ["fill-mask", "text-ranking", "zero-shot-classification"])
def test_tasks_of_several_texts_can_be_tuned(
    fake_bundle: Bundles, script: Script, task: str
) -> None:
    bundle = for_scripted(fake_bundle(task=task, max_length=16))
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    for objective in ("latency", "throughput"):
        assert "way=1" in tune(script, bundle, objective, seconds=0.2, dry_run=True).winner


# What cannot be measured.


@pytest.mark.parametrize(
    "text", ["", "speed", "p99", "p99=", "p99=20", "p99=-3ms", "p99=0ms", "p95=3ms", "p99=1min"]
)
def test_an_objective_that_there_is_not_names_those_that_there_are(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Objective.parse(text)
    assert caught.value.message == f"there is no objective {text!r}"
    assert caught.value.hint == "there is latency, throughput, and a bound such as p99=20ms"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency", Objective("latency")),
        (" Throughput ", Objective("throughput")),
        ("p99=20ms", Objective("p99", 0.02)),
        ("p99 <= 0.5 s", Objective("p99", 0.5)),
    ],
)
def test_objectives_are_read_and_written(text: str, expected: Objective) -> None:
    assert Objective.parse(text) == expected
    assert Objective.parse(str(expected)) == expected


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_no_time_is_an_error(script: Script, bundle: Bundle, seconds: float) -> None:
    with pytest.raises(InputError, match="seconds is "):
        tune(script, bundle, seconds=seconds)


def test_no_texts_are_an_error(script: Script, bundle: Bundle) -> None:
    with pytest.raises(InputError, match="there are no texts to measure"):
        tune(script, bundle, texts=[])
    assert script.open_now == 0


def test_what_the_model_refuses_is_an_error(fake_bundle: Bundles, script: Script) -> None:
    bundle = for_scripted(fake_bundle(on_long_text="refuse", max_length=8))
    with pytest.raises(InputError, match="text 2"):
        tune(script, bundle, "throughput", texts=["w1", "w1 " * 50])


# Where it is kept.


def test_a_dry_run_keeps_nothing(script: Script, bundle: Bundle) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    tuning = tune(script, bundle, dry_run=True)
    assert (tuning.winner, tuning.path) == ("way=1", None)
    assert tuning.profile.settings == {"way": 1}
    assert not profile_path(bundle.path).exists()


def test_it_can_be_kept_elsewhere(script: Script, bundle: Bundle, tmp_path: Path) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    tuning = tune(script, bundle, keep=tmp_path / "mine.json")
    assert tuning.path == str(tmp_path / "mine.json")
    assert not profile_path(bundle.path).exists()
    with load(bundle.path, profile=Profile.read(tmp_path / "mine.json")) as model:
        assert model.profile == tuning.profile


def test_a_folder_that_cannot_be_written_is_found_before_measuring(script: Script) -> None:
    with unprivileged_folder() as folder:
        bundle = write_fake_bundle(folder / "b")
        folder.chmod(0o555)
        with pytest.raises(StorageError) as caught:
            lepton_edge.tune(bundle.path)
        folder.chmod(0o755)
    path = folder / "b.profile.json"
    assert caught.value.message.startswith(f"the profile {path} cannot be written: ")
    assert "Permission denied" in caught.value.message
    assert "--profile FILE keeps it elsewhere" in str(caught.value.hint)
    assert script.opened == []


def test_a_folder_that_is_not_there_is_found_before_measuring(
    script: Script, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="cannot be written: there is no such folder"):
        tune(script, bundle, keep=tmp_path / "none" / "mine.json")
    assert script.opened == []


def test_a_folder_of_that_name_is_found_before_measuring(
    script: Script, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="cannot be written: it is a folder"):
        tune(script, bundle, keep=tmp_path)
    assert script.opened == []


def test_a_bundle_that_cannot_be_opened_is_the_error_of_load(
    script: Script, bundle: Bundle
) -> None:
    script.refused = [{}]
    with pytest.raises(BackendError, match="cannot be opened on this machine"):
        tune(script, bundle)
    with pytest.raises(BackendError, match="was not built for jetson"):
        tune(script, bundle, device="jetson")


# The command line.


def invoke_tune(script: Script, bundle: Bundle, *arguments: object, **options: Any) -> Any:
    """The verb, with the script's clock."""
    from lepton_edge.tuning import tune as module

    real = module.tune
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "tune", partial(real, clock=script.clock))
        run = printed if options.get("as_json") else invoke
        return run("tune", bundle.path, "--seconds", 2, *arguments)


def test_the_table_says_who_won_and_why(script: Script, bundle: Bundle) -> None:
    script.space = ways(1, 2)
    script.cost = scaled({1: 0.5, 2: 1.5})
    result = invoke_tune(script, bundle)
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "fake 1.0.0 for intel-cpu, tuned for latency: 64 made-up texts of 8 to 128 tokens"
    )
    assert lines[2].split() == [
        "candidate",
        "ms",
        "default",
        "ratio",
        "lowest",
        "highest",
        "measured",
        "in",
    ]
    assert lines[3].split() == ["default", "1.00", "every", "round"]
    assert lines[4].split()[0] == "way=1"
    assert lines[4].split()[-4:] == ["2.00", "2.00", "2.00", "run-off"]
    assert lines[5].split()[-1] == "screening"
    assert lines[-1] == (
        "best: way=1: 2.00 times the default (2.00 to 2.00 in 15 rounds); "
        "better by more than the noise"
    )
    assert f"kept in {profile_path(bundle.path)}, which is used" in result.stderr
    assert f"lepton-edge tune {bundle.path} --reset removes it" in result.stderr
    assert "run-off: way=1 …" in result.stderr


def test_the_table_of_a_bound_has_percentiles(script: Script, bundle: Bundle) -> None:
    script.cost = per_row(0.01)
    out = invoke_tune(script, bundle, "--objective", "p99=150ms").stdout
    rows = {line.partition("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["default"][-3:] == ["360.00", "every", "round"]
    assert rows["rows=8"][-2:] == ["120.00", "run-off"]
    assert rows["rows=1"][1:] == ["20", "50.00", "screening"]
    assert out.count("screening: beyond the bound") == 2  # 16 and 64
    assert out.rstrip().endswith("; give the model up to 8 inputs a call")


def test_json_is_the_whole_tuning(script: Script, bundle: Bundle, tmp_path: Path) -> None:
    script.space = ways(1)
    script.cost = scaled({1: 0.5})
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"q": f"w{n}"}) + "\n" for n in range(5)))
    given = ("--texts", file, "--column", "q", "--profile", tmp_path / "p.json")
    found = invoke_tune(script, bundle, *given, as_json=True)
    assert (found["winner"], found["gain"], found["schema"]) == ("way=1", 2.0, 1)
    assert found["texts"] == "5 of 5 texts of one's own"
    assert len(found["candidates"][0]["ratios"]) == 15
    assert found["profile"]["settings"] == {"way": 1}
    assert found["path"] == str(tmp_path / "p.json")
    assert Profile.read(tmp_path / "p.json").settings == {"way": 1}


def test_a_profile_kept_elsewhere_says_how_it_is_used(
    script: Script, bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    told = invoke_tune(script, bundle, "--profile", file).stderr
    assert f"kept in {file}: load(bundle, profile=Profile.read('{file}')) uses it" in told
    told = invoke_tune(script, bundle, "--dry-run").stderr
    assert "nothing was kept" in told


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--show", "--dry-run"], "--show measures nothing, and goes alone"),
        (["--reset", "--texts", "x.csv"], "--reset measures nothing, and goes alone"),
        (["--dry-run", "--profile", "x"], "--dry-run keeps nothing: leave --profile out"),
        (["--seconds", "0"], "is not in the range"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    bundle: Bundle, arguments: list[str], problem: str
) -> None:
    result = invoke("tune", bundle.path, *arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_errors_are_those_of_the_command_line(bundle: Bundle, tmp_path: Path) -> None:
    assert "there is no objective 'fast'" in fails("tune", bundle.path, "--objective", "fast")
    assert "there is no bundle at" in fails("tune", tmp_path / "none")
    (tmp_path / "empty.jsonl").write_text("")
    assert "has no rows" in fails("tune", bundle.path, "--texts", tmp_path / "empty.jsonl")


def test_a_busy_machine_and_few_calls_are_warned_of(script: Script, bundle: Bundle) -> None:
    script.space = ways(1)
    script.cost = noisy({1: 0.5}, 1, 0.5)
    texts = ["w1 w2"] * 8
    tuning = tune(script, bundle, "p99=90s", texts=texts, dry_run=True, seconds=0.1)
    few = replace(trial(tuning, tuning.winner), p99_calls=12)
    tuning = replace(tuning, others=0.4, candidates=(few, *tuning.candidates[1:]))
    spread, busy, calls = warnings_of(tuning)
    assert re.match(r"rounds differ by up to \d+%: what is best while the machine is this", spread)
    assert busy == "other processes took 40% of the processors meanwhile"
    assert calls == "a 99th percentile is of 12 calls only: more --seconds make it surer"
    quiet = replace(tuning, others=0.0, candidates=())
    assert list(warnings_of(quiet)) == []
