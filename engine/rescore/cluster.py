"""The steps of a job on Dask workers: on this machine, or wherever a scheduler's workers see the same folders.

Data goes by files, so a lost worker costs the step it was at: the scheduler gives it to another one. What the scheduler
holds are results on their way, a few for each worker; a worker that is short of memory spills them to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.errors import SettingsError, Unavailable
from engine.rescore.job import Crew, windowed

LIVES = 3
"""So many workers may be lost at one step before it is given up."""


class Workers:
    """A Dask cluster's workers."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.size = max(1, sum(one["nthreads"] for one in client.scheduler_info(n_workers=-1)["workers"].values()))

    def each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results in order; `Unavailable` when a step loses worker after worker."""
        from distributed.scheduler import KilledWorker

        try:
            yield from windowed(
                lambda given: self.client.submit(function, *given, pure=False, retries=1), arguments, 2 * self.size
            )
        except KilledWorker as problem:
            raise Unavailable(
                f"the step `{function.__name__}` lost {LIVES + 1} workers one after the other, the last at "
                f"{problem.last_worker.address if problem.last_worker else 'an unknown address'}: mostly they have too "
                "little memory; give them more, or cut shards smaller with --shard-rows. What is done stays: the same "
                "command goes on from there"
            ) from None


@contextmanager
def open_crew(address: str, size: int, work: Path) -> Iterator[Crew]:
    """The workers of a scheduler's address, or of a cluster of `size` processes that lives as long as this."""
    distributed: Any
    try:
        import dask
        import distributed
    except ImportError:
        raise SettingsError("a cluster needs Dask: pip install 'arbiter[cluster]'") from None
    dask.config.set({"distributed.scheduler.allowed-failures": LIVES, "distributed.comm.timeouts.connect": "10s"})
    try:
        local = None
        if address == "local":
            local = distributed.LocalCluster(
                n_workers=size, threads_per_worker=1, dashboard_address=None, local_directory=str(work / "spill"),
                silence_logs=40,
            )  # fmt: skip
        client = distributed.Client(local or address)
    except (OSError, ValueError) as problem:
        raise Unavailable(f"there is no Dask scheduler at {address}: {problem}") from None
    try:
        client.wait_for_workers(1, timeout=30)
        yield Workers(client)
    except TimeoutError:
        raise Unavailable(
            f"the scheduler at {address} has no workers; start some with `dask worker {address}`"
        ) from None
    finally:
        with suppress(TimeoutError, OSError):
            client.close()
            if local is not None:
                local.close()
