"""The order of samples: epochs, mixtures, this rank's share of each batch, and the place reached.

Arithmetic only: nothing here opens a file. The samples of all epochs, one epoch after the other,
form one endless sequence that is a pure function of the seed. Global batches are cut from it one
after the other, also across the end of an epoch, so nothing is ever left out or padded, and every
rank makes the same number of equal steps. The place is one number, how many samples all ranks
together have consumed; it is the same on every rank, so what rank 0 stores is enough to go on with
any number of ranks and workers, at once.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

# Samples of an epoch that are put in order at once: 1 MB, and some milliseconds.
PIECE = 65_536


class ClipRequest(NamedTuple):
    """One sample to load: number `sample`, drawn as in `epoch`; `is_pad` where it only fills up."""

    epoch: int
    sample: int
    is_pad: bool = False


def this_rank() -> tuple[int, int]:
    """(rank, number of ranks) at this moment; (0, 1) where nothing is distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@dataclass(frozen=True)
class SetOrder:
    """The order of one set's samples in each epoch.

    All samples are shuffled where `window` covers all shards. With fewer, shards are put in a
    random order, cut into windows of so many shards, and samples are shuffled within each window:
    a worker then needs few shards at a time, which is what remote ones want.

    Attributes:
        shard_sizes: samples of each shard, in the order in which samples are numbered.
        seed: of the order.
        window: shards that are mixed with each other; all by default.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    window: int | None = None

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def epoch(self, epoch: int) -> np.ndarray:
        """Sample numbers in the order of an epoch, int64 `(n,)`, each exactly once."""
        return SetEpoch(self, epoch).take(0, len(self))


class SetEpoch:
    """The order of a set in one epoch, worked out a window at a time.

    Whole epochs of 10^7 samples would take every rank 16 s and 1.5 GB before its first batch.

    Args:
        order: of the set.
        epoch: which.
    """

    def __init__(self, order: SetOrder, epoch: int) -> None:
        # Raw words and a stable sort: these never change between versions of numpy.
        self._words = _Words(order.seed, epoch)
        self._sizes = np.array(order.shard_sizes, np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        count = len(self._sizes)
        if order.window is None or order.window >= count:
            self._windows = [np.arange(count)]
        else:
            shards = np.argsort(self._words.take(len(order), count), kind="stable")
            starts = range(0, count, order.window)
            self._windows = [np.sort(shards[start : start + order.window]) for start in starts]
        self._ends = np.cumsum([self._sizes[window].sum() for window in self._windows])
        self._kept = (-1, np.zeros(0, np.int64))

    def take(self, start: int, stop: int) -> np.ndarray:
        """Sample numbers of the places from `start` to before `stop`, int64."""
        parts = [np.zeros(0, np.int64)]
        while start < stop:
            window = int(np.searchsorted(self._ends, start, side="right"))
            end = int(self._ends[window])
            found = self._window(window)
            first = end - len(found)
            parts.append(found[start - first : stop - first])
            start = end
        return np.concatenate(parts)

    def _window(self, number: int) -> np.ndarray:
        if self._kept[0] != number:
            shards = self._windows[number]
            if len(shards) == len(self._sizes):
                found = np.argsort(self._words.take(0, int(self._sizes.sum())), kind="stable")
            else:
                pieces = [(int(self._firsts[each]), int(self._sizes[each])) for each in shards]
                words = np.concatenate([self._words.take(*piece) for piece in pieces])
                samples = np.concatenate([np.arange(a, a + size) for a, size in pieces])
                found = samples[np.argsort(words, kind="stable")]
            self._kept = (number, found)
        return self._kept[1]


class _Words:
    """The random 64-bit words of a seed, from any place on."""

    def __init__(self, seed: int, *more: int) -> None:
        self._source = np.random.PCG64(np.random.SeedSequence([seed % 2**64, *more]))
        self._begin = self._source.state

    def take(self, first: int, count: int) -> np.ndarray:
        """uint64 `(count,)`, those from number `first` on."""
        self._source.state = self._begin
        return self._source.advance(first).random_raw(count)


@dataclass(frozen=True)
class Mixture:
    """Several sets in one sequence, each with a share of it.

    An epoch has as many samples as all sets together. Each set brings its share of them, spread
    evenly, and goes through its own samples in its own epochs: none of them is seen a second time
    before all of its set have been seen once.

    Attributes:
        sets: the order of each; samples are numbered through, one set after the other.
        weights: share of each set, above 0; need not sum to 1. By default the sets' sizes, which
            makes an epoch every sample once.
    """

    sets: tuple[SetOrder, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.sets):
            raise ValueError(f"{len(self.sets)} sets need as many weights, got {self.weights}")
        if self.weights is not None and not all(0 < w < math.inf for w in self.weights):
            raise ValueError(f"weights must be above 0, got {self.weights}")
        if not len(self):
            raise ValueError("a mixture needs at least one sample")

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(len(each) for each in self.sets)

    @property
    def shares(self) -> tuple[int, ...]:
        """Samples that each set brings into an epoch; they sum to the epoch's length."""
        weights = self.weights or tuple(float(len(each)) for each in self.sets)
        exact = [len(self) * weight / math.fsum(weights) for weight in weights]
        shares = [math.floor(share) for share in exact]
        # What rounding left over goes to the largest remainders.
        remainders = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
        for number in remainders[: len(self) - sum(shares)]:
            shares[number] += 1
        return tuple(shares)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers of an epoch in order, and the epoch of its own set each is drawn in.

        Returns:
            Two int64 arrays `(n,)`.
        """
        pieces = MixtureEpoch(self, epoch)
        found = [pieces.take(number) for number in range(len(pieces))]
        numbers, epochs = zip(*found, strict=True)
        return np.concatenate(numbers), np.concatenate(epochs)

    def fingerprint(self) -> str:
        """Names this very sequence: equal where every epoch is equal."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class MixtureEpoch:
    """One epoch of a mixture, worked out in pieces of some `PIECE` samples.

    Args:
        mixture: of whose sets.
        epoch: which.

    Attributes:
        firsts: int64 `(pieces + 1,)`, the place at which each piece begins, and the epoch's end.
    """

    def __init__(self, mixture: Mixture, epoch: int) -> None:
        self._mixture = mixture
        self._epoch = epoch
        self._shares = mixture.shares
        count = -(-len(mixture) // PIECE)
        # Where in the epoch pieces end, as shares of it; all of it for the last one.
        self._cuts = [number / count for number in range(count)] + [math.inf]
        self._jitters = [
            _Words(each.seed, epoch, index, 1) for index, each in enumerate(mixture.sets)
        ]
        self._reached = np.array(
            [[self._before(index, cut) for index in range(len(self._shares))] for cut in self._cuts]
        )
        self.firsts = self._reached.sum(1)
        self._orders: dict[tuple[int, int], SetEpoch] = {}

    def __len__(self) -> int:
        """Pieces."""
        return len(self.firsts) - 1

    def take(self, piece: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers of a piece in order, and the epoch of its own set each is drawn in.

        Returns:
            Two int64 arrays, as long as the piece.
        """
        numbers, epochs, places = [], [], []
        first = 0
        for index, each in enumerate(self._mixture.sets):
            start, stop = self._reached[piece : piece + 2, index].tolist()
            found, turns = self._own(index, start, stop)
            numbers.append(first + found)
            epochs.append(turns)
            places.append(self._places(index, start, stop))
            first += len(each)
        if len(numbers) == 1:
            return numbers[0], epochs[0]
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate(numbers)[order], np.concatenate(epochs)[order]

    def _places(self, index: int, start: int, stop: int) -> np.ndarray:
        """Where in the epoch some samples of a set come, as shares of it."""
        # One sample of the set in each of `share` equal stretches, anywhere within it.
        jitter = self._jitters[index].take(start, stop - start) / 2.0**64
        return (np.arange(start, stop) + jitter) / max(1, self._shares[index])

    def _before(self, index: int, cut: float) -> int:
        """How many samples of a set come before a cut."""
        share = self._shares[index]
        if cut == math.inf:
            return share
        # Places ascend, and that of sample i lies between i and i + 1, up to rounding.
        low = min(max(0, math.floor(cut * share) - 1), share)
        high = min(low + 3, share)
        return low + int((self._places(index, low, high) < cut).sum())

    def _own(self, index: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a set in the set's own order, and the epochs of its own they lie in."""
        size = len(self._mixture.sets[index])
        begin, end = (self._epoch * self._shares[index] + place for place in (start, stop))
        found, turns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while begin < end:
            turn, within = divmod(begin, size)
            order = self._orders.get((index, turn))
            if order is None:
                # Of each set the one it is in.
                self._orders = {key: kept for key, kept in self._orders.items() if key[0] != index}
                order = SetEpoch(self._mixture.sets[index], turn)
                self._orders[index, turn] = order
            taken = order.take(within, min(size, within + end - begin))
            found.append(taken)
            turns.append(np.full(len(taken), turn, np.int64))
            begin += len(taken)
        return np.concatenate(found), np.concatenate(turns)


class StreamSampler:
    """Batches of requests for this rank, and the place the stream has reached.

    A pass over it is as many batches as an epoch has whole global ones, at least one, and goes on
    where the one before ended; the epochs of the data take their turns underneath. Rank r takes the
    r-th share of each global batch, so two ranks of B samples see what one rank of 2 B would.

    Args:
        mixture: the sequence of samples.
        batch_size: samples per rank and step.
        data_sha256: names the samples themselves, so that a place is never used with others.
        headers_sha256: what more is known of samples that no index names; places without it, from
            earlier versions, are of use all the same.
    """

    def __init__(
        self, mixture: Mixture, batch_size: int, data_sha256: str = "", headers_sha256: str = ""
    ) -> None:
        self.mixture = mixture
        self.batch_size = batch_size
        self.fingerprint = hashlib.sha256(
            (mixture.fingerprint() + data_sha256).encode()
        ).hexdigest()
        self.headers_sha256 = headers_sha256
        self._start = 0  # samples consumed before this pass
        self._passed = 0  # batches handed out in this pass
        if self.global_batch_size > len(mixture) and this_rank()[0] == 0:
            logger.warning(
                "%d samples are fewer than one batch of %d over all processes: they are repeated, "
                "each time with another start where the video allows",
                len(mixture),
                self.global_batch_size,
            )

    @property
    def global_batch_size(self) -> int:
        """Samples of one step over all ranks."""
        return self.batch_size * this_rank()[1]

    @property
    def consumed(self) -> int:
        """Samples that all ranks together have been given since the beginning."""
        return self._start + self._passed * self.global_batch_size

    def begin(self) -> None:
        """Start a pass at the place reached."""
        self._start, self._passed = self.consumed, 0

    def advance(self) -> None:
        """One more batch has been handed out."""
        self._passed += 1

    def __len__(self) -> int:
        """Batches of a pass; the same on every rank and in every pass."""
        return max(1, len(self.mixture) // self.global_batch_size)

    def requests(self) -> Iterator[list[ClipRequest]]:
        """The batches of this rank from the place on, without end."""
        rank, _ = this_rank()
        first = self._start + rank * self.batch_size
        pieces: dict[int, MixtureEpoch] = {}
        known, numbers, epochs = range(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
        while True:
            batch = []
            for position in range(first, first + self.batch_size):
                if position not in known:
                    epoch, within = divmod(position, len(self.mixture))
                    if epoch not in pieces:
                        pieces = {epoch: MixtureEpoch(self.mixture, epoch)}
                    firsts = pieces[epoch].firsts + (position - within)
                    piece = int(np.searchsorted(firsts, position, side="right")) - 1
                    known = range(*firsts[piece : piece + 2].tolist())
                    numbers, epochs = pieces[epoch].take(piece)
                place = position - known.start
                batch.append(ClipRequest(int(epochs[place]), int(numbers[place])))
            yield batch
            first += self.global_batch_size

    def state_dict(self) -> dict[str, int | str]:
        """The place reached, the same on all ranks; plain integers and a hash."""
        epoch, samples = divmod(self.consumed, len(self.mixture))
        headers = {"headers": self.headers_sha256} if self.headers_sha256 else {}
        return {
            "seed": self.mixture.sets[0].seed,
            "epoch": epoch,
            "samples": samples,
            "index": self.fingerprint,
            **headers,
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go on where `state` was taken, with any number of ranks and any batch size.

        Where the samples, their order or their mixture are others, the epoch starts afresh.

        Raises:
            InputError: this is no place of a stream.
        """
        try:
            epoch, samples = int(state["epoch"]), int(state["samples"])
            headers = state.get("headers", self.headers_sha256)
            found = (state["seed"], state["index"], headers)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "the checkpoint's place in the data cannot be read (it has no "
                f"{error}); it was made by another version: start a new run"
            ) from error
        if found != (self.mixture.sets[0].seed, self.fingerprint, self.headers_sha256):
            logger.warning(
                "the checkpoint was made with other samples or another order (seed %s there, %d "
                "here): epoch %d starts afresh",
                found[0],
                self.mixture.sets[0].seed,
                epoch,
            )
            samples = 0
        self._start, self._passed = epoch * len(self.mixture) + samples, 0


class FixedSampler(Sampler[list[ClipRequest]]):
    """Every sample exactly once, in order, in as many batches on every rank; for validation.

    Where the samples do not divide by the number of ranks, some ranks get one that only fills up
    (`is_pad`) and must not be counted. The batches are as equal as they can be, since statistics
    over a last batch of one clip mean nothing.
    """

    def __init__(self, num_samples: int, batch_size: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size

    def _share(self) -> np.ndarray:
        rank, world_size = this_rank()
        per_rank = math.ceil(self.num_samples / world_size)
        return np.arange(per_rank) * world_size + rank

    def __len__(self) -> int:
        return math.ceil(len(self._share()) / self.batch_size)

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        for part in np.array_split(self._share(), len(self)):
            yield [
                ClipRequest(0, int(index % self.num_samples), bool(index >= self.num_samples))
                for index in part
            ]


def travel(order: SetOrder, num_epochs: int = 4) -> tuple[float, float]:
    """How well an order shuffles: how far samples travel, and how often neighbours stay together.

    Args:
        order: of one set.
        num_epochs: epochs that are compared with their next.

    Returns:
        The mean distance between a sample's places in two epochs, as a share of the epoch (1/3 for
        a perfect shuffle), and how much likelier than by chance the next sample is of the same
        shard (1 for a perfect shuffle).
    """
    sizes = np.array(order.shard_sizes, np.int64)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    count = len(order)
    distances, together = [], []
    before: np.ndarray | None = None
    for epoch in range(num_epochs + 1):
        found = order.epoch(epoch)
        place = np.empty(count, np.int64)
        place[found] = np.arange(count)
        if before is not None:
            distances.append(np.abs(place - before).mean() / count)
        before = place
        shards = shard_of[found]
        together.append((shards[1:] == shards[:-1]).mean())
    by_chance = float((sizes * (sizes - 1)).sum() / (count * (count - 1)))
    return float(np.mean(distances)), float(np.mean(together)) / by_chance


def fitting_window(shard_sizes: Sequence[int], max_samples: int) -> int | None:
    """The most shards whose samples number at most `max_samples`; None where all do."""
    if sum(shard_sizes) <= max_samples:
        return None
    return max(1, max_samples * len(shard_sizes) // max(1, sum(shard_sizes)))
