import itertools
import json
import logging
import multiprocessing
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patterns import clip_members, moving_pattern

from worldmodel.clips import ClipBatch, Truth
from worldmodel.data import order, sampling, stream
from worldmodel.data.encode import encode_video
from worldmodel.data.order import ClipRequest, FixedSampler, Mixture, SetOrder, StreamSampler
from worldmodel.data.quarantine import Quarantine
from worldmodel.data.shards import SampleRef, resolve_shards, scan_shard, write_shard
from worldmodel.data.stream import ClipDataset, ClipLoader
from worldmodel.data.transforms import color_clip, scaled_size
from worldmodel.data.truth import encode_truth
from worldmodel.data.video import VideoDecoder, open_video
from worldmodel.errors import InputError


@pytest.fixture(scope="module")
def refs(uneven_shards: Path) -> list[SampleRef]:
    return [ref for path in resolve_shards(str(uneven_shards)) for ref in scan_shard(path)]


def dataset(refs: Sequence[SampleRef], seed: int = 0) -> ClipDataset:
    return ClipDataset(refs, 4, 8.0, 16, flip=True, seed=seed, random_start=True)


def loader(
    refs: Sequence[SampleRef],
    batch_size: int = 6,
    num_workers: int = 0,
    quarantine: Quarantine | None = None,
) -> ClipLoader:
    sampler = StreamSampler(Mixture((SetOrder((len(refs),), 0),)), batch_size)
    return ClipLoader(dataset(refs), sampler, num_workers, quarantine=quarantine)


def endless(clips: ClipLoader) -> Iterator[ClipBatch]:
    while True:
        yield from clips


def same(one: Sequence[ClipBatch], other: Sequence[ClipBatch]) -> bool:
    return len(one) == len(other) and all(
        a.keys == b.keys and torch.equal(a.frames, b.frames)
        for a, b in zip(one, other, strict=True)
    )


# The dataset


def test_clip_dataset__gives_evenly_spaced_frames_of_the_right_video(
    refs: list[SampleRef],
) -> None:
    clips = dataset(refs)
    for request in (ClipRequest(0, 3), ClipRequest(4, 27)):
        batch = clips[request]
        assert batch.frames.shape == (1, 4, 3, 16, 16)
        assert batch.keys == (f"train-{request.sample:06d}",)
        # 16 frames a second read at 8: every second frame, each an eighth of a second later.
        assert torch.allclose(batch.pts_seconds.diff(), torch.tensor(0.125))
        # Blue tells the number of the frame: 10 per frame.
        blue = batch.frames[0, :, 2].float().mean(dim=(1, 2))
        assert torch.allclose(blue / 10, batch.pts_seconds[0] * 16, atol=0.6)


def test_clip_dataset__a_clip_is_a_function_of_seed_epoch_and_key(refs: list[SampleRef]) -> None:
    one, other = dataset(refs), dataset(list(reversed(refs)))
    assert same([one[ClipRequest(2, 5)]], [other[ClipRequest(2, len(refs) - 6)]])
    starts = {float(one[ClipRequest(epoch, 5)].pts_seconds[0, 0]) for epoch in range(8)}
    assert len(starts) > 2
    seeds = {float(dataset(refs, s)[ClipRequest(0, 5)].pts_seconds[0, 0]) for s in range(8)}
    assert len(seeds) > 2


def test_clip_dataset__flips_some_clips_and_all_frames_of_them(refs: list[SampleRef]) -> None:
    plain = ClipDataset(refs, 4, 8.0, 16, flip=False, random_start=True)
    mirrored = 0
    for epoch in range(16):
        request = ClipRequest(epoch, 0)
        clip, straight = dataset(refs)[request].frames, plain[request].frames
        if not torch.equal(clip, straight):
            assert torch.equal(clip, straight.flip(-1))
            mirrored += 1
    assert 3 <= mirrored <= 13


