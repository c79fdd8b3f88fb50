"""A training that is killed again and again ends like one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldmodel.runs import RUN_FOLDER

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")
STEPS, KILLS = 120, 10


def start(shards: Path, root: Path) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "worldmodel", "fit", "--config", SMALL),
        *("--data.shards", f"{shards}/*.tar", "--trainer.default_root_dir", str(root)),
        *("--trainer.limit_val_batches", "0", "--trainer.max_epochs", "-1"),
        *("--trainer.max_steps", str(STEPS), "--checkpoint.every_n_train_steps", "3"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--ckpt_path", "unfinished"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != RUN_FOLDER}
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if b"worldmodel" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def last(root: Path) -> dict:
    """The checkpoint; always one that can be read."""
    return torch.load(next(root.rglob("last.ckpt")), weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for processes")
def test_sigkill__of_any_rank_at_ten_moments_changes_no_bit(shards, tmp_path):
    whole = start(shards, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read()[-2000:]
    chance, root = random.Random(0), tmp_path / "killed"
    steps = []
    for number in range(KILLS):
        run = start(shards, root)
        target = (number + 1) * STEPS // (KILLS + 2)
        end = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < end:
            if list(root.rglob("last.ckpt")) and last(root)["global_step"] >= target:
                break
            time.sleep(0.05)
        assert run.poll() is None, run.stderr.read()[-2000:]
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
        steps.append(last(root)["global_step"])
    assert steps == sorted(steps) and steps[-1] < STEPS
    again = start(shards, root)
    assert again.wait(timeout=300) == 0, again.stderr.read()[-2000:]
    a, b = last(tmp_path / "whole"), last(root)
    assert a["global_step"] == b["global_step"] == STEPS
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
