"""A video as it is into a sample: the picture stream alone, moved to another container.

Nothing is encoded anew, so size, codec and times stay what they are. The copy is decoded once from
its first frame to its last, which is when its scene cuts are found too.
"""

import errno
import os
from pathlib import Path

import av
import numpy as np

from worldmodel.data import transforms
from worldmodel.data.journal import Packed, Piece, Source, stage
from worldmodel.data.packets import with_packets
from worldmodel.data.pieces import DETECTION_SIZE, check_length, describe, find_cuts
from worldmodel.data.sequential import SequentialVideo
from worldmodel.data.shards import MAX_MEMBER_BYTES
from worldmodel.data.transforms import scaled_size
from worldmodel.data.video import reason_of
from worldmodel.errors import InputError

# Member's extension -> container, in the order of preference: mp4 keeps times exactly, the others
# to milliseconds, but take codecs that mp4 does not (VP8 and Theora, WMV).
_CONTAINERS = {"mp4": "mp4", "webm": "webm", "mkv": "matroska"}
# Times may be rounded to milliseconds on both sides.
_SAME_TIME = 0.0015


def keep_video(source: Source, folder: Path, scene_cuts: bool) -> Packed:
    """Put a whole video into one sample.

    Args:
        source: the video.
        folder: where its files go.
        scene_cuts: whether to look for cuts and note them.

    Raises:
        InputError: the video is damaged, too short, larger than 2 GiB, or of a kind that cannot be
            moved without being encoded anew.
    """
    video = SequentialVideo(source.path)
    try:
        check_length(video)
        # Refused here too where the long side is more than 16 times the short one.
        transforms.scaled_size(video.width, video.height, DETECTION_SIZE, video.pixel_aspect)
        path, extension = _remux(video, folder)
        metadata, num_cuts = _check(video, path, source, scene_cuts)
    finally:
        video.close()
    members = with_packets(path.read_bytes(), extension)
    files = stage(folder, "video", members)
    path.unlink()
    num_bytes = sum(len(content) for content in members.values())
    return Packed((Piece(source.key, files, num_bytes, metadata),), num_cuts)


def _remux(video: SequentialVideo, folder: Path) -> tuple[Path, str]:
    """Copy the packets into the first container that takes them; returns the file and its kind."""
    path = folder / f"copy.{os.getpid()}.part"
    reason = ""
    for extension, container in _CONTAINERS.items():
        try:
            _copy(video, path, container)
            return path, extension
        except InputError:
            raise
        except (ValueError, av.FFmpegError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(errno.ENOSPC, "no space left on the disk") from error
            if isinstance(error, av.FFmpegError):
                reason = f": {reason_of(error)}"
    raise InputError(
        f"no container takes its packets as they are (codec {video.codec}{reason}); "
        "pack it without --keep"
    )


def _copy(video: SequentialVideo, path: Path, container: str) -> None:
    stream, packets = video.stored()
    num_bytes = 0
    # bitexact: no version, date or random number in the file.
    options = {"fflags": "+bitexact"}
    with av.open(str(path), "w", format=container, container_options=options) as out:
        copy = out.add_stream_from_template(stream)
        for packet in packets:
            num_bytes += packet.size
            if num_bytes > MAX_MEMBER_BYTES:
                raise InputError(
                    f"it is larger than {MAX_MEMBER_BYTES} bytes, which a member may have; "
                    "pack it without --keep, or cut it into parts"
                )
            packet.stream = copy
            out.mux(packet)


def _check(
    video: SequentialVideo, path: Path, source: Source, scene_cuts: bool
) -> tuple[dict[str, object], int]:
    """Decode the copy and compare it with its source; returns the metadata and number of cuts."""
    copy = SequentialVideo(path)
    try:
        _compare(video, copy)
        size = scaled_size(copy.width, copy.height, DETECTION_SIZE, copy.pixel_aspect)
        frames = copy.walk(size)
        metadata = describe(source, copy.fps, copy.num_frames, (copy.width, copy.height))
        cuts: list[int] = []
        if scene_cuts:
            cuts = find_cuts(frames)
            metadata["scene_cuts"] = cuts
        else:
            for _ in frames:  # for the damage that only decoding shows
                pass
        return metadata, len(cuts)
    finally:
        copy.close()


def _compare(video: SequentialVideo, copy: SequentialVideo) -> None:
    """Refuse a copy that shows anything else than its source."""
    if copy.has_packet_times and not video.has_packet_times:
        # H.264 in avi: which picture comes first is known to the decoder alone.
        raise InputError("its container does not say when a frame is shown; pack it without --keep")
    for what in ("num_frames", "width", "height", "rotation", "pixel_aspect"):
        wanted, found = getattr(video, what), getattr(copy, what)
        if wanted != found:
            raise InputError(
                f"its {what} would change from {wanted} to {found} in another container; "
                "pack it without --keep"
            )
    indices = range(video.num_frames)
    shift = np.abs(video.pts_seconds(indices) - copy.pts_seconds(indices)).max()
    if shift > _SAME_TIME:
        raise InputError(
            f"its times would change by {shift:.3f} s in another container; pack it without --keep"
        )
