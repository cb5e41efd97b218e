"""Deferred artifacts: compiled once on the device by `finalize`, refused by `load` until then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import lepton_edge
from lepton_edge import LeptonError, finalize, load
from lepton_edge.backend import Compiled
from lepton_edge.bundle import TOKENIZER, Bundle, describe_files
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.errors import (
    BackendError,
    BundleError,
    DeferredError,
    IntegrityError,
    StorageError,
)
from lepton_edge.runtime.profile import profile_path
from lepton_edge.testing import FakeBackend, write_fake_distribution
from tests.core.parts import fails, flip_byte, invoke, printed, process, rewrite
from tests.core.tuning_parts import scripted

Bundles = Callable[..., Bundle]
ARTIFACT = "artifacts/fake/fake.json"


def _deferred(bundle: Bundle, target: str = "jetson-orin") -> Bundle:
    """The bundle, with its artifact left for a device to compile."""
    artifact = bundle.manifest.artifacts[0]
    compiled = msgspec.structs.replace(artifact.compiled, deferred=True)
    artifact = msgspec.structs.replace(artifact, target=target, compiled=compiled)
    return rewrite(bundle, artifacts=(artifact,))


def _with_another(bundle: Bundle, target: str, *, deferred: bool, backend: str = "fake") -> Bundle:
    """The bundle, with one more artifact behind its own that answers differently."""
    folder = bundle.path / "artifacts" / target
    folder.mkdir()
    (folder / "fake.json").write_text(json.dumps({"seed": 5}), encoding="utf-8")
    files = describe_files(bundle.path)
    del files["manifest.json"]
    first = bundle.manifest.artifacts[0]
    own = {name: file for name, file in files.items() if Path(name).parent.name == target}
    more = msgspec.structs.replace(
        first,
        target=target,
        backend=backend,
        directory=f"artifacts/{target}",
        sha256=digest_of(own),
        compiled=msgspec.structs.replace(first.compiled, deferred=deferred),
    )
    return rewrite(bundle, artifacts=(first, more), files=files)


@pytest.fixture
def deferred(fake_bundle: Bundles) -> Bundle:
    return _deferred(fake_bundle())


def _fault(kind: type[LeptonError], call: Callable[..., Any], *arguments: Any) -> LeptonError:
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value


# Until it is compiled.


def test_until_it_is_compiled_load_names_the_command(deferred: Bundle) -> None:
    error = _fault(DeferredError, load, deferred.path)
    assert error.message.startswith(f"{deferred.path} cannot be opened on this machine yet:\n")
    assert "jetson-orin (fake): it was not compiled for FAKE yet" in error.message
    assert f"lepton-edge finalize {deferred.path};" in str(error.hint)
    assert "load(path, finalize=True)" in str(error.hint)
    assert "BUNDLE" not in str(error)


def test_it_is_a_backend_error_so_that_another_artifact_is_tried(fake_bundle: Bundles) -> None:
    bundle = _with_another(_deferred(fake_bundle()), "rtx", deferred=False)
    with load(bundle.path) as model, load(bundle.path, "rtx") as named:
        assert model("w1") == named("w1")


def test_one_of_several_reasons_being_that_is_enough(fake_bundle: Bundles) -> None:
    bundle = _with_another(_deferred(fake_bundle()), "rtx", deferred=False, backend="acme")
    error = _fault(DeferredError, load, bundle.path)
    assert "jetson-orin (fake): it was not compiled for FAKE yet" in error.message
    assert "rtx (acme): the backend 'acme' is not installed" in error.message


def test_the_verbs_that_open_it_name_the_command_too(deferred: Bundle) -> None:
    command = f"lepton-edge finalize {deferred.path}"
    assert command in fails("run", deferred.path, "w1")
    tuning = invoke("tune", deferred.path)
    assert (tuning.exit_code, tuning.stdout) == (1, "")
    assert command in tuning.stderr
    assert not profile_path(deferred.path).exists()


# Compiling it.


def test_it_is_compiled_once(deferred: Bundle, cache: Path) -> None:
    first = finalize(deferred.path)
    assert first is not None
    assert (first.target, first.compiled) == ("jetson-orin", True)
    assert Path(first.cache).is_relative_to(cache / "lepton-edge")
    assert any(Path(first.cache).iterdir())
    again = finalize(deferred.path)
    assert again == msgspec.structs.replace(first, compiled=False)


def test_what_was_compiled_opens_and_answers_as_it_would_have(
    fake_bundle: Bundles,
) -> None:
    with load(fake_bundle("plain").path) as model:
        expected = model(["w1", "w2 w3"])
    deferred = _deferred(fake_bundle("deferred"))
    finalize(str(deferred.path))
    with load(deferred.path) as model:
        assert model(["w1", "w2 w3"]) == expected
    with load(deferred.path, "jetson-orin") as model:
        assert model(["w1", "w2 w3"]) == expected


def test_the_bundle_stays_as_it_is(deferred: Bundle) -> None:
    before = describe_files(deferred.path)
    finalize(deferred.path)
    assert describe_files(deferred.path) == before
    deferred.verify()


def test_a_bundle_without_a_deferred_artifact_has_nothing_to_compile(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiling(*_: Any) -> bool:
        raise AssertionError("the backend was asked")

    monkeypatch.setattr(FakeBackend, "finalize", compiling)
    assert finalize(fake_bundle().path) is None


def test_a_copy_of_the_bundle_shares_the_engine_and_another_model_does_not(
    fake_bundle: Bundles,
) -> None:
    first, copy = _deferred(fake_bundle("first")), _deferred(fake_bundle("copy"))
    done = finalize(first.path)
    load(copy.path).close()
    again = finalize(copy.path)
    assert done is not None
    assert again == msgspec.structs.replace(done, compiled=False)
    other = fake_bundle("other")
    (other.path / ARTIFACT).write_text('{"seed": 9}', encoding="utf-8")
    files = describe_files(other.path)
    del files["manifest.json"]
    other = _deferred(rewrite(other, files=files))
    _fault(DeferredError, load, other.path)


def test_loading_compiles_it_when_told_to(
    deferred: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _counted(monkeypatch)
    with load(deferred.path, finalize=True) as model:
        assert model("w1").label in ("a", "b", "c")
    assert len(calls) == 1
    load(deferred.path, finalize=True).close()
    load(deferred.path).close()
    assert len(calls) == 1


def test_loading_compiles_nothing_where_another_artifact_opens(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _counted(monkeypatch)
    bundle = _with_another(_deferred(fake_bundle()), "rtx", deferred=False)
    load(bundle.path, finalize=True).close()
    assert calls == []
    load(bundle.path, "jetson-orin", finalize=True).close()
    assert len(calls) == 1


def test_what_cannot_be_opened_for_another_reason_is_not_compiled(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _counted(monkeypatch)
    path = fake_bundle().path
    with pytest.raises(BackendError, match="no device 'NPU'") as caught:
        load(path, "NPU", finalize=True)
    assert not isinstance(caught.value, DeferredError)
    assert calls == []


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The cache folders that the backend was asked to compile into."""
    calls: list[Path] = []
    real = FakeBackend.finalize

    def counted(
        self: FakeBackend, directory: Path, compiled: Compiled, cache: Path, *more: Any
    ) -> bool:
        calls.append(cache)
        return real(self, directory, compiled, cache, *more)

    monkeypatch.setattr(FakeBackend, "finalize", counted)
    return calls


