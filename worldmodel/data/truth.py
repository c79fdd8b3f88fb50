"""What is really in a clip of the physics world, as members of a sample: two PNGs and an npz.

`depth.png` holds uint16 millimetres and `ids.png` uint8 ids, each with its frames stacked into one
tall strip `(T * H, W)`; `state.npz` holds float32 arrays and nothing else.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from worldmodel.clips import Truth
from worldmodel.errors import InputError

MEMBERS = ("depth.png", "ids.png", "state.npz")
# Arrays of the state whose first axis is time.
ARRAYS_OVER_TIME = (
    "camera_pose",
    "pose",
    "velocity",
    "image_position",
    "distance",
    "visible_fraction",
    "amodal_area",
    "slab_pose",
    "slab_box",
    "contact",
    "support",
)
# Ids: 0 background, 1 + slot of a body, this + slot of a slab.
SLAB_ID = 100
MAX_MILLIMETRES = 65535
# Level 1 takes a third of the time of Pillow's 6 and makes files a fifth larger.
PNG_LEVEL = 1
# A state of 64 frames has 40 kB; a member that claims more than this is no state.
MAX_STATE_BYTES = 1 << 26
MAX_STATE_ARRAYS = 1000
MAX_STRIP_PIXELS = 1 << 26  # 1,024 frames of 256 pixels a side; 400 MB while they are read
_MAX_ARRAY_HEADER = 10_000  # bytes; a shape and a type have some hundred
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What Pillow, zipfile and numpy let through of their own on bytes that were forged.
_FORGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    SyntaxError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    Image.DecompressionBombError,
)
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold, and always the same


def encode_truth(truth: Truth) -> dict[str, bytes]:
    """Members of a sample; the same truth gives the same bytes.

    Depth is rounded to millimetres and ends at 65.535 m.
    """
    millimetres = np.rint(truth.depth * np.float32(1000)).clip(0, MAX_MILLIMETRES)
    return {
        "depth.png": _png(millimetres.astype(np.uint16)),
        "ids.png": _png(truth.ids),
        "state.npz": _npz(truth.state),
    }


def decode_truth(
    members: Mapping[str, bytes],
    prefix: str = "",
    shape: tuple[int, int, int] | None = None,
    maps: bool = True,
) -> Truth:
    """Read what `encode_truth` wrote.

    Args:
        members: extension -> bytes of a sample; others than the three are passed over.
        prefix: "a." or "b." for one world of a block.
        shape: (frames, height, width) of the video, which the truth must have; where it is given,
            nothing else is even unpacked.
        maps: False leaves depth and ids unread, all zero: they take most of the time.

    Raises:
        InputError: a member is missing or malformed, or they do not fit one another.
    """
    missing = [prefix + name for name in MEMBERS if prefix + name not in members]
    if missing:
        raise InputError(
            f"sample has no member {', '.join(missing)}; it has {', '.join(sorted(members))}; "
            "only clips of the physics world carry truth"
        )
    state = _read_npz(members[prefix + "state.npz"], prefix + "state.npz")
    num_frames = _count_frames(state, prefix)
    if shape is not None and shape[0] != num_frames:
        raise InputError(f"{prefix}state.npz has {num_frames} frames but the video {shape[0]}")
    if not maps:
        width, height = _strip_size(members[prefix + "depth.png"])
        size = (num_frames, height // max(num_frames, 1), width)
        return Truth(np.zeros(size, np.float32), np.zeros(size, np.uint8), state)
    depth, ids = (
        _read_strip(members[prefix + name], num_frames, prefix + name, shape)
        for name in ("depth.png", "ids.png")
    )
    if ids.dtype != np.uint8:
        raise InputError(f"{prefix}ids.png must hold 8 bits a pixel, found {ids.dtype}")
    if depth.shape != ids.shape:
        raise InputError(
            f"{prefix}depth.png has frames of {depth.shape} but {prefix}ids.png of {ids.shape}"
        )
    return Truth(depth.astype(np.float32) / np.float32(1000), ids.astype(np.uint8), state)


def _count_frames(state: Mapping[str, np.ndarray], prefix: str) -> int:
    """Frames of a state whose arrays over time all have as many."""
    pose = state.get("camera_pose", np.zeros(0))
    if pose.ndim != 3 or pose.shape[1:] != (3, 4):
        raise InputError(f"{prefix}state.npz has no camera_pose of shape (T, 3, 4)")
    for name in ARRAYS_OVER_TIME:
        if name in state and (state[name].ndim == 0 or len(state[name]) != len(pose)):
            raise InputError(
                f"{prefix}state.npz has {name} of shape {state[name].shape} but {len(pose)} frames"
            )
    return len(pose)


def take_frames(truth: Truth, indices: Sequence[int] | np.ndarray) -> Truth:
    """The truth at some source frames, in the order of `indices`.

    Raises:
        InputError: it has fewer frames.
    """
    chosen = np.asarray(indices, int)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(truth.depth):
        raise InputError(
            f"truth has {len(truth.depth)} frames, {chosen.min()} to {chosen.max()} were wanted"
        )
    state = {
        name: array[chosen] if name in ARRAYS_OVER_TIME else array
        for name, array in truth.state.items()
    }
    return Truth(truth.depth[chosen], truth.ids[chosen], state)


def _png(frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    strip = frames.reshape(-1, frames.shape[-1])
    Image.fromarray(strip).save(buffer, "png", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Like `np.savez_compressed`, which would write the time of day into the bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            array = np.asarray(arrays[name], np.float32)
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content.getvalue())
    return buffer.getvalue()


def _read_npz(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Arrays of numbers, none of which is unpacked before it is known how large it is."""
    state: dict[str, np.ndarray] = {}
    try:
        if len(data) > MAX_STATE_BYTES:
            raise InputError(f"it has {len(data)} bytes; at most {MAX_STATE_BYTES} are read")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            claimed = sum(info.file_size for info in members)
            if claimed > MAX_STATE_BYTES or len(members) > MAX_STATE_ARRAYS:
                raise InputError(
                    f"it unpacks to {claimed} bytes in {len(members)} arrays; at most "
                    f"{MAX_STATE_BYTES} in {MAX_STATE_ARRAYS} are read"
                )
            for info in members:
                if info.compress_type not in _ZIP_METHODS or not info.filename.endswith(".npy"):
                    raise InputError(f"{info.filename!r} in it is no plain array")
                state[info.filename.removesuffix(".npy")] = _read_array(archive.read(info))
    except _FORGED as error:
        raise InputError(f"{name} is no archive of plain arrays: {error}") from error
    return state


