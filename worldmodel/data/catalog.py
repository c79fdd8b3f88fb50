"""Which samples there are and where they lie, with as little reading as possible.

Where a set's `index.json` names a shard, that tells how many samples it has and how long they are;
the shard itself is looked into when its first sample is wanted, and checked against the index then.
Without an index a shard's headers are read at once.
"""

import hashlib
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from worldmodel.data import sampling
from worldmodel.data.indexed_shards import BlocksError, Indices, Shard
from worldmodel.data.quarantine import Broken
from worldmodel.data.remote import ShardCache, is_url, list_remote
from worldmodel.data.shards import (
    Length,
    SampleRef,
    expand_braces,
    file_sha256,
    known_length,
    read_metadata,
    resolve_shards,
    scan_shard,
)
from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

MAX_BROKEN_SHARD_SHARE = 0.05
# Places of so many samples are kept in memory: about 150 MB.
MAX_KEPT_SAMPLES = 200_000
# Opening a video to count its frames takes about 2 ms. Beyond this many without metadata the count
# is left to loading, where a video that is too short is skipped like a broken one.
MAX_PROBED = 2000


class Catalog:
    """The usable samples of some shards, numbered through like a list; holds no open file.

    What it takes grows with the shards, not with the samples, unless some of these are unusable.

    Args:
        shards: all of them.
        chosen: of shards by number, the usable samples within them, ascending; of shards that are
            not named all are usable.
        cache: where remote shards are kept.
        kept: samples of shards that have been looked into.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        chosen: Mapping[int, np.ndarray] | None = None,
        cache: ShardCache | None = None,
        kept: Mapping[int, list[SampleRef]] | None = None,
    ) -> None:
        self.shards = list(shards)
        self._chosen = dict(chosen or {})
        # The number of each shard's first sample, and how many there are.
        counts = map(self._count, range(len(shards)))
        self._firsts = np.array([0, *itertools.accumulate(counts)], np.int64)
        self.cache = cache or ShardCache()
        self._kept: OrderedDict[int, list[SampleRef]] = OrderedDict()
        for number, samples in (kept or {}).items():
            self._keep(number, samples)
        self._failed: dict[int, InputError] = {}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @overload
    def __getitem__(self, sample: int) -> SampleRef: ...
    @overload
    def __getitem__(self, sample: slice) -> list[SampleRef]: ...
    def __getitem__(self, sample: int | slice) -> SampleRef | list[SampleRef]:
        """Where a sample lies.

        Raises:
            InputError: its shard cannot be had, or is not what the index says.
        """
        if isinstance(sample, slice):
            return [self[number] for number in range(*sample.indices(len(self)))]
        if not -len(self) <= sample < len(self):
            raise IndexError(f"sample {sample} wanted, there are {len(self)}")
        number = self.shard_of(sample)
        within = sample % len(self) - int(self._firsts[number])
        if number in self._chosen:
            within = int(self._chosen[number][within])
        return self._samples(number)[within]

    def __iter__(self) -> Iterator[SampleRef]:
        return (self[number] for number in range(len(self)))

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample."""
        return int(np.searchsorted(self._firsts, sample % len(self), side="right")) - 1

    def shard_name(self, sample: int) -> str:
        """Path or URL of the shard that holds a sample."""
        return self.shards[self.shard_of(sample)].name

    def is_unreadable(self, sample: int) -> bool:
        """Whether the shard of a sample as a whole has turned out to be unusable."""
        return self.shard_of(sample) in self._failed

    @property
    def is_remote(self) -> bool:
        """Whether any shard has to be fetched."""
        return any(is_url(shard.name) for shard in self.shards)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Usable samples of each shard that has any, in order."""
        return tuple(count for count in np.diff(self._firsts).tolist() if count)

    @property
    def has_to_fetch(self) -> bool:
        """Whether to list all samples some shard would have to be fetched."""
        return any(
            is_url(shard.name) and number not in self._kept
            for number, shard in enumerate(self.shards)
        )

    def numbers_of(self, shard: int) -> range:
        """The numbers of the usable samples of a shard."""
        return range(*self._firsts[shard : shard + 2].tolist())

    def listed(self, shard: int) -> list[SampleRef]:
        """The usable samples of a shard that need not be fetched, from its headers alone.

        Whether its bytes are what the index says is left to whoever reads them.

        Raises:
            InputError: its headers cannot be read, or it has another number of samples.
        """
        found = self._kept.get(shard) or self._scanned(shard, Path(self.shards[shard].name))
        return [found[number] for number in self._within(shard).tolist()]

    def select(self, chosen: Sequence[int]) -> "Catalog":
        """Some of the samples, given by ascending numbers."""
        numbers = np.asarray(chosen, np.int64)
        bounds = np.searchsorted(numbers, self._firsts)
        within = {
            shard: self._within(shard)[numbers[start:stop] - self._firsts[shard]]
            for shard, (start, stop) in enumerate(itertools.pairwise(bounds.tolist()))
        }
        return Catalog(self.shards, within, self.cache, self._kept)

    @classmethod
    def join(cls, catalogs: Sequence["Catalog"]) -> "Catalog":
        """All samples of several catalogs, one after the other."""
        shards: list[Shard] = []
        chosen: dict[int, np.ndarray] = {}
        kept: dict[int, list[SampleRef]] = {}
        for catalog in catalogs:
            chosen |= {len(shards) + number: each for number, each in catalog._chosen.items()}
            kept |= {len(shards) + number: samples for number, samples in catalog._kept.items()}
            shards += catalog.shards
        return cls(shards, chosen, catalogs[0].cache, kept)

    def sha256(self) -> str:
        """Names these samples wherever the shards lie."""
        digest = hashlib.sha256()
        for shard in self.shards:
            name = shard.name.rpartition("/")[2]
            known = [name, shard.num_samples, shard.num_bytes, shard.sha256]
            digest.update(json.dumps(known).encode())
        for number in range(len(self.shards)):
            within = self._within(number)
            places = np.stack([np.full_like(within, number), within], 1)
            digest.update(places.astype("<i8").tobytes())
        return digest.hexdigest()

    def headers_sha256(self) -> str:
        """Tells samples of equal names and sizes apart as far as headers do; empty with an index.

        Apart from `sha256`, by which the places of earlier runs are known.
        """
        known = [shard.headers_sha256 for shard in self.shards]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest() if any(known) else ""

    def _count(self, number: int) -> int:
        """Usable samples of a shard."""
        chosen = self._chosen.get(number)
        return self.shards[number].num_samples if chosen is None else len(chosen)

    def _within(self, number: int) -> np.ndarray:
        """The usable samples of a shard, by their numbers within it."""
        chosen = self._chosen.get(number)
        return np.arange(self.shards[number].num_samples) if chosen is None else chosen

    def _samples(self, number: int) -> list[SampleRef]:
        """The samples of a shard, read from its headers unless they are known."""
        if number in self._failed:
            raise self._failed[number]
        shard = self.shards[number]
        try:
            if is_url(shard.name):
                # Asked for each time: it may have made room for others.
                path = self.cache.fetch(shard.name, shard.num_bytes, shard.sha256)
            if number not in self._kept:
                if not is_url(shard.name):
                    path = Path(shard.name)
                    check_unaltered(path, shard, self.cache.folder / "verified")
                self._keep(number, self._scanned(number, path))
        except InputError as error:
            # What is remote may be there again in a minute.
            if not is_url(shard.name):
                self._failed[number] = error
            raise
        self._kept.move_to_end(number)
        return self._kept[number]

    def _scanned(self, number: int, path: Path) -> list[SampleRef]:
        shard, found = self.shards[number], scan_shard(path)
        if len(found) != shard.num_samples:
            raise InputError(
                f"shard {shard.name} holds {len(found)} samples, the index says "
                f"{shard.num_samples}; make the set again"
            )
        return found

    def _keep(self, number: int, samples: list[SampleRef]) -> None:
        self._kept[number] = samples
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > MAX_KEPT_SAMPLES:
            self._kept.popitem(last=False)


def shard_names(patterns: str | Sequence[str]) -> list[str]:
    """Paths and URLs of the shards that patterns stand for, sorted and without repetition.

    Raises:
        InputError: a pattern matches nothing, or cannot be read.
    """
    given = [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]
    local = [pattern for pattern in given if not is_url(pattern)]
    found = {str(path) for path in resolve_shards(local)} if local or not given else set()
    for pattern in given:
        if is_url(pattern):
            for url in expand_braces(pattern):
                found.update(list_remote(url))
    return sorted(found)


def check_unaltered(path: Path, shard: Shard, folder: Path) -> None:
    """Compare a shard with what its index says of it.

    A hash is computed once per machine and version of the file: what was found right is noted in
    `folder`, under the file's path, size and time.

    Raises:
        InputError: another size or hash, or the file is gone.
    """
    if shard.num_bytes is None:
        return
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {error.strerror or error}") from error
    if status.st_size != shard.num_bytes:
        raise InputError(
            f"shard {path} has {status.st_size} bytes, the index says {shard.num_bytes}; it has "
            "been cut short or altered: copy or make it again"
        )
    if shard.sha256 is None:
        return
    known = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{shard.sha256}"
    note = folder / hashlib.sha256(known.encode()).hexdigest()
    if note.exists():
        return
    found = file_sha256(path)
    if found != shard.sha256:
        raise InputError(
            f"shard {path} has the SHA-256 {found}, the index says {shard.sha256}; it has been "
            "altered: copy or make it again"
        )
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError:
        logger.debug("cannot note in %s that a shard is right; it is hashed again", note.parent)


def open_catalog(
    patterns: str | Sequence[str],
    num_frames: int,
    fps: float,
    probe: Callable[[SampleRef], tuple[int, float]],
    cache: ShardCache | None = None,
) -> tuple[Catalog, list[Broken]]:
    """The samples of shards that can give a clip.

    Args:
        patterns: tars, globs, folders or URLs.
        num_frames: of a clip.
        fps: lowest frames per second of a clip.
        probe: counts the frames of a video that nobody has measured: frames, frames per second.
        cache: where remote shards are kept.

    Returns:
        The catalog, and the shards and samples that are known to be broken.

    Raises:
        InputError: over 5 % of the shards are broken, one holds blocks, none holds a video, or no
            video is long enough.
    """
    cache = cache or ShardCache()
    names = shard_names(patterns)
    shards: list[Shard] = []
    broken: list[Broken] = []
    errors: list[InputError] = []
    kept: dict[int, list[SampleRef]] = {}
    indices = Indices()
    prober = _Prober(probe)
    for name in names:
        try:
            shard = indices.find(name)
            if shard is None:
                shard, kept[len(shards)] = _scan(name, cache, prober)
            shards.append(shard)
        except InputError as error:
            if isinstance(error, BlocksError):
                raise
            errors.append(error)
            broken.append(Broken.of(name, None, error))
    if len(errors) > MAX_BROKEN_SHARD_SHARE * len(names):
        raise InputError(f"{len(errors)} of {len(names)} shards are broken: {errors[0]}")
    broken += prober.broken
    num_samples = sum(shard.num_samples for shard in shards)
    if num_samples == len(prober.without_video):
        raise InputError(
            f"no video in {len(names)} shards such as {names[0]}: members must end in mp4, mov, "
            f"mkv, webm or avi, found {', '.join(sorted(prober.other_members)[:8]) or 'no samples'}"
        )
    chosen, reasons = _usable(shards, num_frames, fps, prober)
    catalog = Catalog(shards, chosen, cache, kept)
    if not len(catalog):
        raise InputError(
            f"none of the {num_samples} samples of {patterns} can be used; "
            f"{(reasons or [item.reason for item in broken])[0]}"
        )
    if reasons:
        logger.warning(
            "left out %d of %d samples of %s that are too short; the first: %s",
            len(reasons),
            len(catalog) + len(reasons),
            patterns,
            reasons[0],
        )
    return catalog, broken


class _Prober:
    """Finds the length of samples from their metadata or, within limits, by opening them."""

    def __init__(self, probe: Callable[[SampleRef], tuple[int, float]]) -> None:
        self._probe = probe
        self._num_probed = 0
        self.broken: list[Broken] = []
        self.other_members: set[str] = set()
        self.without_video: set[tuple[str, int]] = set()
        self.unusable: set[tuple[str, int]] = set()

    def length(self, name: str, number: int, ref: SampleRef) -> Length:
        if ref.is_block:
            raise BlocksError(name)
        if ref.video_extension is None:
            self.other_members |= set(ref.members)
            self.without_video.add((name, number))
            reason = f"it has no video; its members are {', '.join(sorted(ref.members))}"
            self.broken.append(Broken(name, ref.key, reason))
            self.unusable.add((name, number))
            return None
        try:
            known = known_length(read_metadata(ref))
            if known is None and self._num_probed < MAX_PROBED:
                self._num_probed += 1
                known = self._probe(ref)
        except InputError as error:
            self.broken.append(Broken.of(name, ref.key, error))
            self.unusable.add((name, number))
            return None
        return known


def _scan(name: str, cache: ShardCache, prober: _Prober) -> tuple[Shard, list[SampleRef]]:
    path = cache.fetch(name) if is_url(name) else Path(name)
    refs = scan_shard(path)
    lengths = tuple(prober.length(name, number, ref) for number, ref in enumerate(refs))
    headers = json.dumps([[ref.key, sorted(ref.members.items())] for ref in refs])
    digest = hashlib.sha256(headers.encode()).hexdigest()
    return Shard(name, len(refs), lengths, path.stat().st_size, headers_sha256=digest), refs


def _usable(
    shards: Sequence[Shard], num_frames: int, fps: float, prober: _Prober
) -> tuple[dict[int, np.ndarray], list[str]]:
    """The usable samples of shards where not all are, and why those too short are not."""
    chosen: dict[int, np.ndarray] = {}
    reasons: list[str] = []
    touched = {name for name, _ in prober.unusable}
    for number, shard in enumerate(shards):
        short = {
            length: reason
            for length in set(shard.lengths)
            if length is not None and (reason := _why_short(length, num_frames, fps))
        }
        if not short and shard.name not in touched:
            continue
        left = [n for n in range(shard.num_samples) if (shard.name, n) not in prober.unusable]
        chosen[number] = np.array([n for n in left if shard.length(n) not in short], np.int64)
        reasons += [
            f"sample {n} of {shard.name}: {short[length]}"
            for n in left
            if (length := shard.length(n)) in short
        ]
    return chosen, reasons


def _why_short(length: tuple[int, float], num_frames: int, fps: float) -> str | None:
    """Why a video gives no clip, if it is too short for one."""
    stride = sampling.frame_stride_for(length[1], fps)
    if sampling.count_starts(length[0], num_frames, stride):
        return None
    return sampling.too_short(length[0], num_frames, stride)