# Which of them.


@pytest.mark.parametrize("device", [None, "jetson-orin", "jetson", "FAKE"])
def test_a_device_is_named_as_for_load(deferred: Bundle, device: str | None) -> None:
    done = finalize(deferred.path, device)
    assert done is not None
    assert done.target == "jetson-orin"
    load(deferred.path, device).close()


def test_a_target_chooses_among_several(fake_bundle: Bundles) -> None:
    bundle = _with_another(_deferred(fake_bundle()), "jetson-thor", deferred=True)
    done = finalize(bundle.path, "jetson-thor")
    assert done is not None
    assert done.target == "jetson-thor"
    with load(bundle.path) as model, load(bundle.path, "jetson-thor") as named:
        assert model("w1") == named("w1")
    _fault(DeferredError, load, bundle.path, "jetson-orin")


def test_a_target_that_needs_no_compiling_has_nothing_to_compile(fake_bundle: Bundles) -> None:
    bundle = _with_another(_deferred(fake_bundle()), "rtx", deferred=False)
    assert finalize(bundle.path, "rtx") is None


def test_a_target_that_it_was_not_built_for_is_named(deferred: Bundle) -> None:
    error = _fault(BackendError, finalize, deferred.path, "jetson-thor")
    assert error.message == f"{deferred.path} was not built for jetson-thor; it has jetson-orin"
    assert error.hint == "lepton-edge build … --target jetson-thor"


