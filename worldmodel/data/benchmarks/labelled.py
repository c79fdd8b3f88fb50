"""Videos with one label each: Something-Something v2, Kinetics, and lists of `path label`.

Something-Something v2 (Goyal et al. 2017), 220,847 videos of 174 classes
    20bn-something-something-v2/<id>.webm
    labels/labels.json                  class -> number
    labels/{train,validation}.json      a list of {id, label, template, placeholders}; the class
                                        is the template without its square brackets
Kinetics (Kay et al. 2017)
    {train,val}/<class>/<YouTube id>_<start>_<end>.mp4, both times of six digits
    {train,val}.csv                     label, youtube_id, time_start, time_end; optional: what
                                        it names and the folders lack counts as missing
lists, as the evaluations of V-JEPA take them
    {train,val}.csv or .txt             `path label` a line, a space between; label from 0
"""

import csv
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.quarantine import printable
from worldmodel.data.sampling import clip_span, frame_stride_for
from worldmodel.data.transforms import crop_clip, scaled_size
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.models.checkpoint import ClipSpec

logger = logging.getLogger(__name__)

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

MAX_SKIPPED_SHARE = 0.01
VIDEO_ENDINGS = (".webm", ".mp4", ".mkv", ".avi", ".mov")
SSV2_FOLDERS = ("20bn-something-something-v2", "videos")
KINETICS_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "validation"),
}
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


@dataclass(frozen=True)
class LabelledVideo:
    """One video and the number of its class.

    Attributes:
        key: its name within the benchmark.
        path: of the file.
        label: from 0.
    """

    key: str
    path: Path
    label: int


class SkippedVideos:
    """Videos of one split that could not be used; too many are an error.

    Args:
        name: of the benchmark and split, for the message.
        num_videos: that there should be.
        max_share: of them that may be skipped.
    """

    def __init__(self, name: str, num_videos: int, max_share: float = MAX_SKIPPED_SHARE) -> None:
        self.name, self.num_videos, self.max_share = name, num_videos, max_share
        self.reasons: dict[str, str] = {}

    def add(self, key: str, reason: str) -> None:
        """Skip one.

        Raises:
            InputError: it is one too many.
        """
        self.reasons[key] = reason
        logger.warning("skipped %s of %s", printable(f"{key}: {reason}"), self.name)
        if len(self.reasons) > self.max_share * self.num_videos:
            raise InputError(
                f"more than {self.max_share:.2%} of the {self.num_videos} videos of {self.name} "
                f"cannot be used; {len(self.reasons)} so far, the last: "
                f"{printable(f'{key}: {reason}')}; fetch them again, or allow a larger share"
            )


@dataclass(frozen=True)
class LabelledSet:
    """A benchmark of labelled videos on disk.

    Attributes:
        name: of the benchmark.
        classes: names by number.
        videos: of each split, those whose file is there, sorted by key.
        skipped: of each split, those whose file is not; broken ones are added on reading.
    """

    name: str
    classes: tuple[str, ...]
    videos: dict[Split, tuple[LabelledVideo, ...]]
    skipped: dict[Split, SkippedVideos]


@dataclass(frozen=True)
class VideoClips:
    """What the model sees of one video.

    Attributes:
        frames: uint8 `(clips, T, 3, size, size)`.
        is_slower: the video is too short for the model's rate, and was taken at a lower stride.
        is_held: it has fewer frames than a clip, and its last one stands still at the end.
    """

    frames: Tensor
    is_slower: bool
    is_held: bool


def read_clips(path: Path, clip: ClipSpec, num_clips: int = 1) -> VideoClips:
    """Clips of a video: the middle one, or several evenly from its start to its end.

    The short side is scaled to the model's size and the middle square kept. A video too short for
    a clip at the model's rate is taken at the largest stride that fits.

    Args:
        path: of the video.
        clip: frames, rate and size of the clips the model sees.
        num_clips: how many.

    Raises:
        InputError: the video cannot be read.
    """
    video = open_video(path)
    try:
        wanted = frame_stride_for(video.fps, clip.fps)
        fitting = (video.num_frames - 1) // max(clip.num_frames - 1, 1)
        stride = max(1, min(wanted, fitting))
        spare = max(0, video.num_frames - clip_span(clip.num_frames, stride))
        starts = [
            spare // 2 if num_clips == 1 else round(number * spare / (num_clips - 1))
            for number in range(num_clips)
        ]
        steps = np.arange(clip.num_frames) * stride
        indices = np.minimum(np.array(starts)[:, None] + steps, video.num_frames - 1)
        size = scaled_size(video.width, video.height, clip.size, video.pixel_aspect)
        pictures = video.get_frames(indices.ravel().tolist(), size)
    finally:
        video.close()
    frames = torch.from_numpy(crop_clip(pictures, clip.size, (0.5, 0.5), False))
    frames = frames.permute(0, 3, 1, 2).unflatten(0, (num_clips, -1)).contiguous()
    return VideoClips(frames, stride < wanted, video.num_frames < clip.num_frames)