def test_clip_dataset__zoom_shows_a_drawn_part_of_the_picture_larger(tmp_path: Path) -> None:
    data = encode_video(moving_pattern(20, 32, 32), 16.0)
    write_shard(tmp_path / "a.tar", [("v", {"mov": data})])
    refs = scan_shard(tmp_path / "a.tar")
    zoomed = ClipDataset(refs, 4, 16.0, 16, zoom=2.0, random_start=True)
    plain = ClipDataset(refs, 4, 16.0, 16, random_start=True)
    sides = set()
    for epoch in range(12):
        clip, whole = (each[ClipRequest(epoch, 0)] for each in (zoomed, plain))
        assert clip.frames.shape == whole.frames.shape
        assert torch.equal(clip.pts_seconds, whole.pts_seconds)
        draw = sampling.draw_clip(0, epoch, "v")
        side = round(16 * (1 + draw.zoom))
        width, height = scaled_size(32, 32, side)
        left, top = int(draw.crop[0] * (width - 15)), int(draw.crop[1] * (height - 15))
        first = round(float(clip.pts_seconds[0, 0]) * 16)
        scaled = open_video(data).get_frames(range(first, first + 4), (width, height))
        cut = scaled[:, top : top + 16, left : left + 16]
        assert np.array_equal(clip.frames[0].permute(0, 2, 3, 1).numpy(), cut)
        sides.add(side)
    assert len(sides) > 6


def test_clip_dataset__colors_are_one_draw_for_all_frames(refs: list[SampleRef]) -> None:
    always, half, never = (
        ClipDataset(refs, 4, 8.0, 16, color_jitter=share, random_start=True)
        for share in (1.0, 0.5, 0.0)
    )
    num_colored = 0
    for epoch in range(16):
        request = ClipRequest(epoch, 0)
        draw = sampling.draw_clip(0, epoch, refs[0].key)
        plain, colored, other = (
            clips[request].frames[0].permute(0, 2, 3, 1).numpy() for clips in (never, always, half)
        )
        assert np.array_equal(colored, color_clip(plain, draw.channels, draw.gamma))
        assert np.array_equal(other, colored if draw.colored < 0.5 else plain)
        num_colored += draw.colored < 0.5
    assert 4 <= num_colored <= 12


def test_clip_dataset__fixed_clips_are_the_middle_every_time(refs: list[SampleRef]) -> None:
    fixed = ClipDataset(refs, 4, 8.0, 16)
    assert same([fixed[7]], [fixed[ClipRequest(9, 7)]])
    # 20 frames, a clip covers 7: starts 0 to 13, the middle one is 7.
    assert float(fixed[7].pts_seconds[0, 0]) == pytest.approx(7 / 16)


def test_clip_dataset__cuts_a_square_out_of_a_wide_video(tmp_path: Path) -> None:
    data = encode_video(moving_pattern(20, 32, 64), 16.0)
    write_shard(tmp_path / "a.tar", [("wide", {"mov": data})])
    batch = ClipDataset(scan_shard(tmp_path / "a.tar"), 4, 16.0, 16)[0]
    scaled = open_video(data).get_frames(range(8, 12), (32, 16))
    assert np.array_equal(batch.frames[0].permute(0, 2, 3, 1).numpy(), scaled[:, :, 8:24])


def test_clip_dataset__too_short_says_what_to_do(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("v", clip_members(num_frames=6))])
    message = r"needs 7 frames \(num_frames=4, frame_stride=2\) but the longest scene has 6; lower"
    with pytest.raises(InputError, match=message):
        dataset(scan_shard(tmp_path / "a.tar"))[0]


def test_clip_dataset__trusts_no_claim_about_the_length(tmp_path: Path) -> None:
    members = {**clip_members(), "json": b'{"num_frames": 1000000000, "fps": 16}'}
    write_shard(tmp_path / "a.tar", [("v", members)])
    clips = dataset(scan_shard(tmp_path / "a.tar"))
    assert all(clips[ClipRequest(e, 0)].pts_seconds.max() < 20 / 16 for e in range(10))


def test_clip_dataset__truth_is_that_of_the_frames(tmp_path: Path) -> None:
    depth = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], (20, 32, 32)).copy()
    state = {"camera_pose": np.zeros((20, 3, 4), np.float32)}
    truth = Truth(depth, np.zeros((20, 32, 32), np.uint8), state)
    write_shard(tmp_path / "a.tar", [("v", {**clip_members(), **encode_truth(truth)})])
    refs = scan_shard(tmp_path / "a.tar")
    batch = ClipDataset(refs, 4, 8.0, 32, with_truth=True)[0]
    assert batch.truth is not None
    assert np.array_equal(batch.truth[0].depth[:, 0, 0], batch.pts_seconds[0].numpy() * 16)
    assert batch.truth[0].state["camera_pose"].shape == (4, 3, 4)
    with pytest.raises(InputError, match=r"cannot follow frames scaled to 16; use size=32"):
        ClipDataset(refs, 4, 8.0, 16, with_truth=True)[0]
    for varied in ({"flip": True}, {"color_jitter": 0.5}, {"zoom": 1.5}, {"random_start": True}):
        with pytest.raises(ValueError, match="with_truth needs fixed clips"):
            ClipDataset(refs, 4, 8.0, 32, with_truth=True, **varied)


