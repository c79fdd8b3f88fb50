"""`fit` and `validate`: Lightning's command line, and where a run's files go."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from worldmodel.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    EndTogether,
    LastCheckpoint,
    LevelMonitor,
    Preflight,
    RunProgressBar,
    SpikeWatch,
    StopOnSignal,
    ThreadsPerProcess,
    Throughput,
)
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.errors import InputError
from worldmodel.memory import keep_freed_memory
from worldmodel.models.checkpoint import read_checkpoint
from worldmodel.task import WorldModelTask

# Tells the ranks that Lightning starts which folder rank 0 chose.
RUN_FOLDER = "WORLDMODEL_RUN_FOLDER"


class TrainCLI(LightningCLI):
    """Trains `WorldModelTask` on `ClipDataModule`.

    Beside Lightning's own options: `--name` (the run's files go to `runs/<name>/<version>/`),
    `--checkpoint.every_n_train_steps`, and two words for `--ckpt_path`: `last` goes on with the
    newest run of that name, `unfinished` too, but only if it was cut short; both start afresh where
    there is nothing to go on with.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        keep_freed_memory()
        super().__init__(
            WorldModelTask,
            ClipDataModule,
            args=args,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            # The configuration of a resumed run is written again: it may have changed.
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "worldmodel",
                "exit_on_error": False,
                **{command: {"exit_on_error": False} for command in self.subcommands()},
            },
            trainer_defaults={
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                # The stream splits its order over ranks by itself.
                "use_distributed_sampler": False,
                "log_every_n_steps": 10,
                "callbacks": [
                    BestCheckpoint(),
                    EndTogether(),
                    LevelMonitor(),
                    Preflight(),
                    SpikeWatch(),
                    StopOnSignal(),
                    ThreadsPerProcess(),
                    Throughput(),
                ],
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="of the run, and its folder")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")

    def before_instantiate_classes(self) -> None:
        config = self.config[str(self.subcommand)]
        if self.subcommand == "validate":
            config.trainer.logger = False
            self.save_config_callback = None
            return
        if config.trainer.max_steps == -1 and config.trainer.max_epochs in (None, -1):
            raise InputError(
                "how long shall it train? Set trainer.max_steps (the schedule needs it too)"
            )
        runs = Path(config.trainer.default_root_dir or ".") / "runs" / config.name
        folder, checkpoint = choose_run(runs, config.ckpt_path, config.trainer.max_steps)
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        config.checkpoint.dirpath = str(folder / "checkpoints")

    def after_instantiate_classes(self) -> None:
        if self.subcommand == "fit" and self.datamodule.quarantine is None:
            folder = Path(self.config_init["fit"].checkpoint.dirpath).parent
            self.datamodule.quarantine = str(folder / "quarantine.jsonl")
        needed = self.model.hierarchy.min_frames
        if self.datamodule.num_frames < needed:
            raise InputError(
                f"the levels' horizons need clips of {needed} frames, got data.num_frames="
                f"{self.datamodule.num_frames}; raise it or lower the horizons"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        config = self.config[str(self.subcommand)]
        if self.subcommand == "fit" and config.trainer.logger in (None, True):
            folder = Path(config.checkpoint.dirpath).parent
            runs, name = folder.parents[1], folder.parent.name
            kwargs["logger"] = [
                CSVLogger(runs, name, version=folder.name),
                TensorBoardLogger(runs, name, version=folder.name),
            ]
        if config.trainer.enable_progress_bar is not False:
            chosen = self._get(self.config_init, "trainer").callbacks or []
            chosen = chosen if isinstance(chosen, list) else [chosen]
            kwargs["callbacks"] = [*chosen, RunProgressBar(refresh_rate=10)]
        kwargs["plugins"] = [*(config.trainer.plugins or []), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)


def choose_run(runs: Path, ckpt_path: str | None, max_steps: int) -> tuple[Path, Path | None]:
    """The folder of this run and the checkpoint it goes on from.

    Args:
        runs: folder of all versions of the run's name.
        ckpt_path: a file, `last`, `unfinished`, or nothing.
        max_steps: length of the run; -1 if it is given in epochs.

    Returns:
        A version's folder, new unless the run goes on, and a checkpoint or None.
    """
    if RUN_FOLDER in os.environ and "LOCAL_RANK" in os.environ:
        folder = Path(os.environ[RUN_FOLDER])
        last = folder / "checkpoints" / "last.ckpt"
        if ckpt_path in ("last", "unfinished"):
            return folder, last if last.is_file() else None
        return folder, None if ckpt_path is None else Path(ckpt_path)
    folder, checkpoint = new_version(runs), None
    if ckpt_path in ("last", "unfinished"):
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
        checkpoint = Path(ckpt_path)
        say(f"resuming {checkpoint} at step {read_checkpoint(checkpoint)['global_step']}")
    os.environ[RUN_FOLDER] = str(folder)
    return folder, checkpoint


def newest_checkpoint(runs: Path) -> Path | None:
    """The `last.ckpt` written last among the versions of a run, if there is any."""
    found = sorted(runs.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def new_version(runs: Path) -> Path:
    """The first `version_N` that no earlier run has."""
    taken = [
        int(match.group(1))
        for path in runs.glob("version_*")
        if (match := re.fullmatch(r"version_(\d+)", path.name))
    ]
    return runs / f"version_{max(taken, default=-1) + 1}"


def keep_metrics(folder: Path) -> None:
    """Put the metrics of the run so far aside: Lightning's logger starts its file anew."""
    metrics = folder / "metrics.csv"
    if metrics.is_file() and "LOCAL_RANK" not in os.environ:
        number = len(list(folder.glob("metrics-*.csv")))
        metrics.rename(folder / f"metrics-{number}.csv")


@rank_zero_only
def say(message: str) -> None:
    """Tell the person at the keyboard, once."""
    print(message, flush=True)


# TF32 on GPUs that have it; nothing changes on a CPU.
torch.set_float32_matmul_precision("high")
