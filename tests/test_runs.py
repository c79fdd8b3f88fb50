"""All processes of a run choose the same folder, whoever started them."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from worldmodel import runs
from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.runs import RUN_FOLDER, choose_run, new_version

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
}
SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Each test stands for a process of its own."""
    monkeypatch.setattr(sys, "argv", ["worldmodel"])
    for name in (RUN_FOLDER, "LOCAL_RANK", "RANK", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def test_choose_run__other_ranks_take_the_folder_of_rank_0(tmp_path, monkeypatch):
    folder, checkpoint = choose_run(tmp_path, None, max_steps=5)
    assert folder == tmp_path / "version_0" and checkpoint is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_run(tmp_path, None, max_steps=5)[0] == folder


def test_new_version__counts_on(tmp_path):
    for name in ("version_0", "version_7", "version_x"):
        (tmp_path / name).mkdir()
    assert new_version(tmp_path).name == "version_8"


def test_new_version__every_job_has_one_of_its_own(tmp_path):
    at_once, found = threading.Barrier(8), []

    def ask() -> None:
        at_once.wait()
        found.append(new_version(tmp_path / "runs").name)

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert sorted(found) == [f"version_{number}" for number in range(8)]


def test_new_version__what_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make .*file/version_0: Not a directory"):
        new_version(tmp_path / "file")
    command = ("fit", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path / "file"))
    assert main(list(command)) == 2


def test_fit__a_run_that_cannot_begin_leaves_no_folder(tmp_path, capsys):
    command = ("fit", "--config", SMALL, "--data.num_frames", "11")
    assert main([*command, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert "need clips of 12 frames" in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "small").glob("*"))


def test_launch__what_ranks_of_another_launch_wait_for_is_not_cleared_away(tmp_path, monkeypatch):
    for name, value in {**SLURM, "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    young, old = tmp_path / ".launch-11-0.json", tmp_path / ".launch-10-0.json"
    for note in (young, old):
        note.write_text("{}")
    long_ago = old.stat().st_mtime - 3 * runs.WAIT_SECONDS
    os.utime(old, (long_ago, long_ago))
    choose_run(tmp_path, None, 5)
    assert young.is_file()
    assert not old.is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "which model shall be validated? Give --ckpt_path"),
        (("--ckpt_path", "last"), "there is no last.ckpt under"),
        (("--ckpt_path", "tiny"), "there is no checkpoint at tiny; --ckpt_path takes a file"),
    ],
)
def test_validate__scores_no_model_that_was_never_trained(tmp_path, capsys, more, message):
    args = ("validate", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path))
    assert main([*args, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") <= 2  # Lightning says the seed there


def test_validate__last_is_the_newest_run(tmp_path, capsys):
    for number in (1, 0):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        checkpoint = {"worldmodel": {}, "state_dict": {}, "global_step": 3 + number}
        torch.save(checkpoint, folder / "last.ckpt")
        os.utime(folder / "last.ckpt", (number, number))
    newest = tmp_path / "version_1" / "checkpoints" / "last.ckpt"
    assert runs.checkpoint_to_validate(tmp_path, "last") == newest
    assert capsys.readouterr().out == f"validating {newest} of step 4\n"


def test_choose_run__garbage_is_named(tmp_path):
    broken = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    broken.parent.mkdir(parents=True)
    broken.write_text("garbage")
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        choose_run(tmp_path, "last", max_steps=5)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [(TORCHRUN, "RANK"), (SLURM, "SLURM_PROCID")],
    ids=["torchrun", "slurm"],
)
def test_choose_run__ranks_started_by_others_wait_for_rank_0(
    tmp_path, monkeypatch, environment, rank
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(rank, "1")
    found = []
    waiting = threading.Thread(target=lambda: found.append(choose_run(tmp_path, "last", 5)))
    waiting.start()
    (tmp_path / "version_0").mkdir()  # an earlier run's
    waiting.join(timeout=0.5)
    assert not found
    monkeypatch.setenv(rank, "0")
    chosen = choose_run(tmp_path, "last", 5)
    waiting.join(timeout=10)
    assert found == [chosen] == [(tmp_path / "version_1", None)]


def test_launch__every_restart_has_a_name_of_its_own(monkeypatch):
    assert runs.launch_name() is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    first = runs.launch_name()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert runs.launch_name() != first
    assert str(os.getppid()) in first


def test_choose_run__a_disk_that_is_not_shared_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "WAIT_SECONDS", 0.2)
    for name, value in {**SLURM, "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="on a disk that all nodes share"):
        choose_run(tmp_path, None, 5)


def test_choose_run__a_job_that_was_put_back_finds_its_own_run(tmp_path, monkeypatch):
    for version, job in enumerate(("12", "13", "112")):  # the last one written is another job's
        checkpoint = tmp_path / f"version_{version}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        content = {"worldmodel": {}, "state_dict": {}, "global_step": 5}
        torch.save(content, checkpoint)
        record = checkpoint.parents[1] / "starts.jsonl"
        record.write_text(json.dumps({"step": 0, "slurm_job": job}) + "\n")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert choose_run(tmp_path, "unfinished", 6)[0].name == "version_2"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for words in ("unfinished", "last", "somewhere/else.ckpt"):  # complete or not
        monkeypatch.delenv(RUN_FOLDER)
        own = tmp_path / "version_0"
        assert choose_run(tmp_path, words, 5) == (own, own / "checkpoints" / "last.ckpt")
    monkeypatch.delenv(RUN_FOLDER)
    assert choose_run(tmp_path, None, 5) == (tmp_path / "version_3", None)
    monkeypatch.delenv(RUN_FOLDER)
    monkeypatch.setenv("SLURM_JOB_ID", "99")  # put back before it began to train
    assert choose_run(tmp_path, "last", 5)[0].name == "version_2"


@pytest.mark.slow
def test_torchrun__trains_in_one_folder_and_goes_on_there(shards, tmp_path):
    def run(steps: int) -> str:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", "-m", "worldmodel", "fit", "--config", SMALL),
                *("--data.shards", f"{shards}/*.tar", "--trainer.default_root_dir", str(tmp_path)),
                *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
                *("--trainer.max_epochs", "-1", "--trainer.max_steps", str(steps)),
                *("--ckpt_path", "unfinished"),
            ],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert "starting afresh" in run(4)
    assert "at step 4" in run(6)
    (last,) = tmp_path.rglob("last.ckpt")
    assert last.parents[1].name == "version_0"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    # What was logged before the second start is still there.
    assert (last.parents[1] / "metrics-0.csv").is_file()
