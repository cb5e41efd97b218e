"""The device profile: where it lies, when it is used, and that it never stands in the way."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lepton_edge
from lepton_edge import Profile, load
from lepton_edge.bundle import Bundle
from lepton_edge.bundle.archive import pack, unpack
from lepton_edge.errors import BackendError, BundleError, StorageError
from lepton_edge.runtime.profile import (
    find_profile,
    machine_key,
    profile_path,
    read_profile,
    remove_profile,
)
from lepton_edge.testing import FakeSession, write_fake_bundle
from tests.core.disks import unprivileged_folder
from tests.core.parts import invoke, printed
from tests.core.test_imports import NOT_AT_RUN_TIME, heavy, loaded_after
from tests.core.tuning_parts import Script, ScriptedBackend, for_scripted, scripted

Bundles = Callable[..., Bundle]
FASTER = {"threads": 2}


@pytest.fixture
def script(fake_backend: Path) -> Iterator[Script]:
    with scripted(fake_backend) as script:
        script.space = [dict(FASTER), {"streams": 2}]
        yield script


@pytest.fixture
def bundle(fake_bundle: Bundles, script: Script) -> Bundle:
    return for_scripted(fake_bundle("model-1.0.0"))


def profile_of(bundle: Bundle, **changes: Any) -> Profile:
    """One that fits the bundle and this machine."""
    fields: dict[str, Any] = {
        "artifact": bundle.manifest.artifacts[0].sha256,
        "backend": "scripted",
        "device": "FAKE",
        "library": "1.0",
        "machine": machine_key(),
        "objective": "throughput",
        "settings": FASTER,
        "rows": 2,
        "tokens": 256,
        "gain": 1.25,
    }
    return Profile(**{**fields, **changes})


def write(bundle: Bundle, **changes: Any) -> Profile:
    profile = profile_of(bundle, **changes)
    profile.write(profile_path(bundle.path))
    return profile


def used(bundle: Bundle, *arguments: Any, **options: Any) -> Profile | None:
    with load(bundle.path, *arguments, **options) as model:
        assert model("w1 w2").label in "abc"
        return model.profile


def why_unused(bundle: Bundle) -> str:
    kept = find_profile(bundle)
    assert kept
    assert kept.unused
    return kept.unused


# It lies beside the bundle and is used.


def test_it_lies_beside_the_bundle_and_survives_a_round_trip(bundle: Bundle) -> None:
    profile = write(bundle)
    file = bundle.path.parent / "model-1.0.0.profile.json"
    assert profile_path(bundle.path) == file
    assert Profile.read(file) == profile
    assert json.loads(file.read_text())["gain"] == 1.25
    bundle.verify()  # which refuses files that are not listed, inside


def test_whoever_runs_the_bundle_may_read_it(bundle: Bundle) -> None:
    write(bundle)
    mode = profile_path(bundle.path).stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


def test_the_runtime_takes_its_settings_and_its_micro_batches(
    bundle: Bundle, script: Script
) -> None:
    texts = ["w1 w2", "w3", "w4 w5 w6", "w7", "w8"]
    with load(bundle.path) as model:
        assert model.profile is None
        expected = model(texts)
    profile = write(bundle)
    with load(bundle.path) as model:
        assert model.profile == profile
        found = model(texts)
        assert isinstance(model.session, FakeSession)
        assert [shape[0] for shape in model.session.calls] == [2, 2, 1]
    assert script.opened == [{}, FASTER]
    assert [each.label for each in found] == [each.label for each in expected]


def test_streams_answer_in_order(bundle: Bundle, script: Script) -> None:
    texts = [f"w{n} w{n % 7}" for n in range(40)]
    with load(bundle.path) as model:
        expected = [result.score for result in model(texts)]
    write(bundle, settings={"streams": 2}, rows=3)
    with load(bundle.path) as model:
        assert model.session.details["streams"] == 2
        np.testing.assert_allclose([result.score for result in model(texts)], expected)


def test_an_empty_profile_says_that_the_default_was_the_best(bundle: Bundle) -> None:
    profile = write(bundle, settings={}, gain=1.0)
    assert used(bundle) == profile


def test_it_is_not_used_where_none_is_asked_for(bundle: Bundle, script: Script) -> None:
    write(bundle)
    assert used(bundle, profile=None) is None
    assert script.opened == [{}]


def test_one_kept_elsewhere_can_be_given(bundle: Bundle, tmp_path: Path) -> None:
    profile = profile_of(bundle)
    profile.write(tmp_path / "elsewhere" / "mine.json")
    assert used(bundle, profile=Profile.read(tmp_path / "elsewhere" / "mine.json")) == profile
    assert find_profile(bundle) is None


def test_a_bundle_behind_a_link_has_the_profile_of_the_folder(
    bundle: Bundle, tmp_path: Path
) -> None:
    profile = write(bundle)
    link = tmp_path / "current"
    link.symlink_to(bundle.path)
    with load(link) as model:
        assert model.profile == profile
    assert profile_path(link) == profile_path(bundle.path)
    assert profile_path(bundle.path / "..") == Path(f"{bundle.path.parent}.profile.json")
    assert profile_path(Path("/")).parent == Path("/")


def test_it_does_not_travel_with_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    write(bundle)
    copy = shutil.copytree(bundle.path, tmp_path / "copies" / bundle.path.name)
    archive = pack(bundle.path, tmp_path / "one.lepton")
    unpacked = unpack(archive, tmp_path / "unpacked").path
    for path in (copy, unpacked):
        with load(path) as model:
            assert model.profile is None


def test_removing_it_says_what_is_gone(bundle: Bundle) -> None:
    write(bundle)
    assert remove_profile(bundle.path) == profile_path(bundle.path)
    assert used(bundle) is None
    assert remove_profile(bundle.path) is None


def test_loading_with_one_loads_nothing_heavy(
    fake_bundle: Bundles, script: Script, fake_backend: Path
) -> None:
    bundle = fake_bundle()
    write(bundle, backend="fake", settings={})
    loaded = loaded_after(
        f"""
