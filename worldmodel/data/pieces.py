"""One video into small pieces: scaled, turned upright, freed of sound, cut where its scenes end.

Each scene is cut into consecutive pieces of nearly equal length, none longer than 10 seconds (or 32
frames where these last longer), so a piece never straddles a scene cut. Scenes of fewer than 16
frames are dropped.

Where the cuts are is known when the whole video has been looked at. Until then its small pictures
are held, those of some 3 minutes at 128 pixels; a longer video is decoded twice, once for its cuts
and once for its pieces, and one piece at a time is held.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from worldmodel.data import transforms
from worldmodel.data.cuts import CutDetector
from worldmodel.data.encode import encode_video
from worldmodel.data.journal import Packed, Piece, Source, stage
from worldmodel.data.packets import with_packets
from worldmodel.data.sequential import SequentialVideo
from worldmodel.data.video import VideoDecoder
from worldmodel.errors import InputError

MAX_PIECE_SECONDS = 10.0
# 10 s at 60 frames a second; slow motion is cut into shorter pieces, to bound the memory of one.
MAX_PIECE_FRAMES = 600
# A clip of 16 frames at every second one: what is shorter serves nobody.
MIN_FRAMES = 16
MAX_MISSING_SHARE = 0.05
QUALITY = 20
# Times within this of the even grid are meant to be even: mkv, flv and wmv round both to
# milliseconds, and nobody sees one more.
EVEN_WITHIN_SECONDS = 0.002
MAX_HELD_BYTES = 512 << 20
CHUNK = 32  # frames that are looked at together
DETECTION_SIZE = 64  # pixels of the short side of what is only looked at for cuts


def longest_piece(fps: float) -> int:
    """Frames of the longest piece; at least so many that either half of more is of use."""
    return max(2 * MIN_FRAMES, min(MAX_PIECE_FRAMES, int(MAX_PIECE_SECONDS * fps)))


def plan_pieces(
    num_frames: int, cuts: Sequence[int], longest: int
) -> tuple[list[tuple[int, int, int]], int]:
    """Which frames make which piece; arithmetic only.

    Args:
        num_frames: of the whole video.
        cuts: frames with which a new scene begins, ascending.
        longest: frames of the longest piece.

    Returns:
        (first frame, end, number of its scene) of each piece, and how many frames are in none.
    """
    pieces = []
    num_dropped = 0
    for scene, (start, stop) in enumerate(itertools.pairwise((0, *cuts, num_frames))):
        if stop - start < MIN_FRAMES:
            num_dropped += stop - start
            continue
        count = -(-(stop - start) // longest)
        borders = [start + (stop - start) * number // count for number in range(count + 1)]
        pieces += [(*piece, scene) for piece in itertools.pairwise(borders)]
    return pieces, num_dropped


def shorten(plan: Sequence[tuple[int, int, int]], times: np.ndarray) -> list[tuple[int, int, int]]:
    """Halve in time, again and again, the pieces that last over 10 s since their frames are slow.

    Args:
        plan: (first frame, end, number of its scene) of each piece.
        times: when each frame of the video is shown, seconds, ascending.
    """
    short = []
    for start, stop, scene in plan:
        if times[stop - 1] - times[start] <= MAX_PIECE_SECONDS or stop - start <= 2 * MIN_FRAMES:
            short.append((start, stop, scene))
            continue
        half = int(np.searchsorted(times, (times[start] + times[stop - 1]) / 2))
        half = min(max(half, start + MIN_FRAMES), stop - MIN_FRAMES)
        short += shorten([(start, half, scene), (half, stop, scene)], times)
    return short


def check_length(video: VideoDecoder) -> None:
    """Refuse a video that has been cut short, or is too short for a clip.

    Raises:
        InputError: it says how many frames there are.
    """
    if video.num_missing > MAX_MISSING_SHARE * video.num_frames:
        raise InputError(
            f"it has been cut short: {video.num_missing} of "
            f"{video.num_frames + video.num_missing} frames are missing"
        )
    if video.num_frames < MIN_FRAMES:
        raise InputError(f"it has {video.num_frames} frames, at least {MIN_FRAMES} are needed")


def cut_video(source: Source, folder: Path, size: int, scene_cuts: bool) -> Packed:
    """Cut one video into encoded pieces.

    Args:
        source: the video.
        folder: where its pieces go.
        size: pixels of the short side.
        scene_cuts: whether to look for cuts; if not, the video is one scene.

    Raises:
        InputError: the video is damaged or too short, or all of its scenes are.
    """
    video = SequentialVideo(source.path)
    try:
        check_length(video)
        shape = transforms.scaled_size(video.width, video.height, size, video.pixel_aspect)
        cuts, frames = _look(video, shape) if scene_cuts else ([], video.walk(shape))
        plan, num_dropped = plan_pieces(video.num_frames, cuts, longest_piece(video.fps))
        if not plan:
            raise InputError(
                f"each of its {len(cuts) + 1} scenes is shorter than {MIN_FRAMES} frames"
            )
        all_times = video.pts_seconds(range(video.num_frames))
        pieces = []
        position = 0
        for number, (start, stop, scene) in enumerate(shorten(plan, all_times)):
            taken = np.stack(list(itertools.islice(frames, start - position, stop - position)))
            position = stop
            times = all_times[start:stop]
            fps = piece_fps(times, video.fps)
            members = encode_piece(taken, fps, times)
            told = describe(source, fps, len(taken), shape, float(times[0]))
            files = stage(folder, f"{number:04d}", members)
            num_bytes = sum(len(content) for content in members.values())
            told["scene"] = scene
            pieces.append(Piece(f"{source.key}-{number:04d}", files, num_bytes, told))
    finally:
        video.close()
    return Packed(tuple(pieces), len(cuts), num_dropped)


def describe(
    source: Source, fps: float, num_frames: int, size: tuple[int, int], start_seconds: float = 0.0
) -> dict[str, object]:
    """What every packed sample's `json` says."""
    return {
        "source": Path(source.name).name,
        "fps": fps,
        "num_frames": num_frames,
        "width": size[0],
        "height": size[1],
        "start_seconds": start_seconds,
        "seed": None,
        "kind": "video",
    }


