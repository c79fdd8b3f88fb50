"""IntPhys, the 2019 edition, as its archives unpack (https://intphys.cognitive-ml.fr).

    ROOT/{dev,test}/{O1,O2,O3}/SCENE/{1,2,3,4}/scene/scene_001.png ... scene_100.png
                                              /depth/depth_001.png ...    dev
                                              /masks/masks_001.png ...    dev
                                              /status.json                dev

A scene's folder is a zero-padded number (`0001`, `01`), in some releases with the condition after
it (`0001_O1_test_visible_static_nobj1`). Its four movies are two possible and two impossible ones
in an order that was drawn by lot. The starter kit's `task.txt`, laid into ROOT, names the movies
that a submission must score.
"""

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.benchmarks.movies import (
    Movie,
    MovieSet,
    PictureFolder,
    list_pictures,
    load_picture,
    named,
    subfolders,
)
from worldmodel.data.shards import written_whole
from worldmodel.errors import InputError

SPLITS = ("dev", "test")
BLOCKS = ("O1", "O2", "O3")  # object permanence, shape constancy, spatio-temporal continuity
MOVIES = ("1", "2", "3", "4")
# 100 pictures are about 7 seconds (Riochet et al., https://arxiv.org/abs/1803.07616); files do not
# say at what rate they were taken.
FPS = 15.0
MAX_DEPTH_MILLIMETRES = 65535
UNLISTED = "unlisted"  # what a mask shows that status.json does not name
TASK = "task.txt"
ANSWER = "answer.txt"
_MAX_STATUS_BYTES = 1 << 26
_SCENE = re.compile(r"\d+(_.*)?")
_CONDITION = re.compile(r"(visible|occluded)_(static|dynamic_1|dynamic_2)_nobj(\d+)", re.IGNORECASE)
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold, and always the same


def list_movies(root: Path, split: str, blocks: Sequence[str] = BLOCKS) -> MovieSet:
    """The movies of a split.

    Args:
        root: folder that holds `dev` or `test`.
        split: dev or test.
        blocks: which of O1, O2, O3; all must be there by default.

    Raises:
        InputError: a block, a scene's movie, a status or a picture is missing, or a scene's labels
            are not two possible and two impossible.
    """
    movies: list[Movie] = []
    for block in blocks:
        folder = root / split / block
        if not folder.is_dir():
            raise InputError(
                f"there is no folder {folder}; extract {_archive(split, block)} in {root} (movies "
                f"are looked for in {root}/{split}/O1/0001/1/scene)"
            )
        scenes = subfolders(folder)
        if not scenes:
            raise InputError(f"{folder} has no scene; extract {_archive(split, block)} again")
        for scene in scenes:
            movies += _list_scene(folder / scene, split, block)
    _check_task(root / TASK, movies)
    note = (
        f"Pictures are taken to be {FPS:g} a second. A possible movie is compared with the "
        "impossible one that is equal to it, to the bit at the model's size, for longest."
    )
    return MovieSet("intphys", split, tuple(movies), notes=(note,))


def _archive(split: str, block: str) -> str:
    return f"test.{block}.tar.gz" if split == "test" else f"{split}.tar.gz"


def _list_scene(folder: Path, split: str, block: str) -> list[Movie]:
    if not _SCENE.fullmatch(folder.name):
        raise InputError(f"{folder} is no scene: its name should begin with a number, as 0001")
    found = subfolders(folder)
    if found != list(MOVIES):
        raise InputError(
            f"{folder} must hold the movies 1, 2, 3 and 4 but has {', '.join(found) or 'none'}; "
            f"extract {_archive(split, block)} again"
        )
    lengths = {name: len(list_pictures(folder / name / "scene", "scene")) for name in MOVIES}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"the movies of {folder} have {', '.join(map(str, lengths.values()))} pictures and "
            f"cannot be compared; extract {_archive(split, block)} again"
        )
    movies = []
    for name in MOVIES:
        status = read_status(folder / name, required=split == "dev")
        movies.append(
            Movie(
                key=f"{block}/{folder.name}/{name}",
                group=f"{block}/{folder.name}",
                concept=block,
                possible=is_possible(status),
                source=PictureFolder(folder / name / "scene", "scene", FPS),
                tags=condition_tags(folder.name, status),
            )
        )
    labels = [movie.possible for movie in movies]
    if None not in labels and sum(map(bool, labels)) != 2:
        raise InputError(
            f"{folder} has {sum(map(bool, labels))} possible movies by their status.json, not 2; "
            f"extract {_archive(split, block)} again"
        )
    # The condition is the scene's: a violation hidden in one movie is hidden in all.
    shared = {name: value for movie in movies for name, value in movie.tags.items()}
    return [Movie(**{**vars(movie), "tags": shared}) for movie in movies]


