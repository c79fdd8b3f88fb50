import itertools

import numpy as np
import pytest
from patterns import moving_pattern

from worldmodel.data.cuts import CutDetector


def scene(seed: int, num_frames: int, speed: float = 1.0) -> np.ndarray:
    """uint8 `(num_frames, 72, 128, 3)`: coloured waves, moved `speed` pixels right a frame."""
    rng = np.random.default_rng(seed)
    y, x, time = np.mgrid[:72, :128, :num_frames].astype(np.float32)
    picture = np.broadcast_to(rng.uniform(70, 180, 3), (*x.shape, 3)).astype(np.float32)
    for _ in range(8):
        across, down = rng.uniform(-0.25, 0.25, 2).tolist()
        wave = np.sin(across * (x - speed * time) + down * y + float(rng.uniform(0, 6.28)))
        picture = picture + wave[..., None] * rng.uniform(-25, 25, 3).astype(np.float32)
    return byte(picture).transpose(2, 0, 1, 3)


def byte(frames: np.ndarray) -> np.ndarray:
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def find(*frames: np.ndarray, chunk: int = 10**6) -> list[int]:
    video = np.concatenate(frames)
    detector = CutDetector()
    for start in range(0, len(video), chunk):
        detector.feed(video[start : start + chunk])
    return detector.finish()


