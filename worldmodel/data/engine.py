"""Many jobs at once, results in order: a pool of processes, or a Ray cluster.

What a job gives depends on the job alone, so every engine gives the same results in the same order.
At most `ahead` jobs per worker are begun before the first of them has been taken, which bounds what
waits in memory or on the disk.

A process that dies loses the job it worked at and no other: that job's result is `Crashed`.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Literal, TypeVar

from worldmodel.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")
Engine = Literal["processes", "ray"]

# A video of an hour keeps one worker busy while the others pack some hundred short ones.
AHEAD = 64
# How often Ray begins a job again whose process or node has died.
RAY_RETRIES = 2


@dataclass(frozen=True)
class Crashed:
    """Stands in the place of a result: the process that worked at it died.

    Attributes:
        reason: what ended it, for example SIGSEGV.
    """

    reason: str


@dataclass(frozen=True)
class _Failed:
    """The job raised this."""

    error: Exception


class _Workers(ABC):
    """What runs jobs side by side."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many jobs run at once."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether another job would be worked at soon."""

    @abstractmethod
    def start(self, number: int, job: Any) -> None:
        """Begin a job."""

    @abstractmethod
    def wait(self, seconds: float | None) -> dict[int, Any]:
        """Outcomes of jobs that have ended since; waits for one, at most so long."""

    @abstractmethod
    def close(self) -> None:
        """End whatever still runs."""


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    engine: Engine = "processes",
    processes: int | None = None,
    ahead: int = AHEAD,
) -> Generator[Result | Crashed, None, None]:
    """Work through jobs side by side and give their results in the order of the jobs.

    Args:
        work: what is done with a job; it, the jobs and the results must be picklable.
        jobs: taken one by one as there is room for them.
        engine: `processes`, spawned on this machine; or `ray`: a Ray cluster where one is running
            (RAY_ADDRESS, or one on this machine), else one that is started here and ended again.
            Whatever folder `work` reads or writes, all nodes of the cluster must see.
        processes: how many jobs to work at at once; by default one per core, of the cluster with
            `ray`. With `processes` and 1 the work is done in this process, which is quick to
            begin, but a job that crashes takes this process along.
        ahead: how many jobs per worker may be begun before the oldest result is taken.

    Yields:
        The result of each job, or `Crashed`.

    Raises:
        InputError: Ray is asked for and is not installed, or cannot be reached.
        Exception: whatever `work` raised, when it is that job's turn.
    """
    if engine == "processes" and processes == 1:
        yield from map(work, jobs)
        return
    jobs = iter(jobs)
    some = list(itertools.islice(jobs, 1))
    if not some:  # starting a cluster takes ten seconds
        return
    workers: _Workers
    if engine == "ray":
        workers = _RayWorkers(work, processes)
    else:
        workers = _ProcessWorkers(work, processes or num_cores())
    try:
        yield from _in_order(workers, itertools.chain(some, jobs), ahead)
    finally:
        workers.close()


@contextlib.contextmanager
def interruptible(hint: str = "the same command goes on from here") -> Iterator[None]:
    """On Ctrl-C say what is lost, by default nothing, in a line, instead of where we were."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"worldmodel: interrupted; {hint}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells count


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_order(workers: _Workers, jobs: Iterable[Any], ahead: int) -> Generator[Any, None, None]:
    waiting = enumerate(jobs)
    done: dict[int, Any] = {}
    wanted = started = 0
    is_last = False
    while True:
        while not is_last and workers.has_room() and started - wanted < ahead * workers.width:
            try:
                number, job = next(waiting)
            except StopIteration:
                is_last = True
                break
            workers.start(number, job)
            started += 1
        if wanted in done:
            outcome = done.pop(wanted)
            wanted += 1
            if isinstance(outcome, _Failed):
                raise outcome.error
            yield outcome
            # Whoever ended meanwhile gets its next job before the next result is given.
            done.update(workers.wait(0.0))
        elif wanted == started:
            return
        else:
            done.update(workers.wait(None))