# The loader


def test_clip_loader__the_number_of_workers_changes_nothing(refs: list[SampleRef]) -> None:
    passes = []
    for num_workers in (0, 2, 6):  # more than there are shards, too
        clips = loader(refs, num_workers=num_workers)
        passes.append([list(clips) for _ in range(2)])
    assert len(passes[0][0]) == 4
    assert same(passes[0][0], passes[1][0])
    assert same(passes[0][1], passes[1][1])
    assert same(passes[0][1], passes[2][1])
    assert not same(passes[0][0], passes[0][1])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_loader__goes_on_after_the_last_batch_handed_out(
    refs: list[SampleRef], num_workers: int
) -> None:
    clips = loader(refs)
    whole = [*clips, *clips, *clips, *clips]
    for stop in range(6):
        first = loader(refs, num_workers=num_workers)
        for _ in range(stop // 4):
            list(first)
        batches = iter(first)
        for _ in range(stop % 4):
            next(batches)
        second = loader(refs)
        second.load_state_dict(first.state_dict())
        assert len(second) == 4
        # A pass is always as long, and goes on into the next epoch.
        assert same(list(second), whole[stop : stop + 4])
        assert same(list(second), whole[stop + 4 : stop + 8])
        # The workers had loaded further: what was not handed out comes again.
        assert same([next(iter(first))], whole[stop : stop + 1])


def test_clip_loader__takes_the_place_that_is_loaded_after_the_iterator_is_made(
    refs: list[SampleRef],
) -> None:
    clips, other = loader(refs), loader(refs)
    list(other)
    batches = iter(clips)
    clips.load_state_dict(other.state_dict())
    assert same(list(batches), list(other))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_loader__draws_nothing_from_the_models_random_numbers(
    refs: list[SampleRef], num_workers: int
) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(refs[:8], num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)


def _count_batches(rank: int, folder: str, counts: "multiprocessing.Queue") -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    paths = resolve_shards(f"{folder}/u-*.tar")
    clips = loader([ref for path in paths for ref in scan_shard(path)], batch_size=2)
    for epoch in range(2):
        for batch in clips:
            # Hangs where one rank has a batch more than the other.
            torch.distributed.barrier()
            counts.put((epoch, rank, batch.keys))
    torch.distributed.destroy_process_group()


def test_clip_loader__two_real_ranks_on_uneven_shards_end_together(
    uneven_shards: Path, tmp_path: Path
) -> None:
    for path in uneven_shards.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    ranks = [
        context.Process(target=_count_batches, args=(rank, str(tmp_path), counts))
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    found = [counts.get(timeout=60) for _ in range(2 * 2 * 7)]
    for rank in ranks:
        rank.join(timeout=60)
        assert rank.exitcode == 0
    for epoch in (0, 1):
        keys = [key for at, _, batch in found if at == epoch for key in batch]
        assert len(keys) == len(set(keys)) == 28


# What is broken


def break_samples(folder: Path, num_samples: int, broken: set[int]) -> list[SampleRef]:
    good = clip_members()
    bad = {**good, "mp4": b"garbage" * 50}
    write_shard(
        folder / "mixed.tar",
        [(f"v-{i:03d}", bad if i in broken else good) for i in range(num_samples)],
    )
    return scan_shard(folder / "mixed.tar")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_loader__leaves_broken_samples_out_and_names_each_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    note = tmp_path / "run" / "quarantine.jsonl"
    for _ in range(2):  # the second is a run that was resumed
        clips = loader(break_samples(tmp_path, 24, {3, 11}), 6, num_workers, Quarantine(note))
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                lengths = [(len(batch), batch.num_missing) for batch in clips]
                assert sum(length for length, _ in lengths) == 22
                assert {length + missing for length, missing in lengths} == {6}
    lines = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(lines) == 4
    assert any("v-003" in line and "mixed.tar" in line and "decoded" in line for line in lines)
    named = [json.loads(line) for line in note.read_text().splitlines()]
    assert sorted(line["key"] for line in named) == ["v-003", "v-011"]
    assert all("decoded" in line["reason"] and "mixed.tar" in line["shard"] for line in named)


def test_clip_loader__stops_where_too_much_is_broken(tmp_path: Path) -> None:
    refs = break_samples(tmp_path, 60, set(range(0, 60, 5)))
    with pytest.raises(InputError, match=r"10 of \d+ samples are broken, in .*mixed\.tar"):
        list(loader(refs))
    assert sum(len(batch) for batch in loader(refs, quarantine=Quarantine(max_share=0.5))) == 48


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_loader__passes_over_a_batch_of_which_nothing_is_left(
    tmp_path: Path, num_workers: int
) -> None:
    clips = loader(break_samples(tmp_path, 8, {3, 5}), 1, num_workers)
    keys = [batch.keys[0] for _ in range(3) for batch in clips]
    # Passes stay as long; the epochs underneath go on past their ends.
    assert len(keys) == 24
    assert {key: keys.count(key) for key in keys} == {f"v-{n:03d}": 4 for n in (0, 1, 2, 4, 6, 7)}


def test_clip_loader__a_batch_passed_over_counts_where_it_goes_on(tmp_path: Path) -> None:
    refs = break_samples(tmp_path, 8, {3, 5})
    unbroken = [batch.keys for batch in itertools.islice(endless(loader(refs, 1)), 20)]
    for stop in range(1, 12):
        first, again = loader(refs, 1), loader(refs, 1)
        seen = [batch.keys for batch in itertools.islice(endless(first), stop)]
        again.load_state_dict(first.state_dict())
        rest = [batch.keys for batch in itertools.islice(endless(again), 20 - stop)]
        assert seen + rest == unbroken


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clip_loader__stops_where_everything_is_broken(tmp_path: Path, num_workers: int) -> None:
    clips = loader(break_samples(tmp_path, 8, set(range(8))), 4, num_workers)
    with pytest.raises(InputError, match=r"12 of 12 samples are broken.*make these shards again"):
        list(clips)
    fixed = ClipDataset(break_samples(tmp_path, 3, {0, 1, 2}), 4, 8.0, 16)
    with pytest.raises(InputError, match=r"3 of 3 samples are broken.*make these shards again"):
        list(ClipLoader(fixed, FixedSampler(3, 1), num_workers))


def test_clip_loader__fixed_clips_are_all_that_can_be_read(tmp_path: Path) -> None:
    fixed = ClipDataset(break_samples(tmp_path, 5, {1, 2}), 4, 8.0, 16)
    assert [batch.keys[0] for batch in ClipLoader(fixed, FixedSampler(5, 1))] == [
        *("v-000", "v-003", "v-004")
    ]


def test_clip_loader__among_ranks_one_without_clips_keeps_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "this_rank", lambda: (0, 2))
    monkeypatch.setattr(stream, "this_rank", lambda: (0, 2))
    clips = loader(break_samples(tmp_path, 8, {3, 5}), 1)
    batches = [batch for _ in range(2) for batch in clips]
    fillers = [batch for batch in batches if batch.is_filler]
    assert len(batches) == 8
    assert 0 < len(fillers) <= 2
    for batch in fillers:
        assert (batch.num_places, batch.counted) == (1, [])
        assert batch.frames.shape == batches[0].frames.shape
        assert batch.frames.stride() == batches[0].frames.stride()


# Several clips of a video


def test_clip_dataset__clips_of_several_rates_start_at_the_same_frame(
    refs: list[SampleRef],
) -> None:
    clips = ClipDataset(refs, 4, (16.0, 8.0), 16, flip=True, random_start=True, clips_per_video=2)
    batch = clips[ClipRequest(1, 3)]
    assert batch.frames.shape == (4, 4, 3, 16, 16)
    assert batch.keys == ("train-000003",) * 4
    steps = batch.pts_seconds.diff(dim=1)
    assert torch.allclose(steps, torch.tensor([1 / 16, 1 / 8, 1 / 16, 1 / 8])[:, None])
    starts = batch.pts_seconds[:, 0]
    assert starts[0] == starts[1]
    assert starts[2] == starts[3]
    assert starts[0] != starts[2]
    for number, fps in enumerate((16.0, 8.0)):
        # The first draw is what one clip alone would be, where both fit into the same starts.
        alone = ClipDataset(refs, 4, (8.0, fps), 16, flip=True, random_start=True)
        assert torch.equal(alone[ClipRequest(1, 3)].frames[1], batch.frames[number])


def test_clip_dataset__several_clips_cost_one_decode(
    refs: list[SampleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def count(*args: Any) -> VideoDecoder:
        opened.append(args)
        return open_video(*args)

    monkeypatch.setattr(stream, "open_video", count)
    ClipDataset(refs, 4, (16.0, 8.0), 16, clips_per_video=3)[0]
    assert len(opened) == 1


# Scenes and uneven frames


def test_clip_dataset__never_straddles_a_cut(tmp_path: Path) -> None:
    members = clip_members(num_frames=40)
    metadata = json.loads(members["json"]) | {"scene_cuts": [9, 25, 30]}
    write_shard(tmp_path / "a.tar", [("v", members | {"json": json.dumps(metadata).encode()})])
    clips = ClipDataset(scan_shard(tmp_path / "a.tar"), 4, 8.0, 16, random_start=True)
    starts = {
        round(float(clips[ClipRequest(epoch, 0)].pts_seconds[0, 0]) * 16) for epoch in range(200)
    }
    # A clip covers 7 frames; [25, 30) is too short.
    assert starts == {0, 1, 2, *range(9, 19), *range(30, 34)}


@pytest.mark.parametrize("num_slow", [20, 90])
def test_clip_dataset__takes_uneven_frames_at_the_rate_asked_for(
    tmp_path: Path, num_slow: int
) -> None:
    # 30 frames a second, and 10 in the dark: the average is no rate at which frames come.
    times = np.cumsum([0.0, *([1 / 30] * 60), *([1 / 10] * num_slow), *([1 / 30] * 20)])
    video = encode_video(moving_pattern(len(times)), 17.0, pts_seconds=times)
    write_shard(tmp_path / "a.tar", [("v", {"mp4": video})])
    clips = ClipDataset(scan_shard(tmp_path / "a.tar"), 9, (8.0, 4.0), 16, random_start=True)
    for epoch in range(30):
        found = clips[ClipRequest(epoch, 0)].pts_seconds
        for seconds, period in zip(found, (1 / 8, 1 / 4), strict=True):
            # Off by about half of the longest spacing, or 10 % of the rate.
            assert float(seconds[-1] - seconds[0]) == pytest.approx(8 * period, rel=0.1, abs=0.12)
            assert torch.all((seconds.diff() - period).abs() < 0.08), seconds


def test_clip_loader__leaves_out_a_video_with_too_few_frames_for_the_rate(tmp_path: Path) -> None:
    # 30 frames a second usually, but not for as long as a clip; 4 a second elsewhere.
    times = np.cumsum([0.0, *([*([1 / 30] * 12), *([1 / 4] * 10)] * 3)])
    video = encode_video(moving_pattern(len(times)), 9.0, pts_seconds=times)
    members = clip_members(num_frames=40)
    write_shard(tmp_path / "a.tar", [("odd", {"mp4": video}), ("sound", members)])
    refs = scan_shard(tmp_path / "a.tar")
    quarantine = Quarantine()
    loader = ClipLoader(ClipDataset(refs, 9, 8.0, 16), FixedSampler(2, 2), quarantine=quarantine)
    (batch,) = loader
    assert (batch.keys, batch.num_missing) == (("sound",), 1)
    with pytest.raises(InputError, match=r"9 evenly spaced frames over 1 s .*unevenly spaced"):
        loader.dataset[0]


# Padding


def test_clip_loader__padding_is_marked(
    refs: list[SampleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.data.order.this_rank", lambda: (2, 3))
    fixed = ClipLoader(ClipDataset(refs, 4, 8.0, 16), FixedSampler(len(refs), 4))
    batches = list(fixed)
    assert [len(batch) for batch in batches] == [4, 3, 3]
    assert [batch.counted for batch in batches] == [[0, 1, 2, 3], [0, 1, 2], [0, 1]]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="asks who sent a signal")
def test_worker__ends_for_its_parent_alone():
    # A scheduler may signal every process of a job; the DataLoader ends its workers by SIGTERM.
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()

    def work() -> None:
        stream._begin_worker(0)
        ready.set()
        time.sleep(60)

    worker = fork.Process(target=work, daemon=True)
    worker.start()
    assert ready.wait(20)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        subprocess.run(["sh", "-c", f"kill -{int(number)} {worker.pid}"], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0
