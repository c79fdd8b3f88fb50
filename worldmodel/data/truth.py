"""What is really in a clip of the physics world, as members of a sample: two PNGs and an npz.

`depth.png` holds uint16 millimetres and `ids.png` uint8 ids, each with its frames stacked into one
tall strip `(T * H, W)`; `state.npz` holds float32 arrays and nothing else.
"""

import io
import zipfile
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
MAX_MILLIMETRES = 65535
# Level 1 takes a third of the time of Pillow's 6 and makes files a fifth larger.
PNG_LEVEL = 1
# A state of 64 frames has 40 kB; a member that claims more than this is no state.
MAX_STATE_BYTES = 1 << 26
MAX_STRIP_PIXELS = 1 << 28
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


def decode_truth(members: Mapping[str, bytes], prefix: str = "") -> Truth:
    """Read what `encode_truth` wrote.

    Args:
        members: extension -> bytes of a sample; others than the three are passed over.
        prefix: "a." or "b." for one world of a block.

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
    if state.get("camera_pose", np.zeros(0)).ndim != 3:
        raise InputError(f"{prefix}state.npz has no camera_pose of shape (T, 3, 4)")
    num_frames = len(state["camera_pose"])
    depth = _read_strip(members[prefix + "depth.png"], num_frames, prefix + "depth.png")
    ids = _read_strip(members[prefix + "ids.png"], num_frames, prefix + "ids.png")
    if depth.shape != ids.shape:
        raise InputError(
            f"{prefix}depth.png has frames of {depth.shape} but {prefix}ids.png of {ids.shape}"
        )
    return Truth(depth.astype(np.float32) / np.float32(1000), ids.astype(np.uint8), state)


def take_frames(truth: Truth, indices: Sequence[int] | np.ndarray) -> Truth:
    """The truth at some source frames, in the order of `indices`."""
    chosen = np.asarray(indices, int)
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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            claimed = sum(info.file_size for info in archive.infolist())
            if claimed > MAX_STATE_BYTES:
                raise InputError(f"{name} unpacks to {claimed} bytes; at most {MAX_STATE_BYTES}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            state = {key: np.asarray(arrays[key], np.float32) for key in arrays.files}
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise InputError(f"{name} is no archive of plain arrays: {error}") from error
    return state


def _read_strip(data: bytes, num_frames: int, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["png"]) as image:
            width, height = image.size
            if width * height > MAX_STRIP_PIXELS:
                raise InputError(f"{name} claims {width} x {height} pixels, which is no clip")
            strip = np.asarray(image)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is no readable PNG: {error}") from error
    if strip.ndim != 2 or num_frames == 0 or len(strip) % num_frames:
        raise InputError(
            f"{name} must be one grey strip of {num_frames} frames, found shape {strip.shape}"
        )
    return strip.reshape(num_frames, -1, strip.shape[1])
