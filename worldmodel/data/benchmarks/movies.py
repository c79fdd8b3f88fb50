"""What every benchmark of violation of expectation gives: movies in groups, some impossible.

A reader lists a folder and opens no movie; a movie is read when its turn has come, at the frame
rate and size of the model's clips, and only that one is held in memory.
"""

import csv
import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch import Tensor

from worldmodel.data.pyav_video import to_rgb
from worldmodel.data.sampling import frame_stride_for
from worldmodel.data.video import MAX_PIXELS, open_video
from worldmodel.errors import InputError

# What Pillow lets through of its own on bytes that are no PNG or only part of one.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
)
_MAX_NAMED = 5  # names that one message lists


@dataclass(frozen=True)
class MovieFrames:
    """A movie as the model sees it.

    Attributes:
        frames: uint8 `(T, 3, size, size)`.
        first_scored: steps that begin before this frame are seen and not scored.
    """

    frames: Tensor
    first_scored: int = 0


@dataclass(frozen=True)
class PictureFolder:
    """A movie that is a folder of numbered PNG files, `PREFIX_001.png` on.

    Attributes:
        folder: where they lie.
        prefix: what stands before the number.
        fps: pictures per second; files do not say.
    """

    folder: Path
    prefix: str
    fps: float

    def read(self, size: int, fps: float) -> MovieFrames:
        """Every n-th picture, scaled as a whole to a square.

        Raises:
            InputError: there is none, a number is missing or a file is broken.
        """
        paths = list_pictures(self.folder, self.prefix)
        stride = frame_stride_for(self.fps, fps)
        return MovieFrames(as_frames([read_picture(path, size) for path in paths[::stride]]))


