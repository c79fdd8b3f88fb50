"""Frames to bytes: small H.264 that is fast to read."""

import io
from fractions import Fraction

import av
import numpy as np

GOP = 12
_B_FRAMES = 3
_CLOCK = 90_000  # units per second of uneven times, MPEG's


def encode_video(
    frames: np.ndarray,
    fps: float,
    lossless: bool = False,
    *,
    crf: int = 18,
    gop: int = GOP,
    pts_seconds: np.ndarray | None = None,
) -> bytes:
    """Encode frames as an H.264 mp4 that is fast to decode; equal frames give equal bytes.

    Groups of pictures are closed, so that decoding can start at each of their first frames. Three
    of four frames are such as no other needs, so that a reader at a stride passes most of them by.
    CABAC and deblocking are left out, which are slow to decode.

    Args:
        frames: uint8 `(T, H, W, 3)`, red green blue; H and W even unless lossless.
        fps: frames per second.
        lossless: x264 in RGB at qp 0, which decodes to the same bits; else yuv420p.
        crf: x264's constant quality where not lossless; 18 is near transparent.
        gop: frames from one keyframe to the next.
        pts_seconds: float `(T,)`, when each frame is shown, ascending, kept to 1/90000 s; by
            default evenly spaced.

    Raises:
        ValueError: frames of another shape or type, odd sides where not lossless, fps <= 0, or
            times that do not ascend.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if not lossless and (height % 2 or width % 2):
        raise ValueError(f"yuv420p needs even sides, got {width}x{height}; crop or use lossless")
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    # 1001: NTSC's 30000/1001 comes back exactly. Of a time-lapse the seconds from one frame to the
    # next: one in an hour would become 0 frames a second.
    rate = Fraction(fps).limit_denominator(1001)
    if fps < 1:
        rate = 1 / Fraction(1 / fps).limit_denominator(1001)
    time_base, times = 1 / rate, np.arange(len(frames))
    if pts_seconds is not None:
        time_base, times = Fraction(1, _CLOCK), np.round((pts_seconds - pts_seconds[0]) * _CLOCK)
        if len(times) != len(frames) or np.any(np.diff(times) < 1):
            raise ValueError("pts_seconds must be one time per frame, ascending by 1/90000 s")
    options = {
        "preset": "veryfast",
        "tune": "fastdecode",
        # One thread: with more, x264 chooses its slices and so its bytes by the machine. No mbtree:
        # below 64 pixels it reads memory it has not written, and 1 in 20 encodings is another.
        "x264-params": f"threads=1:mbtree=0:scenecut=0:open-gop=0:bframes={_B_FRAMES}:b-adapt=0:"
        f"b-pyramid=none:keyint={gop}:min-keyint={gop}",
        **({"qp": "0"} if lossless else {"crf": str(crf)}),
    }
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "libx264rgb" if lossless else "libx264", rate, options=options
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = time_base
        for time, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = int(time)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
