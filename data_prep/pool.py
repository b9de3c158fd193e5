"""Worker processes that build shards, stop when asked, and never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.synchronize import Event
from typing import TypeVar

from .errors import DataPrepError

Task = TypeVar("Task")
Result = TypeVar("Result")
StopCheck = Callable[[], bool]


def map_tasks(
    work: Callable[[Task, StopCheck], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Do all tasks and yield each with its result as it is finished, in whatever order that is.

    Args:
        work: a function at module level; it should ask its second argument often and raise when told to stop.
        tasks: picklable.
        workers: processes; with 1 (or one task), this process does the work.

    Raises:
        DataPrepError: if a worker is killed.
        Exception: the first that ``work`` raises, after the other workers have stopped.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield task, work(task, lambda: False)
        return
    # Not fork: a copy of a process with threads (a progress bar's, torch's) may inherit a lock that nobody will open.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["webdataset", "data_prep.shard"])
    _start_server()
    stop = context.Event()
    executor = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(stop,))
    try:
        yield from _collect(executor, work, tasks, workers)
    except BrokenProcessPool:
        raise DataPrepError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: "
            "run the same command again, with fewer workers if need be"
        ) from None
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _start_server() -> None:
    """Start the process that forks the workers, if there is none, deaf to Ctrl-C: so its workers are from birth.

    A worker that was still being born would die of it, with a traceback for the user to wonder about. The same holds
    for SIGUSR2, by which SLURM warns every process of a job that its time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may change what a signal does
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


def _collect(
    executor: ProcessPoolExecutor, work: Callable[[Task, StopCheck], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    waiting: dict[Future[Result], Task] = {}
    upcoming = iter(tasks)
    while True:
        # Few tasks are handed out ahead: a million names need not lie in a queue.
        for task in islice(upcoming, 2 * workers - len(waiting)):
            waiting[executor.submit(_work, work, task)] = task
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future.result()


_stop: Event | None = None


def _start_worker(stop: Event) -> None:
    global _stop  # noqa: PLW0603 - an initializer has no other way to hand something to the tasks
    _stop = stop
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # The process that asked for this one, which is not the one that forked it: that is the fork server, and it lives
    # for as long as its children do.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _work(work: Callable[[Task, StopCheck], Result], task: Task) -> Result:
    return work(task, _stop.is_set if _stop is not None else lambda: False)
