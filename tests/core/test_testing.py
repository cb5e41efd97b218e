"""The fake backend passes what every backend must, so the checks can be passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lepton_edge
from lepton_edge.target import TARGETS
from lepton_edge.testing import CONFORMANCE, Case, FakeBackend, fake_case, write_fake_bundle
from lepton_edge.testing_decoder import STOP, fake_answer
from lepton_edge.testing_generators import (
    GENERATOR_CONFORMANCE,
    GeneratorCase,
    fake_generator_case,
)


@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_fake_backend_conforms(check: Callable[[Case], None], tmp_path: Path) -> None:
    check(fake_case(tmp_path))


@pytest.mark.parametrize("check", GENERATOR_CONFORMANCE, ids=lambda check: check.__name__)
def test_fake_generator_conforms(check: Callable[[GeneratorCase], None], tmp_path: Path) -> None:
    check(fake_generator_case(FakeBackend(), TARGETS["intel-cpu"], tmp_path))


def test_a_fake_bundle_generates_what_is_known_beforehand(
    tmp_path: Path, fake_backend: None
) -> None:
    bundle = write_fake_bundle(tmp_path / "bundle", task="text-generation", max_length=64)
    prompt = [2, 4 + 5, 4 + 17]  # [BOS] w5 w17
    expected = fake_answer(prompt, 20)
    with lepton_edge.load(bundle.path) as model:
        completion = model.generate("w5 w17", max_tokens=20)
        assert completion.tokens == tuple(expected)
        assert completion.text == "".join(f" w{token - 4}" for token in expected if token != STOP)
        assert completion.finish_reason == ("stop" if expected[-1] == STOP else "length")
        held = model.generate("w5 w17", regex="(yes|no)", max_tokens=20)
        assert held.text in ("yes", "no")
        assert held.finish_reason == "stop"
