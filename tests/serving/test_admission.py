"""Who is let in, who waits in line, and who is told to come again."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.serving.admission import Admission
from src.serving.errors import ApiError


def test_more_answers_than_places_and_line_are_refused_with_429_and_seconds_to_wait() -> None:
    admission = Admission(parallel=2, max_waiting=3, wait_s=1)
    admission.enter(5)
    with pytest.raises(ApiError) as refused:
        admission.enter(1)
    assert refused.value.status == 429
    assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1


def test_retry_after_grows_with_the_line_and_with_how_long_answers_take() -> None:
    admission = Admission(parallel=2, max_waiting=10, wait_s=1)
    admission.enter(12)
    admission.mean_s = 4.0
    assert admission.retry_after_s(1) < admission.retry_after_s(6)
    before = admission.retry_after_s(4)
    admission.mean_s = 20.0
    assert admission.retry_after_s(4) > before


def test_a_request_that_can_never_enter_is_an_error_of_its_own() -> None:
    with pytest.raises(ApiError) as refused:
        Admission(parallel=2, max_waiting=3, wait_s=1).enter(6)
    assert refused.value.status == 400


def test_places_are_given_in_the_order_of_coming() -> None:
    async def run() -> list[int]:
        admission = Admission(parallel=1, max_waiting=9, wait_s=5)
        order: list[int] = []

        async def one(number: int) -> None:
            ticket = admission.enter(1)[0]
            await ticket.wait()
            order.append(number)
            await asyncio.sleep(0.001)
            ticket.close()

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(number))
        return order

    assert asyncio.run(run()) == list(range(8))


def test_whoever_gives_up_leaves_the_line() -> None:
    async def run() -> Admission:
        admission = Admission(parallel=1, max_waiting=1, wait_s=1)
        first, second = admission.enter(2)
        await first.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await second.wait()
        second.close()
        first.close()
        return admission

    admission = asyncio.run(run())
    assert (admission.running, admission.waiting) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_never_more_run_than_there_are_places_and_none_is_lost_whoever_gives_up(
    plans: list[tuple[int, int, bool]], parallel: int
) -> None:
    async def run() -> tuple[int, Admission]:
        admission = Admission(parallel, max_waiting=100, wait_s=1)
        most = running = 0

        async def one(delay: int, work: int) -> None:
            nonlocal most, running
            await asyncio.sleep(delay / 1000)
            ticket = admission.enter(1)[0]
            try:
                async with asyncio.timeout(0.004):
                    await ticket.wait()
                running += 1
                most = max(most, running)
                try:
                    await asyncio.sleep(work / 1000)
                finally:
                    running -= 1
            except TimeoutError:
                pass
            finally:
                ticket.close()
                ticket.close()

        tasks = [asyncio.create_task(one(delay, work)) for delay, work, _ in plans]
        for task, (delay, work, gives_up) in zip(tasks, plans, strict=True):
            if gives_up:
                asyncio.get_running_loop().call_later((delay + work) / 2000, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        return most, admission

    most, admission = asyncio.run(run())
    assert most <= parallel
    assert (admission.running, admission.waiting) == (0, 0)


def test_work_in_pieces_goes_to_the_end_of_the_line_after_each() -> None:
    async def run() -> list[str]:
        admission = Admission(parallel=1, max_waiting=9, wait_s=5)
        order: list[str] = []

        async def pieces(name: str, count: int) -> None:
            (ticket,) = admission.enter(1)
            place = ticket.wait
            for _ in range(count):
                await place()
                place = ticket.again
                order.append(name)
                await asyncio.sleep(0.001)
            ticket.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pieces("long", 4))
            group.create_task(pieces("short", 1))
        assert (admission.running, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(run()) == ["long", "short", "long", "long", "long"]
