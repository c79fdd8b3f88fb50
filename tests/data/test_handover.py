from pathlib import Path

import pytest
import torch

from worldmodel.clips import ClipBatch
from worldmodel.data import handover
from worldmodel.data.handover import FrameRing, LoadedBatch, SlotBatch
from worldmodel.data.order import FixedSampler, Mixture, SetOrder, StreamSampler
from worldmodel.data.quarantine import Broken
from worldmodel.data.shards import SampleRef, resolve_shards, scan_shard
from worldmodel.data.stream import ClipDataset, ClipLoader


class Worker:
    """Stands for what torch tells a worker of itself."""

    def __init__(self, number: int) -> None:
        self.id = number


def clip(value: int, num_clips: int = 1) -> ClipBatch:
    frames = torch.full((num_clips, 4, 8, 8, 3), value, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    return ClipBatch(frames, torch.full((num_clips, 4), float(value)), (str(value),) * num_clips)


@pytest.fixture(scope="module")
def refs(uneven_shards: Path) -> list[SampleRef]:
    return [ref for path in resolve_shards(str(uneven_shards)) for ref in scan_shard(path)]


def test_ring__hands_over_what_was_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = FrameRing(2, 2, 3, (4, 8, 8, 3))
    monkeypatch.setattr(handover, "get_worker_info", lambda: Worker(1))
    broken = Broken("a.tar", "v", "damaged")
    sent = ring.collate([clip(5), broken, clip(7, 2)])
    assert isinstance(sent, SlotBatch)
    taken = sent.take()
    assert taken.broken == (broken,)
    assert taken.batch is not None
    assert taken.batch.keys == ("5", "7", "7")
    assert taken.batch.frames.shape == (3, 4, 3, 8, 8)
    expected = ClipBatch.stack([clip(5), clip(7, 2)])
    assert torch.equal(taken.batch.frames, expected.frames)
    assert torch.equal(taken.batch.pts_seconds, expected.pts_seconds)


def test_ring__a_worker_writes_to_no_slot_that_may_still_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = FrameRing(2, 2, 1, (4, 8, 8, 3))
    used = []
    for number in (0, 1):
        monkeypatch.setattr(handover, "get_worker_info", lambda number=number: Worker(number))
        ring._turn = 0
        sent = [ring.collate([clip(value)]) for value in range(6)]
        slots = [batch.slot for batch in sent if isinstance(batch, SlotBatch)]
        # The batch being read and two ahead of it.
        assert all(len(set(slots[at : at + 3])) == 3 for at in range(4))
        used.append(set(slots))
    assert not used[0] & used[1]


def test_ring__sends_batches_without_clips_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = FrameRing(1, 2, 1, (4, 8, 8, 3))
    assert isinstance(ring.collate([clip(1)]), LoadedBatch)  # no worker
    monkeypatch.setattr(handover, "get_worker_info", lambda: Worker(0))
    sent = ring.collate([Broken("a.tar", "v", "damaged")])
    assert isinstance(sent, LoadedBatch)
    assert sent.batch is None


@pytest.mark.parametrize("has_room", [True, False])
def test_loader__gives_the_same_with_and_without_slots(
    refs: list[SampleRef], monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    monkeypatch.setattr(FrameRing, "fits", staticmethod(lambda num_bytes: has_room))
    dataset = ClipDataset(refs, 4, (16.0, 8.0), 16, flip=True, random_start=True)
    loaders = [
        ClipLoader(dataset, StreamSampler(Mixture((SetOrder((28,), 0),)), 3), workers)
        for workers in (0, 2)
    ]
    assert (loaders[1].ring is not None) == has_room
    plain, shared = ([batch for _ in range(3) for batch in loader] for loader in loaders)
    assert len(plain) == len(shared) == 27
    for one, other in zip(plain, shared, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.pts_seconds, other.pts_seconds)


def test_loader__batches_may_be_kept(refs: list[SampleRef]) -> None:
    fixed = ClipLoader(ClipDataset(refs, 4, 8.0, 16), FixedSampler(28, 2), num_workers=2)
    kept = list(fixed)
    before = [batch.frames.clone() for batch in kept]
    list(fixed)
    assert all(
        torch.equal(batch.frames, frames) for batch, frames in zip(kept, before, strict=True)
    )
