"""The machine as it is described, pinning, and what else ran meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lepton_edge.benchmark import machine
from lepton_edge.benchmark.machine import Watch, allowed_cpus, describe, pinned, versions
from lepton_edge.errors import InputError

linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")


def test_the_machine_names_itself() -> None:
    found = describe()
    assert found.processor
    assert found.system
    assert found.cores == len(allowed_cpus())
    assert found.python.startswith("CPython 3.")


def test_a_governor_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_GOVERNOR", str(tmp_path / "{}"))
    assert describe().governor is None
    for cpu in allowed_cpus():
        (tmp_path / str(cpu)).write_text("powersave\n")
    assert describe().governor == "powersave"


@linux
def test_pinning_is_of_all_threads_and_of_new_processes_and_ends() -> None:
    before = allowed_cpus()
    one = before[-1]
    seen: list[set[int]] = []
    inside, done = threading.Event(), threading.Event()

    def look() -> None:
        inside.wait(10)
        seen.append(os.sched_getaffinity(0))
        done.set()

    older = threading.Thread(target=look)
    older.start()
    with pinned([one]) as cpus:
        assert cpus == (one,)
        assert allowed_cpus() == (one,)
        ask = "import os; print(sorted(os.sched_getaffinity(0)))"
        child = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True)
        inside.set()
        assert done.wait(10)
    older.join()
    assert child.stdout.decode().strip() == f"[{one}]"
    assert seen == [{one}]
    assert allowed_cpus() == before


@linux
def test_pinning_ends_after_a_failure() -> None:
    before = allowed_cpus()
    with pytest.raises(KeyError), pinned([before[0]]):
        raise KeyError("no")
    assert allowed_cpus() == before


def test_without_a_choice_the_processors_stay_as_they_are() -> None:
    before = allowed_cpus()
    with pinned(None) as cpus:
        assert cpus == before == allowed_cpus()


@pytest.mark.parametrize("cpus", [[], [100_000], [0, 100_000]])
def test_processors_that_cannot_be_used_are_refused(cpus: list[int]) -> None:
    before = allowed_cpus()
    with (
        pytest.raises(InputError, match="cannot be pinned to the processors") as caught,
        pinned(cpus),
    ):
        pass
    assert f"it may use {before[0]}" in str(caught.value)
    assert allowed_cpus() == before


def test_the_time_of_other_processes_is_a_share() -> None:
    watch = Watch()
    assert watch.load >= 0
    assert 0 <= watch.others <= 1
    assert watch.seconds >= 0


def test_versions_say_what_is_absent() -> None:
    found = versions(["numpy", "no-such-distribution"])
    assert found["numpy"][0].isdigit()
    assert found["no-such-distribution"] == "absent"