class _Worker:
    """One spawned process and this end of the pipe to it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        # Spawned, not forked: torch and the decoders of this process have threads of their own.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(work, other, os.getpid()), name="worldmodel", daemon=True
        )
        self.process.start()
        other.close()
        self.number: int | None = None
        self.is_ready = False

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def why_it_died(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _ProcessWorkers(_Workers):
    """Spawned processes, each begun when there is a job for it."""

    def __init__(self, work: Callable[[Any], Any], width: int) -> None:
        self._work = work
        self._workers: list[_Worker] = []
        self._width = width

    @property
    def width(self) -> int:
        return self._width

    def has_room(self) -> bool:
        return len(self._workers) < self._width or any(
            worker.number is None for worker in self._workers
        )

    def start(self, number: int, job: Any) -> None:
        for worker in list(self._workers):
            if worker.number is None and self._give(worker, number, job):
                return
        worker = _Worker(self._work)
        self._workers.append(worker)
        if not self._give(worker, number, job):
            raise RuntimeError(f"a new worker process died at once ({worker.why_it_died()})")

    def _give(self, worker: _Worker, number: int, job: Any) -> bool:
        """Whether the worker was there to take the job; it is dropped if not."""
        try:
            worker.pipe.send((number, job))
        except OSError:  # died while it had nothing to do
            self._drop(worker)
            return False
        worker.number = number
        return True

    def wait(self, seconds: float | None) -> dict[int, Any]:
        outcomes: dict[int, Any] = {}
        busy = {worker.pipe: worker for worker in self._workers if worker.number is not None}
        while busy and not outcomes:
            heard = connection.wait(list(busy), seconds)
            for pipe in heard:
                worker = busy[pipe]  # type: ignore[index]
                if worker.is_ready:
                    number = worker.number
                    assert number is not None
                    outcomes[number] = self._outcome(worker)
                else:
                    self._greet(worker)
            if not heard:
                break
        return outcomes

    def _outcome(self, worker: _Worker) -> Any:
        try:
            outcome = worker.pipe.recv()
        except (EOFError, OSError):
            self._drop(worker)
            return Crashed(worker.why_it_died())
        worker.number = None
        return outcome

    def _greet(self, worker: _Worker) -> None:
        try:
            worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"a worker process could not begin ({worker.why_it_died()}); a script that runs "
                "this needs `if __name__ == '__main__':` around its own work, or processes=1"
            ) from error
        worker.is_ready = True

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join(1.0)  # its pipe has closed: it is about to end by itself
        worker.end()

    def close(self) -> None:
        for worker in self._workers:
            worker.end()


def _serve(work: Callable[[Any], Any], pipe: Any, parent: int) -> None:
    """What a worker process does: jobs in, outcomes out, until the pipe is closed."""
    # Ctrl-C reaches the whole group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent(parent)
    pipe.send("ready")
    while True:
        try:
            _, job = pipe.recv()
        except (EOFError, OSError):
            return
        outcome: Any
        try:
            outcome = work(job)
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            outcome = _Failed(error)
        try:
            pipe.send(outcome)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # whatever pickling raises
            pipe.send(_Failed(RuntimeError(f"what a job gave cannot be sent: {error!r}")))


def _leave_with_parent(parent: int) -> None:
    """End this process soon after its parent has gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def call(work: Callable[[Any], Any], job: Any) -> Any:
    """What Ray runs."""
    return work(job)


class _RayWorkers(_Workers):
    """Tasks on a Ray cluster."""

    def __init__(self, work: Callable[[Any], Any], processes: int | None) -> None:
        self._ray = _import_ray()
        self._is_mine = not self._ray.is_initialized()
        if self._is_mine:
            _connect(self._ray, processes)
        self._processes = processes
        self._call = self._ray.remote(num_cpus=1, max_retries=RAY_RETRIES)(call)
        self._work = self._ray.put(work)
        self._numbers: dict[Any, int] = {}

    @property
    def width(self) -> int:
        # Asked each time: a cluster may grow.
        return self._processes or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def has_room(self) -> bool:
        # Twice the cores where no number was given: the cluster sees that there is more to do.
        limit = self._processes or 2 * self.width
        return len(self._numbers) < limit

    def start(self, number: int, job: Any) -> None:
        self._numbers[self._call.remote(self._work, job)] = number

    def wait(self, seconds: float | None) -> dict[int, Any]:
        if not self._numbers:
            return {}
        ended, _ = self._ray.wait(list(self._numbers), num_returns=1, timeout=seconds)
        return {self._numbers.pop(task): self._outcome(task) for task in ended}

    def _outcome(self, task: Any) -> Any:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            # Ray's own error is of both types, but cannot be caught by ours everywhere.
            return _Failed(error.cause if isinstance(error.cause, Exception) else error)
        except self._ray.exceptions.RayError as error:
            return Crashed(f"{type(error).__name__}, tried {RAY_RETRIES + 1} times")

    def close(self) -> None:
        for task in self._numbers:
            self._ray.cancel(task, force=True)
        if self._is_mine:
            self._ray.shutdown()  # ends what was started here, and leaves what was found running


def _import_ray() -> Any:
    # It reports home unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError(
            "engine ray needs a package that is not installed: pip install 'worldmodel[ray]'"
        ) from error
    return ray


def _connect(ray: Any, processes: int | None) -> None:
    """Connect to the cluster that is running, or start one of this machine alone."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address not in ("auto", "local"):
        _check_answers(address)
    try:
        ray.init(address="auto", **quiet)
        return
    except (ConnectionError, SystemExit) as error:
        # Ray ends the process, after two minutes, where what it was pointed to does not answer.
        if isinstance(error, SystemExit) or address not in ("auto", "local"):
            raise InputError(
                "the Ray cluster that is noted here does not answer; `ray stop` forgets it, "
                "RAY_ADDRESS points to another"
            ) from error
    ray.init(address="local", num_cpus=processes or num_cores(), include_dashboard=False, **quiet)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address}, where RAY_ADDRESS points ({error})"
        ) from error
