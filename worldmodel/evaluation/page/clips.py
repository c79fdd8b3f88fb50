"""Blocks to watch: the four clips of one test block of each kind, and surprise over their time.

A folder `clips/` beside the report holds a small video per kind, with the four clips of its block
in step, and `clips.json` with the curves. A page can be made of it long after the set is gone.
"""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from worldmodel.data.encode import encode_video
from worldmodel.data.shards import SampleRef
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Block, read_block
from worldmodel.evaluation.pictures import Shown
from worldmodel.evaluation.surprise import CLIPS, contrast_wins, splice, splice_frames
from worldmodel.evaluation.surprise.choice import clip_scores
from worldmodel.evaluation.surprise.scores import BlockScores
from worldmodel.evaluation.surprise.splices import violation_frame
from worldmodel.models.checkpoint import ClipSpec

FOLDER, LIST_NAME = "clips", "clips.json"
# Pixels a side of one clip of four: small ones are enlarged by a whole factor, so that what is seen
# are the model's own pixels, and that halved chroma blurs none of them.
TILE_PX, GAP_PX = 256, 8
GAP_GREY = 40
# Of 9 blocks of the default set 0.6 MB, and nothing to be seen of it; at 18 they are 0.9 MB.
CRF = 23
# A second: one can step to any moment without waiting.
KEYFRAMES_PER_SECOND = 1
# The still that stands for a video shows the violation when it has become plain.
STILL_SECONDS = 0.5
FILE_NAME = re.compile(r"[\w-]+\.mp4")


@dataclass(frozen=True)
class WatchedBlock:
    """One block as a page shows it.

    Attributes:
        kind: physical concept.
        key: of its sample.
        video: mp4 of `mosaic`, its bytes.
        num_frames: of a clip.
        fps: frames per second.
        windows: frames `(start, stop)` that are equal to the bit in both worlds, stop excluded.
        splices: frames at which the impossible clips change worlds.
        violation: first frame at which that can be seen; None where it never can.
        seconds: when each step of the curves ends.
        curves: of AA, BB, AB and BA, surprise at each step.
        scores: of the same four, as the headline reads them.
        relative_accuracy: of this block alone: 1, or 0, or one half for a tie.
    """

    kind: str
    key: str
    video: bytes
    num_frames: int
    fps: float
    windows: tuple[tuple[int, int], ...]
    splices: tuple[int, ...]
    violation: int | None
    seconds: tuple[float, ...]
    curves: dict[str, tuple[float, ...]]
    scores: dict[str, float]
    relative_accuracy: float

    @property
    def still(self) -> int:
        """The frame that stands for the video: half a second into the violation."""
        frame = (self.violation or 0) + round(STILL_SECONDS * self.fps)
        return min(frame, self.num_frames - 1)


@dataclass(frozen=True)
class Watched:
    """What `clips/` holds.

    Attributes:
        place: in words, whose surprise the curves show.
        headline: in words, how the scores were read.
        blocks: one of each kind.
    """

    place: str
    headline: str
    blocks: tuple[WatchedBlock, ...]


def write_clips(
    report_folder: Path,
    meta: Mapping[str, Any],
    refs: Sequence[SampleRef],
    clip: ClipSpec,
    shown: Shown,
) -> None:
    """Write `clips/`: of each kind of test blocks the first by key, however well it looks.

    Args:
        report_folder: of the report.
        meta: its section `meta`, by which a page knows that clips and report belong together.
        refs: the test blocks.
        clip: frames, rate and size of what the model saw.
        shown: scores of the blocks, and where the headline is read. Where nothing is predicted
            nothing is written, and an older list is removed.
    """
    folder = report_folder / FOLDER
    (folder / LIST_NAME).unlink(missing_ok=True)
    if shown.choice is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    scores, by_key = shown.scores, {ref.key: ref for ref in refs}
    entries = []
    for kind in sorted(set(scores.kinds.tolist())):
        key = min(key for key, of in zip(scores.keys, scores.kinds, strict=True) if of == kind)
        block = read_block(by_key[key], clip, maps=False)
        video = encode_video(
            mosaic(block), block.fps, crf=CRF, gop=round(block.fps / KEYFRAMES_PER_SECOND) or 1
        )
        (folder / f"{kind}.mp4").write_bytes(video)
        entries.append({"video": f"{kind}.mp4", **_describe(block, scores, shown)})
    level, horizon = shown.choice.place
    ahead = horizon * shown.spans[level] / shown.fps
    listing = {
        **_origin(meta),
        "place": f"level {level}, {horizon} step{'s' * (horizon > 1)} ({ahead:g} s) ahead",
        "headline": shown.choice.candidate.describe(shown.spans, shown.fps),
        "blocks": entries,
    }
    text = json.dumps(listing, indent=1, allow_nan=False)
    (folder / LIST_NAME).write_text(text + "\n", encoding="utf-8")


