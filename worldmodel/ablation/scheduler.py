"""Runs of a study side by side, each a training and then its measurement, in processes.

An unfinished training goes on from its last checkpoint, a finished one is only measured. What fails
is noted beside the results.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import worldmodel
from worldmodel.ablation.jobs import (
    Job,
    failure_path,
    name_of,
    result_path,
    write_json,
)
from worldmodel.ablation.study import Study
from worldmodel.ablation.table import write_tables
from worldmodel.environment import git_commit
from worldmodel.errors import InputError
from worldmodel.runs import newest_checkpoint

POLL_SECONDS = 0.2
# A training that is asked to stop first writes its checkpoint.
STOP_SECONDS = 30.0
TRAINING, MEASUREMENT = "training", "measurement"


@dataclass(frozen=True)
class Commands:
    """What the processes run; what each is about is added to it.

    Attributes:
        fit: trains a configuration: `--config FILE --ckpt_path unfinished` follow.
        score: measures a checkpoint: see `worldmodel.ablation.score.main`.
    """

    fit: tuple[str, ...] = (sys.executable, "-m", "worldmodel", "fit")
    score: tuple[str, ...] = (sys.executable, "-m", "worldmodel.ablation.score")


COMMANDS = Commands()


@dataclass
class Turn:
    """A run under way: first its training, then its measurement, each a process.

    Attributes:
        job: the run.
        folder: of the run: configuration, logs, versions with checkpoints.
        stage: which process is running.
        process: that process.
        log: what it writes.
        begun: when it began, of `time.monotonic`.
        step: of the training's checkpoint when it began; 0 without one.
    """

    job: Job
    folder: Path
    stage: str
    process: subprocess.Popen[bytes]
    log: Path
    begun: float
    step: int = 0


@dataclass
class Scheduler:
    """Runs jobs side by side.

    Attributes:
        out: the study's folder.
        study: the study.
        measured_on: of `describe_sets`.
        width: how many processes at a time.
        commands: what trains and measures.
    """

    out: Path
    study: Study
    measured_on: dict[str, Any]
    width: int
    commands: Commands
    turns: list[Turn] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Work through the jobs; says a line about each.

        Returns:
            What failed and why, by label.
        """
        waiting, total = list(jobs), len(jobs)
        failures: dict[str, str] = {}
        num_done = 0
        try:
            while waiting or self.turns:
                while waiting and len(self.turns) < self.width:
                    self.turns.append(self._begin(waiting.pop(0)))
                time.sleep(POLL_SECONDS)
                for turn, code in list(self._ended()):
                    self.turns.remove(turn)
                    line = None
                    if code:
                        failures[turn.job.label] = line = self._note_failure(turn)
                    elif turn.stage == TRAINING:
                        self.turns.append(self._measure(turn.job))
                    else:
                        line = self._finish(turn)
                    if line is not None:
                        num_done += 1
                        print(f"[{num_done}/{total}] {turn.job.label}: {line}", flush=True)
                        write_tables(self.study, self.out, self.measured_on)
        finally:
            self._stop()
        return failures

    def _folder(self, job: Job) -> Path:
        return self.out / "runs" / job.run_name

    def _begin(self, job: Job) -> Turn:
        """Its training; where that is done already, its measurement."""
        if trained_steps(self._folder(job)) >= job.first.steps:
            return self._measure(job)
        folder = self._folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(job.config(self.out), sort_keys=False), encoding="utf-8")
        arguments = ("--config", str(config), "--ckpt_path", "unfinished")
        return self._start(job, TRAINING, (*self.commands.fit, *arguments))

    def _measure(self, job: Job) -> Turn:
        folder = self._folder(job)
        arguments = (
            str(newest_checkpoint(folder)),
            *("--base", str(self.study.root)),
            *("--development", self.study.development.path),
            *("--out", str(folder / "measured.json")),
        )
        return self._start(job, MEASUREMENT, (*self.commands.score, *arguments))

    def _start(self, job: Job, stage: str, command: Sequence[str]) -> Turn:
        """Begin a process on one thread, out of reach of the terminal's Ctrl-C: we pass it on."""
        folder = self._folder(job)
        log = folder / f"{stage}.log"
        threads = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}
        step = trained_steps(folder)  # before the process can write another checkpoint
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | threads,
                start_new_session=True,
            )
        return Turn(job, folder, stage, process, log, time.monotonic(), step)

    def _ended(self) -> Iterator[tuple[Turn, int]]:
        """Turns whose process has ended since, with its exit code; what it cost is written down."""
        for turn in self.turns:
            before = cpu_seconds_of_children()
            code = turn.process.poll()
            if code is not None:
                if turn.stage == TRAINING:
                    add_cost(turn, cpu_seconds_of_children() - before)
                yield turn, code

    def _note_failure(self, turn: Turn) -> str:
        error = last_words(turn.log)
        digest = turn.job.first.digest
        content = {"digest": digest, "stage": turn.stage, "error": error, "log": str(turn.log)}
        for variant in turn.job.variants:
            write_json(failure_path(self.out, variant, turn.job.seed), content | name_of(variant))
        return f"failed in {turn.stage}: {error}"

    def _finish(self, turn: Turn) -> str:
        """Write the result of a run for each of its variants."""
        job, variant = turn.job, turn.job.first
        measured = json.loads((turn.folder / "measured.json").read_text(encoding="utf-8"))
        cost = read_cost(turn.folder)
        frames = cost["steps"] * variant.frames_per_step
        speed = frames / cost["cpu_seconds"] if cost["cpu_seconds"] else None
        result = {
            "digest": variant.digest,
            "seed": job.seed,
            "steps": variant.steps,
            "seconds": cost["seconds"],
            "frames_per_second_per_core": speed,
            "measurement_seconds": time.monotonic() - turn.begun,
            "version": worldmodel.__version__,
            "git_commit": git_commit(),
            "measured_on": self.measured_on,
            "config": job.config(self.out),
            **measured,
        }
        for each in job.variants:
            write_json(result_path(self.out, each, job.seed), name_of(each) | result)
            failure_path(self.out, each, job.seed).unlink(missing_ok=True)
        pace = "" if speed is None else f", {speed:.0f} frames/s per core"
        return (
            f"{variant.steps} steps in {cost['seconds']:.0f} s{pace}; measured in "
            f"{result['measurement_seconds']:.0f} s"
        )

    def _stop(self) -> None:
        """Ask every process that still runs to stop, wait for it, and end it if it does not."""
        for turn in self.turns:
            _signal(turn.process, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for turn in self.turns:
                before = cpu_seconds_of_children()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    turn.process.wait(max(0.0, deadline - time.monotonic()))
                    if turn.stage == TRAINING:
                        add_cost(turn, cpu_seconds_of_children() - before)
        finally:  # after a second Ctrl-C as well
            for turn in self.turns:
                _signal(turn.process, signal.SIGKILL)
                turn.process.wait()
            self.turns.clear()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To a process and all that it has started, unless it has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def cpu_seconds_of_children() -> float:
    """Of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def add_cost(turn: Turn, cpu_seconds: float) -> None:
    """Write down what a training process cost and how far it came; resumed ones add up."""
    steps = max(0, trained_steps(turn.folder) - turn.step)
    cost = read_cost(turn.folder)
    spent = {
        "steps": steps,
        "seconds": time.monotonic() - turn.begun,
        "cpu_seconds": cpu_seconds,
    }
    write_json(turn.folder / "cost.json", {name: cost[name] + spent[name] for name in cost})


def read_cost(folder: Path) -> dict[str, Any]:
    """Steps, seconds and CPU seconds that a run's training processes have come to."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    return {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}


def trained_steps(folder: Path) -> int:
    """Optimizer steps of a run's last checkpoint; 0 without one that can be read."""
    from worldmodel.models.checkpoint import read_checkpoint

    newest = newest_checkpoint(folder)
    if newest is not None:
        # One that cannot be read stops its own training with a clear error, and nobody else's.
        with contextlib.suppress(InputError):
            return int(read_checkpoint(newest)["global_step"])
    return 0


def last_words(log: Path) -> str:
    """What a process said about its end: its error line, or its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("worldmodel: error: ")]
    if errors:
        return errors[-1].removeprefix("worldmodel: error: ")
    return said[-1] if said else "it said nothing"
