"""Tuning for real: what OpenVINO is told, that answers stay, and that a profile is used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")

from lepton_edge_openvino import backend as module
from lepton_edge_openvino.backend import OpenVINOBackend
from lepton_edge_openvino.library import openvino

import lepton_edge
from lepton_edge import Bundle, Model, Profile, load
from lepton_edge.backend import Compiled, Setting
from lepton_edge.runtime.profile import find_profile, machine_key, profile_path
from tests.core.parts import invoke
from tests.tiny import WORDS, save_tiny

BACKEND = OpenVINOBackend()
TEXTS = [" ".join(WORDS[(n + k) % len(WORDS)] for k in range(1 + n % 13)) for n in range(90)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny classifier whose arithmetic is the device's choice."""
    folder = tmp_path_factory.mktemp("tune")
    source = save_tiny("bert", folder / "tiny", hidden_size=64, intermediate_size=64)
    return lepton_edge.build(source, output=folder)


def tunings(cores: int, monkeypatch: pytest.MonkeyPatch, **own: Setting) -> list[dict[str, Any]]:
    monkeypatch.setattr(module, "_cores", lambda: cores)
    return BACKEND.tunings(Compiled("fp16", (), (), "openvino", own))


# What there is to choose from.


def test_two_cores_have_a_small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    auto: dict[str, Setting] = {"compute": "auto", "performance_hint": "latency"}
    assert tunings(2, monkeypatch, **auto) == [
        {"performance_hint": "throughput"},
        {"threads": 1},
        {"compute": "fp32"},
    ]
    assert tunings(1, monkeypatch, **auto) == [
        {"performance_hint": "throughput"},
        {"compute": "fp32"},
    ]
    assert tunings(2, monkeypatch) == tunings(2, monkeypatch, **auto)


def test_more_cores_have_more_streams_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tunings(8, monkeypatch, compute="fp32", performance_hint="latency")
    assert found == [
        {"performance_hint": "throughput"},
        {"threads": 4},
        {"performance_hint": "throughput", "streams": 4},
        {"threads": 2},
        {"performance_hint": "throughput", "streams": 2},
        {"threads": 1},
    ]


@pytest.mark.parametrize(
    ("compute", "formats"),
    [("auto", ["fp32"]), ("bf16", ["fp32"]), ("fp16", ["fp32"]), ("fp32", [])],
)
def test_arithmetic_only_becomes_more_exact(
    monkeypatch: pytest.MonkeyPatch, compute: str, formats: list[str]
) -> None:
    found = tunings(4, monkeypatch, compute=compute)
    assert [each["compute"] for each in found if "compute" in each] == formats


def test_a_recipes_threads_are_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tunings(16, monkeypatch, compute="fp32", threads=4)
    assert [each["threads"] for each in found if "threads" in each] == [2, 1]
    assert max(each.get("streams", 0) for each in found) == 2


def test_the_artifacts_own_settings_are_not_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for own in ({"performance_hint": "throughput"}, {"streams": 2}, {"threads": 2}):
        settings: dict[str, Setting] = {"compute": "auto", "performance_hint": "latency", **own}
        compiled = Compiled("fp16", (), (), "openvino", settings)
        found = tunings(4, monkeypatch, **settings)
        assert found
        assert all(compiled.with_settings(each).settings != settings for each in found)
        merged = [compiled.with_settings(each).settings for each in found]
        assert len({repr(sorted(each.items())) for each in merged}) == len(merged)


# What the library is told, and that answers stay.


def _property(model: Model, name: str) -> str:
    session: Any = model.session
    return str(session._model.get_property(name))


def _profile(bundle: Bundle, settings: dict[str, Setting], **changes: Any) -> Profile:
    return Profile(
        artifact=bundle.manifest.artifacts[0].sha256,
        backend="openvino",
        device="CPU",
        library=BACKEND.version(),
        machine=machine_key(),
        objective="throughput",
        settings=settings,
        **changes,
    )