def open_labelled(
    name: str, root: Path, max_skipped_share: float = MAX_SKIPPED_SHARE
) -> LabelledSet:
    """A benchmark of labelled videos by its name.

    Args:
        name: ssv2, kinetics or list.
        root: its folder.
        max_skipped_share: of the videos of a split that may be missing or broken.

    Raises:
        InputError: there is none of this name, a part of it is missing, a label is unknown, or too
            many videos are missing.
    """
    readers = {"ssv2": read_ssv2, "kinetics": read_kinetics, "list": read_lists}
    if name not in readers:
        raise InputError(
            f"there is no set of labelled videos {name!r}; there are {', '.join(readers)}"
        )
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; give the one that holds {name}")
    return readers[name](root, max_skipped_share)


def read_ssv2(root: Path, max_skipped_share: float = MAX_SKIPPED_SHARE) -> LabelledSet:
    """Something-Something v2; see the head of this file. Arguments as `open_labelled`."""
    numbers = _read_classes(_ssv2_labels(root, "labels"))
    folder = next((root / name for name in SSV2_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root} has no folder {SSV2_FOLDERS[0]} with the videos")
    files = _files_by_stem(folder)
    listed: dict[Split, list[tuple[str, Path | None, int]]] = {}
    for split in SPLITS:
        path = _ssv2_labels(root, split)
        listed[split] = []
        for number, entry in enumerate(_json_list(path)):
            key, name = _ssv2_entry(entry, f"{path}, entry {number}")
            if name not in numbers:
                raise InputError(
                    f"{path}, entry {number}: unknown label {name[:200]!r}; labels.json of the "
                    "same release must have it"
                )
            listed[split].append((key, files.get(key), numbers[name]))
    return _gathered("ssv2", tuple(numbers), listed, max_skipped_share)


def read_kinetics(root: Path, max_skipped_share: float = MAX_SKIPPED_SHARE) -> LabelledSet:
    """Kinetics; see the head of this file. Classes are the folders of `train`, by name.

    Underscores in a folder's name count as spaces. Arguments as `open_labelled`.
    """
    folders = {split: _kinetics_folder(root, split) for split in SPLITS}
    found = {
        split: {name: _files_by_stem(path) for name, path in _class_folders(folder).items()}
        for split, folder in folders.items()
    }
    numbers = {name: number for number, name in enumerate(sorted(found["train"]))}
    if not numbers:
        raise InputError(f"{folders['train']} has no folders of classes with videos")
    listed: dict[Split, list[tuple[str, Path | None, int]]] = {}
    for split in SPLITS:
        table = _kinetics_csv(root, folders[split].name)
        rows = _named_in(table) if table else _found_in(found[split])
        listed[split] = []
        for where, name, stem in rows:
            if name not in numbers:
                raise InputError(
                    f"{table or folders[split]}: unknown label {name[:200]!r}; {folders['train']} "
                    "has no folder of this name"
                )
            file = found[split].get(name, {}).get(stem)
            listed[split].append((where, file, numbers[name]))
    return _gathered("kinetics", tuple(numbers), listed, max_skipped_share)


def read_lists(root: Path, max_skipped_share: float = MAX_SKIPPED_SHARE) -> LabelledSet:
    """Lists of `path label`; paths are relative to `root` or absolute. As `open_labelled`.

    Classes are the labels of the training videos in ascending order, so that a label that none has
    leaves no gap.
    """
    listed: dict[Split, list[tuple[str, Path | None, int]]] = {}
    known: set[int] = set()
    for split in SPLITS:
        path = _list_file(root, split)
        listed[split] = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            if not line.strip():
                continue
            name, label = _parse_line(line, f"{path}, line {number}")
            if split == "train":
                known.add(label)
            elif label not in known:
                raise InputError(
                    f"{path}, line {number}: unknown label {label}; no training video has it"
                )
            file = root / name
            listed[split].append((name, file if file.is_file() else None, label))
    place = {label: number for number, label in enumerate(sorted(known))}
    rows = {
        split: [(name, file, place[label]) for name, file, label in items]
        for split, items in listed.items()
    }
    return _gathered("list", tuple(str(label) for label in place), rows, max_skipped_share)


def _gathered(
    name: str,
    classes: tuple[str, ...],
    listed: dict[Split, list[tuple[str, Path | None, int]]],
    max_share: float,
) -> LabelledSet:
    """The set of what is there; the rest is skipped."""
    videos: dict[Split, tuple[LabelledVideo, ...]] = {}
    skipped: dict[Split, SkippedVideos] = {}
    for split, rows in listed.items():
        if not rows:
            raise InputError(f"{name} has no {split} videos; its list is empty")
        skipped[split] = SkippedVideos(f"{name} {split}", len(rows), max_share)
        for key, file, _ in rows:
            if file is None:
                skipped[split].add(key, "there is no such file")
        videos[split] = tuple(
            LabelledVideo(key, file, label) for key, file, label in sorted(rows, key=_key) if file
        )
    return LabelledSet(name, classes, videos, skipped)


def _key(row: tuple[str, Path | None, int]) -> str:
    return row[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no JSON; fetch it again") from error


def _json_list(path: Path) -> list[Any]:
    content = _json(path)
    if not isinstance(content, list):
        raise InputError(f"{path} should be a list of videos, found {type(content).__name__}")
    return content


def _ssv2_labels(root: Path, part: str) -> Path:
    names = (f"labels/{part}.json", f"{part}.json", f"something-something-v2-{part}.json")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root} has no {names[0]} (nor {' nor '.join(names[1:])})")


def _read_classes(path: Path) -> dict[str, int]:
    """Class names in the order of their numbers."""
    content = _json(path)
    try:
        numbers = {str(name): int(number) for name, number in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} should map each class to its number") from error
    if not numbers or sorted(numbers.values()) != list(range(len(numbers))):
        raise InputError(
            f"{path} should number its classes from 0 to {len(numbers) - 1}, each once"
        )
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _ssv2_entry(entry: Any, where: str) -> tuple[str, str]:
    """Id and class of one video."""
    if not isinstance(entry, dict) or not {"id", "template"} <= set(entry):
        raise InputError(f"{where} should have an id and a template")
    return str(entry["id"]), re.sub(r"[\[\]]", "", str(entry["template"]))


def _files_by_stem(folder: Path) -> dict[str, Path]:
    """Videos of a folder by name without ending."""
    files = sorted(folder.iterdir())
    return {path.stem: path for path in files if path.suffix.lower() in VIDEO_ENDINGS}


def _kinetics_folder(root: Path, split: Split) -> Path:
    for name in KINETICS_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} has no folder {' or '.join(KINETICS_FOLDERS[split])}")


