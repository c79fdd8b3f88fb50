"""What is recorded of a model at a step of its training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from square_world import write_squares

from worldmodel.data.datamodule import ClipDataModule
from worldmodel.evaluation.network import levels_of
from worldmodel.evaluation.videos.long_video import surprise_over_video
from worldmodel.evaluation.videos.rerun_training import (
    STRIP_FRAMES,
    TILE_PX,
    about_training,
    depth_limits,
    depth_strip,
    token_strip,
)
from worldmodel.evaluation.videos.training_record import (
    Moment,
    Subject,
    look_at,
    moment_of,
    read_subject,
)
from worldmodel.models.checkpoint import ClipSpec

CPU = torch.device("cpu")
CLIP = ClipSpec(num_frames=12, fps=8.0, size=32)


def subject_of(shards: str, hierarchy) -> Subject:
    data = ClipDataModule(shards=shards, num_frames=12, fps=8.0, size=32)
    data.setup()
    return read_subject(levels_of(hierarchy), CLIP, data.train_refs, data.val_refs, data.val_clip)


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> str:
    """Shards of training clips, validation clips beside them."""
    root = tmp_path_factory.mktemp("taught")
    write_squares(root, {"train": 16, "val": 24}, {})
    return f"{root}/train/*.tar"


def recorded(subject: Subject, hierarchy, before: Moment | None = None) -> Moment:
    seen = look_at(hierarchy, subject, CPU)
    along = None if before is None else before.along
    return moment_of(levels_of(hierarchy), subject, seen, 7, along)


def test_the_shown_clip_is_none_of_those_that_are_learned_from(taught: str, hierarchy) -> None:
    subject = subject_of(taught, hierarchy)
    assert subject.shown.key == "val-000000"
    counts = {name: len(lesson.frames) for name, lesson in subject.lessons.items()}
    assert counts == {"fit": 8, "choose": 5, "measure": 6}
    clips = [each for lesson in subject.lessons.values() for each in lesson.frames]
    for number, clip in enumerate([*clips, subject.shown.frames]):
        assert not any(torch.equal(clip, other) for other in clips[:number])


def test_what_is_true_of_the_shown_clip(taught: str, hierarchy) -> None:
    shown = subject_of(taught, hierarchy).shown
    assert shown.depth is not None and shown.places is not None
    assert shown.depth.shape == (12, 16, 16)
    # The square is 3 m away, in front of what is behind it, where `places` says.
    column, row = (shown.places[0] * 16).astype(int)
    assert shown.depth[0, row, column] == shown.depth.min() == pytest.approx(3.0)
    assert np.isfinite(shown.places).all()
    assert depth_limits(shown) == (shown.depth.min(), shown.depth.max())


def test_a_look_has_everything(taught: str, hierarchy) -> None:
    subject = subject_of(taught, hierarchy)
    moment = recorded(subject, hierarchy)
    assert [each.shape for each in moment.colours] == [(12, 4, 4, 3), (6, 2, 2, 3), (3, 1, 1, 3)]
    whole = surprise_over_video(hierarchy, subject.shown.frames, 12, CPU)
    assert moment.curves.keys() == whole.keys()
    for place, curve in moment.curves.items():
        np.testing.assert_array_equal(curve.frames, whole[place].frames)
        np.testing.assert_allclose(curve.values, whole[place].values, rtol=1e-5)
        np.testing.assert_allclose(curve.copied, whole[place].copied, rtol=1e-5)
    assert moment.readouts is not None and moment.readouts.depth is not None
    assert moment.readouts.depth.metres.shape == (12, 16, 16)
    belief = moment.readouts.beliefs["visible"]
    assert belief.places.shape == (len(belief.frames), 2)
    assert {"depth_rmse_m", "mean_depth_rmse_m", "place_r2/visible"} <= moment.scores.keys()
    farthest = moment.curves[1, 2]
    expected = farthest.values.mean() / farthest.copied.mean()
    assert moment.scores["surprise_over_copy/level1"] == pytest.approx(expected)


def test_colours_follow_those_of_the_look_before(taught: str, hierarchy) -> None:
    subject = subject_of(taught, hierarchy)
    first = recorded(subject, hierarchy)
    flipped = Moment(0, [-each for each in first.along], [], {}, None, {})
    second = recorded(subject, hierarchy, flipped)
    np.testing.assert_allclose(second.along[0], -first.along[0], atol=1e-6)
    assert recorded(subject, hierarchy, first).colours[0].tolist() == first.colours[0].tolist()


def test_strips_show_the_whole_clip(taught: str, hierarchy) -> None:
    subject = subject_of(taught, hierarchy)
    moment = recorded(subject, hierarchy)
    strip = token_strip(subject.shown, moment)
    assert strip.shape == (4 * TILE_PX, STRIP_FRAMES * TILE_PX, 3) and strip.dtype == np.uint8
    assert (strip[-1, 0] == moment.colours[2][0, 0, 0]).all()
    assert (strip[-1, -1] == moment.colours[2][2, 0, 0]).all()
    depth = depth_strip(subject.shown, moment)
    assert depth is not None and subject.shown.depth is not None
    assert moment.readouts is not None and moment.readouts.depth is not None
    assert depth.shape == (2 * TILE_PX, STRIP_FRAMES * TILE_PX)
    assert depth[0, -1] == subject.shown.depth[-1, 0, -1]  # true above read
    assert depth[-1, -1] == moment.readouts.depth.metres[-1, -1, -1]


def test_videos_without_truth_have_the_rest_and_words(shards: Path, hierarchy) -> None:
    subject = subject_of(f"{shards}/*.tar", hierarchy)
    assert not subject.lessons and "has no truth" in subject.missing
    moment = recorded(subject, hierarchy)
    assert moment.readouts is None and depth_strip(subject.shown, moment) is None
    assert len(moment.curves) == 5 and not any("depth" in name for name in moment.scores)
    about = about_training(subject, levels_of(hierarchy))
    assert "**depth** and **belief** are not here: the first validation clip has no truth" in about


def test_too_few_clips_to_learn_from_are_counted(tmp_path: Path, hierarchy) -> None:
    write_squares(tmp_path, {"train": 4, "val": 2}, {})
    subject = subject_of(f"{tmp_path}/train/*.tar", hierarchy)
    assert not subject.lessons and subject.shown.depth is not None
    assert "2 for training and 0 more for validation" in subject.missing
    assert recorded(subject, hierarchy).readouts is None
