import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from worldmodel.data import sampling


@pytest.mark.parametrize(
    ("source_fps", "stride"),
    [(16.0, 2), (29.97, 4), (8.0, 1), (5.0, 1), (12.0, 2), (60.0, 8), (11.9, 1)],
)
def test_frame_stride_for__is_the_nearest_whole_stride(source_fps: float, stride: int) -> None:
    assert sampling.frame_stride_for(source_fps, 8.0) == stride


def test_frame_stride_for__refuses_rates_that_are_none() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        sampling.frame_stride_for(0.0, 8.0)


def test_clip__lies_inside_its_video_for_every_start_and_no_further_start_exists() -> None:
    for video_frames in range(1, 40):
        for num_frames, stride in ((1, 1), (4, 2), (5, 3), (16, 2)):
            starts = sampling.count_starts(video_frames, num_frames, stride)
            for start in range(starts):
                indices = sampling.clip_indices(start, num_frames, stride)
                assert len(indices) == num_frames
                assert indices[-1] < video_frames
                assert all(b - a == stride for a, b in itertools.pairwise(indices))
            assert sampling.clip_indices(starts, num_frames, stride)[-1] >= video_frames


def draws(num: int = 50) -> list[sampling.Draw]:
    return [sampling.draw_clip(0, epoch, "a") for epoch in range(num)]


def test_choose_clips__a_late_frame_does_not_change_the_rate() -> None:
    even = np.arange(200) / 30
    late = even + 0.05 * (np.arange(200) >= 100)
    for draw in draws():
        for wanted, times in ((4, even), (4, late)):
            (frames,) = sampling.choose_clips(draw, times, [], 16, 29.7, [8.0]) or [[]]
            steps = np.diff(frames)
            # About the late frame a step or two is of fewer frames.
            assert (steps == wanted).sum() >= 13 and steps.min() >= 2


def test_choose_clips__of_uneven_frames_are_near_even_times() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        spacings = generator.choice([0.02, 0.033, 0.05, 0.1, 0.2, 0.5], 12)
        times = np.cumsum(np.concatenate([[0.0], np.repeat(spacings, 30)]))
        usual = float(np.median(np.diff(times)))
        for draw in draws(10):
            clips = sampling.choose_clips(draw, times, [130], 8, 10.0, [8.0, 3.0])
            for frames, fps in zip(clips or (), (8.0, 3.0), strict=False):
                period = sampling.clip_period(times, fps)
                assert abs(period * fps - 1) <= 0.1 or period == usual > 1 / fps
                assert len(set(frames)) == 8 and not frames[0] < 130 <= frames[-1]
                off = times[frames] - times[frames[0]] - period * np.arange(8)
                assert np.abs(off).max() <= 1.25 * period + 1e-9


def test_choose_clips__leaves_out_stretches_with_too_few_frames() -> None:
    times = np.cumsum([0.0, *([1 / 30] * 90), *([0.2] * 60)])
    for draw in draws():
        (frames,) = sampling.choose_clips(draw, times, [], 16, 9.9, [8.0]) or [[-1]]
        # At most the last few frames are of the slow stretch: each comes 0.07 s late.
        assert frames[0] >= 0 and frames[-1] <= 94
    assert sampling.choose_clips(draws(1)[0], times[80:], [], 16, 5.1, [8.0]) is not None
    assert sampling.choose_clips(draws(1)[0], times, [45], 23, 9.9, [8.0]) is None


def test_draw_clip__reaches_all_starts_and_flips_half() -> None:
    draws = [sampling.draw_clip(0, epoch, "train-000003") for epoch in range(600)]
    counts = [0] * 4
    for draw in draws:
        counts[sampling.pick_start(draw, 4)] += 1
    assert min(counts) > 100
    assert 240 < sum(draw.flip for draw in draws) < 360


def test_draw_clip__zoom_colors_and_mirror_are_uniform_and_independent() -> None:
    draws = [sampling.draw_clip(0, epoch, "train-000003") for epoch in range(1200)]
    table = np.array([(d.flip, d.zoom, d.gamma, *d.crop, d.start, d.colored) for d in draws])
    assert np.abs(np.corrcoef(table.T) - np.eye(7)).max() < 0.1
    for column in table.T[1:]:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    counts = np.bincount([draw.channels for draw in draws], minlength=6)
    assert stats.chisquare(counts).pvalue > 0.001


def test_draw_clip__depends_on_each_of_seed_epoch_key_and_visit() -> None:
    base = sampling.draw_clip(0, 0, "a", 0)
    assert base == sampling.draw_clip(0, 0, "a", 0)
    others = [
        sampling.draw_clip(1, 0, "a", 0),
        sampling.draw_clip(0, 1, "a", 0),
        sampling.draw_clip(0, 0, "b", 0),
        sampling.draw_clip(0, 0, "a", 1),
    ]
    assert len({draw.start for draw in [base, *others]}) == 5


def test_draw_clip__is_the_same_in_another_process() -> None:
    # Python's own hash() of a string differs from process to process.
    code = "from worldmodel.data.sampling import *; print(draw_clip(3, 5, 'train-7').start)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) == sampling.draw_clip(3, 5, "train-7").start


def test_validation_rank__sets_about_five_per_cent_apart() -> None:
    ranks = [sampling.validation_rank(f"train-{i:06d}") for i in range(2000)]
    share = sum(rank < sampling.VALIDATION_SHARE for rank in ranks) / len(ranks)
    assert 0.035 < share < 0.065


def test_pick_start__of_the_middle_is_the_middle() -> None:
    assert sampling.pick_start(sampling.CENTRE, 5) == 2
    assert sampling.pick_start(sampling.CENTRE, 1) == 0
