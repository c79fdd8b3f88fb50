"""Runs that end before their time, as real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from fit_process import TWO, arguments, last_checkpoint, start

from worldmodel.callbacks import is_lost_peer
from worldmodel.cli import main
from worldmodel.runs import RUN_FOLDER


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def running(group: int) -> list[str]:
    """Processes of a group that have not ended; those that nobody has asked about have."""
    found = subprocess.run(
        ["ps", "-e", "-o", "pgid=,stat=,pid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=3) for line in found.stdout.splitlines()]
    return [" ".join(row) for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


RUN = ("--trainer.max_steps", "40", "--checkpoint.every_n_train_steps", "4")


def run_here(shards, root, *more: str) -> None:
    """A run that nobody stops, in this process, which has imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN_FOLDER, raising=False)
        patch.setattr(sys, "argv", ["worldmodel"])
        assert main(["fit", *arguments(shards, root), *more]) == 0
        os.environ.pop(RUN_FOLDER)  # which the run has set


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory) -> dict:
    """The weights of a run that was never stopped."""
    root = tmp_path_factory.mktemp("whole")
    run_here(shards, root, *RUN)
    return last_checkpoint(root)["state_dict"]


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)],
)
def test_signal__saves_and_goes_on_to_the_weights_of_a_run_never_stopped(
    shards, whole, tmp_path, number, capfd
):
    slow = "import time; from worldmodel.task import WorldModelTask as T; "
    slow += "T.on_train_batch_start = lambda *_: time.sleep(0.2)"
    workers = () if number == signal.SIGUSR1 else ("--data.num_workers", "1")
    cut = start(shards, tmp_path / "cut", *RUN, *workers, program=slow)
    wait_for(lambda: list((tmp_path / "cut").rglob("last.ckpt")))
    if workers:  # as a terminal does, and some schedulers: to those that decode, too
        os.killpg(cut.pid, number)
    else:
        cut.send_signal(number)
    out, _ = cut.communicate(timeout=60)
    assert cut.returncode == 128 + number, out
    stopped_at = last_checkpoint(tmp_path / "cut")["global_step"]
    assert f"stopped by {number.name} at step {stopped_at}" in out and "Traceback" not in out
    assert 4 <= stopped_at < 40
    run_here(shards, tmp_path / "cut", *RUN, "--ckpt_path", "unfinished")
    assert f"at step {stopped_at}" in capfd.readouterr().out
    found = last_checkpoint(tmp_path / "cut")["state_dict"]
    assert all(torch.equal(whole[key], found[key]) for key in whole)


def test_signal__to_one_of_two_processes_stops_both(shards, tmp_path):
    args = ("--trainer.max_steps", "1000", "--checkpoint.every_n_train_steps", "5")
    run = start(shards, tmp_path, *args, *TWO)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
    run.send_signal(signal.SIGTERM)  # the first one alone is told
    out, _ = run.communicate(timeout=90)
    assert run.returncode == 128 + signal.SIGTERM, out
    assert "Traceback" not in out
    assert last_checkpoint(tmp_path)["global_step"] % 10 == 0  # where they talk


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_failure__of_one_process_ends_all_with_its_error(shards, tmp_path, rank):
    fails = f"""
import os
from worldmodel.task import WorldModelTask as T
def fail(self, *_):
    if self.global_rank == {rank} and self.global_step == 3:
        raise OSError("the roof fell in")
T.on_train_batch_start = fail"""
    run = start(shards, tmp_path, *TWO, "--trainer.max_steps", "1000", program=fails)
    out, _ = run.communicate(timeout=90)
    assert run.returncode != 0
    assert "OSError: the roof fell in" in out
    assert out.count("Traceback (most recent call last)") == 1, out
    if shutil.which("ps"):
        assert not running(run.pid)


def test_lost_peer__is_told_from_other_errors():
    gloo = RuntimeError("[../third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]")
    assert is_lost_peer(gloo)
    wrapped = ValueError("later")
    wrapped.__cause__ = gloo
    assert is_lost_peer(wrapped)
    assert is_lost_peer(torch.distributed.DistBackendError("timeout"))
    assert not is_lost_peer(RuntimeError("shapes do not match"))
    assert not is_lost_peer(OSError("Broken pipe"))
