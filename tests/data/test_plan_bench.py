"""The plan of a training nobody can run here, at a size that a test can."""

import pytest

from worldmodel.data.plan_bench import PlanBench, bench_plan, bench_table
from worldmodel.errors import InputError


def test_bench__every_rank_has_as_much_and_nothing_twice():
    options = PlanBench(
        num_frames=64 * 5000,
        num_shards=50,
        num_ranks=16,
        batch_size=4,
        num_steps=20,
        measured_ranks=4,
    )
    report = bench_plan(options)
    assert report["repeated"] == 0
    ranks = report["ranks"]
    assert ranks["num_samples"]["least"] == ranks["num_samples"]["most"] == 80
    assert ranks["steps_per_epoch"]["median"] == 5000 // (16 * 4)
    assert 0 < ranks["resume_seconds"]["least"] <= ranks["resume_seconds"]["most"]
    assert "16 ranks of 4 samples; 4 of them measured" in bench_table(report)
    assert "in 20 steps: 0" in bench_table(report)


def test_sizes__are_uneven_and_sum_up():
    sizes = PlanBench(num_frames=6400, num_shards=10).shard_sizes
    assert sizes.sum() == 100 and sizes.min() >= 1 and len(set(sizes.tolist())) > 1


@pytest.mark.parametrize("bad", [{"num_frames": 640, "num_shards": 11}, {"measured_ranks": 2000}])
def test_options__refuse_what_cannot_be(bad):
    with pytest.raises(InputError):
        PlanBench(**bad)
