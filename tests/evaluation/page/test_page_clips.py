"""Blocks to watch: the right block, the right clips in the right places, the model's own curves."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from square_world import FPS, FRAMES, SIZE, WINDOW, Planted, block, write_squares
from test_page import text_of

from worldmodel.evaluation.footage import find_samples, read_block
from worldmodel.evaluation.measure import NO_PICTURES
from worldmodel.evaluation.page.clips import GAP_PX, mosaic, read_clips, write_clips
from worldmodel.evaluation.page.curves import BOTTOM, LEFT, RIGHT, TOP, Chart
from worldmodel.evaluation.pictures import Shown
from worldmodel.evaluation.surprise import CLIPS, choose, score_blocks, splice, splice_frames
from worldmodel.models.checkpoint import ClipSpec

SPEC = ClipSpec(num_frames=FRAMES, fps=FPS, size=SIZE)
META = {"checkpoint_sha256": "c0ffee", "data": {"index_sha256": "beef"}}
SPANS = (1, 2)


@pytest.fixture(scope="module")
def blocks_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("blocks")
    write_squares(root, {}, {"test": 3})
    return root


def shown_of(root: Path, remembers: bool = True) -> Shown:
    refs = find_samples(root, "test", "blocks")
    scores = score_blocks(
        Planted(remembers), [read_block(ref, SPEC) for ref in refs], torch.device("cpu")
    )
    choice = choose(scores, SPANS)
    return Shown(NO_PICTURES, [], [], scores, choice, SPANS, FPS)


def listing(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "clips" / "clips.json").read_text())


def rewrite(folder: Path, content: object) -> None:
    (folder / "clips" / "clips.json").write_text(json.dumps(content))


def decode(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_first_block_of_each_kind_is_kept_with_its_curves(
    blocks_root: Path, tmp_path: Path
) -> None:
    shown = shown_of(blocks_root)
    refs = find_samples(blocks_root, "test", "blocks")
    write_clips(tmp_path, META, refs[::-1], SPEC, shown)
    watched = read_clips(tmp_path, META)
    assert [each.key for each in watched.blocks] == ["test-permanence-0000", "test-reveal-0000"]
    for each in watched.blocks:
        number = shown.scores.keys.index(each.key)
        curves = shown.scores.curves[shown.choice.place][number]
        assert [each.curves[name] for name in CLIPS] == [tuple(curve) for curve in curves.tolist()]
        assert each.windows == (WINDOW,)
        assert each.violation == WINDOW[1]
        assert each.relative_accuracy == 1
        assert each.scores["AB"] + each.scores["BA"] > each.scores["AA"] + each.scores["BB"]
        level, horizon = shown.choice.place
        assert each.seconds[0] == ((horizon + 1) * SPANS[level] - 1) / FPS
        assert each.seconds[-1] == (FRAMES - 1) / FPS


def test_a_scorer_without_memory_is_shown_as_a_tie(blocks_root: Path, tmp_path: Path) -> None:
    shown = shown_of(blocks_root, remembers=False)
    write_clips(tmp_path, META, find_samples(blocks_root, "test", "blocks"), SPEC, shown)
    assert {each.relative_accuracy for each in read_clips(tmp_path, META).blocks} == {0.5}


def test_the_video_holds_the_four_clips_in_step_and_in_their_places(
    blocks_root: Path, tmp_path: Path
) -> None:
    refs = find_samples(blocks_root, "test", "blocks")
    write_clips(tmp_path, META, refs, SPEC, shown_of(blocks_root))
    for watched in read_clips(tmp_path, META).blocks:
        pictures = decode(watched.video)
        side = (pictures.shape[2] - GAP_PX) // 2
        assert pictures.shape == (FRAMES, 2 * side + GAP_PX, 2 * side + GAP_PX, 3)
        here, far = slice(0, side), slice(side + GAP_PX, None)
        one = read_block(next(ref for ref in refs if ref.key == watched.key), SPEC)
        clips = splice(one.frames, splice_frames(one.windows, 1) or ())
        times = side // SIZE
        # In the order of CLIPS: AA, BB, AB, BA.
        for clip, place in zip(
            clips, ((here, here), (far, here), (here, far), (far, far)), strict=True
        ):
            seen = pictures[:, *place][:, times // 2 :: times, times // 2 :: times]
            wanted = clip.permute(0, 2, 3, 1).numpy()
            assert np.abs(seen.astype(int) - wanted.astype(int)).mean() < 4


def test_single_frames_of_impossible_clips_are_those_of_possible_ones() -> None:
    pictures = mosaic(block(3, windows=((3, 5), (9, 11))))
    side = (pictures.shape[1] - GAP_PX) // 2
    aa, ab = pictures[:, :side, :side], pictures[:, :side, side + GAP_PX :]
    bb, ba = pictures[:, side + GAP_PX :, :side], pictures[:, side + GAP_PX :, side + GAP_PX :]
    for frame in range(len(pictures)):
        assert (ab[frame] == aa[frame]).all() or (ab[frame] == bb[frame]).all()
        assert (ba[frame] == aa[frame]).all() or (ba[frame] == bb[frame]).all()
    # Two windows: there and back again.
    assert (ab[-1] == aa[-1]).all()
    assert (ab[7] == bb[7]).all() and (aa[7] != bb[7]).any()


def test_the_same_blocks_give_the_same_bytes(blocks_root: Path, tmp_path: Path) -> None:
    refs, shown = find_samples(blocks_root, "test", "blocks"), shown_of(blocks_root)
    for name in "ab":
        write_clips(tmp_path / name, META, refs, SPEC, shown)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "clips").iterdir()}
        for name in "ab"
    )
    assert first == second
    assert set(first) == {"clips.json", "reveal.mp4", "permanence.mp4"}


def test_nothing_predicted_leaves_no_clips_of_another_model(
    blocks_root: Path, tmp_path: Path
) -> None:
    refs, shown = find_samples(blocks_root, "test", "blocks"), shown_of(blocks_root)
    write_clips(tmp_path, META, refs, SPEC, shown)
    write_clips(tmp_path, META, refs, SPEC, replace(shown, choice=None))
    with pytest.raises(ValueError, match=r"there is no clips/clips\.json"):
        read_clips(tmp_path, META)


def test_curves_are_placed_at_the_time_of_their_pictures(blocks_root: Path, tmp_path: Path) -> None:
    write_clips(
        tmp_path, META, find_samples(blocks_root, "test", "blocks"), SPEC, shown_of(blocks_root)
    )
    one = read_clips(tmp_path, META).blocks[0]
    chart = Chart.of(one)
    second = (RIGHT - LEFT) * FPS / FRAMES
    for line in chart.lines:
        places = [tuple(map(float, pair.split(","))) for pair in line.points.split()]
        assert [x for x, _ in places] == pytest.approx(
            [LEFT + second * t for t in one.seconds], abs=0.01
        )
        assert all(TOP <= y <= BOTTOM for _, y in places)
        # Higher surprise stands higher.
        heights = [-y for _, y in places]
        assert np.argmax(heights) == np.argmax(one.curves[line.name])
    assert [line.name for line in chart.lines] == list(CLIPS)
    ((x, width),) = chart.hidden
    assert x == pytest.approx(LEFT + second * WINDOW[0] / FPS, abs=0.01)
    assert width == pytest.approx(second * (WINDOW[1] - WINDOW[0]) / FPS, abs=0.02)
    assert chart.violation == pytest.approx(LEFT + second * WINDOW[1] / FPS, abs=0.01)
    assert f"can be seen from {WINDOW[1] / FPS:.2f} s on" in chart.summary


def test_clips_of_another_checkpoint_are_not_shown(folder: Path) -> None:
    rewrite(folder, listing(folder) | {"checkpoint_sha256": "another"})
    text = text_of(folder)
    assert "clips.json is of another checkpoint or set than this report" in text
    assert "AB + BA =" not in text


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda entry: entry | {"video": "../figures/x.mp4"}, "is no name of an mp4 file"),
        (lambda entry: entry | {"video": "/etc/passwd"}, "is no name of an mp4 file"),
        (lambda entry: entry | {"video": "gone.mp4"}, "there is no clips/gone.mp4"),
        (lambda entry: entry | {"seconds": [0.0]}, "have not 1 steps"),
        (lambda entry: entry | {"fps": 0}, "at 0.0 fps"),
        (lambda entry: entry | {"curves": {"AA": "x"}}, "is not as this version writes it"),
        (lambda entry: {}, "is not as this version writes it (KeyError: 'video')"),
        (lambda entry: 7, "is not as this version writes it"),
    ],
)
def test_a_list_of_clips_that_is_wrong_is_said_to_be(spoil: Any, says: str, folder: Path) -> None:
    content = listing(folder)
    content["blocks"][0] = spoil(content["blocks"][0])
    rewrite(folder, content)
    text = text_of(folder)
    assert "No clips to watch: " in text
    assert says in text
    assert "Violation of expectation" in text


@pytest.mark.parametrize("content", ["[]", "{", "7", "null"])
def test_a_list_of_clips_that_is_none_is_said_to_be(content: str, folder: Path) -> None:
    (folder / "clips" / "clips.json").write_text(content)
    assert "clips.json is not as this version writes it" in text_of(folder)


def test_a_broken_video_is_named_and_its_curves_are_shown(folder: Path) -> None:
    (folder / "clips" / "reveal.mp4").write_bytes(b"no video")
    text = text_of(folder)
    assert "the video of test-reveal-0000 cannot be decoded" in text
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<video") == 1
    assert page.count('class="chart"') == 2
