import numpy as np
import pytest

from worldmodel.data.transforms import color_clip, crop_clip, scaled_size
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


def test_color_clip__the_middle_draw_changes_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(color_clip(frames, 0, 0.5), frames)


def test_color_clip__exchanges_channels_in_each_of_six_ways() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    found = [color_clip(frames, order, 0.5) for order in range(6)]
    assert len({each.tobytes() for each in found}) == 6
    for each in found:
        assert np.array_equal(np.sort(each, axis=3), np.sort(frames, axis=3))
        assert each.flags["C_CONTIGUOUS"]


def test_color_clip__brightness_is_raised_to_a_power() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    for gamma, power in ((0.0, 1 / 1.5), (1.0, 1.5)):
        expected = 255 * (frames / 255) ** power
        assert np.abs(color_clip(frames, 0, gamma) - expected).max() <= 0.5
