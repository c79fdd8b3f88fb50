"""Runs a study: its sets, its runs, its tables and figures.

Everything goes on where it was cut short: a run whose result is there is not run again, and what
failed is tried again the next time.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from worldmodel.ablation.jobs import jobs_of, share_result
from worldmodel.ablation.scheduler import COMMANDS, Commands, Scheduler
from worldmodel.ablation.study import Question, Study, digest_of, read_study, refuse_misfits
from worldmodel.ablation.table import write_tables
from worldmodel.data.index import index_sha256, read_index
from worldmodel.errors import InputError


def ablate(
    file: Path,
    out: Path,
    jobs: int = 2,
    only: Sequence[str] = (),
    commands: Commands = COMMANDS,
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
