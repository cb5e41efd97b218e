"""The fake backend passes what every backend must, so the checks can be passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_edge.testing import CONFORMANCE, Case, fake_case


@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_fake_backend_conforms(check: Callable[[Case], None], tmp_path: Path) -> None:
    check(fake_case(tmp_path))
