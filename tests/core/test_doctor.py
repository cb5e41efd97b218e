"""What doctor looks at, and what it says where something is missing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from lepton_edge import __version__, doctor, memory, registry
from lepton_edge.backend import Device, Probe
from lepton_edge.doctor import Finding, Status, examine
from lepton_edge.testing import FakeBackend, write_fake_distribution


def _finding(name: str) -> Finding:
    (finding,) = [finding for finding in examine() if finding.name == name]
    return finding


def test_every_finding_has_a_name_a_status_and_a_detail(fake_backend: Path) -> None:
    findings = examine()
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert names[:5] == ["python", "processor", "memory", "disk", "cache"]
    assert {"fake", "build"} <= set(names)
    for finding in findings:
        assert finding.status in ("ok", "warning", "missing")
        assert finding.detail
        assert finding.fix is None or finding.status != "ok"


def test_it_names_its_own_version_and_the_interpreters() -> None:
    detail = _finding("python").detail
    assert f"lepton-edge {__version__}, Python {platform.python_version()}" in detail


def test_it_names_the_processors_vector_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    info = "processor : 0\nmodel name : Maker X\nflags : fpu avx2 avx512f amx_bf16\n\n"
    monkeypatch.setattr(doctor, "_read", lambda path: info if "cpuinfo" in path else "")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    finding = _finding("processor")
    assert finding.status == "ok"
    assert finding.detail.startswith("Maker X, ")
    assert finding.detail.endswith("AVX2, AVX-512, AMX BF16")
    monkeypatch.setattr(doctor, "_read", lambda path: "flags : fpu\n")
    finding = _finding("processor")
    assert finding.status == "warning"
    assert "no vector extensions seen" in finding.detail


@pytest.mark.parametrize(
    ("kibibytes", "status", "detail"),
    [(262144, "warning", "0.2 GiB available"), (3 * 1024**2, "ok", "3.0 GiB available")],
)
def test_little_memory_is_a_warning_with_the_figure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kibibytes: int,
    status: Status,
    detail: str,
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9 kB\nMemAvailable:  {kibibytes} kB\nBuffers: 7 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    assert memory.available_memory() == kibibytes * 1024
    assert _finding("memory") == Finding("memory", status, detail)


@pytest.mark.parametrize("text", ["", "MemTotal: 9 kB\n"])
def test_memory_that_the_system_does_not_tell_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    assert memory.available_memory() is None
    assert _finding("memory").detail == "cannot be read from /proc/meminfo"


def test_a_system_without_proc_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_read", lambda _: "")
    monkeypatch.setattr(memory, "_MEMINFO", Path("/nowhere/meminfo"))
    assert _finding("memory").status == "warning"
    assert _finding("processor").detail


def test_a_cache_that_cannot_be_written_says_what_it_costs_and_the_fix(cache: Path) -> None:
    assert _finding("cache") == Finding("cache", "ok", str(cache / "lepton-edge"))
    (cache / "lepton-edge").rmdir()
    (cache / "lepton-edge").write_text("in the way")
    finding = _finding("cache")
    assert finding.status == "warning"
    assert str(cache / "lepton-edge") in finding.detail
    assert "every start hashes the bundle again" in finding.detail
    assert finding.fix == "export XDG_CACHE_HOME=/a/writable/folder"


def test_a_current_folder_that_is_gone_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which also brings the test back
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    finding = _finding("disk")
    assert finding.status == "warning"
    assert "the current folder cannot be read" in finding.detail


def test_a_working_backend_lists_its_devices(fake_backend: Path) -> None:
    assert _finding("fake") == Finding("fake", "ok", "1.0: FAKE (a device that is not there)")


def test_a_backend_says_what_its_user_should_know(
    fake_backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remarks = ("no GPU can be used: there is no driver", "another runtime is installed")
    monkeypatch.setattr(FakeBackend, "probe", lambda _: Probe("2.0", (), remarks))
    assert _finding("fake") == Finding(
        "fake",
        "warning",
        "2.0: no device; no GPU can be used: there is no driver; another runtime is installed",
    )
    monkeypatch.setattr(
        FakeBackend, "probe", lambda _: Probe("2.0", (Device("GPU", "a GPU"),), remarks[1:])
    )
    assert _finding("fake") == Finding(
        "fake", "ok", "2.0: GPU (a GPU); another runtime is installed"
    )


def test_a_broken_backend_gives_its_reason(fake_backend: Path) -> None:
    write_fake_distribution(fake_backend, backend="broken", points_to="no_such_module:Backend")
    finding = _finding("broken")
    assert finding.status == "missing"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in finding.detail
    assert finding.fix == "pip install --force-reinstall lepton-edge-broken"
    assert _finding("fake").status == "ok"


def test_no_backend_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entries", lambda: ())
    assert _finding("backends") == Finding(
        "backends", "missing", "none is installed", "pip install 'lepton-edge[openvino]'"
    )


def test_two_backends_of_one_name_are_a_finding(
    fake_backend: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_fake_distribution(tmp_path, backend="other")
    (other / "entry_points.txt").write_text("[lepton_edge.backends]\nfake = elsewhere:Backend\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    finding = _finding("backends")
    assert finding.status == "missing"
    assert "two distributions provide the backend 'fake'" in finding.detail
    assert finding.fix == "remove one of them: pip uninstall lepton-edge-other"


def test_an_extra_is_its_packages_and_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extras = {"build": ("numpy", "no-such-package-here"), "serve": ("numpy",)}
    monkeypatch.setattr(doctor, "_EXTRAS", extras)
    assert _finding("build") == Finding(
        "build",
        "warning",
        "not installed: no-such-package-here",
        "pip install 'lepton-edge[build]'",
    )
    assert _finding("serve").status == "ok"
    assert _finding("serve").detail.startswith("numpy ")


def test_the_extras_are_those_of_the_project() -> None:
    from importlib.metadata import metadata

    assert set(doctor._EXTRAS) <= set(metadata("lepton-edge").get_all("Provides-Extra") or ())


def test_examining_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examine()
    assert list(tmp_path.iterdir()) == []
