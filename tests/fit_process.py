"""`worldmodel fit` in processes of its own, for tests that stop, kill or connect them."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from worldmodel.runs import RUN_FOLDER

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def arguments(shards: Path, root: Path) -> tuple[str, ...]:
    """Of a training as small as one gets, without validation and measured in steps."""
    return (
        *("--config", SMALL, "--data.shards", f"{shards}/*.tar"),
        *("--trainer.default_root_dir", str(root)),
        *("--trainer.limit_val_batches", "0", "--trainer.max_epochs", "-1"),
    )


def start(shards: Path, root: Path, *more: str, program: str = "") -> subprocess.Popen[str]:
    """Start such a training.

    Args:
        shards: folder of its clips.
        root: of its runs.
        more: arguments.
        program: lines that come first and change what it does.
    """
    root.mkdir(exist_ok=True)
    script = root / "program.py"  # a file: the first process starts the others by its name
    script.write_text(f"import sys\n{program}\nfrom worldmodel.cli import main; sys.exit(main())")
    command = [sys.executable, str(script), "fit", *arguments(shards, root), *more]
    environment = {name: value for name, value in os.environ.items() if name != RUN_FOLDER}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 200.0) -> str:
    """Wait for a training that shall succeed; returns what it said."""
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out[-2000:]
    return out


def last_checkpoint(root: Path) -> dict:
    """The content of the one `last.ckpt` below a folder."""
    (path,) = root.rglob("last.ckpt")
    return torch.load(path, weights_only=True)
