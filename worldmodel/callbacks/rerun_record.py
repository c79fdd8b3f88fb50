"""A recording for the Rerun viewer while a run goes on."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from lightning import LightningModule, Trainer

from worldmodel.callbacks.occasional import Occasional, apart
from worldmodel.callbacks.pictures import to_follow
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.evaluation.network import levels_of
from worldmodel.evaluation.videos.rerun_file import import_rerun
from worldmodel.evaluation.videos.rerun_training import TrainingRecording
from worldmodel.evaluation.videos.training_record import (
    Seen,
    Subject,
    look_at,
    moment_of,
    read_subject,
)
from worldmodel.models.checkpoint import ClipSpec
from worldmodel.runs import say
from worldmodel.task import WorldModelTask


class RerunRecord(Occasional):
    """Records one validation clip as the model sees it, from its first step to its last.

    In the run's folder, `training.rrd`: the clip, its tokens, surprise at every level and horizon,
    and where the clip has truth (the physics world) depth and where the object is believed to be,
    both true and read by probes that are fitted anew at each look. One look at the start, one
    every so many steps, one at the end.

    A run that goes on begins a new file, `training-000400.rrd` of step 400, of the same recording:
    `rerun runs/tiny/version_0/*.rrd` opens them as one.

    The first process alone records; where weights are spread over devices all of them run the
    model. Every number of the training stays as it is. What goes wrong is told once and ends the
    recording, not the run.

    Args:
        record: whether there is a recording; needs the extra `rerun`.
        every_n_steps: optimizer steps between two looks; 0 for those at the start and at the end.
        max_share: most that looks between these may take of the training's time; where one would
            take more, it is left out.

    Raises:
        InputError: a number is out of range, or rerun is not installed.
    """

    option, noun = "rerun", "recording"
    remedy = "--rerun.record false leaves it out"
    # 1.4 s of CPU for the tiny configuration on one thread.
    first_seconds = 1.5

    def __init__(
        self, record: bool = False, every_n_steps: int = 500, max_share: float = 0.01
    ) -> None:
        super().__init__(every_n_steps, max_share)
        self.record = record
        if record:
            import_rerun()  # before anything is read
        self._subject: Subject
        self._recording: TrainingRecording | None = None
        self._id = ""
        self._number = 0
        self._along: Sequence[np.ndarray] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which recording it is, how many looks it has, and the colours that the next one follows.

        Empty where nothing is recorded.
        """
        if self._along is None:
            return {}
        along = [torch.from_numpy(each) for each in self._along]
        return {"id": self._id, "number": self._number, "along": along}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._id, self._number = state_dict["id"], state_dict["number"]
            self._along = [each.numpy() for each in state_dict["along"]]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.record:
            self.visit(trainer, pl_module, always=True)
            # Those at the start and at the end are beside the share of the time.
            self.seconds = 0.0
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.record:
            super().on_train_batch_end(*args)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.record:
            self.visit(trainer, pl_module, always=True)
            self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def prepare(self, trainer: Trainer, task: WorldModelTask) -> bool:
        datamodule: ClipDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not len(datamodule.val_refs):
            return False
        levels = levels_of(task.hierarchy)
        clip = ClipSpec(num_frames=datamodule.num_frames, fps=datamodule.fps, size=datamodule.size)
        self._subject = read_subject(
            levels, clip, datamodule.train_refs, datamodule.val_refs, datamodule.val_clip
        )
        if not trainer.is_global_zero:
            return True
        if not self._subject.lessons:
            say(f"recording for the Rerun viewer without depth and belief: {self._subject.missing}")
        self._id = self._id or str(uuid4())
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        path = free_path(folder, trainer.global_step)
        self._recording = TrainingRecording(path, levels, self._subject, self._id)
        return True

    def look(self, trainer: Trainer, task: WorldModelTask) -> Seen:
        with apart(trainer, task):
            return look_at(task.hierarchy, self._subject, task.device)

    def show(self, trainer: Trainer, task: WorldModelTask, seen: Seen) -> None:
        assert self._recording is not None
        before = to_follow(seen.tokens, self._along)
        levels, step = levels_of(task.hierarchy), trainer.global_step
        moment = moment_of(levels, self._subject, seen, step, before)
        self._recording.add(moment, self._number)
        self._along, self._number = moment.along, self._number + 1

    def _close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            with suppress(Exception) if self._ended else self._told():
                recording.close()


def run_folder(trainer: Trainer) -> Path:
    """Where the files of a run go: the folder that its checkpoints' folder lies in."""
    folder = trainer.checkpoint_callback and trainer.checkpoint_callback.dirpath  # type: ignore[attr-defined]
    return Path(folder).parent if folder else Path(trainer.default_root_dir)


def free_path(folder: Path, step: int) -> Path:
    """A name that no earlier file has, for a recording that begins at a step."""
    stem = f"training-{step:06d}" if step else "training"
    path, number = folder / f"{stem}.rrd", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.rrd"
    return path
