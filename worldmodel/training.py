"""`fit` and `validate`: Lightning's command line."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from worldmodel.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    EndTogether,
    LastCheckpoint,
    LevelMonitor,
    Pictures,
    Preflight,
    RerunRecord,
    RunProgressBar,
    RunRecord,
    SpikeWatch,
    StopOnSignal,
    ThreadsPerProcess,
    Throughput,
)
from worldmodel.compute import check_precision
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.errors import InputError
from worldmodel.memory import keep_freed_memory
from worldmodel.runs import checkpoint_to_validate, choose_run
from worldmodel.strategy import ShardedStrategy  # noqa: F401  # known by its name from here on
from worldmodel.task import WorldModelTask

# How Lightning's loggers say that the package they log with is not there.
NOT_INSTALLED = re.compile(r"Requirement '(?P<package>[\w-]+)[^']*' not met")
# Lightning's loggers that write files into a folder of versions, as a run's is.
FILE_LOGGERS = (".CSVLogger", ".TensorBoardLogger")


class RunConfiguration(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, whatever loggers there are.

    That of a resumed run is written again: it may have changed.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        path = Path(self.config.checkpoint.dirpath).parent / self.config_filename
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True)


def put_into(folder: Path, logger: Any) -> None:
    """Have a logger of the configuration write into the run's folder.

    Where the configuration has another place for it, a line says so.

    Args:
        folder: `runs/name/version_0`.
        logger: one of `FILE_LOGGERS`, with `class_path` and `init_args`.
    """
    given = logger.init_args
    place = Path(given.save_dir, "" if given.name == "lightning_logs" else given.name or "")
    if place not in (folder.parent, folder.parents[1]):
        kind = logger.class_path.split(".")[-1]
        rank_zero_only(print)(f"{kind} writes into {folder}, the run's folder, not {place}")
    given.save_dir, given.name, given.version = (
        str(folder.parents[1]),
        folder.parent.name,
        folder.name,
    )


class TrainCLI(LightningCLI):
    """Trains `WorldModelTask` on `ClipDataModule`.

    Beside Lightning's own options: `--name` (the run's files go to `runs/<name>/<version>/`),
    `--checkpoint.…` and `--best.…` (what is kept), `--pictures.…` and `--rerun.…` (what is drawn
    and recorded meanwhile), and two words for `--ckpt_path`: `last` goes on with the newest run of
    that name, `unfinished` too, but only if it was cut short; both start afresh where there is
    nothing to go on with.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        keep_freed_memory()
        self.folder: Path | None = None
        try:
            self._run(args)
        except ValueError as error:
            if "val_check_interval" not in str(error):
                raise
            # Known only when the samples are counted; Lightning says all that there is to say.
            raise InputError(f"trainer: {error}") from error
        finally:
            if self.folder is not None:
                with suppress(OSError):  # not empty, unless the run never came to write anything
                    self.folder.rmdir()

    def _run(self, args: list[str] | None) -> None:
        super().__init__(
            WorldModelTask,
            ClipDataModule,
            args=args,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=RunConfiguration,
            save_config_kwargs={"save_to_log_dir": False},
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
                    EndTogether(),
                    LevelMonitor(),
                    Preflight(),
                    RunRecord(),
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
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(RerunRecord, "rerun")

    def before_instantiate_classes(self) -> None:
        config = self.config[str(self.subcommand)]
        check_precision(config.trainer.precision)  # on a CPU Lightning takes another for 16-mixed
        if config.trainer.accumulate_grad_batches < 1:
            raise InputError(
                "trainer.accumulate_grad_batches must be at least 1, got "
                f"{config.trainer.accumulate_grad_batches}"
            )
        runs = Path(config.trainer.default_root_dir or ".") / "runs" / config.name
        if self.subcommand == "validate":
            config.trainer.logger = False
            self.save_config_callback = None
            if config.ckpt_path is not None:
                config.ckpt_path = str(checkpoint_to_validate(runs, config.ckpt_path))
            elif config.model.init_from is None:
                raise InputError(
                    "which model shall be validated? Give --ckpt_path a checkpoint or last, or "
                    "--model.init_from an export or a shipped model"
                )
            return
        if config.trainer.max_steps == -1 and config.trainer.max_epochs in (None, -1):
            raise InputError(
                "how long shall it train? Set trainer.max_steps (the schedule needs it too)"
            )
        self.folder, checkpoint = choose_run(runs, config.ckpt_path, config.trainer.max_steps)
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        config.checkpoint.dirpath = config.best.dirpath = str(self.folder / "checkpoints")
        loggers = config.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if getattr(logger, "class_path", "").endswith(FILE_LOGGERS):
                put_into(self.folder, logger)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:  # the parser puts what a constructor says into its own error
            missing = NOT_INSTALLED.search(str(error))
            if missing is None:
                raise
            package = missing["package"]
            raise InputError(
                f"the configuration names a logger that needs {package}, which is not installed: "
                f"pip install {package}"
            ) from error

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
        writer: CheckpointIO = AtomicCheckpointIO(config.checkpoint.keep)
        if config.checkpoint.asynchronous:
            writer = AsyncCheckpointIO(writer)
        kwargs["plugins"] = [*(config.trainer.plugins or []), writer]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise InputError(f"trainer: {error}") from error


# TF32 on GPUs that have it; nothing changes on a CPU.
torch.set_float32_matmul_precision("high")