def read_status(folder: Path, required: bool = True) -> dict[str, Any]:
    """A movie's `status.json`; empty where there is none and none is required.

    Raises:
        InputError: it is missing or no JSON object.
    """
    path = folder / "status.json"
    if not path.is_file():
        if required:
            raise InputError(
                f"there is no {path}, which says whether the movie is possible; extract the "
                "archive again"
            )
        return {}
    try:
        if path.stat().st_size > _MAX_STATUS_BYTES:
            raise ValueError(f"it has more than {_MAX_STATUS_BYTES} bytes")
        status = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file ({error}); extract the archive again") from error
    if not isinstance(status, dict) or not isinstance(status.get("header", {}), dict):
        raise InputError(f"{path} is JSON but no movie's status; extract the archive again")
    return status


def is_possible(status: Mapping[str, Any]) -> bool | None:
    """Whether a movie is possible, by the header or, in version 1.0, by the status itself."""
    answer = status.get("header", {}).get("is_possible", status.get("possible"))
    return answer if isinstance(answer, bool) else None


def condition_tags(scene: str, status: Mapping[str, Any]) -> dict[str, str]:
    """Occluded or visible, how things move and how many there are, where anything says so."""
    texts = [scene, status.get("header", {}).get("block_name"), status.get("block")]
    for text in texts:
        match = _CONDITION.search(text) if isinstance(text, str) else None
        if match:
            view, motion, objects = match.groups()
            return {"view": view.lower(), "motion": motion.lower(), "objects": objects}
    return {}


def read_depth(folder: Path) -> np.ndarray:
    """Depth of a movie in metres, float32 `(T, H, W)`.

    The pictures hold 65535 - millimetres, so that what is near is bright; 0 is 65.535 m or more.

    Args:
        folder: of the movie; its `depth` is read.

    Raises:
        InputError: a picture is missing, broken or not of 16 bits a pixel.
    """
    frames = []
    for path in list_pictures(folder / "depth", "depth"):
        picture = load_picture(path)
        if picture.ndim != 2 or picture.dtype not in (np.uint16, np.int32):
            raise InputError(
                f"{path} must be grey with 16 bits a pixel, found {picture.dtype} "
                f"{picture.shape}; depth of 8 bits is that of version 1.0, which is not read"
            )
        frames.append((MAX_DEPTH_MILLIMETRES - picture.astype(np.int64)) / 1000)
    return _stacked(frames, folder / "depth").astype(np.float32)


@dataclass(frozen=True)
class Masks:
    """Which actor each pixel of a movie shows, by numbers that stay the same in all frames.

    Attributes:
        ids: uint8 `(T, H, W)`, index into `names`.
        names: the first stands for whatever `status.json` does not name; the others are sorted.
    """

    ids: np.ndarray
    names: tuple[str, ...]


def read_masks(folder: Path) -> Masks:
    """Masks of a movie. Its pictures give the same actor another grey in every frame.

    Args:
        folder: of the movie; its `masks` and `status.json` are read.

    Raises:
        InputError: a picture or the status is missing, broken, or they do not fit one another.
    """
    paths = list_pictures(folder / "masks", "masks")
    greys = _greys_by_frame(read_status(folder), len(paths), folder / "status.json")
    names = (UNLISTED, *sorted({name for frame in greys for name in frame}))
    if len(names) > 256:
        raise InputError(f"{folder}/status.json names {len(names)} actors; at most 255 are read")
    frames = []
    for path, frame in zip(paths, greys, strict=True):
        table = np.zeros(256, np.uint8)
        for name, grey in frame.items():
            table[grey] = names.index(name)
        frames.append(table[_grey(path)])
    return Masks(_stacked(frames, folder / "masks"), names)


