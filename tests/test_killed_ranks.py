"""A training that is killed again and again ends like one that never was."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fit_process import TWO, finish, last_checkpoint, start

STEPS, KILLS = 120, 10


def go_on(shards: Path, root: Path) -> subprocess.Popen:
    more = ("--checkpoint.every_n_train_steps", "3", "--ckpt_path", "unfinished")
    return start(shards, root, *TWO, "--trainer.max_steps", str(STEPS), *more)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if b"program.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for processes")
def test_sigkill__of_any_rank_at_ten_moments_changes_no_bit(shards, tmp_path):
    finish(go_on(shards, tmp_path / "whole"))
    chance, root = random.Random(0), tmp_path / "killed"
    steps = []
    for number in range(KILLS):
        run = go_on(shards, root)
        target = (number + 1) * STEPS // (KILLS + 2)
        end = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < end:
            if list(root.rglob("last.ckpt")) and last_checkpoint(root)["global_step"] >= target:
                break
            time.sleep(0.05)
        assert run.poll() is None, run.stdout.read()[-2000:]
        time.sleep(chance.uniform(0, 0.5))  # also in the middle of a write
        others = children(run.pid)
        assert len(others) == 1
        os.kill(chance.choice([run.pid, *others]), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # whoever is left ends by itself
            if run.poll() is not None and not any(map(alive, others)):
                break
            time.sleep(0.1)
        else:
            os.killpg(run.pid, signal.SIGKILL)
            pytest.fail("a rank went on without the other")
        steps.append(last_checkpoint(root)["global_step"])
    assert steps == sorted(steps) and steps[-1] < STEPS
    finish(go_on(shards, root))
    a, b = last_checkpoint(tmp_path / "whole"), last_checkpoint(root)
    assert a["global_step"] == b["global_step"] == STEPS
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