import lepton_edge
with lepton_edge.load({str(bundle.path)!r}) as model:
    assert model.profile and model.profile.rows == 2
    model(["w1", "w2", "w3"])
""",
        fake_backend,
    )
    assert heavy(loaded, *NOT_AT_RUN_TIME, "click", "lepton_edge.tuning") == []
    assert heavy(loaded, "lepton_edge.benchmark") == []


# It is passed over where it does not fit, and the reason can be asked for.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"artifact": "0" * 64}, "it was measured on another artifact than the bundle has"),
        ({"backend": "fake"}, "it was measured on another artifact than the bundle has"),
        ({"machine": "Pentium, 1 cores"}, "on another machine: Pentium, 1 cores; this is "),
        ({"library": "0.9"}, "it was measured with scripted 0.9; this is 1.0"),
        ({"settings": {"threads": 64}}, "does not tune to its settings: {'threads': 64}"),
        ({"settings": {"compute": "bf16"}}, "does not tune to its settings: {'compute': 'bf16'}"),
    ],
    ids=["artifact", "backend", "machine", "library", "settings", "arithmetic"],
)
def test_one_measured_otherwise_is_passed_over(
    bundle: Bundle, script: Script, changes: dict[str, Any], reason: str
) -> None:
    profile = write(bundle, **changes)
    assert used(bundle) is None
    assert used(bundle, profile=profile) is None
    assert script.opened == [{}, {}]
    assert reason in why_unused(bundle)


def test_another_number_of_cores_is_another_machine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bundle)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5, 6})
    assert used(bundle) is None
    assert "this is " in why_unused(bundle)
    assert ", 7 cores" in why_unused(bundle)


def test_a_device_that_is_asked_for_is_the_one_it_was_measured_on(
    bundle: Bundle, script: Script
) -> None:
    profile = write(bundle)
    assert used(bundle, "FAKE") == profile
    assert used(bundle, "intel-cpu") == profile
    assert used(bundle, "CPU") is None


def test_the_devices_own_choice_may_be_another(bundle: Bundle, script: Script) -> None:
    write(bundle, device="OTHER")
    assert used(bundle) is None
    assert script.opened == [FASTER, {}]
    assert script.open_now == 0


def test_settings_that_cannot_be_opened_here_after_all_do_no_harm(
    bundle: Bundle, script: Script
) -> None:
    write(bundle)
    script.refused = [FASTER]
    assert used(bundle) is None
    script.refused = [FASTER, {}]
    with pytest.raises(BackendError, match=r"the device refused \{\}"):
        load(bundle.path)


def test_a_library_that_cannot_say_its_version_is_the_reason(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(self: object) -> str:
        raise BackendError("the library is broken")

    write(bundle)
    monkeypatch.setattr("tests.core.tuning_parts.ScriptedBackend.version", version)
    assert why_unused(bundle) == "the library is broken"
    with pytest.raises(BackendError, match="the library is broken"):
        load(bundle.path)


# What is no profile is none.

VALID: dict[str, Any] = {
    "schema": 1,
    "artifact": "0" * 64,
    "backend": "fake",
    "device": "FAKE",
    "library": "1",
    "machine": "m",
    "objective": "latency",
}


def _json(**changes: Any) -> bytes:
    return json.dumps({**VALID, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a device profile: "),
        (_json()[:40], "is not a device profile: "),
        (b"[]", "is not a device profile: "),
        (_json(schema=2), "is a profile of schema 2; this lepton-edge reads 1"),
        (_json(schema=2, more=1), "is a profile of schema 2; this lepton-edge reads 1"),
        (_json(more=1), "unknown field `more`"),
        (_json(rows=0), "`$.rows`"),
        (_json(rows=10**9), "`$.rows`"),
        (_json(tokens=2**40), "`$.tokens`"),
        (_json(gain=0), "`$.gain`"),
        (_json(settings={"a": [1]}), "`$.settings"),
        (_json(machine=None), "`$.machine`"),
        (b'{"schema": 1, "artifact": "\xff"}', "is not a device profile: "),
        (b'{"schema": 1, "x": ' + b"[" * 100_000, "is not a device profile: "),
    ],
)
def test_what_cannot_be_read_is_passed_over(bundle: Bundle, data: bytes, reason: str) -> None:
    file = profile_path(bundle.path)
    file.write_bytes(data)
    assert used(bundle) is None
    assert reason in why_unused(bundle)
    assert str(file) in why_unused(bundle)
    with pytest.raises(BundleError, match="tune BUNDLE makes one"):
        Profile.read(file)


def test_a_folder_or_a_link_to_nothing_in_its_place_is_passed_over(bundle: Bundle) -> None:
    file = profile_path(bundle.path)
    file.symlink_to("nowhere")
    assert used(bundle) is None
    assert "cannot be read: No such file" in why_unused(bundle)
    file.unlink()
    file.mkdir()
    assert used(bundle) is None
    assert "cannot be read: Is a directory" in why_unused(bundle)
    with pytest.raises(StorageError, match=r"profile\.json cannot be written: Is a directory"):
        remove_profile(bundle.path)


def test_one_that_may_not_be_read_is_passed_over(script: Script) -> None:
    with unprivileged_folder() as folder:
        bundle = for_scripted(write_fake_bundle(folder / "b"))
        write(bundle)
        profile_path(bundle.path).chmod(0)
        artifact = bundle.manifest.artifacts[0]
        assert read_profile(bundle.path, artifact, ScriptedBackend()) is None
        assert "cannot be read: Permission denied" in why_unused(bundle)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=200)
    | st.dictionaries(st.text(), st.integers()).map(lambda each: json.dumps(each).encode())
)
def test_no_file_whatever_is_an_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "p.json"
    file.write_bytes(data)
    with pytest.raises(BundleError, match="is not a device profile"):
        Profile.read(file)


def test_a_missing_one_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Profile.read(tmp_path / "none.json")
    assert (
        caught.value.message
        == f"{tmp_path / 'none.json'} cannot be read: No such file or directory"
    )
    assert caught.value.hint == "lepton-edge tune BUNDLE makes one"


def test_a_bundle_without_artifacts_has_no_use_for_it(bundle: Bundle) -> None:
    write(bundle)
    empty = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, artifacts=()))
    assert why_unused(empty) == "the bundle has no artifact"


# The command line says it.


def test_inspect_says_whether_it_is_used(bundle: Bundle) -> None:
    assert "profile" not in invoke("inspect", bundle.path).stdout
    write(bundle)
    line = next(x for x in invoke("inspect", bundle.path).stdout.splitlines() if "profile" in x)
    assert line == (
        f"profile      {profile_path(bundle.path)}: used; tuned for throughput, 1.25 times the "
        "default: threads=2, rows=2, tokens=256"
    )
    write(bundle, library="0.9")
    assert "not used: it was measured with scripted 0.9; this is 1.0;" in (
        invoke("inspect", bundle.path).stdout
    )


def test_tune_shows_it_and_removes_it(bundle: Bundle) -> None:
    none = invoke("tune", bundle.path, "--show")
    assert none.stdout == "none: the bundle's own settings are used\n"
    assert printed("tune", bundle.path, "--show") is None
    write(bundle)
    assert ": used; tuned for throughput, " in invoke("tune", bundle.path, "--show").stdout
    shown = printed("tune", bundle.path, "--show")
    assert (shown["unused"], shown["profile"]["settings"]) == (None, FASTER)
    profile_path(bundle.path).write_text("{")
    assert ": not used: " in invoke("tune", bundle.path, "--show").stdout
    assert printed("tune", bundle.path, "--show")["profile"] is None
    gone = f"removed {profile_path(bundle.path)}\n"
    assert invoke("tune", bundle.path, "--reset").stdout == gone
    assert invoke("tune", bundle.path, "--reset").stdout == "there is no profile\n"
    assert printed("tune", bundle.path, "--reset") == {"removed": None}


def test_what_it_says_cannot_steer_a_terminal(bundle: Bundle) -> None:
    write(bundle, objective="\x1b[31mred")
    for verb in (("inspect",), ("tune", "--show")):
        shown = invoke(verb[0], bundle.path, *verb[1:]).stdout
        assert "\x1b" not in shown
        assert "\\x1b[31mred" in shown


def test_profiles_are_public() -> None:
    assert lepton_edge.Profile is Profile
