"""The registry: backends come from package metadata, and a broken one hurts nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_edge import registry
from lepton_edge.backend import Probe
from lepton_edge.errors import BackendError
from lepton_edge.testing import FakeBackend, write_fake_distribution

BROKEN = 'raise RuntimeError("the vendor library is too old")\n'


@pytest.fixture
def plugins(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder on the path for distributions and their modules."""
    folder = tmp_path_factory.mktemp("plugins")
    monkeypatch.syspath_prepend(folder)
    registry._load.cache_clear()
    yield folder
    registry._load.cache_clear()


def distribution(
    folder: Path, name: str, version: str, points: str, backend: str = "thing"
) -> None:
    """Metadata of a distribution that provides ``backend``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{backend} = {points}\n")


def entry(name: str) -> registry.Entry:
    return next(entry for entry in registry.entries() if entry.name == name)


def test_a_backend_is_listed_with_its_distribution(plugins: Path) -> None:
    distribution(plugins, "lepton-thing", "3.2", "lepton_edge.testing:FakeBackend")
    found = entry("thing")
    assert (found.distribution, found.version) == ("lepton-thing", "3.2")


def test_entries_are_sorted(plugins: Path) -> None:
    for name in ("zeta", "alpha", "mid"):
        write_fake_distribution(plugins, backend=name)
    names = [found.name for found in registry.entries()]
    assert names == sorted(names)
    assert {"zeta", "alpha", "mid"} <= set(names)


def test_listing_imports_nothing(plugins: Path) -> None:
    (plugins / "thing_module.py").write_text(BROKEN)
    distribution(plugins, "lepton-thing", "1.0", "thing_module:Backend")
    assert entry("thing").name == "thing"
    assert "thing_module" not in sys.modules


def test_a_backend_is_made_once(plugins: Path) -> None:
    write_fake_distribution(plugins, backend="thing")
    backend = registry.get("thing")
    assert isinstance(backend, FakeBackend)
    assert registry.get("thing") is backend


def test_two_distributions_of_one_name_are_an_error_that_names_both(plugins: Path) -> None:
    distribution(plugins, "lepton-one", "1.0", "lepton_edge.testing:FakeBackend")
    distribution(plugins, "lepton-two", "2.5", "lepton_edge.testing:FakeBackend")
    with pytest.raises(
        BackendError, match="two distributions provide the backend 'thing'"
    ) as caught:
        registry.entries()
    assert "lepton-one 1.0" in caught.value.message
    assert "lepton-two 2.5" in caught.value.message
    assert str(caught.value.hint).startswith("remove one of them: pip uninstall lepton-")
    with pytest.raises(BackendError, match="two distributions"):
        registry.get("thing")


@pytest.mark.parametrize("spelled", ["lepton-thing", "lepton_thing", "Lepton.Thing"])
def test_one_distribution_twice_on_the_path_is_one(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    """As where a checkout is installed and also on PYTHONPATH: the first on the path counts."""
    distribution(plugins, "lepton-thing", "1.0", "lepton_edge.testing:FakeBackend")
    distribution(tmp_path, spelled, "1.1", "lepton_edge.testing:FakeBackend")
    monkeypatch.syspath_prepend(tmp_path)
    assert [found.version for found in registry.entries() if found.name == "thing"] == ["1.1"]


def test_a_broken_backend_keeps_its_cause_and_does_not_hurt_others(plugins: Path) -> None:
    (plugins / "torn_module.py").write_text(BROKEN)
    distribution(plugins, "lepton-torn", "4.0", "torn_module:Backend", backend="torn")
    write_fake_distribution(plugins, backend="thing")
    with pytest.raises(BackendError) as caught:
        registry.get("torn")
    assert caught.value.message == (
        "the backend 'torn' (lepton-torn 4.0) cannot be imported: "
        "RuntimeError: the vendor library is too old"
    )
    assert caught.value.hint == "pip install --force-reinstall lepton-torn"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert isinstance(registry.get("thing"), FakeBackend)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ("no_such_module:Backend", "ModuleNotFoundError"),
        ("lepton_edge.testing:NoSuchClass", "AttributeError"),
        ("lepton_edge.testing:fake_case", "TypeError"),
        ("builtins:dict", "builtins:dict makes a dict, not a Backend"),
        ("lepton_edge.backend:Backend", "TypeError"),
    ],
)
def test_an_entry_point_that_is_no_backend_is_an_error(
    plugins: Path, points: str, reason: str
) -> None:
    distribution(plugins, "lepton-thing", "1.0", points)
    with pytest.raises(BackendError, match="cannot be imported") as caught:
        registry.get("thing")
    assert reason in caught.value.message


def test_a_broken_backend_is_tried_again(plugins: Path) -> None:
    """A failure is not remembered: installing what was missing is enough."""
    distribution(plugins, "lepton-thing", "1.0", "late_module:Backend")
    with pytest.raises(BackendError):
        registry.get("thing")
    (plugins / "late_module.py").write_text(
        "from lepton_edge.testing import FakeBackend as Backend\n"
    )
    import importlib

    importlib.invalidate_caches()
    assert registry.get("thing").name == "fake"


def test_a_distribution_without_metadata_is_still_listed(plugins: Path) -> None:
    info = plugins / "half-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nhalf = no_such_module:Backend\n")
    assert entry("half").distribution == "unknown"
    with pytest.raises(BackendError, match="the backend 'half'"):
        registry.get("half")


@pytest.mark.parametrize(
    ("backend", "hint"),
    [
        ("openvino", "pip install 'lepton-edge[openvino]'"),
        ("tensorrt", "pip install 'lepton-edge[tensorrt]'"),
    ],
)
def test_a_backend_that_is_not_installed_names_the_command(
    plugins: Path, monkeypatch: pytest.MonkeyPatch, backend: str, hint: str
) -> None:
    write_fake_distribution(plugins, backend="thing")
    others = tuple(entry for entry in registry.entries() if entry.name != backend)
    monkeypatch.setattr(registry, "entries", lambda: others)
    with pytest.raises(BackendError) as caught:
        registry.get(backend)
    assert caught.value.message.startswith(f"the backend '{backend}' is not installed (installed: ")
    assert "thing" in caught.value.message
    assert str(caught.value.hint).startswith(hint)


def test_an_unknown_backend_has_no_command(plugins: Path) -> None:
    with pytest.raises(BackendError, match="'nonsense' is not installed") as caught:
        registry.get("nonsense")
    assert caught.value.hint is None
    assert registry.how_to_install("nonsense") is None
    assert registry.how_to_install("openvino") == "pip install 'lepton-edge[openvino]'"


def test_without_any_backend_the_error_says_none(tmp_path: Path) -> None:
    """In a process that sees the core and not the plugins of this environment."""
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
sys.path.append({str(tmp_path)!r})
from lepton_edge import registry
assert registry.entries() == ()
try:
    registry.get("openvino")
except registry.BackendError as error:
    print(error)
"""
    import msgspec

    import lepton_edge

    for module in (lepton_edge, msgspec):
        folder = Path(str(module.__file__)).parent
        (tmp_path / folder.name).symlink_to(folder)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout == (
        "the backend 'openvino' is not installed (installed: none)\n"
        "  pip install 'lepton-edge[openvino]'\n"
    )


def test_probe_gives_what_the_backend_finds(plugins: Path) -> None:
    write_fake_distribution(plugins, backend="thing")
    found = registry.probe("thing")
    assert isinstance(found, Probe)
    assert found.devices[0].name == "FAKE"


def test_a_probe_that_fails_in_any_way_is_a_backend_error(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake_distribution(plugins, backend="thing")

    def fail(self: FakeBackend) -> Probe:
        raise OSError("libdevice.so: cannot open")

    monkeypatch.setattr(FakeBackend, "probe", fail)
    with pytest.raises(BackendError, match=r"'thing' failed .*OSError: libdevice.so") as caught:
        registry.probe("thing")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(BackendError, match="'nonsense' is not installed"):
        registry.probe("nonsense")
