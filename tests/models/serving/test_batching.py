import concurrent.futures
import threading
import time

import pytest

from skewless.errors import RecipeError
from skewless.models.serving.batching import Batcher, Batching, Closed
from skewless.models.serving.requests import Code, ServingError


class Model:
    """Doubles numbers, in batches that it remembers, when it is let."""

    def __init__(self):
        self.batches, self.gate, self.entered = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(list(items))
        return [ValueError(item) if item < 0 else 2 * item for item in items]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def make(model):
    made = []

    def make(**options):
        made.append(Batcher(model, Batching(**options)))
        return made[-1]

    yield make
    model.gate.set()
    for batcher in made:
        batcher.close()


def hold(model, batcher, threads):
    """Let a first request hold the model."""
    model.gate.clear()
    first = threads.submit(batcher.call, 1, 1)
    assert model.entered.wait(10)
    return first


def test_one_client_runs_the_model_itself(model, make):
    batcher = make()
    thread = []
    batcher._run = lambda items: [thread.append(threading.current_thread())] * len(items)
    batcher.call(1, 1)
    assert thread == [threading.current_thread()]


def test_what_comes_meanwhile_is_the_next_batch(model, make, threads):
    batcher = make(max_rows=4)
    first = hold(model, batcher, threads)
    futures = [batcher.submit(n, 1) for n in range(6)]
    model.gate.set()
    assert [f.result(10) for f in futures] == [0, 2, 4, 6, 8, 10]
    assert first.result(10) == 2
    assert model.batches == [[1], [0, 1, 2, 3], [4, 5]]


def test_a_big_request_is_a_batch_of_its_own(model, make, threads):
    batcher = make(max_rows=4)
    hold(model, batcher, threads)
    futures = [batcher.submit(1, 3), batcher.submit(2, 9), batcher.submit(3, 1)]
    model.gate.set()
    assert [f.result(10) for f in futures] == [2, 4, 6]
    assert model.batches[1:] == [[1], [2], [3]]


def test_an_item_that_fails_fails_alone(model, make, threads):
    batcher = make()
    hold(model, batcher, threads)
    futures = [batcher.submit(n, 1) for n in (1, -2, 3)]
    model.gate.set()
    assert futures[0].result(10) == 2
    assert futures[2].result(10) == 6
    with pytest.raises(ValueError, match="-2"):
        futures[1].result(10)


def test_a_full_queue_refuses(model, make, threads):
    batcher = make(max_rows=2, queue_rows=3)
    hold(model, batcher, threads)
    futures = [batcher.submit(n, 1) for n in range(3)]
    with pytest.raises(ServingError, match="3 requests wait already") as refused:
        batcher.submit(9, 1)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.retry_after >= 1
    model.gate.set()
    assert [f.result(10) for f in futures] == [0, 2, 4]
    assert batcher.call(5, 1) == 10


def test_a_deadline_passes(model, make, threads):
    batcher = make()
    first = hold(model, batcher, threads)
    late = time.monotonic() + 0.05
    with pytest.raises(ServingError) as error:
        batcher.call(7, 1, late)
    assert error.value.code is Code.DEADLINE_EXCEEDED
    waiting = batcher.submit(8, 1, late)
    model.gate.set()
    with pytest.raises(ServingError, match="deadline"):
        waiting.result(10)
    assert first.result(10) == 2
    assert [7] not in model.batches
    assert [8] not in model.batches


def test_close_finishes_what_waits_and_takes_nothing_more(model, make, threads):
    batcher = make()
    hold(model, batcher, threads)
    future = batcher.submit(4, 1)
    assert not batcher.close(timeout=0.05)
    with pytest.raises(Closed):
        batcher.submit(5, 1)
    model.gate.set()
    assert future.result(10) == 8
    assert batcher.close(timeout=10)
    with pytest.raises(Closed):
        batcher.call(6, 1)


def test_under_load_requests_wait_for_each_other(model, make, threads):
    """With `max_delay` a batch waits for as many as came for the last."""
    batcher = make(max_delay=1.0)
    hold(model, batcher, threads)
    one = [batcher.submit(n, 1) for n in range(3)]
    model.gate.set()
    assert [f.result(10) for f in one] == [0, 2, 4]
    two = []
    for n in range(3):
        two.append(batcher.submit(n, 1))
        time.sleep(0.01)
    start = time.monotonic()
    assert [f.result(10) for f in two] == [0, 2, 4]
    assert time.monotonic() - start < 0.9
    assert model.batches[-1] == [0, 1, 2]


def test_many_threads_get_their_own_answers(make, threads):
    batcher = make()
    numbers = list(range(500))
    assert list(threads.map(batcher.call, numbers, [1] * 500)) == [2 * n for n in numbers]


@pytest.mark.parametrize(
    "options", [{"max_rows": 0}, {"max_delay": -1}, {"max_delay": 2}, {"queue_rows": 5}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(RecipeError, match=f"{next(iter(options))}="):
        Batching(**options)
