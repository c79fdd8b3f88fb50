import itertools
import time
from collections import Counter

import numpy as np
import pytest

from worldmodel.data import order
from worldmodel.data.order import (
    ClipRequest,
    FixedSampler,
    Mixture,
    SetEpoch,
    SetOrder,
    StreamSampler,
    fitting_window,
    travel,
)
from worldmodel.errors import InputError


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(order, "this_rank", lambda: (rank, world_size))


def one_set(num_samples: int, seed: int = 0) -> Mixture:
    return Mixture((SetOrder((num_samples,), seed),))


def sampler(num_samples: int, batch_size: int, seed: int = 0) -> StreamSampler:
    return StreamSampler(one_set(num_samples, seed), batch_size)


def take(stream: StreamSampler, num_batches: int) -> list[list[ClipRequest]]:
    """The next batches, over as many passes as it takes."""
    taken: list[list[ClipRequest]] = []
    while len(taken) < num_batches:
        stream.begin()
        for batch in itertools.islice(stream.requests(), len(stream)):
            stream.advance()
            taken.append(batch)
            if len(taken) == num_batches:
                break
    return taken


# The order of a set


def test_set_order__every_epoch_is_another_order_of_the_same_samples() -> None:
    one = SetOrder((60, 40), 0)
    orders = [one.epoch(epoch).tolist() for epoch in range(3)]
    assert all(sorted(each) == list(range(100)) for each in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == SetOrder((60, 40), 0).epoch(1).tolist()
    assert orders[0] != SetOrder((60, 40), 1).epoch(0).tolist()


def test_set_order__a_window_needs_few_shards_at_a_time() -> None:
    sizes = (10, 10, 7, 1, 30, 5, 12, 9)
    shard_of = np.repeat(np.arange(8), sizes)
    one = SetOrder(sizes, 3, window=2)
    firsts = set()
    for epoch in range(4):
        found = one.epoch(epoch)
        assert sorted(found.tolist()) == list(range(sum(sizes)))
        runs = [shard_of[found][0]]
        open_shards, closed = [], set()
        for shard in shard_of[found]:
            if shard not in open_shards:
                assert shard not in closed
                if len(open_shards) == 2:
                    closed |= set(open_shards)
                    open_shards = []
                open_shards.append(shard)
            runs.append(shard)
        firsts.add(int(found[0]))
    assert len(firsts) > 1
    whole = SetOrder(sizes, 3, window=8)
    assert whole.epoch(0).tolist() == SetOrder(sizes, 3).epoch(0).tolist()


def test_set_order__is_that_of_random_words_within_windows_of_random_shards() -> None:
    sizes = np.array([10, 10, 7, 1, 30, 5, 12, 9])
    for epoch in range(3):
        source = np.random.PCG64(np.random.SeedSequence([3, epoch]))
        words, shards = source.random_raw(sizes.sum()), source.random_raw(len(sizes))
        window_of = np.argsort(np.argsort(shards)) // 3
        wanted = np.lexsort((words, np.repeat(window_of, sizes)))
        one = SetOrder(tuple(sizes.tolist()), 3, window=3)
        assert one.epoch(epoch).tolist() == wanted.tolist()
        part = SetEpoch(one, epoch)
        for start, stop in [(40, 50), (0, 3), (0, 84), (83, 84), (20, 20)]:
            assert part.take(start, stop).tolist() == wanted[start:stop].tolist()


def test_travel__is_a_third_for_a_perfect_shuffle_and_tells_windows_from_it() -> None:
    sizes = (32,) * 64
    distance, together = travel(SetOrder(sizes, 0))
    assert distance == pytest.approx(1 / 3, abs=0.01)
    assert together == pytest.approx(1, abs=0.2)
    distance, together = travel(SetOrder(sizes, 0, window=8))
    assert distance == pytest.approx(1 / 3, abs=0.04)
    assert together == pytest.approx(8, abs=1)


def test_fitting_window__holds_so_many_samples() -> None:
    assert fitting_window((100,) * 10, 1000) is None
    assert fitting_window((100,) * 10, 500) == 5
    assert fitting_window((100,) * 10, 50) == 1


# Mixtures


def test_mixture__of_default_weights_is_every_sample_once() -> None:
    mixture = Mixture((SetOrder((30,), 0), SetOrder((5, 5), 0)))
    for epoch in range(3):
        numbers, epochs = mixture.epoch(epoch)
        assert sorted(numbers.tolist()) == list(range(40))
        assert set(epochs.tolist()) == {epoch}


def test_mixture__has_the_shares_asked_for_spread_evenly() -> None:
    mixture = Mixture((SetOrder((900,), 0), SetOrder((100,), 0)), (1.0, 3.0))
    numbers, _ = mixture.epoch(0)
    second = numbers >= 900
    assert mixture.shares == (250, 750)
    assert second.sum() == 750
    for part in np.array_split(second, 10):
        assert 0.70 < part.mean() < 0.80


def test_mixture__each_set_goes_through_all_its_samples_before_any_comes_again() -> None:
    mixture = Mixture((SetOrder((70,), 0), SetOrder((13,), 0)), (0.5, 0.5))
    seen: list[tuple[int, int]] = []
    for epoch in range(6):
        numbers, epochs = mixture.epoch(epoch)
        seen += zip(epochs.tolist(), numbers.tolist(), strict=True)
    assert len(set(seen)) == len(seen)  # no sample twice in an epoch of its set
    small = Counter(number for _, number in seen if number >= 70)
    assert len(small) == 13
    assert max(small.values()) - min(small.values()) <= 1


def test_mixture__spreads_each_set_with_one_sample_in_each_of_equal_stretches() -> None:
    sets = (SetOrder((40, 30), 5), SetOrder((13,), 6))
    mixture = Mixture(sets, (0.4, 0.6))
    places, numbers = [], []
    for index, (each, share) in enumerate(zip(sets, mixture.shares, strict=True)):
        jitter = np.random.PCG64(np.random.SeedSequence([each.seed, 2, index, 1]))
        places.append((np.arange(share) + jitter.random_raw(share) / 2.0**64) / share)
        own = np.concatenate([each.epoch(epoch) for epoch in range(15)])
        numbers.append(70 * index + own[2 * share : 3 * share])
    order = np.argsort(np.concatenate(places), kind="stable")
    assert mixture.epoch(2)[0].tolist() == np.concatenate(numbers)[order].tolist()


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_mixture__is_the_same_whatever_the_pieces(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    mixture = Mixture(
        (SetOrder((17, 3, 9), 1, 1), SetOrder((11,), 2), SetOrder((5,), 3)), (2.0, 3.0, 1.0)
    )
    whole = [mixture.epoch(epoch) for epoch in range(4)]
    stream = StreamSampler(mixture, 4)
    monkeypatch.setattr(order, "PIECE", piece)
    for epoch in range(4):
        for found, wanted in zip(mixture.epoch(epoch), whole[epoch], strict=True):
            assert found.tolist() == wanted.tolist()
    requests = [request.sample for batch in take(stream, 45) for request in batch]
    assert requests == np.concatenate([numbers for numbers, _ in whole]).tolist()[:180]


def test_stream__orders_no_more_than_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "PIECE", 50)
    sorted_windows = []
    window_of = SetEpoch._window
    monkeypatch.setattr(
        SetEpoch,
        "_window",
        lambda self, number: (sorted_windows.append(number), window_of(self, number))[1],
    )
    stream = StreamSampler(Mixture((SetOrder((10,) * 1000, 0, window=20),)), 8)
    stream.load_state_dict(stream.state_dict() | {"samples": 5000})
    take(stream, 2)
    assert set(sorted_windows) == {25}


@pytest.mark.parametrize(
    ("weights", "message"), [((1.0,), "2 sets need as many"), ((1.0, 0.0), "must be above 0")]
)
def test_mixture__refuses(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture((SetOrder((3,), 0), SetOrder((3,), 0)), weights)


# The stream


def test_stream__leaves_nothing_out_and_repeats_nothing_within_an_epoch() -> None:
    stream = sampler(13, 5)
    assert len(stream) == 2
    requests = [request for batch in take(stream, 26) for request in batch]
    assert len(requests) == 130
    for epoch in range(10):
        seen = [request.sample for request in requests if request.epoch == epoch]
        assert sorted(seen) == list(range(13))
        assert seen == stream.mixture.epoch(epoch)[0].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_stream__ranks_share_each_global_batch_without_overlap(
    monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    shares = []
    for rank in range(world_size):
        be_rank(monkeypatch, rank, world_size)
        stream = sampler(28, 2)
        assert len(stream) == 28 // (2 * world_size)
        shares.append(take(stream, 9))
    be_rank(monkeypatch, 0, 1)
    together = [
        [request for part in parts for request in part] for parts in zip(*shares, strict=True)
    ]
    assert together == take(sampler(28, 2 * world_size), 9)


def test_stream__few_samples_are_visited_several_times(caplog: pytest.LogCaptureFixture) -> None:
    stream = sampler(3, 8)
    assert "3 samples are fewer than one batch of 8" in caplog.text
    assert len(stream) == 1
    (batch,) = take(stream, 1)
    assert len(set(batch)) == 8
    assert sorted(request.sample for request in batch if request.epoch < 2) == [0, 0, 1, 1, 2, 2]


def test_stream__killed_at_random_moments_with_other_ranks_sees_each_epoch_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    for trial in range(20):
        mixture = Mixture((SetOrder((17, 3), trial), SetOrder((11,), trial)), (0.3, 0.7))
        state = StreamSampler(mixture, 1).state_dict()
        seen: list[ClipRequest] = []
        while len(seen) < 5 * len(mixture):
            world_size, batch_size = int(rng.integers(1, 5)), int(rng.integers(1, 5))
            # What has been handed out since the last checkpoint is lost, and comes again.
            until_saved, after = int(rng.integers(0, 6)), int(rng.integers(0, 4))
            for rank in range(world_size):
                be_rank(monkeypatch, rank, world_size)
                stream = StreamSampler(mixture, batch_size)
                stream.load_state_dict(state)
                batches = take(stream, until_saved)
                seen += [request for batch in batches for request in batch]
                saved = stream.state_dict()
                take(stream, after)
            state = saved
        be_rank(monkeypatch, 0, 1)
        for epoch in range(5):
            numbers, epochs = mixture.epoch(epoch)
            expected = Counter(zip(epochs.tolist(), numbers.tolist(), strict=True))
            # A set's own epochs run on from one epoch of the mixture to the next.
            found = Counter((request.epoch, request.sample) for request in seen)
            assert all(found[each] == count for each, count in expected.items())


def test_stream__another_order_starts_the_epoch_afresh(caplog: pytest.LogCaptureFixture) -> None:
    first = sampler(48, 2)
    take(first, 30)
    assert first.state_dict()["epoch"] == 1
    others = (
        sampler(47, 2),
        sampler(48, 2, seed=1),
        StreamSampler(one_set(48), 2, "other samples"),
        StreamSampler(Mixture((SetOrder((24, 24), 0, window=1),)), 2),
    )
    for other in others:
        caplog.clear()
        other.load_state_dict(first.state_dict())
        assert "epoch 1 starts afresh" in caplog.text
        assert (other.state_dict()["epoch"], other.state_dict()["samples"]) == (1, 0)
    plain, other = (StreamSampler(one_set(48), 2, "", headers) for headers in ("", "other"))
    for to in (plain, other):
        to.load_state_dict({**first.state_dict(), "headers": "theirs"})
        assert to.state_dict()["samples"] == 0
    with pytest.raises(InputError, match="cannot be read"):
        first.load_state_dict({"epoch": 3})


def test_stream__goes_on_at_once_however_far_it_is() -> None:
    stream = StreamSampler(Mixture((SetOrder((250,) * 4000, 0),)), 8)
    state = {**stream.state_dict(), "epoch": 700, "samples": 999_990}
    before = time.process_time()
    stream.load_state_dict(state)
    stream.begin()
    batch = next(stream.requests())
    # A permutation or two of a million samples; skipping would take hours.
    assert time.process_time() - before < 10
    assert len(batch) == 8
    assert stream.state_dict() == state


# Evaluation


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_samples", [1, 7, 13, 28])
def test_fixed_sampler__every_sample_once_and_as_many_batches_on_every_rank(
    monkeypatch: pytest.MonkeyPatch, world_size: int, num_samples: int
) -> None:
    seen: list[int] = []
    lengths, sizes = set(), set()
    for rank in range(world_size):
        be_rank(monkeypatch, rank, world_size)
        fixed = FixedSampler(num_samples, 4)
        batches = list(fixed)
        assert batches == list(fixed)
        lengths |= {len(batches), len(fixed)}
        sizes |= {len(batch) for batch in batches}
        seen += [request.sample for batch in batches for request in batch if not request.is_pad]
    assert sorted(seen) == list(range(num_samples))
    assert len(lengths) == 1
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1