def _read_array(content: bytes) -> np.ndarray:
    """What `np.load` reads, which makes room for whatever the header claims."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_columns, dtype = read_header(file, max_header_size=_MAX_ARRAY_HEADER)
    values = content[file.tell() :]
    is_number = dtype.kind in "fiub" and dtype.subdtype is None
    if not is_number or min(shape, default=0) < 0:
        raise InputError(f"an array of {dtype} {shape} is not read")
    if math.prod(shape) * dtype.itemsize != len(values):
        raise InputError(f"an array of {dtype} {shape} does not have {len(values)} bytes")
    array = np.frombuffer(values, dtype).reshape(shape, order="F" if by_columns else "C")
    return np.array(array, np.float32)


def _read_strip(
    data: bytes, num_frames: int, name: str, shape: tuple[int, int, int] | None
) -> np.ndarray:
    try:
        width, height = _strip_size(data)
        if shape is not None and (width, height) != (shape[2], shape[0] * shape[1]):
            raise InputError(f"it claims {width} x {height} pixels, the video is {shape}")
        if width * height > MAX_STRIP_PIXELS:
            raise InputError(f"it claims {width} x {height} pixels; at most {MAX_STRIP_PIXELS}")
        with Image.open(io.BytesIO(data), formats=["png"]) as image:
            strip = np.asarray(image)
    except _FORGED as error:
        raise InputError(f"{name} is no readable PNG: {error}") from error
    if strip.ndim != 2 or num_frames == 0 or len(strip) % num_frames:
        raise InputError(
            f"{name} must be one grey strip of {num_frames} frames, found shape {strip.shape}"
        )
    return strip.reshape(num_frames, -1, strip.shape[1])


def _strip_size(data: bytes) -> tuple[int, int]:
    """(width, height) that a PNG claims; before it is opened, which would warn of a large one."""
    if not data.startswith(_PNG_START) or len(data) < len(_PNG_START) + 8:
        raise InputError("it does not begin as one")
    width, height = struct.unpack_from(">II", data, len(_PNG_START))
    return int(width), int(height)
