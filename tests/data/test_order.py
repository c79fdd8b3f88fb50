import pytest

from worldmodel.data import order
from worldmodel.data.order import EpochSampler, FixedSampler


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(order, "this_rank", lambda: (rank, world_size))


def test_epoch_sampler__every_epoch_is_another_order_of_the_same_samples() -> None:
    sampler = EpochSampler(100, 10, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append([request.sample for batch in sampler for request in batch])
        assert sorted(orders[-1]) == list(range(100))
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == EpochSampler(100, 10, seed=0).order(1).tolist()
    assert orders[0] != EpochSampler(100, 10, seed=1).order(0).tolist()


def test_epoch_sampler__leaves_other_samples_out_in_each_epoch() -> None:
    sampler = EpochSampler(13, 5, seed=0)
    left_out = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 2
        left_out |= set(range(13)) - {request.sample for batch in batches for request in batch}
    assert left_out == set(range(13))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_epoch_sampler__ranks_share_each_global_batch_without_overlap(
    monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    shares = []
    for rank in range(world_size):
        be_rank(monkeypatch, rank, world_size)
        sampler = EpochSampler(28, 2, seed=0)
        sampler.set_epoch(3)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == 28 // (2 * world_size)
    be_rank(monkeypatch, 0, 1)
    alone = EpochSampler(28, 2 * world_size, seed=0)
    alone.set_epoch(3)
    together = [
        [request for part in parts for request in part] for parts in zip(*shares, strict=True)
    ]
    assert together == list(alone)


def test_epoch_sampler__few_samples_are_visited_several_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler = EpochSampler(3, 8, seed=0)
    assert "3 samples are fewer than one batch of 8" in caplog.text
    (batch,) = list(sampler)
    assert len(sampler) == 1
    assert len(set(batch)) == 8
    assert sorted(request.sample for request in batch if request.visit < 2) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (1, 6), (2, 2), (3, 1), (2, 5)])
def test_epoch_sampler__goes_on_with_other_ranks_and_neither_loses_nor_repeats(
    monkeypatch: pytest.MonkeyPatch, world_size: int, batch_size: int
) -> None:
    be_rank(monkeypatch, 0, 2)
    first = EpochSampler(48, 2, seed=0)
    first.set_epoch(2)
    first.begin()
    for _ in range(5):
        first.advance()
    state = first.state_dict()
    seen = first.order(2)[:20].tolist()
    later = []
    for rank in range(world_size):
        be_rank(monkeypatch, rank, world_size)
        sampler = EpochSampler(48, batch_size, seed=0)
        sampler.load_state_dict(state)
        sampler.set_epoch(2)
        sampler.begin()
        batches = list(sampler)
        assert len(sampler) == 5 + len(batches)
        later += [request.sample for batch in batches for request in batch]
    assert len(later) == 28 // (world_size * batch_size) * (world_size * batch_size)
    assert len(set(seen + later)) == len(seen) + len(later)


def test_epoch_sampler__another_order_starts_the_epoch_afresh(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = EpochSampler(48, 2, seed=0)
    first.begin()
    first.advance()
    for other in (EpochSampler(47, 2, seed=0), EpochSampler(48, 2, seed=1)):
        caplog.clear()
        other.load_state_dict(first.state_dict())
        assert "epoch 0 starts afresh" in caplog.text
        assert len(list(other)) == len(other)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 7, 13])
def test_fixed_sampler__every_sample_and_as_many_batches_on_every_rank(
    monkeypatch: pytest.MonkeyPatch, world_size: int, num_samples: int
) -> None:
    seen, lengths, sizes = set(), set(), set()
    for rank in range(world_size):
        be_rank(monkeypatch, rank, world_size)
        sampler = FixedSampler(num_samples, 4)
        batches = list(sampler)
        assert batches == list(sampler)
        lengths |= {len(batches), len(sampler)}
        sizes |= {len(batch) for batch in batches}
        seen |= {request.sample for batch in batches for request in batch}
    assert seen == set(range(num_samples))
    assert len(lengths) == 1
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1
