"""Where a run's files go, and what it goes on from; all processes of a run choose alike."""

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from worldmodel.errors import InputError
from worldmodel.models.checkpoint import read_checkpoint

# Tells the ranks that Lightning starts which folder rank 0 chose.
RUN_FOLDER = "WORLDMODEL_RUN_FOLDER"
# How long a rank that torchrun or SLURM started waits for rank 0's choice, on a shared disk.
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.1


def choose_run(runs: Path, ckpt_path: str | None, max_steps: int) -> tuple[Path, Path | None]:
    """The folder of this run and the checkpoint it goes on from.

    Rank 0 chooses. Ranks that Lightning starts are told by their environment, those of torchrun
    and SLURM by a file.

    Args:
        runs: folder of all versions of the run's name.
        ckpt_path: a file, `last`, `unfinished`, or nothing.
        max_steps: length of the run; -1 if it is given in epochs.

    Returns:
        A version's folder, new unless the run goes on, and a checkpoint or None.

    Raises:
        InputError: a checkpoint cannot be read, no folder can be made, or rank 0 has not chosen in
            time.
    """
    launch = launch_name()
    if launch is not None:
        note = runs / f".launch-{launch}.json"
        if global_rank():
            return _wait_for(note)
        chosen = _choose(runs, ckpt_path, max_steps)
        _tell(note, chosen)
        return chosen
    if RUN_FOLDER in os.environ and "LOCAL_RANK" in os.environ:
        folder = Path(os.environ[RUN_FOLDER])
        last = folder / "checkpoints" / "last.ckpt"
        if ckpt_path in ("last", "unfinished"):
            return folder, last if last.is_file() else None
        return folder, None if ckpt_path is None else Path(ckpt_path)
    folder, checkpoint = _choose(runs, ckpt_path, max_steps)
    os.environ[RUN_FOLDER] = str(folder)
    return folder, checkpoint


def _choose(runs: Path, ckpt_path: str | None, max_steps: int) -> tuple[Path, Path | None]:
    folder, checkpoint = None, None
    if ckpt_path is not None and (own := run_of_this_job(runs)) is not None:
        folder, last = own, own / "checkpoints" / "last.ckpt"
        keep_metrics(folder)
        if last.is_file():
            checkpoint = last
            say(f"resuming {last} at step {read_checkpoint(last)['global_step']}, of this job")
        else:
            say(f"{folder} of this job has no checkpoint yet: starting afresh")
    elif ckpt_path in ("last", "unfinished"):
        newest = newest_checkpoint(runs)
        step = None if newest is None else int(read_checkpoint(newest)["global_step"])
        if newest is None:
            say(f"no run to go on with under {runs}: starting afresh")
        elif ckpt_path == "unfinished" and step is not None and 0 <= max_steps <= step:
            say(f"{newest.parents[1]} is complete ({step} steps): starting a new version")
        else:
            folder, checkpoint = newest.parents[1], newest
            keep_metrics(folder)
            say(f"resuming {newest} at step {step}")
    elif ckpt_path is not None:
        checkpoint = given_checkpoint(ckpt_path)
        say(f"resuming {checkpoint} at step {read_checkpoint(checkpoint)['global_step']}")
    return folder or new_version(runs), checkpoint


def given_checkpoint(ckpt_path: str) -> Path:
    """The file that `--ckpt_path` names.

    Raises:
        InputError: there is none.
    """
    path = Path(ckpt_path)
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint at {path}; --ckpt_path takes a file that `worldmodel fit` "
            "wrote, such as last.ckpt, or the words last and unfinished, for the newest run of "
            "--name. An export or a shipped model is given as --model.init_from"
        )
    return path


