"""The order of runs: each once, resumed where it was cut short, failures noted and no more."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from made_up_results import BASE, STUDY, sections, spectrum, write_study

from worldmodel.ablation import figure, run, scheduler
from worldmodel.ablation.figure import write_figures
from worldmodel.ablation.run import ablate
from worldmodel.ablation.scheduler import Commands
from worldmodel.ablation.study import digest_of, refuse_misfits
from worldmodel.errors import InputError
from worldmodel.evaluation.protocol import PROTOCOL
from worldmodel.world import generate

STAND_IN = str(Path(__file__).with_name("stand_in.py"))
DEFAULTS = [f"scope-default-seed{seed}" for seed in range(3)]


class Place:
    """A folder with a study in it, and commands that stand in for training and measuring."""

    def __init__(self, folder: Path, templates: Path) -> None:
        self.out = folder / "out"
        self.made: list[dict[str, Any]] = []
        self.base_set, self.development = folder / "base", folder / "dev"
        write_index(self.base_set, seed=0)
        measured = folder / "measured.json"
        measured.write_text(json.dumps({"sections": sections(), "spectrum": spectrum()}))
        self.commands = Commands(
            fit=(sys.executable, "-S", STAND_IN, "fit", str(templates)),
            score=(sys.executable, "-S", STAND_IN, "score", str(measured)),
        )
        self.folder = folder
        self.study = {**STUDY, "development": {**STUDY["development"], "path": str(folder / "dev")}}

    def generate(self, out: Path, **arguments: Any) -> None:
        self.made.append({"out": out, **arguments})
        write_index(out, arguments["seed"])

    def ablate(self, only: tuple[str, ...] = (), study: dict[str, Any] | None = None) -> Path:
        data = {**BASE["data"], "shards": f"{self.base_set}/train/clips-*.tar"}
        file = write_study(self.folder, study or self.study, {**BASE, "data": data})
        return ablate(file, self.out, 2, only, self.commands)

    def calls(self, what: str = "") -> list[str]:
        """What was called since the last time, sorted, without digests."""
        path = self.out / "calls.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        path.unlink(missing_ok=True)
        return sorted(line.split()[1].rpartition("-")[0] for line in lines if line.startswith(what))

    def result(self, label: str) -> dict[str, Any]:
        return json.loads((self.out / f"{label}.json").read_text())


def write_index(root: Path, seed: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    index = {"format_version": 1, "arguments": {"seed": seed}, "shards": []}
    (root / "index.json").write_text(json.dumps(index))


@pytest.fixture
def place(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path, checkpoints)
    monkeypatch.setattr(generate, "generate", place.generate)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.02)
    # A second and half a second each time; the first test has both.
    monkeypatch.setattr(figure, "write_figures", lambda study, out, measured_on: [])
    monkeypatch.setattr(run, "refuse_misfits", lambda variants, file: None)
    return place


def test_every_run_happens_once_and_is_kept_under_every_name(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "write_figures", write_figures)
    monkeypatch.setattr(run, "refuse_misfits", refuse_misfits)
    page = place.ablate()
    runs = [*DEFAULTS, "regularizer-vicreg-seed0", "scope-batch-seed0"]
    lines = (place.out / "calls.txt").read_text().splitlines()
    assert all(line.endswith("threads 1") for line in lines if line.startswith("fit"))
    assert all(line.endswith("base dev") for line in lines if line.startswith("score"))
    assert place.calls("fit") == sorted(runs)
    for seed in range(3):
        first, second = (place.result(f"{q}/default-seed{seed}") for q in ("scope", "regularizer"))
        assert (first.pop("question"), second.pop("question")) == ("scope", "regularizer")
        assert first == second and first["seed"] == seed
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "5 runs, 0 of them done already"
    assert sorted(line[:5] for line in said[1:6]) == [f"[{n}/5]" for n in range(1, 6)]
    assert "scope/batch-seed0: 3 steps in " in "\n".join(said)
    assert page == place.out / "ablation.md" and "Which scope?" in page.read_text()
    assert (place.out / "ablation.png").stat().st_size > 4096
    assert (place.out / "spectrum.png").stat().st_size > 4096


def test_a_result_says_what_it_is_of(place: Place) -> None:
    place.ablate(("regularizer",))
    result = place.result("regularizer/vicreg-seed0")
    expected = {"sections", "spectrum", "config", "digest", "seed", "steps", "seconds"}
    expected |= {"git_commit", "version", "measured_on", "measurement_seconds"}
    assert expected | {"frames_per_second_per_core"} <= set(result)
    assert (result["steps"], result["question"], result["variant"]) == (3, "regularizer", "vicreg")
    assert result["seconds"] > 0
    assert result["measured_on"]["effort"]["event_clips"] == 200
    assert result["measured_on"]["protocol"] == digest_of(PROTOCOL)
    folder = next((place.out / "runs").glob("regularizer-vicreg-seed0-*"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config == result["config"]
    assert config["seed_everything"] == 0 and config["name"] == folder.name
    assert config["trainer"]["default_root_dir"] == str(place.out)
    assert config["trainer"]["max_steps"] == 3
    assert config["model"]["regularizer"] == {"class_path": "worldmodel.losses.regularizers.VICReg"}
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["steps"] == 3
    speed = 3 * 2 * 12 / cost["cpu_seconds"]
    assert result["frames_per_second_per_core"] == pytest.approx(speed)


def test_what_is_done_is_not_done_again(place: Place) -> None:
    place.ablate(("regularizer",))
    assert place.calls("fit") == sorted([*DEFAULTS, "regularizer-vicreg-seed0"])
    place.ablate()
    assert place.calls("fit") == ["scope-batch-seed0"]
    (place.out / "scope" / "default-seed1.json").unlink()
    place.ablate()
    assert place.calls() == []
    assert place.result("scope/default-seed1")["question"] == "scope"


def test_another_configuration_under_an_old_name_is_run(place: Place) -> None:
    place.ablate()
    place.calls()
    study = json.loads(json.dumps(place.study))
    study["questions"]["scope"]["variants"]["batch"]["model"]["weights"]["batch"] = 3
    place.ablate(study=study)
    assert place.calls("fit") == ["scope-batch-seed0"]
    assert place.result("scope/batch-seed0")["config"]["model"]["weights"]["batch"] == 3


def test_a_finished_training_is_only_measured(place: Place) -> None:
    place.ablate(("regularizer",))
    place.calls()
    # On another set: what was measured does not count.
    study = {**place.study, "development": {**place.study["development"], "seed": 2}}
    place.ablate(("regularizer",), study)
    assert place.calls() == sorted([*DEFAULTS, "regularizer-vicreg-seed0"])


def test_an_unfinished_training_goes_on(place: Place, checkpoints: Path) -> None:
    place.ablate(("scope",))
    (folder,) = (place.out / "runs").glob("scope-batch-seed0-*")
    place.calls()
    (place.out / "scope" / "batch-seed0.json").unlink()
    shutil.copy(checkpoints / "step1.ckpt", folder / "version_0" / "checkpoints" / "last.ckpt")
    place.ablate(("scope",))
    assert place.calls("fit") == ["scope-batch-seed0"]
    # Two steps of the second part beside three of the first.
    assert json.loads((folder / "cost.json").read_text())["steps"] == 5


def test_a_run_that_fails_is_noted_and_stops_no_other(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.out.mkdir()
    (place.out / "fail").write_text("vicreg")
    with pytest.raises(InputError, match=r"1 of 5 runs failed: regularizer/vicreg-seed0 \(failed "):
        place.ablate()
    assert "regularizer/vicreg-seed0: failed in training: no luck" in capsys.readouterr().out
    note = json.loads((place.out / "regularizer" / "vicreg-seed0.failed.json").read_text())
    assert (note["stage"], note["error"]) == ("training", "no luck")
    assert Path(note["log"]).read_text().startswith("some warning")
    assert not (place.out / "regularizer" / "vicreg-seed0.json").exists()
    assert place.result("scope/batch-seed0")["steps"] == 3
    page = (place.out / "ablation.md").read_text()
    assert "- vicreg: seed 0 failed in training: no luck" in page
    # It is tried again the next time, and the note goes.
    place.calls()
    (place.out / "fail").unlink()
    place.ablate()
    assert place.calls("fit") == ["regularizer-vicreg-seed0"]
    assert not (place.out / "regularizer" / "vicreg-seed0.failed.json").exists()
    assert "failed in training" not in (place.out / "ablation.md").read_text()


def test_a_measurement_that_says_nothing_is_noted(place: Place) -> None:
    place.commands = Commands(place.commands.fit, (sys.executable, "-c", "import sys; sys.exit(3)"))
    with pytest.raises(InputError, match=r"vicreg-seed0 \(failed in measurement: it said nothing"):
        place.ablate(("regularizer",))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_trainings_and_loses_nothing(
    place: Place, number: signal.Signals
) -> None:
    place.out.mkdir()
    (place.out / "wait").touch()

    def both_wait() -> bool:
        calls = place.out / "calls.txt"
        return calls.is_file() and calls.read_text().count("waiting") == 2

    interrupt_once(both_wait, number)
    with pytest.raises(KeyboardInterrupt):
        place.ablate(("scope",))
    assert place.calls("stopped") == DEFAULTS[:2]
    (folder,) = (place.out / "runs").glob("scope-default-seed0-*")
    assert json.loads((folder / "cost.json").read_text())["steps"] == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (place.out / "wait").unlink()
    place.ablate(("scope",))
    assert place.calls("fit") == sorted([*DEFAULTS, "scope-batch-seed0"])


def interrupt_once(happened: Callable[[], bool], number: signal.Signals) -> None:
    """Send this process a signal as soon as something has happened."""

    def watch() -> None:
        deadline = time.monotonic() + 20
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def test_sets_are_generated_for_what_is_asked(place: Place) -> None:
    study = json.loads(json.dumps(place.study))
    standing = {"set": {"path": str(place.folder / "still"), "num_clips": 9, "mix": {"pan": 0}}}
    study["questions"]["cameras"] = {"asks": "Moving?", "variants": {"standing": standing}}
    place.ablate(("regularizer",), study)
    assert [made["out"].name for made in place.made] == ["dev"]
    place.ablate(("cameras",), study)
    assert [made["out"].name for made in place.made] == ["dev", "dev", "still"]
    made = place.made[-1]
    assert (made["num_clips"], made["num_blocks"], made["size"], made["seed"]) == (9, 0, 32, 0)
    assert (made["mix"].pan, made["mix"].orbit) == (0.0, 0.07)
    shards = place.result("cameras/standing-seed0")["config"]["data"]["shards"]
    assert shards == f"{place.folder}/still/train/clips-*.tar"


def test_a_development_set_with_the_scenes_of_training_is_refused(place: Place) -> None:
    write_index(place.base_set, seed=1)
    with pytest.raises(InputError, match=r"development\.seed is 1, as of a set that is learned"):
        place.ablate()
    assert place.made == []


def test_a_study_that_cannot_train_is_refused_before_anything_runs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "refuse_misfits", refuse_misfits)
    study = json.loads(json.dumps(place.study))
    study["questions"]["scope"]["variants"]["batch"]["model"]["weights"]["batch"] = -1
    with pytest.raises(InputError, match=r"weights\.batch"):
        place.ablate(study=study)
    assert place.made == [] and place.calls() == []


def test_two_studies_do_not_write_to_one_folder(place: Place) -> None:
    place.out.mkdir()
    with FileLock(place.out / ".lock"), pytest.raises(InputError, match="another study is running"):
        place.ablate()


@pytest.mark.parametrize(("jobs", "said"), [(0, "jobs must be at least 1, got 0")])
def test_so_few_jobs_are_refused(place: Place, jobs: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ablate(place.folder / "study.yaml", place.out, jobs)


def test_a_result_that_is_none_is_named(place: Place) -> None:
    (place.out / "scope").mkdir(parents=True)
    path = place.out / "scope" / "batch-seed0.json"
    for content, said in (("{", "cannot be read as a result"), ("{}", "is no result of a study")):
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            place.ablate()