def test_a_device_that_is_not_there_gives_the_backends_reason(deferred: Bundle) -> None:
    error = _fault(BackendError, finalize, deferred.path, "NPU")
    assert error.message.startswith(f"{deferred.path} cannot be compiled on this machine:\n")
    assert "jetson-orin (fake): the fake backend has no device 'NPU'\n  use FAKE" in error.message
    assert error.hint == "lepton-edge doctor shows what this machine has"


def test_each_backend_that_cannot_gives_its_reason(
    fake_bundle: Bundles, fake_backend: Path
) -> None:
    write_fake_distribution(fake_backend, backend="broken", points_to="no_such_module:Backend")
    bundle = _deferred(fake_bundle())
    broken = msgspec.structs.replace(bundle.manifest.artifacts[0], backend="broken")
    bundle = rewrite(bundle, artifacts=(broken,))
    bundle = _with_another(bundle, "jetson-thor", deferred=True, backend="acme")
    error = _fault(BackendError, finalize, bundle.path)
    assert "jetson-orin (broken): the backend 'broken'" in error.message
    assert "jetson-thor (acme): the backend 'acme' is not installed" in error.message


def test_the_first_that_can_be_compiled_here_is(fake_bundle: Bundles) -> None:
    bundle = _deferred(fake_bundle())
    strange = msgspec.structs.replace(bundle.manifest.artifacts[0], backend="acme")
    bundle = rewrite(bundle, artifacts=(strange,))
    bundle = _with_another(bundle, "jetson-thor", deferred=True)
    done = finalize(bundle.path)
    assert done is not None
    assert done.target == "jetson-thor"


# Progress, and an early end.


