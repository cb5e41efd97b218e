"""The model that users hold: one text or many, threads, closing, and what goes wrong."""

from __future__ import annotations

import random
import threading
import time
from collections import UserList, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import load
from lepton_edge.bundle import Bundle
from lepton_edge.errors import BundleError, InferenceError, InputError
from lepton_edge.runtime.model import Model
from lepton_edge.tasks.text_classification import Classification
from lepton_edge.testing import FakeSession, write_fake_bundle
from tests.core.parts import IDS, MASK, byte_model

Bundles = Callable[..., Bundle]


@pytest.fixture
def model(fake_bundle: Bundles) -> Iterator[Model]:
    with load(fake_bundle().path) as opened:
        yield opened


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Reads bytes, so that every text has an answer of its own."""
    return byte_model(write_fake_bundle(tmp_path_factory.mktemp("model") / "bundle"))


def _session(model: Model) -> FakeSession:
    assert isinstance(model.session, FakeSession)
    return model.session


def _scores(result: Classification) -> dict[str, float]:
    return {entry.label: entry.score for entry in result.top}


def _same(left: list[Classification], right: list[Classification]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.label == other.label
        assert one.truncated == other.truncated
        assert _scores(one) == pytest.approx(_scores(other), abs=1e-6)


def _mixed(count: int) -> list[str]:
    chosen = random.Random(7)
    return [
        " ".join(f"w{chosen.randrange(100)}" for _ in range(chosen.randrange(1, 45)))
        for _ in range(count)
    ]


def test_a_text_gives_a_result_and_a_list_gives_a_list(model: Model) -> None:
    alone = model("w1 w2")
    assert isinstance(alone, Classification)
    listed = model(["w1 w2"])
    assert isinstance(listed, list)
    _same(listed, [alone])


def test_no_texts_give_no_results(model: Model) -> None:
    assert model([]) == []
    assert model(()) == []
    assert _session(model).calls == []


@pytest.mark.parametrize("kind", [tuple, list, deque, UserList])
def test_any_sequence_of_texts_will_do(model: Model, kind: Callable[[list[str]], Any]) -> None:
    _same(model(kind(["w1", "w2 w3"])), [model("w1"), model("w2 w3")])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ((text for text in ["w1"]), "generator"),
        (b"w1", "bytes"),
        (bytearray(b"w1"), "bytearray"),
        ({"text": "w1"}, "dict"),
        ({"w1"}, "set"),
        (None, "NoneType"),
        (7, "int"),
        (np.array(["w1"]), "ndarray"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_by_its_type(
    model: Model, given: Any, kind: str
) -> None:
    with pytest.raises(InputError, match=rf"^text 1 is of type {kind}: a model takes text \(str\)"):
        model(given)
    assert _session(model).calls == []


@pytest.mark.parametrize(("item", "kind"), [(None, "NoneType"), (b"w1", "bytes"), (["w1"], "list")])
def test_an_item_that_is_not_a_string_is_named_by_its_position(
    model: Model, item: Any, kind: str
) -> None:
    with pytest.raises(InputError, match=rf"^text 3 is of type {kind}: "):
        model(["w1", "w2", item])


def test_a_thousand_texts_come_back_in_order(model: Model) -> None:
    texts = _mixed(1000)
    together = model(texts)
    calls = len(_session(model).calls)
    assert calls < 100  # in micro-batches
    _same(together, [model(text) for text in texts])
    assert any(result.truncated for result in together)
    assert not all(result.truncated for result in together)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=50))
def test_each_text_is_answered_as_if_it_were_alone(bytes_model: Model, texts: list[str]) -> None:
    _same(bytes_model(texts), [bytes_model(text) for text in texts])


def test_a_position_counts_over_the_whole_of_a_very_long_list(model: Model) -> None:
    texts = ["w1"] * 5000
    with pytest.raises(InputError, match=r"^text 4501 is empty"):
        model([*texts[:4500], " ", *texts])


def test_an_answer_that_is_not_a_number_names_its_text(model: Model) -> None:
    session = _session(model)
    table = session._vectors["logits"]
    table[99 + 4] = np.nan  # the vector of w99
    with pytest.raises(InferenceError) as caught:
        model(["w1", "w2", "w1 w99 w1", "w3"])
    assert "the model's output for text 3 is not a number (1 of 4 texts" in caught.value.message
    assert "precision: fp32" in str(caught.value.hint)
    with pytest.raises(InferenceError, match=r"output for text 4501 is not a number"):
        model([*["w1"] * 4500, "w99"])
    table[99 + 4] = np.inf
    with pytest.raises(InferenceError, match=r"output for text 1 is not a number"):
        model("w99")
    assert model("w1")  # the model goes on


def test_a_failure_of_the_backend_comes_through(model: Model) -> None:
    _session(model).fail_with = InferenceError("the device is gone")
    with pytest.raises(InferenceError, match="the device is gone"):
        model(["w1", "w2"])
    _session(model).fail_with = None
    assert model("w1")


def test_an_unknown_option_is_refused_by_name(model: Model) -> None:
    with pytest.raises(
        InputError, match=r"^text-classification has no option 'temperature'\n  it has top_k$"
    ):
        model("w1", temperature=0.5)
    with pytest.raises(InputError, match=r"'a', 'b'"):
        model(["w1"], a=1, b=2)


def test_an_option_reaches_every_batch(model: Model) -> None:
    results = model(_mixed(100), top_k=1)
    assert len(_session(model).calls) > 1
    assert {len(result.top) for result in results} == {1}


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3"])
def test_a_top_k_that_is_no_count_is_refused_with_its_value(model: Model, top_k: Any) -> None:
    with pytest.raises(InputError, match="it is a number from 1, or None") as caught:
        model("w1", top_k=top_k)
    assert f"top_k is {top_k!r}" in caught.value.message


def test_a_model_without_a_mask_is_never_padded(fake_bundle: Bundles) -> None:
    with load(fake_bundle(inputs=(IDS,)).path) as bare, load(fake_bundle("masked").path) as masked:
        texts = _mixed(60)
        together = bare(texts)
        lengths = {len(encoding) for encoding in bare.encoder.encode(texts)}
        assert {length for _, length in _session(bare).calls} == lengths
        _same(together, [bare(text) for text in texts])
        _same(together, masked(texts))


def test_a_model_with_a_mask_is_padded_to_few_shapes(fake_bundle: Bundles) -> None:
    with load(fake_bundle(inputs=(IDS, MASK)).path) as model:
        model(_mixed(200))
        assert {length for _, length in _session(model).calls} <= {8, 16, 24, 32}


def test_a_session_that_takes_more_than_text_is_refused(fake_bundle: Bundles) -> None:
    pixels = type(IDS)("pixel_values", "float32", ("batch", 3))
    with pytest.raises(BundleError, match="the model takes pixel_values"):
        load(fake_bundle(inputs=(IDS, pixels)).path)


def test_many_threads_each_get_their_own_answers(model: Model) -> None:
    texts = _mixed(64)
    expected = [model(text) for text in texts]
    start = threading.Barrier(16)

    def ask(number: int) -> tuple[list[Classification], list[Classification]]:
        start.wait(10)
        mine = texts[number:] + texts[:number]
        return model(mine), expected[number:] + expected[:number]

    with ThreadPoolExecutor(16) as threads:
        for found, wanted in threads.map(ask, range(16)):
            _same(found, wanted)


def test_submit_gives_a_future_of_what_the_call_gives(model: Model) -> None:
    one, many = model.submit("w1"), model.submit(["w1", "w2"], top_k=2)
    assert isinstance(one, Future)
    _same([one.result(10)], [model("w1")])
    assert [len(result.top) for result in many.result(10)] == [2, 2]


def test_a_submitted_fault_is_the_futures(model: Model) -> None:
    future = model.submit(["w1", ""])
    assert isinstance(future.exception(10), InputError)
    with pytest.raises(InputError, match="text 2 is empty"):
        future.result(10)
    _same([model.submit("w1").result(10)], [model("w1")])


def test_submitted_calls_run_at_the_same_time(model: Model) -> None:
    together = threading.Barrier(3)
    infer = model.session.infer

    def wait(feeds: Any) -> Any:
        together.wait(10)
        return infer(feeds)

    model.session.infer = wait  # type: ignore[method-assign]
    futures = [model.submit(f"w{number}") for number in range(3)]
    assert all(future.result(10) for future in futures)


def test_a_closed_model_says_so(fake_bundle: Bundles) -> None:
    model = load(fake_bundle().path)
    model("w1")
    model.close()
    for call in (
        lambda: model("w1"),
        lambda: model([]),
        lambda: model.submit("w1"),
        model.warm_up,
    ):
        with pytest.raises(InferenceError, match="the model is closed") as caught:
            call()
        assert caught.value.hint == "load it again"
    assert "closed" in repr(model)


def test_closing_twice_is_harmless(fake_bundle: Bundles) -> None:
    model = load(fake_bundle().path)
    model.submit("w1").result(10)
    model.close()
    model.close()


def test_a_model_is_a_context_manager(fake_bundle: Bundles) -> None:
    with load(fake_bundle().path) as model:
        assert model("w1")
    with pytest.raises(InferenceError, match="the model is closed"):
        model("w1")
    with pytest.raises(ZeroDivisionError), load(fake_bundle("second").path) as model:
        _ = 1 / 0
    with pytest.raises(InferenceError, match="the model is closed"):
        model("w1")


def test_closing_finishes_what_was_submitted_and_takes_no_more(fake_bundle: Bundles) -> None:
    model = load(fake_bundle().path)
    started, go_on = threading.Event(), threading.Event()
    infer = model.session.infer

    def slow(feeds: Any) -> Any:
        started.set()
        assert go_on.wait(10)
        return infer(feeds)

    model.session.infer = slow  # type: ignore[method-assign]
    futures = [model.submit(_mixed(80)), *(model.submit("w1") for _ in range(20))]
    assert started.wait(10)
    closers = [threading.Thread(target=model.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    deadline = time.monotonic() + 10
    while not model._closing and time.monotonic() < deadline:
        time.sleep(0.001)
    with pytest.raises(InferenceError, match="the model is closed"):
        model.submit("w1")
    assert all(closer.is_alive() for closer in closers)
    go_on.set()
    for closer in closers:
        closer.join(10)
    assert len(futures[0].result(0)) == 80
    assert all(future.result(0).label for future in futures[1:])


def test_the_model_says_what_it_is(model: Model) -> None:
    assert repr(model) == "<Model fake 1.0.0: text-classification on FAKE>"


def test_embeddings_come_in_order_too(fake_bundle: Bundles) -> None:
    with load(fake_bundle(task="feature-extraction").path) as model:
        texts = _mixed(150)
        together = np.asarray(model(texts))
        assert together.shape == (150, 8)
        alone = np.asarray([model(text) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-6)
        with pytest.raises(InputError, match="feature-extraction has no option 'top_k'"):
            model("w1", top_k=3)