def _scores(model: Model, texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([result.score for result in model(list(texts))])


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"threads": 1}, "INFERENCE_NUM_THREADS", "1"),
        ({"performance_hint": "throughput", "streams": 2}, "NUM_STREAMS", "2"),
        ({"compute": "fp32"}, "INFERENCE_PRECISION_HINT", "<Type: 'float32'>"),
    ],
)
def test_a_profiles_settings_reach_the_library(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Setting],
    name: str,
    value: str,
) -> None:
    monkeypatch.setattr(module, "_cores", lambda: 4)
    profile = _profile(bundle, settings, rows=4)
    with load(bundle.path) as plain, load(bundle.path, profile=profile) as tuned:
        assert tuned.profile == profile
        assert _property(tuned, name) == value
        # Micro-batches differ, and with compute the rounding: bf16 has 8 bits.
        np.testing.assert_allclose(_scores(tuned, TEXTS), _scores(plain, TEXTS), atol=0.02)


def test_streams_answer_in_order_from_many_threads(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_cores", lambda: 4)
    profile = _profile(bundle, {"performance_hint": "throughput", "streams": 2}, rows=3)
    with load(bundle.path, profile=profile) as model:
        assert model.session.details["streams"] == 2
        alone = np.array([model(text).score for text in TEXTS])
        np.testing.assert_allclose(_scores(model, TEXTS), alone, atol=0.02)
        with ThreadPoolExecutor(6) as threads:
            parts = [TEXTS[start::6] for start in range(6)]
            for start, found in enumerate(threads.map(lambda part: _scores(model, part), parts)):
                np.testing.assert_allclose(found, alone[start::6], atol=0.02)


def test_a_cache_of_one_arithmetic_is_not_read_for_another(bundle: Bundle, tmp_path: Path) -> None:
    """OpenVINO's own cache takes a graph for fp32 for one that computes in bf16, and answers with
    nothing then."""
    if "BF16" not in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a processor that computes in bf16")
    artifact = bundle.manifest.artifacts[0]
    ids = np.arange(4, 20, dtype=np.int64).reshape(2, 8)
    feeds = {spec.name: np.ones_like(ids) for spec in artifact.compiled.inputs} | {"input_ids": ids}
    feeds |= {"token_type_ids": np.zeros_like(ids)} if "token_type_ids" in feeds else {}

    def answer(compute: str, cache: Path | None) -> tuple[NDArray[Any], str]:
        compiled = artifact.compiled.with_settings({"compute": compute})
        folder = bundle.path / artifact.directory
        with BACKEND.load(folder, compiled, cache=cache) as session:
            assert session.details["compute"] == compute
            cached = session._model.get_property("LOADED_FROM_CACHE")
            return session.infer(feeds)["logits"], str(cached)

    for _ in range(2):
        for compute in ("fp32", "bf16"):
            found, cached = answer(compute, tmp_path)
            np.testing.assert_array_equal(found, answer(compute, None)[0])
    assert cached == "True"


# The whole of it.


@pytest.mark.parametrize("objective", ["throughput", "p99=1s"])
def test_a_bundle_is_tuned_and_the_profile_used(
    bundle: Bundle, tmp_path: Path, objective: str
) -> None:
    steps: list[str] = []
    with load(bundle.path, profile=None) as plain:
        expected = _scores(plain, TEXTS)
    tuning = lepton_edge.tune(
        bundle.path, objective, texts=TEXTS, seconds=0.1, progress=steps.append
    )
    try:
        assert tuning.path == str(profile_path(bundle.path))
        names = [each.name for each in tuning.candidates]
        assert {"threads=1", "performance_hint=throughput"} <= {
            name.partition(", rows")[0] for name in names
        }
        assert all(each.fault is None for each in tuning.candidates)
        assert tuning.winner in ["default", *names]
        assert (tuning.winner == "default") == (tuning.gain == 1.0)
        assert steps[0] == "opening the bundle"
        with load(bundle.path) as model:
            assert model.profile == tuning.profile
            np.testing.assert_allclose(_scores(model, TEXTS), expected, atol=0.02)
        kept = find_profile(bundle)
        assert kept
        assert (kept.profile, kept.unused) == (tuning.profile, None)
        assert f": used; tuned for {tuning.objective}" in invoke("inspect", bundle.path).stdout
    finally:
        profile_path(bundle.path).unlink(missing_ok=True)


def test_another_release_of_the_library_passes_it_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = _profile(bundle, {"threads": 1})
    with load(bundle.path, profile=profile) as model:
        assert model.profile == profile
    older = msgspec.structs.replace(profile, library="2025.1.0-1-releases/2025/1")
    with load(bundle.path, profile=older) as model:
        assert model.profile is None
        assert model.session.details["streams"] == 1