def _look(video: SequentialVideo, shape: tuple[int, int]) -> tuple[list[int], Iterator[np.ndarray]]:
    """The cuts of a video, and its frames from the first on."""
    num_bytes = video.num_frames * shape[0] * shape[1] * 3
    if num_bytes > MAX_HELD_BYTES:
        return find_cuts(video.walk(shape)), video.walk(shape)
    held = list(video.walk(shape))
    return find_cuts(held), iter(held)


def find_cuts(frames: Iterable[np.ndarray]) -> list[int]:
    """The frames with which a new scene begins, ascending.

    Args:
        frames: all of a video, each uint8 `(H, W, 3)`.
    """
    detector = CutDetector()
    frames = iter(frames)
    while chunk := list(itertools.islice(frames, CHUNK)):
        detector.feed(np.stack(chunk))
    return [int(cut) for cut in detector.finish()]


def piece_fps(pts_seconds: np.ndarray, fps: float) -> float:
    """Frames per second of a piece: those of its video where it has them, else its own on average.

    Args:
        pts_seconds: when each frame is shown, ascending; at least two.
        fps: frames per second of the whole video, on average.
    """
    if _is_even(pts_seconds, fps):
        return fps
    return (len(pts_seconds) - 1) / float(pts_seconds[-1] - pts_seconds[0])


def encode_piece(frames: np.ndarray, fps: float, pts_seconds: np.ndarray) -> dict[str, bytes]:
    """The members that hold a piece, with its true times where they are uneven.

    Args:
        frames: uint8 `(T, H, W, 3)`.
        fps: frames per second, on average.
        pts_seconds: when each frame is shown.
    """
    times = None if _is_even(pts_seconds, fps) else pts_seconds
    return with_packets(encode_video(frames, fps, crf=QUALITY, pts_seconds=times))


def _is_even(pts_seconds: np.ndarray, fps: float) -> bool:
    off = pts_seconds - pts_seconds[0] - np.arange(len(pts_seconds)) / fps
    return bool(np.abs(off).max() <= EVEN_WITHIN_SECONDS)
