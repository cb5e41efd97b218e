"""A stream of tokens between a generator's thread and whoever reads it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lepton_edge.errors import InferenceError
from lepton_edge.generation.request import Chunk, TokenStream


def stream() -> tuple[TokenStream, list[TokenStream]]:
    cancelled: list[TokenStream] = []
    return TokenStream(cancelled.append), cancelled


def fed(tokens: TokenStream, count: int) -> threading.Thread:
    def feed() -> None:
        for number in range(count):
            tokens.put(Chunk((number,), finish_reason="length" if number == count - 1 else None))

    thread = threading.Thread(target=feed)
    thread.start()
    return thread


def test_chunks_come_in_order_and_end() -> None:
    tokens, _ = stream()
    thread = fed(tokens, 500)
    assert [chunk.tokens[0] for chunk in tokens] == list(range(500))
    assert list(tokens) == []
    assert tokens.ended
    thread.join()


def test_chunks_come_to_a_task() -> None:
    tokens, _ = stream()

    async def read() -> list[int]:
        thread = fed(tokens, 500)
        found = [chunk.tokens[0] async for chunk in tokens]
        thread.join()
        return found

    assert asyncio.run(read()) == list(range(500))


def test_the_event_loop_goes_on_while_a_task_waits() -> None:
    tokens, _ = stream()

    async def both() -> tuple[int, int]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            for _ in range(20):
                turns += 1
                await asyncio.sleep(0)
            tokens.put(Chunk((7,), finish_reason="stop"))

        task = asyncio.create_task(turn())
        (chunk,) = [chunk async for chunk in tokens]
        await task
        return turns, chunk.tokens[0]

    assert asyncio.run(both()) == (20, 7)


def test_an_error_ends_it_after_the_chunks_that_came() -> None:
    tokens, _ = stream()
    tokens.put(Chunk((1,)))
    tokens.fail(InferenceError("broken"))
    tokens.put(Chunk((2,)))
    assert next(tokens).tokens == (1,)
    with pytest.raises(InferenceError, match="broken"):
        next(tokens)


def test_cancelling_tells_the_generator_once() -> None:
    tokens, cancelled = stream()
    tokens.put(Chunk((1,)))
    tokens.cancel()
    tokens.cancel()
    assert cancelled == [tokens]
    tokens.put(Chunk((2,)))
    assert [chunk.tokens for chunk in tokens] == [(1,)]


def test_cancelling_wakes_who_waits() -> None:
    tokens, _ = stream()
    found: list[Chunk] = []
    thread = threading.Thread(target=lambda: found.extend(tokens))
    thread.start()
    tokens.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert found == []


def test_what_is_over_is_not_cancelled() -> None:
    tokens, cancelled = stream()
    with tokens:
        tokens.put(Chunk((1,), finish_reason="stop"))
    assert cancelled == []


def test_leaving_the_block_cancels() -> None:
    tokens, cancelled = stream()
    with tokens:
        tokens.put(Chunk((1,)))
    assert cancelled == [tokens]


def test_a_task_that_was_cancelled_does_not_stop_the_generator() -> None:
    tokens, _ = stream()

    async def leave() -> None:
        async def wait() -> None:
            async for _ in tokens:
                pass

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    tokens.put(Chunk((1,), finish_reason="stop"))  # the loop that waited is closed
    assert [chunk.tokens for chunk in tokens] == [(1,)]