def _describe(block: Block, scores: BlockScores, shown: Shown) -> dict[str, Any]:
    """What `clips.json` says of a block."""
    assert shown.choice is not None
    number = scores.keys.index(block.key)
    level, horizon = shown.choice.place
    curves = scores.curves[level, horizon][number]
    steps = np.arange(curves.shape[1]) + horizon
    headline = clip_scores(scores.curves, shown.choice.candidate, shown.choice.spreads)[
        number : number + 1
    ]
    return {
        "kind": block.kind,
        "key": block.key,
        "num_frames": block.frames.shape[1],
        "fps": block.fps,
        "windows": [list(window) for window in block.windows],
        "splice_frames": list(splice_frames(block.windows, 1) or ()),
        "violation_frame": violation_frame(block),
        "seconds": (((steps + 1) * shown.spans[level] - 1) / shown.fps).tolist(),
        "curves": dict(zip(CLIPS, curves.tolist(), strict=True)),
        "scores": dict(zip(CLIPS, headline[0].tolist(), strict=True)),
        "relative_accuracy": float(contrast_wins(headline)[0]),
    }


def mosaic(block: Block) -> UInt8[np.ndarray, "time height width 3"]:
    """The four clips of a block in one picture: AA and AB above BB and BA.

    What begins alike lies side by side, what is possible on the left.
    """
    splices = splice_frames(block.windows, 1)
    assert splices is not None, f"a window of {block.key} ends before it starts"
    clips = splice(block.frames, splices).permute(0, 1, 3, 4, 2).numpy()
    times = max(1, round(TILE_PX / clips.shape[3]))
    aa, bb, ab, ba = clips.repeat(times, 2).repeat(times, 3)
    upper, lower = (_beside(left, right, axis=2) for left, right in ((aa, ab), (bb, ba)))
    return _beside(upper, lower, axis=1)


def _beside(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    shape = [*first.shape]
    shape[axis] = GAP_PX
    return np.concatenate([first, np.full(shape, GAP_GREY, np.uint8), second], axis)


def _origin(meta: Mapping[str, Any]) -> dict[str, Any]:
    data = meta.get("data")
    return {
        "checkpoint_sha256": meta.get("checkpoint_sha256"),
        "index_sha256": data.get("index_sha256") if isinstance(data, Mapping) else None,
    }


def read_clips(report_folder: Path, meta: Mapping[str, Any]) -> Watched:
    """What `write_clips` left in a report's folder.

    Args:
        report_folder: of the report.
        meta: its section `meta`.

    Raises:
        InputError: there is nothing, or something else, or it is of another checkpoint or set.
    """
    path = report_folder / FOLDER / LIST_NAME
    if not path.is_file():
        raise InputError(
            f"there is no {FOLDER}/{LIST_NAME} in this report's folder: the evaluation was one of "
            "an earlier version, or of a model that predicts nothing, or its clips were not kept"
        )
    try:
        listing = json.loads(path.read_text(encoding="utf-8"))
        of_these = {name: listing[name] for name in _origin(meta)}
        if of_these != _origin(meta):
            raise InputError(
                f"{FOLDER}/{LIST_NAME} is of another checkpoint or set than this report"
            )
        blocks = tuple(_read_block(path.parent, entry) for entry in listing["blocks"])
        return Watched(str(listing["place"]), str(listing["headline"]), blocks)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{FOLDER}/{LIST_NAME} is not as this version writes it "
            f"({type(error).__name__}: {error}); evaluate again"
        ) from error


def _read_block(folder: Path, entry: Mapping[str, Any]) -> WatchedBlock:
    name = entry["video"]
    # A name and not a path: a listing from elsewhere must not put other files into a page.
    if not FILE_NAME.fullmatch(name):
        raise InputError(f"{name!r} in {FOLDER}/{LIST_NAME} is no name of an mp4 file")
    if not (folder / name).is_file():
        raise InputError(f"there is no {FOLDER}/{name}, which {FOLDER}/{LIST_NAME} names")
    seconds = _numbers(entry["seconds"])
    violation = entry["violation_frame"]
    block = WatchedBlock(
        kind=str(entry["kind"]),
        key=str(entry["key"]),
        video=(folder / name).read_bytes(),
        num_frames=int(entry["num_frames"]),
        fps=float(entry["fps"]),
        windows=tuple((int(start), int(stop)) for start, stop in entry["windows"]),
        splices=tuple(int(frame) for frame in entry["splice_frames"]),
        violation=None if violation is None else int(violation),
        seconds=seconds,
        curves={name: _numbers(entry["curves"][name]) for name in CLIPS},
        scores=dict(zip(CLIPS, _numbers([entry["scores"][name] for name in CLIPS]), strict=True)),
        relative_accuracy=float(entry["relative_accuracy"]),
    )
    if not block.num_frames > 0 or not 0 < block.fps < math.inf:
        raise ValueError(f"{block.num_frames} frames at {block.fps} fps")
    if any(len(curve) != len(seconds) for curve in block.curves.values()):
        raise ValueError(f"curves of {block.key} have not {len(seconds)} steps")
    return block


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return numbers


def still_jpeg(block: WatchedBlock) -> tuple[bytes, tuple[int, int]]:
    """The frame that stands for a video before it plays, and on paper; and (width, height).

    Raises:
        InputError: the video cannot be decoded.
    """
    try:
        with av.open(io.BytesIO(block.video), "r", format="mp4") as container:
            frames = container.decode(video=0)
            for number, frame in enumerate(frames):
                if number == block.still:
                    buffer = io.BytesIO()
                    picture = frame.to_image()
                    picture.save(buffer, "JPEG", quality=85)
                    return buffer.getvalue(), picture.size
    except av.FFmpegError as error:
        raise InputError(f"the video of {block.key} cannot be decoded: {error}") from error
    raise InputError(f"the video of {block.key} has no frame {block.still}")
