"""Results in order whatever the engine, and a process that dies loses its own job alone."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from worldmodel.data.engine import Crashed, run_jobs
from worldmodel.errors import InputError

has_ray = importlib.util.find_spec("ray") is not None


def square_or_die(job: int, fatal: int = -1) -> int:
    """Later jobs are quicker, so that they end in another order."""
    time.sleep(0.02 * (10 - job) if job < 10 else 0)
    if job == fatal:
        os.kill(os.getpid(), signal.SIGSEGV)
    return job * job


def refuse(job: int) -> int:
    if job == 2:
        raise InputError(f"job {job} is not liked")
    return job


def note(job: int, folder: Path) -> int:
    (folder / str(job)).touch()
    return job


def note_and_sleep(job: int, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def test_run_jobs__gives_results_in_order() -> None:
    expected = [job * job for job in range(20)]
    assert list(run_jobs(square_or_die, range(20), processes=3)) == expected
    assert list(run_jobs(square_or_die, range(20), processes=1)) == expected
    assert list(run_jobs(square_or_die, [], processes=2)) == []


def test_run_jobs__a_process_that_dies_loses_its_own_job_alone() -> None:
    work = partial(square_or_die, fatal=4)
    results = list(run_jobs(work, range(12), processes=2))
    assert results == [Crashed("SIGSEGV") if job == 4 else job * job for job in range(12)]


def test_run_jobs__raises_what_a_job_raised_when_it_is_its_turn() -> None:
    results = run_jobs(refuse, range(5), processes=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="job 2 is not liked") as caught:
        next(results)
    assert "in refuse" in caught.value.__notes__[0], "the place where it was raised is told"


def test_run_jobs__begins_no_more_than_it_may(tmp_path: Path) -> None:
    results = run_jobs(partial(note, folder=tmp_path), range(50), processes=2, ahead=3)
    for taken in range(1, 5):
        assert next(results) == taken - 1
        time.sleep(0.05)
        # 2 workers, 3 each; one more may be begun as soon as one is taken
        assert len(list(tmp_path.iterdir())) <= taken + 6
    results.close()


def test_run_jobs__leaves_no_process_behind(tmp_path: Path) -> None:
    """Neither where the results are no longer wanted nor where the parent is killed."""
    script = tmp_path / "parent.py"
    script.write_text(
        "from functools import partial; from pathlib import Path\n"
        "from test_engine import note_and_sleep\n"
        "from worldmodel.data.engine import run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    work = partial(note_and_sleep, folder=Path({str(tmp_path)!r}))\n"
        "    next(run_jobs(work, range(9), processes=2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    workers: list[int] = []
    deadline = time.monotonic() + 30
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        workers = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(_is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_alive(pid) for pid in workers)


def _is_alive(pid: int) -> bool:
    try:
        # A zombie that nobody has buried yet does not count.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_run_jobs__says_what_is_wrong_with_a_script_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from worldmodel.data.engine import run_jobs; print(list(run_jobs(abs, [1], processes=2)))"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode and "needs `if __name__ == '__main__':`" in run.stderr


@pytest.mark.skipif(has_ray, reason="ray is installed")
def test_run_jobs__ray_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match=r"pip install 'worldmodel\[ray\]'"):
        list(run_jobs(abs, [1], engine="ray"))


def test_run_jobs__ray_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'worldmodel\[ray\]'"):
        list(run_jobs(abs, [1], engine="ray"))


# Starting Ray takes 12 s.
@pytest.mark.slow
@pytest.mark.skipif(not has_ray, reason="ray is not installed")
def test_run_jobs__the_same_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # its workers know this module
    work = partial(square_or_die, fatal=4)
    results = list(run_jobs(work, range(12), engine="ray", processes=2))
    assert isinstance(results[4], Crashed) and "tried 3 times" in results[4].reason
    assert [job for job in results if job != results[4]] == [j * j for j in range(12) if j != 4]
    assert not ray.is_initialized(), "what was started here is ended here"
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        results = run_jobs(refuse, range(5), engine="ray")
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(InputError, match="job 2 is not liked"):
            next(results)
        assert ray.is_initialized(), "what was found running is left running"
    finally:
        ray.shutdown()


@pytest.mark.skipif(not has_ray, reason="ray is not installed")
def test_run_jobs__a_ray_cluster_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        list(run_jobs(abs, [1], engine="ray"))
