"""A SLURM job goes back into the queue where it should, once, and nowhere else."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from fit_process import finish, last_checkpoint, start

from worldmodel.signals import STOP_CODE

SCRIPT = Path(__file__).parents[1] / "configs" / "slurm.sh"
STOPPED = 75


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Path:
    """A file with a line for each call of `srun` and `scontrol`, which do nothing else."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    calls.touch()
    for name in ("srun", "scontrol"):
        command = folder / name
        command.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\nexit ${{{name}_code:-0}}\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


def be_task(monkeypatch, rank: int = 0, tasks: int = 1, restarts: int = 0) -> None:
    """Make processes started from here on tasks of a SLURM job that `slurm.sh` began."""
    here = {"JOB_ID": 4711, "STEP_ID": 0, "JOB_NAME": "worldmodel", "NNODES": tasks, "NODEID": rank}
    here |= {"NTASKS": tasks, "NTASKS_PER_NODE": 1, "PROCID": rank, "LOCALID": 0}
    here |= {"NODELIST": "localhost", "RESTART_COUNT": restarts}
    for name, value in here.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv(STOP_CODE, str(STOPPED))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize(
    ("code", "goes_back"),
    [(STOPPED, True), *[(code, False) for code in (0, 1, 2, 130, 137, 138, 143)]],
)
def test_script__puts_the_job_back_after_an_orderly_stop_alone(
    commands, monkeypatch, code, goes_back
):
    be_task(monkeypatch)
    monkeypatch.setenv("srun_code", str(code))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    done = subprocess.run(["bash", str(SCRIPT), "some.yaml", "--name", "mine"], check=False)
    assert done.returncode == code
    ran, *more = commands.read_text().splitlines()
    assert more == (["scontrol requeue 4711"] if goes_back else [])
    assert ran.startswith("srun --kill-on-bad-exit=1 --cpus-per-task=3 ")
    assert "fit --config some.yaml " in ran and ran.endswith("--ckpt_path unfinished --name mine")


def test_script__asks_for_a_configuration(commands):
    done = subprocess.run(["bash", str(SCRIPT)], check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "which configuration?" in done.stderr
    assert not commands.read_text()


SEND = """
import os, signal
from worldmodel.task import WorldModelTask
def send(*_, **__):
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)
"""


def test_signal__before_and_after_the_training_loses_nothing(
    shards, tmp_path, commands, monkeypatch
):
    root = tmp_path / "runs"
    run = ("--trainer.max_steps", "3", "--ckpt_path", "unfinished")
    be_task(monkeypatch)
    early = start(shards, root, *run, program=f"{SEND}WorldModelTask.on_fit_start = send")
    out, _ = early.communicate(timeout=90)
    assert early.returncode == STOPPED, out
    assert "stopped by SIGTERM at step 1" in out
    be_task(monkeypatch, restarts=1)
    hooks = "WorldModelTask.on_train_end = WorldModelTask.on_fit_end = send\n"
    hooks += "WorldModelTask.teardown = send\nimport atexit; atexit.register(send)"
    out = finish(start(shards, root, *run, program=f"{SEND}{hooks}"))
    assert "last.ckpt at step 1, of this job" in out
    assert last_checkpoint(root)["global_step"] == 3
    # Lightning, left to itself, requeues too, and saves where it would look first.
    assert not commands.read_text()
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    (starts,) = root.rglob("starts.jsonl")
    lines = [json.loads(line) for line in starts.read_text().splitlines()]
    assert [(line["step"], line["slurm_job"]) for line in lines] == [(0, "4711"), (1, "4711")]


def test_stop__no_rank_ends_before_the_checkpoint_is_on_the_disk(shards, tmp_path, monkeypatch):
    # For srun then ends the others, and rank 0 may still be writing in the background.
    slow = """
import os, time
from pathlib import Path
from worldmodel import cli
from worldmodel.callbacks import AtomicCheckpointIO as Writer
root, write, leave = Path(sys.argv[0]).parent, Writer.save_checkpoint, cli.hear_no_more
def save(self, checkpoint, *args, **kwargs):
    time.sleep(4)
    write(self, checkpoint, *args, **kwargs)
    (root / "written").touch()
def note():
    (root / f"rank{os.environ['SLURM_PROCID']}").write_text(str((root / "written").exists()))
    leave()
Writer.save_checkpoint, cli.hear_no_more = save, note"""
    more = ("--trainer.max_steps", "100000", "--checkpoint.every_n_train_steps", "100000")
    more += ("--checkpoint.asynchronous", "true", "--trainer.devices", "1")
    more += ("--trainer.num_nodes", "2", "--trainer.strategy", "ddp")
    ranks = []
    with socket.socket() as free:
        free.bind(("localhost", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for rank in (0, 1):
        be_task(monkeypatch, rank, tasks=2)
        ranks.append(start(shards, tmp_path, *more, program=slow))
    end = time.monotonic() + 90
    while not list(tmp_path.rglob("starts.jsonl")):
        assert time.monotonic() < end and ranks[0].poll() is None
        time.sleep(0.05)
    ranks[1].send_signal(signal.SIGUSR1)
    outs = [each.communicate(timeout=90)[0] for each in ranks]
    assert [each.returncode for each in ranks] == [STOPPED, STOPPED], outs
    step = last_checkpoint(tmp_path)["global_step"]
    assert f"stopped by a signal to another process at step {step};" in outs[0]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
