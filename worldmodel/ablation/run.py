"""Runs a study: trainings side by side, one core each, every one followed by its measurement.

Everything goes on where it was cut short: a run whose result is there is not run again, a finished
training is only measured, an unfinished one goes on from its last checkpoint. What fails is noted
beside the results and tried again the next time.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

import worldmodel
from worldmodel.ablation.study import (
    Question,
    Study,
    Variant,
    digest_of,
    read_study,
    refuse_misfits,
)
from worldmodel.ablation.table import write_tables
from worldmodel.data.index import index_sha256, read_index
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


@dataclass(frozen=True)
class Job:
    """One run: a configuration and a seed.

    Attributes:
        variants: that share it, in the order of the study; the first names its folder.
        seed: of weights, order and mirrors.
    """

    variants: tuple[Variant, ...]
    seed: int

    @property
    def first(self) -> Variant:
        """The variant that the run is named after."""
        return self.variants[0]

    @property
    def label(self) -> str:
        """For people."""
        return self.first.label(self.seed)

    @property
    def run_name(self) -> str:
        """Of its folder; another configuration under the same name has another one."""
        return f"{self.label.replace('/', '-')}-{self.first.digest}"

    def config(self, out: Path) -> dict[str, Any]:
        """The whole configuration of its training, in a study's folder."""
        config = {"name": self.run_name, "seed_everything": self.seed, **self.first.config}
        config["trainer"] = {**config["trainer"], "default_root_dir": str(out)}
        return config


def ablate(
    file: Path,
    out: Path,
    jobs: int = 2,
    only: Sequence[str] = (),
    commands: Commands = Commands(),
) -> Path:
    """Train and measure the variants of a study, and write tables and figures of what is there.

    Args:
        file: the study.
        out: folder of results, runs, tables and figures.
        jobs: runs side by side; each takes one core.
        only: ids of questions; all by default.
        commands: what trains and measures.

    Returns:
        The page of tables, `<out>/ablation.md`.

    Raises:
        InputError: the study cannot be used, or some runs failed; all others are done then.
    """
    from worldmodel.ablation.figure import write_figures

    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    study = read_study(file)
    questions = study.choose(only)
    refuse_misfits([variant for each in questions for variant in each.variants], file)
    with alone(out), terminable():
        make_sets(study, questions)
        measured_on = describe_sets(study)
        wanted = jobs_of(study, questions)
        missing = [job for job in wanted if not share_result(out, job, measured_on)]
        print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them done already", flush=True)
        failures = Scheduler(out, study, measured_on, jobs, commands).run(missing)
        page = write_tables(study, out, measured_on)
        write_figures(study, out, measured_on)
    if failures:
        raise InputError(
            f"{len(failures)} of {len(missing)} runs failed: "
            + "; ".join(f"{label} ({error})" for label, error in failures.items())
            + f". The others are in {page}"
        )
    return page


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """See to it that no two studies write to one folder.

    Raises:
        InputError: another one is at work there, or it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another study is running in {out}; wait, or choose another") from error
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let a closed terminal, or a plain `kill`, stop what we started as Ctrl-C does.

    Ctrl-C itself is listened to even where a shell began us in the background and had it ignored:
    our processes would ignore it too, and a training that is asked to stop would not save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def jobs_of(study: Study, questions: Sequence[Question]) -> list[Job]:
    """The runs that some questions need, each once, in the order of the study."""
    sharing: dict[str, list[Variant]] = {}
    for variant in study.variants():
        sharing.setdefault(variant.digest, []).append(variant)
    asked = [variant for question in questions for variant in question.variants]
    return [
        Job(tuple(sharing[digest]), seed)
        for digest in dict.fromkeys(variant.digest for variant in asked)
        for seed in sharing[digest][0].seeds
    ]


def make_sets(study: Study, questions: Sequence[Question]) -> None:
    """Generate every set that is missing.

    Raises:
        InputError: a set cannot be made, or shares its scenes with the one that is measured on.
    """
    from worldmodel.evaluation.report import DEFAULT_DATA, find_set

    root = find_set(None if study.root == DEFAULT_DATA else study.root)
    used = read_index(root).get("arguments", {}).get("seed")
    sets = [v.training_set for q in questions for v in q.variants if v.training_set is not None]
    for seed in (used, *(each.seed for each in sets)):
        if seed == study.development.seed:
            raise InputError(
                f"{study.file}: development.seed is {seed}, as of a set that is learned from: they "
                "would share their scenes; choose another seed"
            )
    for each in dict.fromkeys(each.path for each in (study.development, *sets)):
        next(found for found in (study.development, *sets) if found.path == each).make()


def describe_sets(study: Study) -> dict[str, Any]:
    """On what and by which rules results are measured: one of other ones does not count."""
    from worldmodel.ablation.score import EFFORT, TEST_EVENT_CLIPS, TEST_FREE_CLIPS
    from worldmodel.evaluation.protocol import PROTOCOL

    return {
        "base_index_sha256": index_sha256(study.root),
        "development_index_sha256": index_sha256(Path(study.development.path)),
        "protocol": digest_of(PROTOCOL),
        "effort": {
            **{name: _plain(value) for name, value in asdict(EFFORT).items()},
            "test_event_clips": TEST_EVENT_CLIPS,
            "test_free_clips": TEST_FREE_CLIPS,
        },
    }


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


# --- Results -------------------------------------------------------------------------------------


def result_path(out: Path, variant: Variant, seed: int) -> Path:
    """Where the result of a run is, for one of the variants that share it."""
    return out / f"{variant.label(seed)}.json"


def failure_path(out: Path, variant: Variant, seed: int) -> Path:
    """Where it is noted that a run failed."""
    return out / f"{variant.label(seed)}.failed.json"


def share_result(out: Path, job: Job, measured_on: dict[str, Any]) -> bool:
    """Whether the run's result is there; if so, all its variants have it.

    One of another configuration, or measured on something else, does not count.
    """
    wanted = (job.first.digest, measured_on)
    found = [read_result(result_path(out, variant, job.seed)) for variant in job.variants]
    usable = [each for each in found if each and (each["digest"], each["measured_on"]) == wanted]
    if not usable:
        return False
    for variant, each in zip(job.variants, found, strict=True):
        if each not in usable:
            write_json(result_path(out, variant, job.seed), usable[0] | _named(variant))
    return True


def _named(variant: Variant) -> dict[str, str]:
    return {"question": variant.question, "variant": variant.name}


def read_result(path: Path) -> dict[str, Any] | None:
    """A result; None where there is none.

    Raises:
        InputError: the file is no result.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a result: {error}; remove it") from error
    needed = ("digest", "measured_on", "sections")
    if not isinstance(found, dict) or any(name not in found for name in needed):
        raise InputError(f"{path} is no result of a study; remove it")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


# --- Processes -----------------------------------------------------------------------------------


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
            write_json(failure_path(self.out, variant, turn.job.seed), content | _named(variant))
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
            write_json(result_path(self.out, each, job.seed), _named(each) | result)
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
