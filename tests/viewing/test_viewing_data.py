"""Pictures of the data show what is there: truth, worlds that are equal, the stream's own clip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from square_world import FPS, FRAMES, SIZE, WINDOW, block, footage, write_squares

from worldmodel.data import transforms
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.encode import encode_video
from worldmodel.data.order import SetOrder
from worldmodel.data.packets import with_packets
from worldmodel.data.shards import write_shard
from worldmodel.errors import InputError
from worldmodel.evaluation.figures import ORANGE
from worldmodel.evaluation.footage import find_samples
from worldmodel.models.checkpoint import ClipSpec
from worldmodel.viewing import data as view

CLIP = ClipSpec(num_frames=FRAMES, fps=FPS, size=SIZE)


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
    return " | ".join(found)


def shown(seed: int = 1):
    clip = footage(seed)
    clip.truth.state["distance"] = np.full((FRAMES, 1), 3.0, np.float32)
    clip.metadata["fps"] = FPS
    return clip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_squares(folder / "data" / "physics", {"train": 4, "test": 6}, {"test": 1})
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ClipDataModule:
    """Twelve videos of 40 frames with an index of packets, of which clips of 8 are drawn."""
    folder = tmp_path_factory.mktemp("videos")
    generator = np.random.default_rng(0)
    samples = []
    for number in range(12):
        frames = generator.integers(0, 255, (40, 32, 32, 3), np.uint8)
        samples.append((f"video-{number:02d}", with_packets(encode_video(frames, fps=16.0))))
    write_shard(folder / "a.tar", samples[:7])
    write_shard(folder / "b.tar", samples[7:])
    made = ClipDataModule(
        str(folder), batch_size=4, num_frames=8, size=32, zoom=2.0, color_jitter=True, seed=3,
        val_shards=str(folder / "a.tar"),
    )  # fmt: skip
    made.setup()
    return made


def test_the_table_counts_what_lies_there(root: Path) -> None:
    table = view.set_table(root / "data" / "physics")
    assert "| train | clips | 4 | 1 |" in table
    assert "| test | blocks | 2 | 1 |" in table


def test_one_clip_of_each_kind_in_which_the_object_is(root: Path) -> None:
    refs = find_samples(root / "data" / "physics", "test", "clips")
    clips = view.first_of_each_kind(refs, CLIP)
    assert [clip.metadata["kind"] for clip in clips] == ["permanence", "reveal"]
    assert all(clip.metadata["present"] for clip in clips)


def test_the_contact_sheet_frames_hidden_pictures(root: Path) -> None:
    refs = find_samples(root / "data" / "physics", "test", "clips")
    clips = view.first_of_each_kind(refs, CLIP)
    figure = view.contact_sheet(clips, num_frames=FRAMES)
    assert len(figure.axes) == 2 * FRAMES
    colours = [to_hex(axes.spines["top"].get_edgecolor()) for axes in figure.axes[:FRAMES]]
    hidden = [colour == ORANGE.lower() for colour in colours]
    assert hidden == [WINDOW[0] <= frame < WINDOW[1] for frame in range(FRAMES)]


def test_kinds_are_counted_and_hidings_timed(root: Path) -> None:
    left, right = view.what_is_shown(find_samples(root / "data" / "physics", "train", "clips")).axes
    assert {text.get_text().strip() for text in left.texts} == {"3", "1"}
    # Two of four hold the object, hidden for 6 frames of 8 a second: 0.75 s.
    heights = [bar.get_height() for bar in right.patches]
    assert sum(heights) == 2
    assert heights[3] == 2
    assert right.get_xlabel().endswith(", s")


def test_truth_has_frames_depth_and_things_in_words() -> None:
    clip = shown()
    number, names, colours = view.named_ids(clip)
    assert names == ["floor and wall", "box, tracked"]
    assert len(colours) == 2
    assert np.array_equal(number, clip.truth.ids)
    figure = view.truth_maps(clip, num_frames=4)
    assert len(figure.axes) == 3 * 4 + 2
    assert "depth, m" in texts(figure)
    assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == names


def test_screens_share_a_name_and_bodies_do_not() -> None:
    clip = shown()
    clip.truth.state["slab_screen"] = np.array([1, 1, 0], np.float32)
    clip.truth.ids[:, 0, :4] = [100, 101, 102, 100]
    number, names, _ = view.named_ids(clip)
    assert names == ["floor and wall", "box, tracked", "screen", "furniture"]
    assert number[0, 0, :4].tolist() == [2, 2, 3, 2]


def test_the_way_of_the_object_is_drawn_where_it_is_hidden_too() -> None:
    clip = shown()
    figure = view.truth_over_time(clip)
    way, place, seen, distance = figure.axes
    hidden = way.lines[2]
    assert len(hidden.get_xdata()) == WINDOW[1] - WINDOW[0]
    x = clip.truth.state["image_position"][:, 0, 0]
    assert np.nanmax(np.abs(place.lines[0].get_ydata() - x)) < 1e-5
    assert len(place.patches) == WINDOW[1] - WINDOW[0]
    assert seen.lines[0].get_ydata().tolist() == clip.truth.state["visible_fraction"][:, 0].tolist()
    assert distance.get_ylabel() == "distance, m" and distance.get_xlabel() == "time, s"


def test_a_clip_that_tracks_nothing_has_no_way() -> None:
    absent = footage(1, present=False)
    with pytest.raises(InputError, match="tracks no object"):
        view.truth_over_time(absent)


def test_worlds_of_a_block_differ_nowhere_while_hidden() -> None:
    figure = view.block_worlds(block(2), num_frames=5)
    curve = figure.subfigs[1].axes[0].lines[0].get_ydata()
    assert (curve[WINDOW[0] : WINDOW[1]] == 0).all()
    assert (curve[: WINDOW[0]] > 0).all()
    assert len(figure.subfigs[1].axes[0].patches) == int((curve == 0).sum())
    assert len(figure.subfigs[0].axes) == 3 * 5


def test_block_clips_are_framed_by_their_world() -> None:
    figure = view.block_clips(block(2), num_frames=4)
    colours = np.array(
        [to_hex(axes.spines["top"].get_edgecolor()) for axes in figure.axes]
    ).reshape(4, 4)
    a, b = (colour.lower() for colour in view.WORLD_COLOURS)
    assert colours[:, 0].tolist() == [a, b, a, b]
    assert colours[:, -1].tolist() == [a, b, b, a]
    assert "AB\nimpossible" in texts(figure)


def test_two_changes_of_worlds_are_named_by_three_letters() -> None:
    assert "BAB\nimpossible" in texts(view.block_clips(block(2, windows=((3, 6), (8, 11)))))


def test_possible_and_impossible_clips_are_made_of_the_same_pictures() -> None:
    assert view.same_pictures(block(2))
    assert view.same_pictures(block(2, windows=((3, 6), (8, 11))))


def test_the_way_of_a_clip_ends_in_the_streams_own(module: ClipDataModule) -> None:
    """What is shown as cut out, mirrored and coloured is what the stream gives, to the bit."""
    dataset = module.train_dataloader().dataset
    flips = set()
    for sample in range(6):
        journey = view.follow_clip(dataset, sample, epoch=1)
        left, top = journey.corner
        square = journey.scaled[:, top : top + 32, left : left + 32]
        if journey.draw.flip:
            square = square[:, :, ::-1]
        coloured = transforms.color_clip(square, journey.draw.channels, journey.draw.gamma)
        flips.add(journey.draw.flip)
        assert np.array_equal(coloured, journey.clip.frames[0].permute(0, 2, 3, 1).numpy())
        assert np.allclose(journey.pts_seconds[journey.frames], journey.clip.pts_seconds[0])
        assert np.flatnonzero(journey.decoded == 2).tolist() == journey.frames
        assert journey.scaled.shape[1] > 32
    assert flips == {True, False}


def test_pictures_of_the_way_say_what_was_drawn(module: ClipDataModule) -> None:
    journey = view.follow_clip(module.train_dataloader().dataset, 0)
    assert "`mp4.packets`" in view.members_table(journey)
    plan = view.decoding_plan(journey)
    assert sum(len(bars) for bars in plan.axes[0].containers) == 40
    assert len(plan.axes[0].containers[0]) == 8
    assert "frame of the video, 16 a second" in texts(plan)
    crop = view.crop_and_colour(journey, num_frames=3)
    assert len(crop.axes) == 9
    assert crop.axes[3].patches[0].get_xy() == (journey.corner[0] - 0.5, journey.corner[1] - 0.5)
    assert str(journey.corner) in texts(crop)


def test_a_video_without_packets_is_refused(shards: Path, tmp_path: Path) -> None:
    module = ClipDataModule(str(shards), batch_size=2, num_frames=8, size=32)
    module.setup()
    with pytest.raises(InputError, match="no index of packets"):
        view.follow_clip(module.train_dataloader().dataset, 0)


def test_a_batch_is_shown_with_its_keys(module: ClipDataModule) -> None:
    batch = next(iter(module.train_dataloader()))
    figure = view.batch_sheet(batch, num_frames=3)
    assert len(figure.axes) == 4 * 3
    assert all(key in texts(figure) for key in batch.keys)
    assert "(4, 8, 3, 32, 32)" in texts(figure)


def test_the_order_of_epochs_shows_every_sample_once() -> None:
    figure = view.order_of_epochs(SetOrder((5, 7), seed=0))
    points = figure.axes[0].collections[0].get_offsets()
    assert sorted(points[:, 0]) == sorted(points[:, 1]) == list(range(12))
    assert not np.array_equal(points[:, 0], points[:, 1])


def test_who_goes_on_sees_the_next_batch_and_who_begins_afresh_does_not(
    module: ClipDataModule,
) -> None:
    resumed = view.stop_and_go(module.train_dataloader, after=2)
    assert resumed.state["samples"] == 8
    assert resumed.is_equal and not resumed.is_afresh_equal
    assert "equal to the bit" in texts(view.resumed_batches(resumed))


def test_a_loader_that_loses_its_place_is_told(module: ClipDataModule) -> None:
    resumed = view.stop_and_go(module.train_dataloader, after=1)
    lost = view.Resumed(resumed.state, resumed.unbroken, resumed.afresh, resumed.afresh)
    assert not lost.is_equal
    assert "not equal" in texts(view.resumed_batches(lost))
    pixel = torch.ones_like(resumed.resumed.frames)
    altered = type(resumed.resumed)(
        resumed.resumed.frames + pixel, resumed.resumed.pts_seconds, resumed.resumed.keys
    )
    assert not view.Resumed(resumed.state, resumed.unbroken, altered, resumed.afresh).is_equal