def dissolve(before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """The end of one scene over the start of the next."""
    share = (np.arange(length) + 1)[:, None, None, None] / (length + 1)
    return byte(before[-length:] * (1 - share) + after[:length] * share)


def test_cut_detector__finds_hard_cuts_to_the_frame() -> None:
    lengths = (30, 16, 40, 25)
    assert find(*(scene(seed, n) for seed, n in enumerate(lengths))) == [30, 46, 86]


def test_cut_detector__finds_both_cuts_around_a_short_scene() -> None:
    shots = [scene(seed, n) for seed, n in enumerate((30, 5, 6, 30))]
    assert find(*shots) == [30, 35, 41]


def test_cut_detector__finds_cuts_near_the_ends_and_none_at_the_start() -> None:
    assert find(scene(0, 2), scene(1, 30), scene(2, 2)) == [2, 32]
    assert find(scene(0, 1)) == []
    assert CutDetector().finish() == []


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_cut_detector__the_pieces_it_is_fed_in_change_nothing(chunk: int) -> None:
    one, two, three = scene(0, 60), scene(1, 60), scene(2, 40)
    video = (one[:-16], dissolve(one, two, 16), two[16:], three)
    assert find(*video, chunk=chunk) == find(*video)
    assert find(*video)[-1] == 104


def test_cut_detector__finds_the_same_in_larger_frames() -> None:
    video = np.concatenate([scene(0, 20), scene(1, 20)])
    assert find(video.repeat(2, axis=1).repeat(2, axis=2)) == [20]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_cut_detector__a_flash_is_no_cut(length: int) -> None:
    frames = scene(3, 60).copy()
    frames[30 : 30 + length] = byte(255 - 0.1 * (255.0 - frames[30 : 30 + length]))
    assert find(frames) == []


@pytest.mark.parametrize("length", [1, 3])
def test_cut_detector__a_flash_that_shows_the_scene_is_no_cut(length: int) -> None:
    frames = scene(3, 60).copy()
    y, x = np.mgrid[:72, :128]
    glare = 400 * np.exp(-((y - 20) ** 2 + (x - 90) ** 2) / 4000)[..., None]
    frames[30 : 30 + length] = byte(frames[30 : 30 + length] + glare)
    assert find(frames) == []


def test_cut_detector__a_blackout_is_no_cut() -> None:
    frames = scene(3, 60).copy()
    frames[30:36] = 0
    assert find(frames) == []


@pytest.mark.parametrize("blank", [1, 3, 40])
def test_cut_detector__a_video_may_begin_black(blank: int) -> None:
    """Its first frames have no contrast at all; the scene that follows is its first."""
    frames = scene(3, 40).copy()
    frames[:blank] = 0
    assert set(find(frames)) <= {blank}


def test_cut_detector__a_jerk_of_the_camera_is_no_cut() -> None:
    pan = scene(5, 2, speed=16.0)
    assert find(pan[:1].repeat(30, axis=0), pan[1:].repeat(30, axis=0)) == []


def test_cut_detector__four_frames_of_something_else_are_a_scene() -> None:
    assert find(scene(0, 30), scene(1, 4), scene(0, 30)) == [30, 34]


@pytest.mark.parametrize("speed", [0.0, 1.0, 6.0, 12.0])
def test_cut_detector__what_moves_evenly_is_no_cut(speed: float) -> None:
    assert find(scene(4, 60, speed)) == []


def test_cut_detector__a_whip_pan_is_no_cut() -> None:
    still, pan = scene(5, 1), scene(5, 9, speed=14.0)
    assert find(still.repeat(30, axis=0), pan, pan[-1:].repeat(30, axis=0)) == []


def test_cut_detector__exposure_and_noise_are_no_cut() -> None:
    frames = scene(6, 60).astype(np.float64)
    frames[30:] = frames[30:] * 0.6 + 20
    frames[45:] = frames[45:] * 1.5
    noise = np.random.default_rng(0).normal(0, 10, frames.shape)
    assert find(byte(frames)) == []
    assert find(byte(frames + noise)) == []


def test_cut_detector__moving_patterns_of_the_other_tests_are_single_scenes() -> None:
    # What other tests pack has blue that jumps by 230 levels in one frame of 24.
    for height, width in ((32, 32), (36, 64), (64, 36)):
        assert find(moving_pattern(24, height, width)) == []


def test_cut_detector__at_a_low_frame_rate_only_the_cut_counts() -> None:
    # 10 of 128 pixels a frame: a second and a half across the picture at 8 frames a second.
    assert find(scene(7, 24, speed=10.0), scene(8, 24, speed=-10.0)) == [24]


@pytest.mark.parametrize("length", [8, 16, 24])
def test_cut_detector__bounds_a_dissolve_on_both_sides(length: int) -> None:
    one, two = scene(9, 60, speed=0.2), scene(10, 60, speed=0.2)
    cuts = find(one[:-length], dissolve(one, two, length), two[length:])
    start, stop = 60 - length, 60
    assert start - 2 <= cuts[0] <= start + 4
    assert stop - 4 <= cuts[-1] <= stop + 2
    # Shorter than the shortest piece that is packed.
    assert all(after - before < 16 for before, after in itertools.pairwise(cuts))


def test_cut_detector__a_wipe_is_a_transition() -> None:
    one, two = scene(11, 60, speed=0.2), scene(12, 60, speed=0.2)
    wipe = one[-16:].copy()
    for number in range(16):
        wipe[number, :, : 8 * number + 4] = two[number, :, : 8 * number + 4]
    cuts = find(one[:-16], wipe, two[16:])
    assert cuts
    assert all(42 <= cut <= 62 for cut in cuts)


def test_cut_detector__a_fade_through_black_counts_where_the_scene_changes() -> None:
    one, two = scene(13, 40, speed=0.2), scene(14, 40, speed=0.2)
    light = np.linspace(1, 0, 10)[:, None, None, None]
    away, black = byte(one[-10:] * light), np.zeros_like(one[:6])
    (cut,) = find(one[:-10], away, black, byte(two[:10] * light[::-1]), two[10:])
    assert 39 <= cut <= 47
    assert find(one[:-10], away, black, byte(one[-10:] * light[::-1]), one[10:]) == []


def test_cut_detector__names_frames_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(n, h, w, 3\), got float64 \(1, 32, 32, 3\)"):
        CutDetector().feed(np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="at least 16 pixels a side"):
        CutDetector().feed(np.zeros((1, 12, 32, 3), np.uint8))
