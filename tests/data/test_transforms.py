import numpy as np
import pytest

from worldmodel.data.transforms import crop_clip, scaled_size
from worldmodel.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [((1280, 720), (114, 64)), ((720, 1280), (64, 114)), ((64, 64), (64, 64)), ((8, 4), (128, 64))],
)
def test_scaled_size__brings_the_short_side_to_size(
    given: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert scaled_size(*given, 64) == expected


def test_scaled_size__makes_pixels_square() -> None:
    # Anamorphic DVD: 720x576 stored, shown as 1024x576.
    assert scaled_size(720, 576, 64, pixel_aspect=64 / 45) == (114, 64)


def test_scaled_size__refuses_what_would_take_much_memory() -> None:
    with pytest.raises(InputError, match="8192x2 pixels are more than 16 times"):
        scaled_size(8192, 2, 64)


def test_crop_clip__cuts_the_same_square_out_of_every_frame() -> None:
    frames = np.broadcast_to(np.arange(8 * 12).reshape(1, 8, 12, 1), (3, 8, 12, 3)).astype(np.uint8)
    for at, left in (((0.0, 0.5), 0), ((0.5, 0.5), 2), ((0.999, 0.5), 4), ((1.0, 1.0), 4)):
        clip = crop_clip(frames, 8, at, flip=False)
        assert clip.shape == (3, 8, 8, 3)
        assert (clip == clip[:1]).all()
        assert np.array_equal(clip[0, ..., 0], frames[0, :, left : left + 8, 0])


def test_crop_clip__mirrors_every_frame_left_to_right() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    plain, mirrored = (crop_clip(frames, 8, (0.5, 0.5), flip) for flip in (False, True))
    assert np.array_equal(mirrored, plain[:, :, ::-1])
    assert mirrored.flags["C_CONTIGUOUS"]
