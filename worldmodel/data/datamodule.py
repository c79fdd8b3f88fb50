"""Clips for Lightning: which samples train, which validate, and the loaders of both."""

import itertools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning import LightningDataModule

from worldmodel.clips import ClipBatch
from worldmodel.data import sampling
from worldmodel.data.catalog import MAX_KEPT_SAMPLES, Catalog, open_catalog, shard_names
from worldmodel.data.index import left_out_kinds
from worldmodel.data.order import FixedSampler, Mixture, SetOrder, StreamSampler, fitting_window
from worldmodel.data.quarantine import Quarantine
from worldmodel.data.remote import ShardCache, is_url
from worldmodel.data.shards import SampleRef, read_members
from worldmodel.data.stream import ClipDataset, ClipLoader
from worldmodel.data.video import Backend, open_video
from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

Patterns = str | list[str]
# Shards of a remote set that are shuffled with each other, and so kept at a time.
REMOTE_WINDOW = 16
# Of training clips: a sixteenth of the picture is left.
MAX_ZOOM = 4.0


class ClipDataModule(LightningDataModule):
    """Training and validation clips out of shards.

    Validation sees one fixed clip of each sample: the middle of the video, never mirrored. Without
    `val_shards` it takes `clips-*.tar` of the folder `val` beside the training shards' folder if
    that is called `train`, or else sets a fixed 5 % of the samples apart (`hold_out`).

    Args:
        shards: training shards: names, globs, folders, URLs (`s3://`, `gs://`, `https://`), or a
            list of them. For a mixture of several sets, a name for each set and its shards.
        weights: share of each set of a mixture in what is seen; keys as in `shards`. By default
            every sample is seen equally often.
        val_shards: validation shards, names or a list of them.
        batch_size: clips per process and step.
        num_frames: frames of a clip.
        fps: frames per second of a clip, met as nearly as a whole frame stride allows, and within
            10 % where frames are unevenly spaced and not slower. Several rates give as many clips
            of each video, from the same start.
        size: pixels a side.
        flip: mirror half of the training clips left to right.
        zoom: most that a training clip is magnified; 1 shows all of it.
        color_jitter: share of training clips whose red, green and blue are exchanged and whose
            brightness is changed by a power of 2/3 to 3/2; true for all of them.
        clips_per_video: starts drawn of a training video at once; all its clips cost one decode,
            and are in one batch.
        num_workers: processes that decode; 0 decodes in the training process.
        seed: of order, starts, mirrors, crops and colours; by default that of `--seed_everything`,
            or else 0.
        decoder: which library decodes.
        shuffle_window: shards that are shuffled with each other. By default all of local sets, or
            as many as have 200,000 samples, and 16 of remote ones.
        max_broken_share: broken samples per sample seen above which the run stops.
        quarantine: file that names what was skipped; `fit` puts it in the run's folder.
        cache_gb: most that the local cache of remote shards holds; it lies in `$WORLDMODEL_CACHE`
            or `~/.cache/worldmodel/shards`.

    Raises:
        InputError: a number is out of range, or weights do not fit the sets.
    """

    def __init__(
        self,
        shards: Patterns | dict[str, Patterns] = "data/physics/train/*.tar",
        weights: dict[str, float] | None = None,
        val_shards: Patterns | None = None,
        batch_size: int = 8,
        num_frames: int = 32,
        fps: float | list[float] = 8.0,
        size: int = 64,
        flip: bool = True,
        zoom: float = 1.0,
        color_jitter: bool | float = False,
        clips_per_video: int = 1,
        num_workers: int = 0,
        seed: int | None = None,
        decoder: Backend = "auto",
        shuffle_window: int | None = None,
        max_broken_share: float = 0.05,
        quarantine: str | None = None,
        cache_gb: float = 50.0,
    ) -> None:
        super().__init__()
        self.rates = tuple(fps) if isinstance(fps, list) else (float(fps),)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_frames", num_frames, 1),
            ("size", size, 1),
            ("clips_per_video", clips_per_video, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_window", 1 if shuffle_window is None else shuffle_window, 1),
        ):
            if value < least:
                raise InputError(f"data.{name} must be at least {least}, got {value}")
        if not self.rates or not all(rate > 0 for rate in self.rates):
            raise InputError(f"data.fps must be above 0, got {fps}")
        if not 0 <= max_broken_share <= 1 or not cache_gb > 0:
            raise InputError(
                "data.max_broken_share must be 0 to 1 and data.cache_gb above 0, got "
                f"{max_broken_share} and {cache_gb}"
            )
        if not 0 <= color_jitter <= 1:
            raise InputError(
                f"data.color_jitter must be true, false or a share 0 to 1, got {color_jitter}"
            )
        if not 1 <= zoom <= MAX_ZOOM:
            raise InputError(f"data.zoom must be 1 to {MAX_ZOOM}, got {zoom}")
        per_video = clips_per_video * len(self.rates)
        if batch_size % per_video:
            raise InputError(
                f"data.batch_size must be a multiple of the {per_video} clips of a video "
                f"(clips_per_video × rates of fps), got {batch_size}"
            )
        self.sets = dict(shards) if isinstance(shards, Mapping) else {"": shards}
        self.weights = _weights(self.sets, weights)
        self.val_shards = val_shards
        self.batch_size = batch_size
        self.num_frames = num_frames
        # What a checkpoint names as the rate that its model saw.
        self.fps = self.rates[0]
        self.size = size
        self.flip = flip
        self.zoom = zoom
        self.color_jitter = color_jitter
        self.clips_per_video = clips_per_video
        self.num_workers = num_workers
        # Not torch.initial_seed(): it differs in each process where nobody has set it, and then
        # neither ranks nor a resumed run would agree on the order.
        self.seed = seed if seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.decoder = decoder
        self.shuffle_window = shuffle_window
        self.max_broken_share = max_broken_share
        self.quarantine = quarantine
        self.cache = ShardCache(max_bytes=int(cache_gb * 1e9))
        self.train_sets: list[Catalog] = []
        self.val_refs: Catalog

    @property
    def train_refs(self) -> Catalog:
        """The training samples of all sets, numbered through."""
        return Catalog.join(self.train_sets)

    def setup(self, stage: str | None = None) -> None:
        """List the samples and split them; reads indices, headers and metadata, no video.

        Raises:
            InputError: no shard or no usable sample is found, or a shard holds blocks.
        """
        if self.train_sets:
            return
        train_sets: list[Catalog] = []
        val_sets: list[Catalog] = []
        for patterns in self.sets.values():
            catalog = self._open(patterns)
            if self.val_shards is not None:
                train_sets.append(catalog)
            elif siblings := sibling_validation([shard.name for shard in catalog.shards]):
                train_sets.append(catalog)
                val_sets.append(self._open(siblings))
            else:
                train, val = hold_out(catalog)
                train_sets.append(train)
                val_sets.append(val)
        if self.val_shards is not None:
            val_sets = [self._open(self.val_shards)]
        self.train_sets, self.val_refs = train_sets, Catalog.join(val_sets)

    @property
    def left_out(self) -> list[str]:
        """Kinds of event that all training sets were made without, as their indices say.

        Of sets that lie elsewhere nothing is known.
        """
        names = [shard.name for catalog in self.train_sets for shard in catalog.shards]
        return [] if any(is_url(name) for name in names) else left_out_kinds(names)

    def _open(self, patterns: Patterns) -> Catalog:
        catalog, broken = open_catalog(
            patterns, self.num_frames, min(self.rates), self._probe, self.cache
        )
        self._new_quarantine().add(tuple(broken), len(catalog))
        return catalog

    def _probe(self, ref: SampleRef) -> tuple[int, float]:
        extension = ref.video_extension
        assert extension is not None
        video = open_video(read_members(ref, [extension])[extension], self.decoder)
        try:
            return video.num_frames, video.fps
        finally:
            video.close()

    def _new_quarantine(self) -> Quarantine:
        path = None if self.quarantine is None else Path(self.quarantine)
        return Quarantine(path, self.max_broken_share)

    def train_dataloader(self) -> ClipLoader:
        """Shuffled clips, drawn anew in each epoch; carries its place into checkpoints."""
        refs = self.train_refs
        mixture = Mixture(tuple(self._order(each) for each in self.train_sets), self.weights)
        videos = self.batch_size // (self.clips_per_video * len(self.rates))
        dataset = self._dataset(refs, training=True)
        place = StreamSampler(mixture, videos, refs.sha256(), refs.headers_sha256())
        return self._loader(dataset, place)

    def _order(self, catalog: Catalog) -> SetOrder:
        sizes = catalog.shard_sizes
        window = self.shuffle_window
        if window is None:
            window = REMOTE_WINDOW if catalog.is_remote else fitting_window(sizes, MAX_KEPT_SAMPLES)
        return SetOrder(sizes, self.seed, window)

    def val_dataloader(self) -> ClipLoader:
        """The same clips each time, in the same order."""
        dataset = self._dataset(self.val_refs, training=False)
        videos = max(1, self.batch_size // len(self.rates))
        return self._loader(dataset, FixedSampler(len(dataset), videos))

    def val_clip(self, number: int = 0) -> ClipBatch:
        """One validation clip, as validation sees it; decoded here and now.

        Raises:
            InputError: the sample is broken.
        """
        return self._dataset(self.val_refs, training=False)[number]

    def _dataset(self, refs: Catalog, training: bool) -> ClipDataset:
        return ClipDataset(
            refs,
            self.num_frames,
            self.rates,
            self.size,
            flip=training and self.flip,
            zoom=self.zoom if training else 1.0,
            color_jitter=float(self.color_jitter) if training else 0.0,
            seed=self.seed,
            decoder=self.decoder,
            random_start=training,
            clips_per_video=self.clips_per_video if training else 1,
        )

    def _loader(self, dataset: ClipDataset, sampler: StreamSampler | FixedSampler) -> ClipLoader:
        return ClipLoader(
            dataset,
            sampler,
            self.num_workers,
            pin_memory=torch.cuda.is_available(),
            quarantine=self._new_quarantine(),
        )


def _weights(
    sets: Mapping[str, object], weights: dict[str, float] | None
) -> tuple[float, ...] | None:
    if not sets:
        raise InputError("data.shards names no set")
    if weights is None:
        return None
    if weights.keys() != sets.keys():
        raise InputError(
            f"data.weights must name the sets of data.shards, {', '.join(sets)}, got "
            f"{', '.join(weights)}"
        )
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise InputError(f"data.weights must be above 0, got {weights}")
    return tuple(weights[name] for name in sets)


def sibling_validation(names: Sequence[str]) -> list[str]:
    """`val/clips-*.tar` of the set whose `train/` all these shards come from; else nothing."""
    if any(is_url(name) for name in names):
        return _remote_siblings(names)
    # Links are not followed: a set of links is the set that its user sees, wherever bytes lie.
    folders = {Path(os.path.abspath(name)).parent for name in names}
    if len(folders) != 1 or (folder := folders.pop()).name != "train":
        return []
    return [str(path) for path in sorted((folder.parent / "val").glob("clips-*.tar"))]


def _remote_siblings(names: Sequence[str]) -> list[str]:
    folders = {name.rpartition("/")[0] for name in names}
    if len(folders) != 1 or not (folder := folders.pop()).endswith("/train"):
        return []
    try:
        return shard_names(folder.removesuffix("train") + "val/clips-*.tar")
    except InputError:
        return []


def hold_out(catalog: Catalog) -> tuple[Catalog, Catalog]:
    """Split samples into training and validation, 5 % and at least one of each.

    By key, which takes reading the headers of each shard; a shard that cannot be read is left to
    training, which counts and passes over it. Where shards would have to be fetched for that, by
    shard instead: few of them are for validation then, which is also all that it fetches.

    A single sample serves both, with a warning.

    Raises:
        InputError: no shard can be read.
    """
    held = _held_by_shard(catalog) if catalog.has_to_fetch else _held_by_key(catalog)
    if not held:
        return catalog, catalog
    return (
        catalog.select([number for number in range(len(catalog)) if number not in held]),
        catalog.select(sorted(held)),
    )


def _held_by_key(catalog: Catalog) -> set[int]:
    clips = _clips_by_number(catalog)
    names = set(clips.values())
    if len(names) == 1:
        (name,) = names
        logger.warning("only %s to learn from: it serves training and validation", name)
        return set()
    held = {name for name in names if sampling.validation_rank(name) < sampling.VALIDATION_SHARE}
    if not held or len(held) == len(names):
        held = {min(names, key=lambda name: (sampling.validation_rank(name), name))}
    return {number for number, name in clips.items() if name in held}


def _clips_by_number(catalog: Catalog) -> dict[int, str]:
    """Which clip each sample of a readable shard is: its key, where that says it.

    Shards of different makers have equal keys for different clips. These are told apart by their
    sizes; a copy of a clip must not be on the other side than the clip.
    """
    found: dict[int, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    ambiguous: set[str] = set()
    errors: list[InputError] = []
    for shard in range(len(catalog.shards)):
        try:
            refs = catalog.listed(shard)
        except InputError as error:
            errors.append(error)
            continue
        for number, ref in zip(catalog.numbers_of(shard), refs, strict=True):
            size = sum(size for _, size in ref.members.values())
            found[number] = (ref.key, size)
            if sizes.setdefault(ref.key, size) != size:
                ambiguous.add(ref.key)
    if not found:
        raise errors[0]
    return {
        number: f"{key} of {size} bytes" if key in ambiguous else key
        for number, (key, size) in found.items()
    }


def _held_by_shard(catalog: Catalog) -> set[int]:
    """The first samples of as few shards as have enough, these chosen by name."""
    if len(catalog) == 1:
        logger.warning("only one sample to learn from: it serves training and validation")
        return set()
    names = [shard.name.rpartition("/")[2] for shard in catalog.shards]
    shards = sorted(range(len(names)), key=lambda shard: sampling.validation_rank(names[shard]))
    numbers = (number for shard in shards for number in catalog.numbers_of(shard))
    count = max(1, int(sampling.VALIDATION_SHARE * len(catalog)))
    return set(itertools.islice(numbers, count))