def _grey(path: Path) -> np.ndarray:
    picture = load_picture(path)
    if picture.ndim == 3 and (picture[..., :3] == picture[..., :1]).all():
        picture = picture[..., 0]
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise InputError(
            f"{path} must be grey with 8 bits a pixel, found {picture.dtype} {picture.shape}; "
            "extract the archive again"
        )
    return picture


def _greys_by_frame(status: Mapping[str, Any], frames: int, path: Path) -> list[dict[str, int]]:
    """Per frame the grey of each actor."""
    if isinstance(status.get("masks_grayscale"), list):  # version 1.0: the same in all frames
        found: list[Any] = [{row[1]: row[0] for row in status["masks_grayscale"]}] * frames
    else:
        entries = status.get("frames")
        entries = entries if isinstance(entries, list) else []
        found = [entry.get("masks") if isinstance(entry, dict) else None for entry in entries]
    if len(found) != frames:
        raise InputError(f"{path} describes {len(found)} frames but there are {frames} masks")
    for number, frame in enumerate(found, start=1):
        plain = isinstance(frame, dict) and all(
            isinstance(grey, int) and 0 <= grey <= 255 for grey in frame.values()
        )
        if not plain or len(set(frame.values())) < len(frame):
            raise InputError(f"{path} gives no grey of 0 to 255 to each actor of frame {number}")
    return found


def _stacked(frames: Sequence[np.ndarray], folder: Path) -> np.ndarray:
    if len({frame.shape for frame in frames}) > 1:
        raise InputError(f"the pictures of {folder} differ in size; extract the archive again")
    return np.stack(list(frames))


def _check_task(path: Path, movies: Sequence[Movie]) -> None:
    """Refuse a split that is not what the starter kit's list asks for."""
    if not path.is_file():
        return
    wanted = read_task(path)
    found = [movie.key for movie in movies]
    if set(wanted).isdisjoint(found):  # the list of another split
        return
    missing, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or more:
        what = f"has no {named(missing)}" if missing else f"has {named(more)} besides"
        raise InputError(f"{path} lists {len(wanted)} movies, but this folder {what}")


def read_task(path: Path) -> list[str]:
    """The movies that a submission must score, in their order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no list of movies ({error}); get the starter kit") from error
    return [line.strip() for line in lines if line.strip()]


def plausibility(surprise: np.ndarray) -> np.ndarray:
    """Scores 0 to 1 of a submission: the least surprising movie gets 1, the most surprising 0.

    It is one linear function of surprise for all movies, so neither the order of movies nor that
    of sums over a scene's movies, which are what the challenge compares, depends on the choice of
    the function. All are 0.5 where all are equal.

    Args:
        surprise: float64 `(n,)`, of all movies of a submission.
    """
    low, high = surprise.min(), surprise.max()
    if high == low:
        return np.full(len(surprise), 0.5)
    return (high - surprise) / (high - low)


def write_submission(
    folder: Path, keys: Sequence[str], surprise: np.ndarray, task: Path | None = None
) -> Path:
    """Write `answer.txt`, a line `O1/0001/1 0.97` per movie, and the zip to hand in.

    Args:
        folder: gets both.
        keys: names of the movies, as `task.txt` has them.
        surprise: float64 `(n,)`, of each.
        task: the starter kit's list, whose order is kept if there is such a file.

    Returns:
        The zip.

    Raises:
        InputError: the folder cannot be written to.
    """
    scores = dict(zip(keys, plausibility(surprise).tolist(), strict=True))
    order = read_task(task) if task is not None and task.is_file() else list(keys)
    if set(order) != set(scores):  # the list of another split
        order = list(keys)
    text = "".join(f"{key} {scores[key]:.15f}\n" for key in order).encode()
    with written_whole(folder / ANSWER, "submission") as file:
        file.write(text)
    packed = folder / "intphys-submission.zip"
    with (
        written_whole(packed, "submission") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(ANSWER, _ZIP_EPOCH), text)
    return packed
