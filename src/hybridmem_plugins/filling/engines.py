"""Ways to spread work: plain processes, or Ray Data on one machine or a cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.filling.work import Work

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often the workers may die before filling gives up."""
WAVE = 256
"""Batches that Ray gets at a time, so that the passages of a whole corpus are never in its store at once."""


def on_processes(work: Work, batches: Sequence[bytes], workers: int) -> Iterator[bytes]:
    """Yield what worker processes made of batches, in their order; a few batches are on the way at any time.

    Raises:
        RuntimeError: The workers died again and again (killed, or out of memory).
    """
    waiting = deque(enumerate(batches))
    done = 0
    for attempt in range(ATTEMPTS + 1):
        try:
            for result in _one_pool(work, waiting, workers):
                done += 1
                yield result
        except BrokenProcessPool as error:
            if attempt == ATTEMPTS:
                msg = (
                    f"the workers died {ATTEMPTS + 1} times (killed, or out of memory?); what was stored stays: fill "
                    "again to go on, with fewer workers"
                )
                raise RuntimeError(msg) from error
            logger.warning("a worker died; its batches are given to new ones")
            waiting = deque(enumerate(batches[done:]))
        else:
            return


def _one_pool(work: Work, waiting: deque[tuple[int, bytes]], workers: int) -> Iterator[bytes]:
    # Spawned, not forked: the parent has threads (hnswlib, tokenizers), whose locks a fork would copy locked.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        going: deque[Future[bytes]] = deque()
        while waiting or going:
            while waiting and len(going) < 2 * workers + 2:
                going.append(pool.submit(work, waiting.popleft()[1]))
            yield going.popleft().result()


def on_ray(work: Work, batches: Sequence[bytes], workers: int) -> Iterator[bytes]:
    """Yield what Ray Data's workers made of batches, in their order.

    Uses the cluster that this process is connected to (`ray.init("ray://...")` or `RAY_ADDRESS`), else starts Ray on
    this machine with as many workers. Ray repeats the batches of a worker that died.

    Raises:
        ImportError: Ray is not installed.
    """
    _ray(workers)
    data: Any = require("ray.data", "ray")
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for start in range(0, len(batches), WAVE):
        wave = [{"batch": batch} for batch in batches[start : start + WAVE]]
        read = data.from_items(wave, override_num_blocks=len(wave)).map(
            _Read, fn_constructor_args=(work,), compute=data.ActorPoolStrategy(size=workers)
        )
        for row in read.iter_rows():
            yield bytes(row["done"])


def _ray(workers: int) -> Any:
    """Return Ray, connected to a cluster or started on this machine for the loopback interface only."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"]
    options: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        # Ray turns 127.0.0.1 into an address that others can reach, and listens everywhere, unless this says that it is
        # no cluster; it is read when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        require("ray", "ray")
        constants: Any = require("ray._private.ray_constants", "ray")
        constants.ENABLE_RAY_CLUSTER = False
        options = {
            "num_cpus": workers, "include_dashboard": False, "log_to_driver": False, "_node_ip_address": "127.0.0.1",
        }  # fmt: skip
    ray: Any = require("ray", "ray")
    ray.init(logging_level=logging.WARNING, **options)
    if options and ray.util.get_node_ip_address() != "127.0.0.1":
        logger.warning("Ray listens on %s, not only on the loopback interface", ray.util.get_node_ip_address())
    return ray


class _Read:
    """Makes one row of another, as Ray Data wants it."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return {"done": self._work(bytes(row["batch"]))}
