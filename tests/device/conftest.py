"""A GPU and a TensorRT that can use it, or the reason why the tests are skipped."""

from __future__ import annotations

import pytest

from lepton_edge import registry
from lepton_edge.backend import Device
from lepton_edge.errors import BackendError


@pytest.fixture(scope="session", autouse=True)
def device() -> Device:
    """The first GPU."""
    try:
        probe = registry.probe("tensorrt")
    except BackendError as error:
        pytest.skip(f"needs TensorRT: {error.message}")
    if not probe.devices:
        pytest.skip("; ".join(probe.remarks))
    print(f"{probe.version} on {probe.devices[0].description}")
    return probe.devices[0]
