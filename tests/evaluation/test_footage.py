"""Reading a set: which frames, in which order, and what belongs to them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from square_world import FRAMES, SIZE, footage

from worldmodel.clips import Truth
from worldmodel.data.shards import SampleRef, read_members, scan_shard, write_shard
from worldmodel.data.truth import decode_truth, encode_truth
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import (
    find_samples,
    is_event,
    mirror,
    mirrored_too,
    read_block,
    read_footage,
    read_samples,
    sampled_frames,
    seen_fps,
)
from worldmodel.evaluation.network import chunked, pad_chunk
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.models.checkpoint import ClipSpec

CPU = torch.device("cpu")
SPEC = ClipSpec(num_frames=FRAMES, fps=8.0, size=SIZE)


def test_clips_come_in_the_order_of_their_keys_whatever_the_workers(squares: Path) -> None:
    refs = find_samples(squares, "test", "clips")
    assert [ref.key for ref in refs] == [f"test-{n:06d}" for n in range(11)]
    one = list(read_samples(refs, SPEC, blocks=False))
    read = partial(read_footage, clip=SPEC)
    two = [clip for some in run_pass(refs, read, list, 3, CPU, Pace(1)) for clip in some]
    assert [clip.key for clip in one] == [clip.key for clip in two] == [ref.key for ref in refs]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(one, two, strict=True))
    assert one[0].frames.shape == (FRAMES, 3, SIZE, SIZE)


def test_a_block_holds_both_worlds_equal_to_the_bit_within_its_window(squares: Path) -> None:
    block = next(read_samples(find_samples(squares, "val", "blocks"), SPEC, blocks=True))
    a, b = block.frames
    start, stop = block.windows[0]
    assert torch.equal(a[start:stop], b[start:stop])
    assert not torch.equal(a[start - 1], b[start - 1])
    assert [truth.state["present"][0] for truth in block.truth] == [1, 0]


@pytest.mark.parametrize(
    ("wanted", "seen"), [(16.0, 16), (8.0, 8), (10.0, 8), (5.0, 16 / 3), (3.0, 3.2)]
)
def test_a_video_is_seen_at_the_rate_that_its_stride_gives(
    tmp_path: Path, wanted: float, seen: float
) -> None:
    """Speeds are in pixels a second of this rate, not of the one the model asks for."""
    write_shard(tmp_path / "a.tar", [("a", {"json": b'{"fps": 16, "num_frames": 64}'})])
    (ref,) = scan_shard(tmp_path / "a.tar")
    assert seen_fps(ref, replace(SPEC, fps=wanted)) == pytest.approx(seen)


@pytest.mark.parametrize(
    ("window", "expected"), [((10, 20), (5, 10)), ((11, 19), (6, 10)), ((9, 21), (5, 11))]
)
def test_window_holds_the_sampled_frames_that_lie_in_it(
    window: tuple[int, int], expected: tuple[int, int]
) -> None:
    inside = [frame // 2 for frame in range(0, 64, 2) if window[0] <= frame < window[1]]
    assert (inside[0], inside[-1] + 1) == expected
    assert tuple(-(-edge // 2) for edge in window) == expected


def test_every_second_frame_from_the_first_and_no_fewer_than_a_clip() -> None:
    clip = ClipSpec(num_frames=4, fps=8.0, size=64)
    indices, stride = sampled_frames({"fps": 16, "num_frames": 7}, clip, "x")
    assert (list(indices), stride) == ([0, 2, 4, 6], 2)
    with pytest.raises(InputError, match="4 frames at 8 fps, 7 source frames, but x has 6"):
        sampled_frames({"fps": 16, "num_frames": 6}, clip, "x")


def test_a_missing_split_is_named(squares: Path) -> None:
    with pytest.raises(InputError, match=r"has no train/blocks-\*\.tar: evaluation needs"):
        find_samples(squares, "train", "blocks")


def test_a_set_of_an_earlier_version_is_named(squares: Path, tmp_path: Path) -> None:
    ref = find_samples(squares, "val", "clips")[0]
    members = read_members(ref)
    truth = decode_truth(members)
    state = {name: array for name, array in truth.state.items() if not name.startswith("slab")}
    members |= encode_truth(Truth(truth.depth, truth.ids, state))
    write_shard(tmp_path / "val" / "clips-000000.tar", [(ref.key, members)])
    old = find_samples(tmp_path, "val", "clips")
    with pytest.raises(InputError, match=r"no slab_box, slab_screen: an earlier version"):
        list(read_samples(old, SPEC, blocks=False))


def rewritten(ref: SampleRef, folder: Path, **changes: bytes) -> SampleRef:
    """The same sample with other members, named with _ for a dot, in a shard of its own."""
    members = read_members(ref)
    members |= {name.replace("_", "."): content for name, content in changes.items()}
    kind = "blocks" if ref.is_block else "clips"
    write_shard(folder / "val" / f"{kind}-000000.tar", [(ref.key, members)])
    return find_samples(folder, "val", kind)[0]


def metadata_without(ref: SampleRef, *names: str, **changes: object) -> bytes:
    metadata = json.loads(read_members(ref, ["json"])["json"]) | changes
    return json.dumps({k: v for k, v in metadata.items() if k not in names}).encode()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"mp4": b"no video"}, r"video cannot be decoded"),
        ({"state_npz": b"no arrays"}, r"state\.npz is no archive of plain arrays"),
    ],
)
def test_a_broken_clip_is_named_with_its_shard(
    squares: Path, tmp_path: Path, broken: dict[str, bytes], message: str
) -> None:
    ref = rewritten(find_samples(squares, "val", "clips")[3], tmp_path, **broken)
    with pytest.raises(
        InputError, match=rf"^sample val-000003 of .*-000000\.tar cannot.*{message}"
    ):
        read_footage(ref, SPEC)


def test_a_clip_shorter_than_it_says_is_named_with_its_shard(squares: Path, tmp_path: Path) -> None:
    ref = find_samples(squares, "val", "clips")[3]
    ref = rewritten(ref, tmp_path, json=metadata_without(ref, num_frames=40))
    longer = replace(SPEC, num_frames=20)
    with pytest.raises(InputError, match=r"^sample val-000003 of .*tar cannot be read: .* 0 to 15"):
        read_footage(ref, longer)


def test_a_block_that_does_not_say_what_happens_is_named(squares: Path, tmp_path: Path) -> None:
    ref = find_samples(squares, "val", "blocks")[0]
    for missing in ("kind", "hidden_windows"):
        bare = rewritten(ref, tmp_path, json=metadata_without(ref, missing))
        with pytest.raises(InputError, match=rf"metadata of sample .* of .*tar has no {missing}"):
            read_block(bare, SPEC)
    bare = rewritten(ref, tmp_path, json=metadata_without(ref, "splice_frames", hidden_windows=[]))
    with pytest.raises(InputError, match=r"has no splice_frames, which evaluation needs; make"):
        read_block(bare, SPEC)


def test_a_clip_without_a_kind_is_a_free_scene(squares: Path, tmp_path: Path) -> None:
    ref = find_samples(squares, "val", "clips")[0]
    assert is_event(read_footage(ref, SPEC).metadata)
    bare = rewritten(ref, tmp_path, json=metadata_without(ref, "kind"))
    assert not is_event(read_footage(bare, SPEC).metadata)


def test_mirror_moves_the_square_and_its_truth_alike() -> None:
    clip = footage(3)
    seen = mirror(clip)
    for frame in (0, 4, 12):
        bright = np.flatnonzero((seen.frames[frame, 0] > 200).any(0).numpy())
        x = seen.truth.state["image_position"][frame, 0, 0]
        assert bright.min() <= x < bright.max() + 1
        shown = np.flatnonzero((seen.truth.ids[frame] == 1).any(0))
        assert np.array_equal(shown, bright)
    assert seen.truth.state["slab_box"][0, 0].tolist() == [SIZE - 9, 2, SIZE - 4, 14]
    assert seen.metadata["mirrored"]
    again = mirror(seen)
    assert not again.metadata["mirrored"]
    assert torch.equal(again.frames, clip.frames)
    assert np.allclose(again.truth.state["image_position"], clip.truth.state["image_position"])
    # The clip itself stays as it was.
    assert clip.truth.state["slab_box"][0, 0].tolist() == [4, 2, 9, 14]


def test_only_event_clips_are_mirrored() -> None:
    clips = [footage(0, kind="free"), footage(1)]
    keys = [clip.key for clip in mirrored_too(clips)]
    assert keys == ["clip-000", "clip-001", "clip-001-mirrored"]


def test_chunks_and_padding() -> None:
    assert list(chunked(range(5), 2)) == [[0, 1], [2, 3], [4]]
    padded = pad_chunk([torch.zeros(2), torch.ones(2)], 4)
    assert padded.tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
