"""One pass over samples: read, run the networks, keep what is asked; in several processes.

On a CPU each worker process reads samples and runs the networks on them with one thread, so that
the result of a chunk is the same function of the same samples whatever the number of processes, to
the bit. On a GPU workers read, and this process runs the networks. Results always come in the order
of the samples.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from worldmodel.data.shards import SampleRef
from worldmodel.errors import InputError
from worldmodel.memory import keep_freed_memory

# Chunks that each worker may be ahead of what was taken: some 25 MB each for clips.
CHUNKS_AHEAD = 6


def default_workers(device: torch.device) -> int:
    """Worker processes where nobody said how many: one per core this process may use."""
    if device.type != "cpu":
        return min(4, len(os.sched_getaffinity(0)) - 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(16, cores or 1)


class _Chunks(Dataset[Any]):
    """Chunks of samples, `group` of them at a time, read and, where `work` is given, worked on."""

    def __init__(
        self,
        refs: Sequence[SampleRef],
        read: Callable[[SampleRef], Any],
        work: Callable[[list[Any]], Any] | None,
        chunk: int,
        group: int,
    ) -> None:
        starts = range(0, len(refs), chunk)
        self.chunks = [refs[start : start + chunk] for start in starts]
        self.read, self.work, self.group = read, work, group

    def __len__(self) -> int:
        return -(-len(self.chunks) // self.group)

    def __getitem__(self, index: int) -> Any:
        chunks = self.chunks[index * self.group : (index + 1) * self.group]
        try:
            return [(len(refs), self._result([self.read(ref) for ref in refs])) for refs in chunks]
        except InputError as error:
            # Raised here it would reach people as the text of a worker's traceback.
            return error

    def _result(self, items: list[Any]) -> Any:
        return items if self.work is None else self.work(items)


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


@dataclass(frozen=True)
class Pace:
    """How a pass is run; none of it changes a result.

    Attributes:
        num_workers: processes beside this one; 0 does everything here, None takes one per core.
        batch_size: samples that are handed over at a time, rounded down to whole chunks, at least
            one.
        quiet: no progress bar.

    Raises:
        InputError: fewer processes than none.
    """

    num_workers: int | None = None
    batch_size: int = 8
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"num_workers must be at least 0, got {self.num_workers}")


def run_pass(
    refs: Sequence[SampleRef],
    read: Callable[[SampleRef], Any],
    work: Callable[[list[Any]], Any],
    chunk: int,
    device: torch.device,
    pace: Pace | None = None,
    title: str = "",
    ahead: int = CHUNKS_AHEAD,
) -> Iterator[Any]:
    """What `work` makes of each chunk of samples, in order; workers begin at once.

    Args:
        refs: which samples.
        read: one sample from its reference.
        work: a chunk's result from its samples; plain arrays and tensors, copied between processes.
        chunk: samples per chunk; the last one may be shorter.
        device: where `work` runs its networks.
        pace: how.
        title: of the progress bar.
        ahead: chunks that each worker may be ahead of what was taken.

    Raises:
        InputError: a sample cannot be read.
    """
    pace = pace or Pace()
    in_worker = device.type == "cpu"
    group = max(1, pace.batch_size // chunk)
    dataset = _Chunks(refs, read, work if in_worker else None, chunk, group)
    workers = default_workers(device) if pace.num_workers is None else pace.num_workers
    workers = min(workers, len(dataset))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        prefetch_factor=max(2, ahead // group) if workers else None,
    )
    bar = tqdm(total=len(refs), desc=title, unit="sample", disable=pace.quiet or not title)
    # Workers begin now, and not when the first result is asked for.
    return _in_order(iter(loader), work, in_worker, in_worker and not workers, bar)


def _in_order(
    groups: Iterator[Any],
    work: Callable[[list[Any]], Any],
    is_done: bool,
    in_this_process: bool,
    bar: Any,
) -> Iterator[Any]:
    """Results one by one; where they are made in this process, on one thread as in a worker."""
    threads = torch.get_num_threads()
    try:
        while True:
            if in_this_process:
                torch.set_num_threads(1)
            group = next(groups, None)
            torch.set_num_threads(threads)
            if group is None:
                return
            if isinstance(group, InputError):
                raise group
            for count, result in group:
                bar.update(count)
                yield result if is_done else work(result)
    finally:
        torch.set_num_threads(threads)
        bar.close()