def _class_folders(folder: Path) -> dict[str, Path]:
    """Folders by class name."""
    return {path.name.replace("_", " "): path for path in sorted(folder.iterdir()) if path.is_dir()}


def _kinetics_csv(root: Path, part: str) -> Path | None:
    for name in (f"{part}.csv", f"annotations/{part}.csv"):
        if (root / name).is_file():
            return root / name
    return None


def _named_in(table: Path) -> Iterator[tuple[str, str, str]]:
    """Key, class and file stem of each row of a csv."""
    rows = csv.DictReader(_text(table).splitlines())
    try:
        missing = [name for name in KINETICS_COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(f"{table} has no column {', '.join(missing)}")
        for number, row in enumerate(rows, 2):
            try:
                times = [int(float(row[name])) for name in KINETICS_COLUMNS[2:]]
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{table}, line {number}: times should be seconds") from error
            stem = f"{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}"
            name = str(row["label"]).replace("_", " ")
            yield f"{name}/{stem}", name, stem
    except csv.Error as error:
        raise InputError(f"{table} is no csv: {error}") from error


def _found_in(files: dict[str, dict[str, Path]]) -> Iterator[tuple[str, str, str]]:
    """Key, class and file stem of each video of the folders."""
    for name, stems in files.items():
        for stem in stems:
            yield f"{name}/{stem}", name, stem


def _list_file(root: Path, split: Split) -> Path:
    names = [f"{part}.{ending}" for part in KINETICS_FOLDERS[split] for ending in ("csv", "txt")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root} has no list {' or '.join(names)}")


def _parse_line(line: str, where: str) -> tuple[str, int]:
    """Path, which may have spaces, and label."""
    name, _, label = line.strip().rpartition(" ")
    if not name or not (label.isascii() and label.isdigit() and len(label) < 10):
        raise InputError(
            f"{where}: should be a path, a space and the number of a class from 0, found "
            f"{line[:200]!r}"
        )
    return name.strip(), int(label)
