"""Work for several threads, whose results come in the order of the work however they finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastload.moving import processors

__all__ = ["in_order"]

MAX_THREADS = 8  # beyond which memory is no faster
AHEAD = 4  # tasks that wait for each thread; more would only hold more

Result = TypeVar("Result")


def in_order(tasks: Iterable[Callable[[], Result]], threads: int | None = None) -> Iterator[Result]:
    """The results of *tasks* in their order; no more of them are taken than the threads soon get to.

    Parameters
    ----------
    tasks : iterable of functions
        What they raise is raised where their result would come, and no further task is begun.
    threads : int, optional
        How many work; if not given, as many as there are processors, and no more than `MAX_THREADS`.
    """
    threads = threads or min(processors(), MAX_THREADS)
    if threads == 1:
        for task in tasks:
            yield task()
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastload")
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > threads * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
