"""Processes that draw or prepare frames beside this one."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from multiprocessing import connection

import cv2


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Start a worker with one thread; interrupts are the parent's, and no worker outlives it."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=lambda: connection.wait([parent.sentinel]) and os._exit(1), daemon=True
        ).start()


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes for the block, which import their tasks' modules, not the command with PyTorch."""
    main = sys.modules["__main__"]
    spec, main.__spec__ = main.__spec__, ModuleSpec("cstl.__main__", None)  # a name that no child imports
    try:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        main.__spec__ = spec
