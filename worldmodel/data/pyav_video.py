"""PyAV behind the interface of `VideoDecoder`: any video, by seeking to keyframes."""

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from worldmodel.data.video import MAX_FRAMES, MAX_PIXELS, MAX_SECONDS, VideoDecoder, reason_of
from worldmodel.errors import InputError

# Containers that hold frames themselves. A playlist (hls, concat, dash) would open other files.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,h264,hevc,ivf,yuv4mpegpipe"
# Codecs with packets that are never shown; only decoding tells which.
_CODECS_WITH_HIDDEN_PACKETS = ("vp8",)
# Since 17 PyAV scales with a thread per core, which for small pictures costs 7 times the scaling.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

# From one keyframe: 33,000 frames of full HD or 1,000 of the largest that are read, which take
# minutes. A file of some kilobytes may claim to need more before the first wanted frame.
MAX_DECODED_PIXELS = 1 << 36
MAX_WALKED_PIXELS = 1 << 40  # of one walk through a video: five hours of full HD
MAX_CLIP_BYTES = 1 << 33  # of the frames that one call gives: 1,380 of full HD


def plan_segments(wanted: Sequence[int], keyframes: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Where to start decoding for which frames: never two segments where one run is as short.

    Args:
        wanted: frame indices, ascending.
        keyframes: indices of the keyframes, ascending, the first at or before every wanted frame.

    Returns:
        (keyframe to start at, wanted frames to take in this run), ascending.
    """
    segments: list[tuple[int, list[int]]] = []
    position = -1  # the last frame the current run has decoded
    for index in wanted:
        keyframe = keyframes[max(0, bisect_right(keyframes, index) - 1)]
        if not segments or keyframe > position + 1:
            segments.append((keyframe, []))
        segments[-1][1].append(index)
        position = index
    return segments


class PyavVideo(VideoDecoder):
    """PyAV, one thread: several worker processes beat several threads (1.9x against 1.3x of 2)."""

    def __init__(self, data: bytes | Path) -> None:
        self._data = data
        self._name = "video" if isinstance(data, bytes) else f"video {data}"
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        try:
            self._open()
            self._index_packets()
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self._name} cannot be decoded: {reason_of(error)}") from error
        if not self._pts:
            raise InputError(f"{self._name} holds no frame; it is empty or has been cut short")

    def _open(self) -> None:
        if isinstance(self._data, bytes):
            if not self._data:
                raise InputError(f"{self._name} is empty (0 bytes)")
            source: Any = io.BytesIO(self._data)
        else:
            source = str(self._data)
            if not Path(source).is_file():
                raise InputError(f"{self._name} does not exist or is no file")
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        self._container = av.open(source, container_options=options, metadata_errors="replace")
        if not self._container.streams.video:
            raise InputError(f"{self._name} has no picture stream; it may be sound only")
        self._stream = self._container.streams.video[0]
        codec = self._stream.codec_context
        if codec is None:
            raise InputError(f"{self._name} is of a codec that nobody here knows; encode it anew")
        if codec.width <= 0 or codec.height <= 0:
            raise InputError(f"{self._name} does not say how large its frames are")
        if codec.width * codec.height > MAX_PIXELS:
            raise InputError(
                f"{self._name} claims frames of {codec.width}x{codec.height} pixels; "
                f"at most {MAX_PIXELS} pixels are decoded"
            )
        self._stream.thread_type = "NONE"
        codec.thread_count = 1
        # The stream itself may tell another size than its container.
        codec.options = {**codec.options, "max_pixels": str(MAX_PIXELS)}

    def _index_packets(self) -> None:
        # Not the packets themselves: together they are as large as the file.
        found = [
            (packet.pts, packet.is_keyframe, packet.is_discard)
            for packet in self._container.demux(self._stream)
            if packet.size
        ]
        self._num_packets = len(found)
        packets = [(pts, is_keyframe) for pts, is_keyframe, is_discard in found if not is_discard]
        times = [pts for pts, _ in packets if pts is not None]
        codec = self._stream.codec_context
        # avi stores no times; those of reordered frames are made up by the reader, and wrong.
        made_up = self._container.format.name == "avi" and codec.has_b_frames
        hidden = codec.name in _CODECS_WITH_HIDDEN_PACKETS
        self._check_length(times)
        if made_up or hidden or len(set(times)) != len(packets):
            self._index_by_decoding()
            return
        self._pts = sorted(times)
        position = {pts: index for index, pts in enumerate(self._pts)}
        self._position = position
        keyframes = {
            position[pts] for pts, is_keyframe in packets if is_keyframe and pts is not None
        }
        self._keyframes = sorted(keyframes)
        if not self._keyframes or self._keyframes[0] != 0:
            self._keyframes.insert(0, 0)
        self._sequential = False

    def _check_length(self, times: Sequence[int]) -> None:
        span = (max(times) - min(times)) * float(self._stream.time_base or 0) if times else 0.0
        if self._num_packets > MAX_FRAMES or span > MAX_SECONDS:
            raise InputError(
                f"{self._name} claims {self._num_packets} frames over {span:.0f} seconds; at most "
                f"{MAX_FRAMES} frames and {MAX_SECONDS:.0f} seconds are read; cut it into parts"
            )

    def _index_by_decoding(self) -> None:
        """For files whose packets lack times (H.264 in avi) or hide frames (VP8): count frames."""
        self._sequential = True
        found = [frame.pts for frame, _ in self._sound(self._decode_from_start())]
        times = [pts for pts in found if pts is not None]
        if len(times) != len(found) or times != sorted(set(times)):
            rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
            base = self._stream.time_base or Fraction(1, 90000)
            times = [round(index / rate / base) for index in range(len(found))]
        self._pts = times
        self._keyframes = [0]

    def _reindex(self) -> bool:
        """Whether decoding gives as many frames as there are packets, with other times."""
        expected = self.num_frames
        times, keyframes = self._pts, self._keyframes
        self._index_by_decoding()
        if self.num_frames == expected:
            return True
        self._pts, self._keyframes, self._sequential = times, keyframes, False
        return False

    @property
    def fps(self) -> float:
        stated = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        duration = float(self.pts_seconds([self.num_frames - 1])[0])
        measured = (self.num_frames - 1) / duration if duration > 0 else stated
        # Times may be rounded to milliseconds (mkv), which would turn 12 into 11.998.
        return stated if abs(measured - stated) < 0.005 * stated else measured

    @property
    def num_frames(self) -> int:
        return len(self._pts)

    @property
    def width(self) -> int:
        return self._shown_size()[0]

    @property
    def height(self) -> int:
        return self._shown_size()[1]

    @property
    def pixel_aspect(self) -> float:
        ratio = float(self._stream.sample_aspect_ratio or 1)
        return ratio if ratio == 1 else 1 / ratio if self.rotation % 180 else ratio

    @property
    def has_packet_times(self) -> bool:
        """Whether the packets alone say which frame is shown when."""
        return not self._sequential

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise by which stored pictures are turned: 0, 90, 180 or 270."""
        if self._rotation is None:
            self.get_frames([0])
        return self._rotation or 0

    @property
    def num_missing(self) -> int:
        return max(0, self._stream.frames - self._num_packets)

    def _shown_size(self) -> tuple[int, int]:
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        # Only a frame tells its rotation; for square frames there is no need to decode one.
        return (height, width) if width != height and self.rotation % 180 else (width, height)

    def pts_seconds(self, indices: Sequence[int]) -> np.ndarray:
        base = float(self._stream.time_base or Fraction(1, 90000))
        return np.array([(self._pts[i] - self._pts[0]) * base for i in indices], dtype=np.float64)

    def get_frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        self.check_indices(indices)
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        wanted = [int(index) for index in unique]
        try:
            frames = self._decode_wanted(wanted, size)
        except (av.FFmpegError, OSError, MemoryError) as error:
            raise InputError(f"{self._name} cannot be decoded: {reason_of(error)}") from error
        if len(unique) == len(indices) and np.array_equal(inverse, np.arange(len(unique))):
            return frames
        return frames[inverse]

    def _decode_wanted(self, wanted: list[int], size: tuple[int, int] | None) -> np.ndarray:
        frames: np.ndarray | None = None
        places = {index: place for place, index in enumerate(wanted)}
        missing = dict(places)
        for index, frame, is_sound in self._walk(wanted):
            if not is_sound:
                raise InputError(f"{self._name} is damaged at frame {index} or what it depends on")
            picture = self._picture(frame, size)
            if frames is None:
                check_clip_bytes(len(wanted), picture)
                frames = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
            if picture.shape != frames.shape[1:]:
                raise InputError(f"{self._name} changes its size at frame {index}; cut it there")
            frames[places[index]] = picture
            missing.pop(index, None)
        if missing and not self._sequential and self._reindex():
            return self._decode_wanted(wanted, size)
        if missing or frames is None:
            raise InputError(
                f"{self._name} cannot be decoded: frame {next(iter(missing))} of "
                f"{self.num_frames} is missing or damaged"
            )
        return frames

    def _walk(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Each wanted frame once and whether it is sound, as long as the file gives it."""
        if self._sequential:
            remaining = set(wanted)
            for index, (frame, is_sound) in enumerate(self._sound(self._decode_from_start())):
                if index in remaining:
                    yield index, frame, is_sound
                if index >= wanted[-1]:
                    return
            return
        left = dict.fromkeys(wanted)
        for keyframe, indices in plan_segments(wanted, self._keyframes):
            self._container.seek(self._pts[keyframe], stream=self._stream, backward=True)
            for found in self._pick(self._container.decode(self._stream), indices):
                left.pop(found[0])
                yield found
        if left:  # seeking has landed too late: no usable index in the container
            yield from self._pick(self._decode_from_start(), list(left))

    def _pick(
        self, decoded: Iterator[av.VideoFrame], indices: list[int]
    ) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        remaining = set(indices)
        for frame, is_sound in self._sound(decoded):
            index = self._position.get(frame.pts, -1) if frame.pts is not None else -1
            if index in remaining:
                remaining.remove(index)
                yield index, frame, is_sound
            if not remaining or index > indices[-1]:
                return

    def _sound(self, decoded: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Each frame and whether neither it nor any since the keyframe before it is damaged.

        A decoder covers up what it cannot read with what it has, and only marks the picture.
        """
        is_sound, pixels, all_pixels = True, 0, 0
        for frame in decoded:
            is_sound = (is_sound or frame.key_frame) and not frame.is_corrupt
            pixels = frame.width * frame.height + (0 if frame.key_frame else pixels)
            all_pixels += frame.width * frame.height
            if pixels > MAX_DECODED_PIXELS or all_pixels > MAX_WALKED_PIXELS:
                raise InputError(
                    f"{self._name} takes more than {MAX_DECODED_PIXELS} pixels to be decoded from "
                    f"one keyframe, or {MAX_WALKED_PIXELS} in all; pack it again with more "
                    "keyframes or cut it into parts"
                )
            yield frame, is_sound

    def decode_from_start(self) -> Iterator[av.VideoFrame]:
        """All frames in sequence, as the library gives them.

        Raises:
            InputError: one is damaged.
        """
        for number, frame in enumerate(self._decode_from_start()):
            if frame.is_corrupt:
                raise InputError(f"{self._name} is damaged at frame {number}")
            yield frame

    def _decode_from_start(self) -> Iterator[av.VideoFrame]:
        self._container.close()
        self._open()
        yield from self._container.decode(self._stream)

    def _picture(self, frame: av.VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
        self._rotation = round(frame.rotation / 90) * 90 % 360
        return to_rgb(self._reformatter, frame, size, self._rotation)

    def close(self) -> None:
        self._container.close()


def check_clip_bytes(num_frames: int, picture: np.ndarray) -> None:
    """Refuse to hold more frames of the size of `picture` than are meant to be held at once."""
    if num_frames * picture.nbytes > MAX_CLIP_BYTES:
        raise InputError(
            f"{num_frames} frames of {picture.shape[1]}x{picture.shape[0]} pixels are more than "
            f"{MAX_CLIP_BYTES} bytes; ask for fewer or for smaller ones"
        )


def to_rgb(
    reformatter: VideoReformatter,
    frame: av.VideoFrame,
    size: tuple[int, int] | None,
    rotation: int,
) -> np.ndarray:
    """A decoded frame as uint8 `(H, W, 3)`, scaled and turned upright.

    Args:
        reformatter: keeps its tables from one frame to the next.
        frame: as the decoder gives it.
        size: (width, height) as shown; the frame's own by default.
        rotation: degrees counter-clockwise: 0, 90, 180 or 270.
    """
    width, height = size or (frame.width, frame.height)
    if size and rotation % 180:
        width, height = height, width
    # AREA weighs every source pixel, so scaling down does not alias.
    scaled = reformatter.reformat(
        frame, width, height, "rgb24", interpolation=Interpolation.AREA, **_ONE_THREAD
    )
    picture = scaled.to_ndarray()
    return np.rot90(picture, rotation // 90) if rotation else picture