def test_the_share_that_is_done_is_told(deferred: Bundle) -> None:
    told: list[tuple[float, str]] = []
    finalize(deferred.path, progress=lambda share, step: told.append((share, step)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(step for _, step in told)


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_an_exception_in_progress_ends_it_and_leaves_nothing_that_opens(
    deferred: Bundle, end: type[BaseException], at: float
) -> None:
    def stop(share: float, step: str) -> None:
        if share >= at:
            raise end("enough")

    with pytest.raises(end, match="enough"):
        finalize(deferred.path, progress=stop)
    _fault(DeferredError, load, deferred.path)
    done = finalize(deferred.path)
    assert done is not None
    assert done.compiled
    load(deferred.path).close()


# What is refused first.


@pytest.mark.parametrize("name", [TOKENIZER, ARTIFACT])
def test_a_damaged_bundle_is_refused_before_anything_is_compiled(
    deferred: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _counted(monkeypatch)
    flip_byte(deferred.path / name)
    error = _fault(IntegrityError, finalize, deferred.path)
    assert error.message.startswith(f"{name} has SHA-256 ")
    _fault(IntegrityError, lambda: load(deferred.path, finalize=True))
    assert calls == []


def test_a_change_after_it_was_compiled_is_found(deferred: Bundle) -> None:
    finalize(deferred.path)
    flip_byte(deferred.path / ARTIFACT)
    _fault(IntegrityError, finalize, deferred.path)
    _fault(IntegrityError, load, deferred.path)


def test_damage_is_not_passed_over_for_another_artifact(fake_bundle: Bundles) -> None:
    bundle = _with_another(_deferred(fake_bundle()), "jetson-thor", deferred=True)
    flip_byte(bundle.path / ARTIFACT)
    _fault(IntegrityError, finalize, bundle.path)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    error = _fault(BundleError, finalize, tmp_path / "nowhere")
    assert error.message == f"there is no bundle at {tmp_path / 'nowhere'}"


def test_a_cache_that_cannot_be_written_is_an_error_here(deferred: Bundle, cache: Path) -> None:
    """`load` does without its cache; this has nowhere else to put an engine."""
    (cache / "lepton-edge").write_text("a file in the way")
    error = _fault(StorageError, finalize, deferred.path)
    assert str(cache / "lepton-edge") in error.message


# The command.


def test_the_command_says_what_it_did_and_what_is_next(deferred: Bundle, cache: Path) -> None:
    result = invoke("finalize", deferred.path)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"jetson-orin: compiled, in {cache / 'lepton-edge'}")
    assert f"compiling {deferred.path}: 0%, layer 0\n" in result.stderr
    assert f"compiling {deferred.path}: 100%, layer 4\n" in result.stderr
    assert result.stderr.endswith(f'next: lepton-edge run {deferred.path} "some text"\n')
    assert invoke("run", deferred.path, "w1").exit_code == 0
    again = invoke("finalize", deferred.path)
    assert again.stdout.startswith("jetson-orin: was compiled before, in ")
    assert "compiling" not in again.stderr


def test_the_command_gives_json(deferred: Bundle, fake_bundle: Bundles) -> None:
    first = printed("finalize", deferred.path, "--device", "jetson")
    assert {key: first[key] for key in ("target", "compiled")} == {
        "target": "jetson-orin",
        "compiled": True,
    }
    assert Path(first["cache"]).is_dir()
    assert printed("finalize", deferred.path) == {**first, "compiled": False}
    assert printed("finalize", fake_bundle("plain").path) is None


def test_the_command_leaves_a_bundle_alone_that_opens_as_it_is(fake_bundle: Bundles) -> None:
    bundle = fake_bundle()
    result = invoke("finalize", bundle.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{bundle.path} has nothing to compile for this machine\n"


def test_the_command_says_why_it_cannot(deferred: Bundle) -> None:
    message = fails("finalize", deferred.path, "--device", "NPU")
    assert "the fake backend has no device 'NPU'" in message
    assert "lepton-edge doctor" in message
    assert "was not built for rtx" in fails("finalize", deferred.path, "--device", "rtx")
    flip_byte(deferred.path / ARTIFACT)
    assert "has SHA-256" in fails("finalize", deferred.path)


def test_the_command_works_in_a_process_of_its_own(deferred: Bundle, fake_backend: Path) -> None:
    done = process(["finalize", deferred.path, "--json"], fake_backend)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["compiled"] is True
    again = process(["finalize", deferred.path, "--json"], fake_backend)
    assert json.loads(again.stdout)["compiled"] is False


def test_inspect_says_that_a_device_makes_the_engine(deferred: Bundle) -> None:
    row = next(
        line
        for line in invoke("inspect", deferred.path).stdout.splitlines()
        if line.startswith("jetson-orin")
    )
    assert "made on the device (fake 1.0)" in row
    assert printed("inspect", deferred.path)["artifacts"][0]["compiled"]["deferred"] is True


# Tuning it.


@pytest.fixture
def script(fake_backend: Path) -> Iterator[Any]:
    with scripted(fake_backend) as script:
        yield script


def test_tune_opens_the_engine_that_was_compiled(deferred: Bundle, script: Any) -> None:
    """Its candidates too: an engine is in no cache but its own."""
    artifact = msgspec.structs.replace(deferred.manifest.artifacts[0], backend="scripted")
    bundle = rewrite(deferred, artifacts=(artifact,))
    script.space = [{"way": 1}]
    script.cost = lambda settings, rows, tokens: 0.5 if settings else 1.0
    _fault(DeferredError, lambda: lepton_edge.tune(bundle.path, clock=script.clock))
    finalize(bundle.path)
    tuning = lepton_edge.tune(bundle.path, seconds=2.0, clock=script.clock)
    assert (tuning.target, tuning.winner) == ("jetson-orin", "way=1")
    assert tuning.path == str(profile_path(bundle.path))
    with load(bundle.path) as model:
        assert model.profile is not None
        assert model.profile.settings == {"way": 1}


def test_a_failure_on_the_targets_own_architecture_is_not_hidden(
    fake_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container a Jetson does not say that it is one. Elsewhere there is nothing to do."""
    bundle = _with_another(_deferred(fake_bundle()), "intel-cpu", deferred=False)

    def broken(*_: object) -> bool:
        raise BackendError("the memory is full")

    monkeypatch.setattr(FakeBackend, "finalize", broken)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "the memory is full" in _fault(BackendError, finalize, bundle.path).message
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert finalize(bundle.path) is None
