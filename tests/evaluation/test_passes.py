"""Whatever the number of processes, the same results come in the same order."""

import os
from pathlib import Path

import pytest
import torch

from worldmodel.data.shards import SampleRef
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples
from worldmodel.evaluation.passes import Pace, run_pass

CPU = torch.device("cpu")


def read_key(ref: SampleRef) -> str:
    return ref.key


def work_hard(keys: list[str]) -> tuple[list[str], torch.Tensor]:
    """A product that more threads would sum up in another order."""
    generator = torch.Generator().manual_seed(len(keys[0]) + len(keys))
    values = torch.randn(300, 4000, generator=generator)
    return keys, values @ values.T


def refuse(ref: SampleRef) -> str:
    raise InputError(f"{ref.key} has no depth.png")


@pytest.fixture
def refs(squares: Path) -> list[SampleRef]:
    return find_samples(squares, "test", "clips")


def test_results_are_the_same_to_the_bit_and_in_order(refs: list[SampleRef]) -> None:
    paces = [Pace(workers, size) for workers, size in ((0, 4), (1, 1), (2, 9))]
    runs = [list(run_pass(refs, read_key, work_hard, 4, CPU, pace)) for pace in paces]
    assert [keys for keys, _ in runs[0]] == [
        [ref.key for ref in refs[start : start + 4]] for start in range(0, len(refs), 4)
    ]
    for other in runs[1:]:
        for (keys, values), (same_keys, same_values) in zip(runs[0], other, strict=True):
            assert keys == same_keys
            assert torch.equal(values, same_values)


def test_where_networks_are_on_a_gpu_workers_read_and_this_process_works(
    refs: list[SampleRef],
) -> None:
    pids = []

    def work(keys: list[tuple[str, int]]) -> list[str]:
        pids.append(os.getpid())
        return [key for key, _ in keys]

    def read(ref: SampleRef) -> tuple[str, int]:
        assert os.getpid() != parent
        return ref.key, 0

    parent = os.getpid()
    found = list(run_pass(refs, read, work, 4, torch.device("cuda"), Pace(2)))
    assert [key for keys in found for key in keys] == [ref.key for ref in refs]
    assert set(pids) == {parent}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_an_error_for_people(
    refs: list[SampleRef], workers: int
) -> None:
    with pytest.raises(InputError) as error:
        list(run_pass(refs, refuse, work_hard, 4, CPU, Pace(workers)))
    assert str(error.value) == f"{refs[0].key} has no depth.png"


def test_threads_are_as_they_were(refs: list[SampleRef]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in run_pass(refs, read_key, work_hard, 4, CPU, Pace(0)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_nothing_to_do_gives_nothing() -> None:
    assert list(run_pass([], read_key, work_hard, 4, CPU, Pace(2))) == []


def test_pace__there_are_no_fewer_processes_than_none() -> None:
    with pytest.raises(InputError, match="num_workers must be at least 0, got -1"):
        Pace(num_workers=-1)
