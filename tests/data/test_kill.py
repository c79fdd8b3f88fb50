"""Killed at random moments, gone on with other ranks and workers: nothing lost, nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_to_kill import BATCH_SIZE

from worldmodel.data.datamodule import ClipDataModule
from worldmodel.data.order import ClipRequest

SCRIPT = Path(__file__).with_name("run_to_kill.py")


def start(
    shards: Path, folder: Path, number: int, ranks: int, workers: int, steps: int
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(SCRIPT), str(shards), str(folder)]
    # A group of its own, so that all ranks and workers can be killed at once.
    return subprocess.Popen(
        [*command, str(ranks), str(workers), str(steps)],
        env=os.environ | {"RUN_NUMBER": str(number), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(folder / f"log-{number}").open("wb"),
        start_new_session=True,
    )


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = []
    for path in sorted(folder.glob("seen-*.jsonl")):
        text = path.read_text()
        lines += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return lines


def saved_step(folder: Path) -> int:
    path = folder / "last.ckpt"
    if not path.exists():
        return 0
    return int(torch.load(path, weights_only=True)["global_step"])


def run_and_kill(
    shards: Path, folder: Path, steps: int, kills: Sequence[tuple[int, int]], seed: int
) -> list[list[dict[str, Any]]]:
    """Run to the end, killed once for each (ranks, workers); the batches that counted, by step."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    kept: list[list[dict[str, Any]]] = []
    for number, (ranks, workers) in enumerate([*kills, (1, 0)]):
        begun = saved_step(folder)
        del kept[begun:]
        last = number == len(kills)
        run = start(shards, folder, number, ranks, workers, steps)
        goal = steps if last else min(steps - 1, begun + int(rng.integers(1, 8)))
        deadline = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < deadline:
            mine = [line for line in lines_of(folder) if line["run"] == str(number)]
            if not last and any(line["step"] >= goal for line in mine):
                time.sleep(float(rng.uniform(0, 0.05)))
                break
            time.sleep(0.02)
        if last:
            assert run.wait(timeout=60) == 0, (folder / f"log-{number}").read_text()[-2000:]
        assert run.poll() is None or last, (folder / f"log-{number}").read_text()[-2000:]
        if not last:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        mine = [line for line in lines_of(folder) if line["run"] == str(number)]
        for step in range(begun, max(line["step"] for line in mine) + 1):
            kept.append(sorted((x for x in mine if x["step"] == step), key=lambda x: x["rank"]))
    return kept


def expected_clips(shards: Path, count: int) -> list[tuple[str, float]]:
    """The first clips of the stream, from one process that nobody disturbs."""
    data = ClipDataModule(
        f"{shards}/*.tar", val_shards=f"{shards}/u-003.tar", num_frames=4, size=16, seed=5
    )
    data.setup()
    loader = data.train_dataloader()
    assert loader.place is not None
    mixture = loader.place.mixture
    clips = []
    for position in range(count):
        epoch, within = divmod(position, len(mixture))
        numbers, epochs = mixture.epoch(epoch)
        batch = loader.dataset[ClipRequest(int(epochs[within]), int(numbers[within]))]
        clips.append((batch.keys[0], float(batch.pts_seconds[0, 0])))
    return clips


def check(shards: Path, kept: list[list[dict[str, Any]]], steps: int) -> None:
    assert len(kept) == steps
    seen = [(clip[0], clip[1]) for ranks in kept for line in ranks for clip in line["clips"]]
    assert len(seen) >= steps * BATCH_SIZE
    expected = expected_clips(shards, len(seen))
    epoch_length = 28
    assert len(expected) > epoch_length
    for first in range(0, len(seen), epoch_length):
        part = slice(first, first + epoch_length)
        assert Counter(seen[part]) == Counter(expected[part])
        if first + epoch_length <= len(seen):
            assert len({key for key, _ in seen[part]}) == epoch_length


def test_kill__other_ranks_and_workers_see_what_was_left(
    uneven_shards: Path, tmp_path: Path
) -> None:
    kept = run_and_kill(uneven_shards, tmp_path / "run", 24, [(1, 0), (2, 1)], seed=0)
    check(uneven_shards, kept, 24)


@pytest.mark.slow
def test_kill__at_twenty_random_moments(uneven_shards: Path, tmp_path: Path) -> None:
    kills = [((1, 2, 3, 1)[n % 4], (0, 2, 1)[n % 3]) for n in range(20)]
    kept = run_and_kill(uneven_shards, tmp_path / "run", 200, kills, seed=1)
    check(uneven_shards, kept, 200)


@pytest.mark.slow
def test_kill__on_one_rank_the_losses_are_those_of_an_unbroken_run(
    uneven_shards: Path, tmp_path: Path
) -> None:
    unbroken = run_and_kill(uneven_shards, tmp_path / "unbroken", 60, [], seed=0)
    kills = [(1, workers) for workers in (0, 2, 1, 0, 2, 1)]
    broken = run_and_kill(uneven_shards, tmp_path / "broken", 60, kills, seed=2)
    losses = [[line["loss"] for ranks in run for line in ranks] for run in (unbroken, broken)]
    assert len(losses[0]) == 60
    assert losses[0] == losses[1]