@dataclass(frozen=True)
class VideoPart:
    """A movie that is a video file, or what a file holds from some frame on.

    Of a pair whose parts are not equally long the longer one loses its first frames, so that both
    show and score as many and end together.

    Attributes:
        path: the file.
        first_shown: source frame from which on it is shown.
        first_scored: source frame from which on it is scored, not before the former.
        partner: the other movie of its pair, where the two are to be equally long.
    """

    path: Path
    first_shown: int = 0
    first_scored: int = 0
    partner: "VideoPart | None" = None

    def read(self, size: int, fps: float) -> MovieFrames:
        """Every n-th frame, scaled as a whole to a square.

        Raises:
            InputError: the video is broken, or shorter than what is to be shown of it.
        """
        video = open_video(self.path)
        try:
            shown, scored = self._lengths(video.num_frames)
            if self.partner is not None:
                other = self.partner._lengths(count_frames(self.partner.path))
                shown, scored = min(shown, other[0]), min(scored, other[1])
            start, stride = video.num_frames - shown, frame_stride_for(video.fps, fps)
            indices = list(range(start, video.num_frames, stride))
            frames = video.get_frames(indices, size=(size, size))
        finally:
            video.close()
        return MovieFrames(as_frames(frames), -(-(shown - scored) // stride))

    def _lengths(self, num_frames: int) -> tuple[int, int]:
        """Frames that are shown, and that are scored."""
        if max(self.first_shown, self.first_scored) >= num_frames:
            raise InputError(
                f"{self.path} has {num_frames} frames, but the part that counts is said to begin "
                f"at frame {max(self.first_shown, self.first_scored)}; get the file, or the csv "
                "that says so, anew"
            )
        return num_frames - self.first_shown, num_frames - self.first_scored


@dataclass(frozen=True)
class Movie:
    """One movie of a benchmark.

    Attributes:
        key: its name within the benchmark, such as `O1/0001/3`.
        group: the pair or quadruplet that it belongs to.
        concept: what is violated, as the benchmark calls it.
        possible: whether it could happen; None where the benchmark keeps that to itself.
        source: where its frames are.
        tags: further facts that results are split by.
        pair: name within the group that a possible movie shares with the impossible one it is
            compared with; None where the frames must tell.
    """

    key: str
    group: str
    concept: str
    possible: bool | None
    source: PictureFolder | VideoPart
    tags: dict[str, str] = field(default_factory=dict)
    pair: str | None = None

    def read(self, size: int, fps: float) -> MovieFrames:
        """The movie at a frame rate and size.

        Args:
            size: pixels a side; the whole frame is scaled to a square.
            fps: frames per second; the nearest that leaves out all but every n-th frame.

        Raises:
            InputError: a file is missing or broken; the message names the movie.
        """
        try:
            return self.source.read(size, fps)
        except InputError as error:
            raise InputError(f"movie {self.key}: {error}") from error


@dataclass(frozen=True)
class MovieSet:
    """A benchmark, or a split of it, as it lies on disk.

    Attributes:
        name: of the benchmark.
        split: which part of it.
        movies: in the order of their groups.
        absent: what the published benchmark has and this folder lacks.
        notes: what must be known to read the scores.
    """

    name: str
    split: str
    movies: tuple[Movie, ...]
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [movie.key for movie in self.movies]
        if len(set(keys)) != len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise InputError(f"{self.name} lists {named(twice)} more than once; get it anew")
        unknown = [movie.key for movie in self.movies if movie.possible is None]
        if unknown and len(unknown) < len(keys):
            raise InputError(
                f"{self.name} {self.split}: {len(unknown)} of {len(keys)} movies are not said to "
                f"be possible or impossible ({named(unknown)}); get the labels anew"
            )

    @property
    def is_labelled(self) -> bool:
        """Whether it says which movies are possible."""
        return bool(self.movies) and self.movies[0].possible is not None

    def groups(self) -> dict[str, list[int]]:
        """Per group the places of its movies in `movies`."""
        groups: dict[str, list[int]] = {}
        for number, movie in enumerate(self.movies):
            groups.setdefault(movie.group, []).append(number)
        return groups


def named(names: Sequence[str]) -> str:
    """The first few names, and how many there are more."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones and files are passed over.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; docs/benchmarks.md shows the wanted layout")
    return sorted(
        item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")
    )


def as_frames(pictures: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """uint8 `(H, W, 3)` pictures -> `(T, 3, H, W)`."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures))))
    return stacked.permute(0, 3, 1, 2).contiguous()


def count_frames(path: Path) -> int:
    """Frames of a video file.

    Raises:
        InputError: it is missing or broken.
    """
    video = open_video(path)
    try:
        return video.num_frames
    finally:
        video.close()


def list_pictures(folder: Path, prefix: str) -> list[Path]:
    """The numbered PNG files of a folder in order.

    Args:
        folder: where they lie.
        prefix: of `PREFIX_001.png`; the digits may be any number of them.

    Raises:
        InputError: there is no folder or no such file, or a number between the first and the last
            is missing or twice there.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; extract the benchmark's archives again")
    pattern = re.compile(rf"{re.escape(prefix)}_(\d+)\.png")
    found = sorted(
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := pattern.fullmatch(path.name))
    )
    if not found:
        raise InputError(
            f"{folder} has no {prefix}_001.png or the like; extract the benchmark's archives again"
        )
    numbers = [number for number, _ in found]
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    if missing:
        gaps = named([f"{prefix} {number}" for number in missing])
        raise InputError(
            f"{folder} has pictures {numbers[0]} to {numbers[-1]} but lacks {gaps}; extract the "
            "benchmark's archives again"
        )
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{folder} has two pictures of one number; extract it again")
    return [path for _, path in found]


def load_picture(path: Path, mode: str | None = None) -> np.ndarray:
    """The pixels of a PNG file.

    Args:
        path: the file.
        mode: Pillow's mode to turn them into, such as RGB; as they are by default.

    Raises:
        InputError: the file is missing, broken, cut short or too large to be meant.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"it claims {image.width} x {image.height} pixels")
            return np.array(image if mode is None else image.convert(mode))
    except _BROKEN as error:
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(
            f"{path} is no readable PNG ({reason}); extract the benchmark's archives again"
        ) from error


def read_picture(path: Path, size: int) -> np.ndarray:
    """A PNG as uint8 `(size, size, 3)`, scaled as the frames of videos are."""
    frame = av.VideoFrame.from_ndarray(load_picture(path, "RGB"), format="rgb24")
    return to_rgb(VideoReformatter(), frame, (size, size), rotation=0)


def read_csv(path: Path, columns: Sequence[str], where: str) -> list[dict[str, str]]:
    """The rows of a csv file with a head line.

    Args:
        path: the file.
        columns: it must have.
        where: the file is had from, for the error.

    Raises:
        InputError: there is no such file, it is no csv text, has no row, lacks a column, or a row
            has another number of cells than the head.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}; {where}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no csv file in UTF-8 ({error}); {where}") from error
    found = list(reader.fieldnames or [])
    missing = [column for column in columns if column not in found]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}; "
            f"{where}"
        )
    if not rows:
        raise InputError(f"{path} has a head but no row; {where}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}, row {number}, has not as many cells as the head; {where}")
    return rows


def file_within(folder: Path, name: str, listed_in: Path) -> Path:
    """A file that a csv names, which must lie within the benchmark's folder.

    Raises:
        InputError: it is not there, or the name leads out of the folder.
    """
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise InputError(f"{listed_in} names {name!r}, which is no file within {folder}")
    path = folder / parts
    if not path.is_file():
        raise InputError(
            f"{listed_in} names {name}, but there is no {path}; extract the archive again"
        )
    return path
