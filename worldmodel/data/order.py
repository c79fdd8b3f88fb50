"""The order of samples: epochs, global batches, this rank's share of them, and the place reached.

Arithmetic only: nothing here opens a file. The place is one number, the samples of the epoch that
all ranks together have consumed. It is the same on every rank, so what rank 0 stores is enough to
go on with any number of ranks and workers.
"""

import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)


class ClipRequest(NamedTuple):
    """One clip to load: sample number `sample` in `epoch`, the `visit`-th time within it."""

    epoch: int
    sample: int
    visit: int = 0


def this_rank() -> tuple[int, int]:
    """(rank, number of ranks) at this moment; (0, 1) where nothing is distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class EpochSampler(Sampler[list[ClipRequest]]):
    """Batches of requests for this rank, and the place the stream has reached.

    The order of an epoch is a pure function of (seed, epoch). It is cut into global batches, one
    after the other; rank r takes the r-th share of each, so all ranks make the same number of
    equal steps, and two ranks of B clips see what one rank of 2 B would. What does not fill a
    global batch is left out, other samples in each epoch. Where there are fewer samples than one
    global batch they are visited several times, each visit with a draw of its own.

    Used as a batch sampler; `sampler` is itself, which is where Lightning looks for `set_epoch`.

    Args:
        num_samples: at least 1.
        batch_size: clips per rank and step.
        seed: of the order.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._announced = 0  # the epoch by the count of whoever calls `set_epoch`
        self._loaded = False
        self._start = (0, 0)  # batches and samples of the epoch that are behind the next pass
        self._begun = False
        self._passed = 0  # batches handed out in this pass
        if self.global_batch_size > num_samples and this_rank()[0] == 0:
            logger.warning(
                "%d samples are fewer than one batch of %d over all processes: they are repeated, "
                "each time with another start where the video allows",
                num_samples,
                self.global_batch_size,
            )

    @property
    def sampler(self) -> "EpochSampler":
        """Itself, so that whoever looks for `batch_sampler.sampler.set_epoch` finds it."""
        return self

    @property
    def global_batch_size(self) -> int:
        """Clips of one step over all ranks."""
        return self.batch_size * this_rank()[1]

    def order(self, epoch: int) -> np.ndarray:
        """Sample indices of an epoch, int64 `(n,)`; n is at least one global batch."""
        # Raw words and a stable sort: these never change between versions of numpy.
        source = np.random.PCG64(np.random.SeedSequence([self.seed % 2**64, epoch]))
        order = np.argsort(source.random_raw(self.num_samples), kind="stable")
        repeats = math.ceil(self.global_batch_size / self.num_samples)
        return np.tile(order, repeats) if repeats > 1 else order

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of another epoch; the epoch in progress is left where it stands.

        After a resume an epoch that nothing was taken from is not left: Lightning 2.6 counts one
        epoch too many where a run limited in steps goes on from the end of an epoch.
        """
        ahead, self._announced = epoch - self._announced, epoch
        untouched = self._start == (0, 0) and not self._passed
        if ahead and not (self._loaded and untouched):
            self.epoch += ahead
            self._start, self._begun, self._passed = (0, 0), False, 0

    def begin(self) -> None:
        """Start a pass: at the place that was loaded, or else at the epoch's start."""
        if self._begun:
            self._start = (0, 0)
        self._begun, self._passed = True, 0

    def advance(self) -> None:
        """One more batch has been handed out."""
        self._passed += 1

    def __len__(self) -> int:
        """Batches of the epoch on each rank, those before a resumed place included."""
        batches, samples = self._start
        return batches + self._remaining(samples)

    def _remaining(self, samples: int) -> int:
        total = max(self.num_samples, self.global_batch_size)
        return max(0, total - samples) // self.global_batch_size

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        rank, _ = this_rank()
        order, epoch, (_, samples) = self.order(self.epoch), self.epoch, self._start
        for batch in range(self._remaining(samples)):
            first = samples + batch * self.global_batch_size + rank * self.batch_size
            yield [
                ClipRequest(epoch, int(order[place]), place // self.num_samples)
                for place in range(first, first + self.batch_size)
            ]

    def state_dict(self) -> dict[str, int]:
        """The place reached, the same on all ranks; plain integers."""
        batches, samples = self._start
        return {
            "epoch": self.epoch,
            "announced_epoch": self._announced,
            "batches": batches + self._passed,
            "samples": samples + self._passed * self.global_batch_size,
            "num_samples": self.num_samples,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken, with any number of ranks and any batch size.

        Where seed or number of samples are others, so is the order, and the epoch starts afresh.
        """
        self.epoch, self._announced = state["epoch"], state["announced_epoch"]
        self._loaded, self._begun, self._passed = True, False, 0
        self._start = (state["batches"], state["samples"])
        found = (state["seed"], state["num_samples"])
        if found != (self.seed, self.num_samples):
            logger.warning(
                "the checkpoint was made with seed %d over %d samples, here are seed %d and %d: "
                "epoch %d starts afresh",
                *found,
                self.seed,
                self.num_samples,
                self.epoch,
            )
            self._start = (0, 0)


class FixedSampler(Sampler[list[ClipRequest]]):
    """Every sample once, in order, in as many batches on every rank; for validation.

    Samples are repeated from the first until they divide by the number of ranks. The batches are
    as equal as they can be, since statistics over a last batch of one clip mean nothing.
    """

    def __init__(self, num_samples: int, batch_size: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size

    def _share(self) -> np.ndarray:
        rank, world_size = this_rank()
        per_rank = math.ceil(self.num_samples / world_size)
        return (np.arange(per_rank) * world_size + rank) % self.num_samples

    def __len__(self) -> int:
        return math.ceil(len(self._share()) / self.batch_size)

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        for part in np.array_split(self._share(), len(self)):
            yield [ClipRequest(0, int(index)) for index in part]
