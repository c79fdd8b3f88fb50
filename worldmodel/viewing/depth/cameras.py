"""Does a moving camera teach depth? Two trainings that differ in their cameras alone."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import read_metrics
from worldmodel.models.checkpoint import LoadedModel, load_model

# Shares of cameras that move in each way, as in the question `cameras` of configs/ablation.yaml.
MOVES = ("pan", "dolly", "orbit", "handheld")
CAMERAS = {"standing": 0.0, "moving": 0.25}
"""Name of a training set -> share of its cameras that move in each of four ways."""


def make_cameras(
    root: Path, num_clips: int = 240, size: int = 64, seed: int = 5
) -> dict[str, Path]:
    """Two sets of clips that differ in their cameras alone; what is there already stays.

    Args:
        root: folder in which they are made, as `physics-standing` and `physics-moving`.
        num_clips: training clips of each.
        size: pixels a side.
        seed: other than that of any set that is measured on.

    Returns:
        Their folders by name: `standing`, all cameras stand; `moving`, all move.
    """
    from worldmodel.world.generate import generate  # a renderer that most viewers never need
    from worldmodel.world.style import Mix

    folders = {}
    for name, share in CAMERAS.items():
        folders[name] = root / f"physics-{name}"
        mix = Mix(**dict.fromkeys(MOVES, share))
        # A notebook would keep every step of the progress bar.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            generate(folders[name], num_clips, num_blocks=0, size=size, seed=seed, mix=mix)
    return folders


def fit_command(config: Path, shards: Path, name: str, num_steps: int, out: Path) -> list[str]:
    """The command that trains on one set: `worldmodel fit`, shorter than the configuration says.

    Args:
        config: YAML of a run.
        shards: folder of the set.
        name: of the run.
        num_steps: optimizer steps.
        out: folder of `runs/`.
    """
    return [
        *(sys.executable, "-m", "worldmodel", "fit", "--config", str(config), "--name", name),
        *("--data.shards", str(shards / "train" / "clips-*.tar")),
        *("--trainer.max_steps", str(num_steps), "--trainer.default_root_dir", str(out)),
        *("--trainer.enable_progress_bar", "false"),
    ]


def train_beside(commands: Mapping[str, Sequence[str]], folder: Path, out: Path) -> dict[str, Path]:
    """Run trainings at the same time, each with its share of the cores.

    Args:
        commands: of `fit_command`, by name of the run.
        folder: in which they run: where the configuration's relative paths lead.
        out: the folder of their `runs/`; a log of each goes there.

    Returns:
        The last checkpoint of each.

    Raises:
        InputError: a training failed; with the end of what it said.
    """
    out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // len(commands)))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    running = {}
    for name, command in commands.items():
        with (out / f"{name}.log").open("w", encoding="utf-8") as log:
            running[name] = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
    codes = {name: process.wait() for name, process in running.items()}
    found = {}
    for name, code in codes.items():
        log_path = out / f"{name}.log"
        checkpoints = sorted(
            out.glob(f"runs/{name}/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
        )
        if code or not checkpoints:
            said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise InputError(
                f"the training {name} ended with {code}: {' '.join(said[-2:])[-400:]}; all that it "
                f"said is in {log_path}"
            )
        found[name] = checkpoints[-1]
    return found


def train_cameras(
    sets: Mapping[str, Path], project: Path, num_steps: int = 120
) -> dict[str, LoadedModel]:
    """Train the same configuration for as many steps on each set, all at the same time.

    Args:
        sets: folders by name.
        project: of `project_folder`; runs go to its `build/cameras/`, where nothing takes them for
            the newest run.
        num_steps: optimizer steps of each.

    Returns:
        The trained models by name.

    Raises:
        InputError: a training failed.
    """
    out = project / "build" / "cameras"
    commands = {
        name: fit_command(project / "configs" / "tiny.yaml", folder, name, num_steps, out)
        for name, folder in sets.items()
    }
    checkpoints = train_beside(commands, project, out)
    return {name: load_model(path) for name, path in checkpoints.items()}


@dataclass(frozen=True)
class Learned:
    """How a training went.

    Attributes:
        steps, loss: `(n,)`, optimizer steps and the loss of their batches.
        copy_ratio: per level the error at its longest horizon over that of a copy, when it was last
            measured on a training batch.
    """

    steps: np.ndarray
    loss: np.ndarray
    copy_ratio: Sequence[float]


def learned(model: LoadedModel) -> Learned:
    """Read a run's `metrics.csv`.

    Args:
        model: loaded from a checkpoint of `worldmodel fit`, beside whose folder the file lies.

    Raises:
        InputError: the run left no metrics.
    """
    path = model.file.parent.parent / "metrics.csv"
    columns = read_metrics(path)
    ratios = [f"train/level{number}/copy_ratio" for number in range(len(model.network.levels))]
    lacking = [column for column in ("train/loss", *ratios) if column not in columns]
    if lacking:
        raise InputError(f"{path} has no {', '.join(lacking)}: train longer")
    steps, loss = columns["train/loss"]
    return Learned(steps + 1, loss, [float(columns[column][1][-1]) for column in ratios])


def study_depths(page: Path) -> dict[str, float]:
    """What the study of the recipe found, from its table in `docs/recipe.md`.

    Returns:
        rmse in metres: `standing`, `moving`, `one in five moves` (the default) and `untrained`.

    Raises:
        InputError: the page has no such table.
    """
    wanted = {
        "all training cameras stand": "standing",
        "all training cameras move": "moving",
        "**default**, three seeds": "one in five moves",
        "untrained network, or trivial predictor": "untrained",
    }
    found: dict[str, float] = {}
    column = None
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "depth, rmse m" in cells:
            column = cells.index("depth, rmse m")
        elif column is not None and len(cells) > column and cells[0] in wanted:
            found[wanted[cells[0]]] = float(cells[column].split()[0])
    if len(found) < len(wanted):
        lacking = sorted(set(wanted.values()) - found.keys())
        raise InputError(f"{page} has no table with depth of {', '.join(lacking)}")
    return {name: found[name] for name in wanted.values()}
