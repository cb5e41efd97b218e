"""The benchmark of others that write text: workers in processes of their own, asked in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks import generation_rivals
from tests.benchmarks.generation_rivals import Answer, Case, Worker, compare, measure, steps
from tests.benchmarks.results import Limit

_FOLDER = Path(generation_rivals.__file__).parent / "workers"
_BEGIN = f"""
import os, sys, time
sys.path.insert(0, {str(_FOLDER)!r})
from generation_worker import serve
"""
_COUNTING = """
def load():
    print("a library says something")
    os.system("echo so does another")
    def generate(prompts, tokens, clock):
        found = [list(range(prompt[-1] + 1, prompt[-1] + 1 + tokens)) for prompt in prompts]
        return found, [[clock() for _ in each] for each in found]
    return generate
serve(load)
"""
_RATE = Case("decode", "rate", 4, 5)
_FIRST = Case("first", "first", 6, 1)


def _worker(tmp_path: Path, source: str) -> Worker:
    script = tmp_path / "worker.py"
    script.write_text(_BEGIN + source, encoding="utf-8")
    return Worker("the worker", [sys.executable, script])


def _running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _read_when_there(file: Path) -> int:
    for _ in range(600):
        if file.exists():
            return int(file.read_text(encoding="utf-8"))
        time.sleep(0.05)
    raise AssertionError("the worker was never asked")


def _ends(process: int) -> bool:
    for _ in range(200):
        if not _running(process):
            return True
        time.sleep(0.05)
    return False


def test_a_worker_answers_one_request_after_another(tmp_path: Path) -> None:
    with _worker(tmp_path, _COUNTING) as worker:
        one = worker.generate([[7]], 3)
        two = worker.generate([[1], [5]], 2)

        assert one.tokens == [[8, 9, 10]]
        assert two.tokens == [[2, 3], [6, 7]]
        assert 0 <= one.seconds[0][0] <= one.seconds[0][-1] < worker.started + 60
        assert 0 < worker.loaded < worker.started


def test_a_worker_ends_with_the_block_that_it_is_used_in(tmp_path: Path) -> None:
    with _worker(tmp_path, _COUNTING) as worker:
        process = worker._process.pid
        assert _running(process)

    assert not _running(process)
    assert worker._process.returncode == 0


def test_a_busy_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    busy = f"""
    def load():
        def generate(prompts, tokens, clock):
            open({str(asked)!r}, "w").write(str(os.getpid()))
            os.rename({str(asked)!r}, {str(asked)!r} + ".pid")
            time.sleep(600)
        return generate
    serve(load)
    """
    script = tmp_path / "worker.py"
    script.write_text(_BEGIN + textwrap.dedent(busy), encoding="utf-8")
    parent = f"""
    import sys
    from tests.benchmarks.generation_rivals import Worker
    with Worker("busy", [sys.executable, {str(script)!r}]) as worker:
        worker.generate([[1]], 1)
    """
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], cwd=Path(__file__).parents[2]
    )
    process = _read_when_there(tmp_path / "asked.pid")
    try:
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        assert _ends(process)
    finally:
        if _running(process):
            os.kill(process, signal.SIGKILL)


def test_a_worker_that_cannot_open_its_model_says_why(tmp_path: Path) -> None:
    source = "def load():\n    raise SystemExit('there is no such file')\nserve(load)\n"

    with (
        pytest.raises(SystemExit, match=r"the worker ended with 1:\s+there is no such file"),
        _worker(tmp_path, source),
    ):
        pass


def test_a_worker_that_breaks_down_says_why_and_so_does_the_next_request(tmp_path: Path) -> None:
    source = _COUNTING.replace(
        "found = [", "if tokens == 3: sys.exit('no memory')\n        found = ["
    )

    with _worker(tmp_path, source) as worker:
        worker.generate([[1]], 2)
        for _ in range(2):
            with pytest.raises(SystemExit, match="no memory"):
                worker.generate([[1]], 3)


def test_an_answer_of_fewer_tokens_is_refused(tmp_path: Path) -> None:
    source = _COUNTING.replace("+ tokens))", "+ tokens - 1))")

    with (
        _worker(tmp_path, source) as worker,
        pytest.raises(SystemExit, match="the worker gave 3 tokens where 4 were asked for"),
    ):
        worker.generate([[1]], 4)


class _Recorder(Worker):
    """Answers at once, as if a token took ``pace`` seconds, and writes down what it is asked."""

    def __init__(self, name: str, asked: list[tuple[str, list[list[int]]]], pace: float) -> None:
        super().__init__(name, [])
        self._asked, self._pace = asked, pace

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> Answer:
        self._asked.append((self.name, [list(prompt) for prompt in prompts]))
        seconds = [self._pace * (place + 1) for place in range(tokens)]
        return Answer([[0] * tokens for _ in prompts], [seconds for _ in prompts])


@pytest.fixture
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_rivals, "_SETTLE", 0.0)


@pytest.mark.usefixtures("no_settling")
def test_workers_take_turns_on_the_same_prompts_and_none_comes_twice() -> None:
    asked: list[tuple[str, list[list[int]]]] = []
    said: list[str] = []
    workers = [_Recorder("a", asked, 0.5), _Recorder("b", asked, 0.25)]

    figures = measure(workers, (_RATE, _FIRST), 3, 1000, said.append)

    assert [name for name, _ in asked] == ["a", "b"] * 8
    pairs = [(ours, theirs) for (_, ours), (_, theirs) in zip(asked[::2], asked[1::2], strict=True)]
    assert all(ours == theirs for ours, theirs in pairs)
    assert len({tuple(ours[0]) for ours, _ in pairs}) == 8
    assert {len(ours[0]) for ours, _ in pairs} == {4, 6}
    assert all(256 <= token < 1000 for _, (prompt,) in asked for token in prompt)
    assert len(said) == steps(2, 2, 3) == 16
    # A round more was asked than is counted: it warms up.
    assert figures == {
        "decode": {"a": [2.0] * 3, "b": [4.0] * 3},
        "first": {"a": [0.5] * 3, "b": [0.25] * 3},
    }


def test_several_streams_count_all_their_tokens_until_the_last_is_done() -> None:
    case = Case("streams", "total", 4, 3, prompts=2)
    answer = Answer([[1, 2, 3], [4, 5, 6]], [[0.5, 1.0, 1.5], [0.5, 1.0, 2.0]])

    assert case.figure_of(answer) == 3.0


def test_a_comparison_takes_the_two_round_by_round() -> None:
    figures = {
        "decode": {"ours": [30.0, 10.0], "theirs": [20.0, 5.0], "other": [1.0, 1.0]},
        "first": {"ours": [1.0, 2.0], "theirs": [4.0, 4.0], "other": [1.0, 1.0]},
    }
    limits = {"decode": Limit("at least", 1.6), "first": Limit("at most", 0.5)}

    decode, first = compare(figures, (_RATE, _FIRST), "ours", "theirs", limits)

    assert (decode.ratio.median, decode.unit, decode.met) == (1.75, "tokens/s", True)
    assert (first.ratio.median, first.unit, first.met) == (0.375, "s", True)
    assert not compare(figures, (_RATE,), "theirs", "ours", limits)[0].met