def checkpoint_to_validate(runs: Path, ckpt_path: str) -> Path:
    """The checkpoint that is scored.

    Args:
        runs: folder of all versions of the run's name.
        ckpt_path: a file, or `last` or `unfinished`: the newest there is.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if ckpt_path in ("last", "unfinished"):
        newest = newest_checkpoint(runs)
        if newest is None:
            raise InputError(
                f"there is no last.ckpt under {runs} to validate; give --ckpt_path a file, or the "
                "run's --name"
            )
        path = newest
    else:
        path = given_checkpoint(ckpt_path)
    step = read_checkpoint(path)["global_step"]
    if not global_rank():
        say(f"validating {path} of step {step}")
    return path


def run_of_this_job(runs: Path) -> Path | None:
    """The version that this SLURM job trained before it was put back into the queue, if it did.

    Not simply the newest one: another job may train under the same name; and the run may have been
    complete when the job was put back, which is no reason to begin anew.
    """
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    job = f'"slurm_job": "{os.environ.get("SLURM_JOB_ID", "")}"'
    found = [path for path in runs.glob("*/starts.jsonl") if job in path.read_text("utf-8")]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def global_rank() -> int:
    """The number of this process in its training, before there is a process group."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def launch_name() -> str | None:
    """A name that the processes of one launch by torchrun or SLURM share; None without those.

    Every restart has another one, so that no rank takes an earlier launch's choice for its own.
    """
    names: tuple[str, ...] = ()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    if not names:
        return None
    parts = [os.environ.get(name, "0") for name in names]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE", ""):
        parts.append(str(os.getppid()))  # of the one torchrun: its default name is always the same
    return re.sub(r"[^A-Za-z0-9.-]", "_", "-".join(parts))


def _tell(note: Path, chosen: tuple[Path, Path | None]) -> None:
    """Write down rank 0's choice, whole or not at all."""
    folder, checkpoint = chosen
    content = {"folder": str(folder), "checkpoint": checkpoint and str(checkpoint)}
    note.parent.mkdir(parents=True, exist_ok=True)
    for old in note.parent.glob(".launch-*.json"):
        with suppress(FileNotFoundError):  # another launch may be clearing up as well
            # Ranks of another launch of this name may still be waiting for a younger one.
            if time.time() - old.stat().st_mtime > 2 * WAIT_SECONDS:
                old.unlink()
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(note)


def _wait_for(note: Path) -> tuple[Path, Path | None]:
    """Rank 0's choice, once it is there."""
    end = time.monotonic() + WAIT_SECONDS
    while not note.is_file():
        if time.monotonic() > end:
            raise InputError(
                f"rank 0 has not said within {WAIT_SECONDS:.0f} s where this run's files go (in "
                f"{note}); is trainer.default_root_dir on a disk that all nodes share?"
            )
        time.sleep(POLL_SECONDS)
    content = json.loads(note.read_text(encoding="utf-8"))
    checkpoint = content["checkpoint"]
    return Path(content["folder"]), None if checkpoint is None else Path(checkpoint)


def newest_checkpoint(runs: Path) -> Path | None:
    """The `last.ckpt` written last among the versions of a run, if there is any."""
    found = sorted(runs.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def new_version(runs: Path) -> Path:
    """The first `version_N` that no run has, made at once: another job may ask at this moment.

    Raises:
        InputError: it cannot be made.
    """
    while True:
        taken = [
            int(match.group(1))
            for path in runs.glob("version_*")
            if (match := re.fullmatch(r"version_(\d+)", path.name))
        ]
        folder = runs / f"version_{max(taken, default=-1) + 1}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise InputError(f"{runs} is no folder; move it away") from None
        except OSError as error:
            raise InputError(
                f"cannot make {folder}: {error.strerror or error}. Give "
                "--trainer.default_root_dir a folder that can be written to"
            ) from error
        else:
            return folder


def keep_metrics(folder: Path) -> None:
    """Put the metrics of the run so far aside: Lightning's logger starts its file anew."""
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        number = len(list(folder.glob("metrics-*.csv")))
        metrics.rename(folder / f"metrics-{number}.csv")


def say(message: str) -> None:
    """Tell the person at the keyboard."""
    print(message, flush=True)
