"""What is read of depth, and that the figures show it."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from square_world import FPS, FRAMES, SIZE, footage, write_squares

from worldmodel.errors import InputError
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.probes import depth_heads
from worldmodel.evaluation.probes.depth import MEAN, Case, Reading
from worldmodel.models.checkpoint import ClipSpec, LoadedModel, build_hierarchy
from worldmodel.viewing import depth
from worldmodel.world.style import Mix

REPOSITORY = Path(__file__).parents[2]
CLIP = ClipSpec(num_frames=FRAMES, fps=FPS, size=SIZE)
COUNTS = {"train": 12, "val": 6, "test": 8}


def small_network(seed: int = 0):
    narrow = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2, "horizons": (1, 2)}
    config = {
        "encoder": {"size": SIZE, "stem_channels": (8,), "depth": 1, "num_heads": 2},
        "levels": [narrow | {"stride": 1}, narrow | {"stride": 2}],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_hierarchy(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder, {"train": 12, "val": 6, "test": 8}, {})
    return folder


@pytest.fixture(scope="module")
def networks() -> dict:
    return {"model": small_network(), "untrained": small_network(1)}


@pytest.fixture(scope="module")
def readings(root: Path, networks: dict) -> depth.DepthReadings:
    pace = Pace(num_workers=0, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth_heads, "NUM_STEPS", 16)  # convolutions are not what is tested here
        found = depth.read_depth(networks, CLIP, root, past=True, counts=COUNTS, pace=pace)
    # The squares' world does not say whether its camera moves: one half shall.
    clips = [replace(clip, moving_camera=n % 2 == 0) for n, clip in enumerate(found.clips)]
    return replace(found, clips=clips)


def texts(figure: Figure) -> str:
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        parts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        parts += [text.get_text() for text in axes.texts]
    return " | ".join(parts)


def test_every_probe_and_null_is_read(readings: depth.DepthReadings) -> None:
    assert set(depth.readers(readings)) == {
        "model",
        "model, convolution",
        "model, with the past",
        "untrained",
        "pixels",
        "mean",
    }


def test_rmse_is_that_of_all_cells_that_show_a_surface(readings: depth.DepthReadings) -> None:
    error = [((clip.metres - readings.probes.mean) ** 2)[clip.hit] for clip in readings.clips]
    value, (low, high) = readings.rmse(MEAN)
    assert value == pytest.approx(np.sqrt(np.concatenate(error).mean()))
    assert low < value < high
    objects = [((c.metres - readings.probes.mean) ** 2)[c.objects] for c in readings.clips]
    assert readings.rmse(MEAN, objects=True)[0] == pytest.approx(
        np.sqrt(np.concatenate(objects).mean())
    )
    moving = np.concatenate(error[::2]), np.concatenate(error[1::2])
    assert readings.rmse(MEAN, moving=True)[0] == pytest.approx(np.sqrt(moving[0].mean()))
    assert readings.rmse(MEAN, moving=False)[0] == pytest.approx(np.sqrt(moving[1].mean()))


def test_rmse_of_cells_that_are_not_there_is_refused(readings: depth.DepthReadings) -> None:
    unknown = replace(
        readings, clips=[replace(clip, moving_camera=None) for clip in readings.clips]
    )
    with pytest.raises(InputError, match="more test clips"):
        unknown.rmse(MEAN, moving=True)


def test_gain_is_the_difference_and_has_its_sign(readings: depth.DepthReadings) -> None:
    model = Case(Reading("model"))
    gain, (low, high) = readings.gain(model, MEAN)
    assert gain == pytest.approx(readings.rmse(MEAN)[0] - readings.rmse(model)[0])
    assert low <= gain <= high
    assert readings.gain(MEAN, model)[0] == pytest.approx(-gain)
    assert readings.gain(MEAN, MEAN) == (0.0, [0.0, 0.0])


def test_depth_maps_show_truth_guesses_and_errors_on_shared_scales(
    readings: depth.DepthReadings,
) -> None:
    figure = depth.depth_maps(readings, ["model", "mean"], count=3)
    panels, bars = figure.axes[:18], figure.axes[18:]
    assert len(panels) == 3 * 6 and len(bars) == 2
    clip, frame = readings.frames(3)[1]
    true = readings.clips[clip].metres[frame]
    assert np.array_equal(panels[4].images[0].get_array(), true)
    guess = panels[7].images[0].get_array()
    assert np.array_equal(panels[13].images[0].get_array(), np.abs(guess - true))
    assert len({axes.images[0].get_clim() for axes in panels[3:12]}) == 1
    assert f"{readings.rmse(MEAN)[0]:.3f} m" in texts(figure)
    assert {bar.get_ylabel() for bar in bars} == {"depth, m", "|error|, m"}


def test_depth_scores_show_each_reader_with_its_interval(readings: depth.DepthReadings) -> None:
    figure = depth.depth_scores(readings)
    everything, objects = figure.axes
    assert len(everything.lines) == 2 * 6
    assert everything.lines[0].get_xdata().tolist() == readings.rmse(Case(Reading("model")))[1]
    assert objects.lines[-1].get_xdata() == [readings.rmse(MEAN, objects=True)[0]]
    assert "rmse, m" in everything.get_xlabel()


def test_a_film_reads_each_frame_alone(readings: depth.DepthReadings, networks: dict) -> None:
    clip = footage(7)
    pose = clip.truth.state["camera_pose"].copy()
    pose[:, 0, 3] = np.arange(FRAMES) * 0.25
    clip = replace(clip, truth=replace(clip.truth, state=clip.truth.state | {"camera_pose": pose}))
    film = depth.film_depth(readings, networks, clip, FPS)
    assert len(film.frames) == FRAMES == len(film.guesses["model"])
    assert film.travelled[-1] == pytest.approx(0.25 * (FRAMES - 1))
    (taken,) = depth.WatchDepth(networks, readings.probes.plan)([clip])
    known = readings.probes.maps(Case(Reading("model")), taken)
    asked = list(readings.probes.plan.frames)
    assert np.allclose(film.guesses["model"][asked], known, atol=1e-4)
    figure = depth.depth_film(film)
    curves = figure.axes[-1]
    assert [line.get_label() for line in curves.lines] == ["model", "untrained", "pixels", "mean"]
    assert np.allclose(curves.lines[-1].get_ydata(), film.rmse("mean"))
    assert "travels 3.8 m" in curves.get_title() and "time, s" in curves.get_xlabel()


def test_depth_by_frame_has_moving_and_standing_cameras_apart(
    readings: depth.DepthReadings,
) -> None:
    moving, standing = depth.depth_by_frame(readings, FPS).axes
    assert "4 test clips" in moving.get_title() and "4 test clips" in standing.get_title()
    lines = {line.get_label(): line for line in moving.lines}
    assert set(lines) == {"model", "model, with the past", "untrained", "mean"}
    wanted = [readings.rmse(MEAN, moving=True, frame=n)[0] for n in range(4)]
    assert lines["mean"].get_ydata() == pytest.approx(wanted)
    assert lines["mean"].get_xdata()[-1] == FRAMES / FPS


def test_the_sets_differ_in_cameras_alone_as_in_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}

    def record(out: Path, num_clips: int, **options) -> None:
        print("what nobody wants in a notebook")
        made[out.name] = {"num_clips": num_clips} | options
        write_squares(out, {"train": 2}, {})

    monkeypatch.setattr("worldmodel.world.generate.generate", record)
    sets = depth.make_cameras(tmp_path, num_clips=2, size=SIZE, seed=7)
    assert {name: folder.name for name, folder in sets.items()} == {
        "standing": "physics-standing",
        "moving": "physics-moving",
    }
    study = yaml.safe_load((REPOSITORY / "configs" / "ablation.yaml").read_text())
    variants = study["questions"]["cameras"]["variants"]
    for name, folder in sets.items():
        options = made[folder.name]
        shares = variants[name]["set"]["mix"]
        assert options.pop("mix") == Mix(**{move: float(share) for move, share in shares.items()})
        assert options == {"num_clips": 2, "num_blocks": 0, "size": SIZE, "seed": 7}
    grid = depth.camera_frames(sets, CLIP, per_set=1).axes
    assert [grid[row].get_ylabel() for row in (0, 8)] == ["standing\ncamera", "moving\ncamera"]
    assert all(len(axes.images) == 1 for axes in grid)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


LEAVE = (
    "import os, pathlib; folder = pathlib.Path({out!r}) / 'runs/{name}/version_0/checkpoints'; "
    "folder.mkdir(parents=True); (folder / 'last.ckpt').write_text(os.environ['OMP_NUM_THREADS'])"
)


def test_trainings_run_beside_each_other_and_leave_their_checkpoints(tmp_path: Path) -> None:
    commands = {
        name: python(LEAVE.format(out=str(tmp_path), name=name)) for name in ("standing", "moving")
    }
    found = depth.train_beside(commands, tmp_path, tmp_path)
    assert {name: path.parents[2].name for name, path in found.items()} == {
        "standing": "standing",
        "moving": "moving",
    }
    assert all(int(path.read_text()) >= 1 for path in found.values())


def test_a_training_that_fails_says_why(tmp_path: Path) -> None:
    commands = {"standing": python("raise SystemExit('no shards at all')")}
    with pytest.raises(InputError, match=r"standing ended with 1: no shards at all; .*\.log"):
        depth.train_beside(commands, tmp_path, tmp_path)


def test_the_command_trains_the_configuration_on_the_set_for_so_many_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldmodel.cli import main

    config = REPOSITORY / "configs" / "tiny.yaml"
    command = depth.fit_command(config, tmp_path / "set", "standing", 7, tmp_path / "out")
    assert command[1:4] == ["-m", "worldmodel", "fit"]
    with pytest.raises(SystemExit):
        main([*command[3:], "--print_config"])
    asked = yaml.safe_load(capsys.readouterr().out)
    assert asked["trainer"]["max_steps"] == 7
    assert asked["trainer"]["default_root_dir"] == str(tmp_path / "out")
    assert asked["data"]["shards"] == [str(tmp_path / "set" / "train" / "clips-*.tar")] or (
        asked["data"]["shards"] == str(tmp_path / "set" / "train" / "clips-*.tar")
    )
    assert asked["name"] == "standing"


def run_of(folder: Path, ratios: tuple[float, float]) -> LoadedModel:
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    names = ",".join(f"train/level{level}/copy_ratio" for level in range(2))
    (folder / "metrics.csv").write_text(
        f"epoch,step,train/loss,{names}\n0,9,4.0,2.0,2.0\n0,19,3.0,{ratios[0]},{ratios[1]}\n"
    )
    network = SimpleNamespace(levels=[None, None])
    file = checkpoints / "last.ckpt"
    return LoadedModel(network=network, clip=CLIP, config={}, sha256="", global_step=20, file=file)


def test_what_was_learned_is_the_run_s_loss_and_last_ratios(tmp_path: Path) -> None:
    models = {
        "standing": run_of(tmp_path / "a", (0.9, 1.1)),
        "moving": run_of(tmp_path / "b", (0.7, 0.8)),
    }
    run = depth.learned(models["standing"])
    assert run.steps.tolist() == [10, 20] and run.loss.tolist() == [4.0, 3.0]
    left, right = depth.camera_learning(models).axes
    assert [line.get_label() for line in left.lines] == ["standing cameras", "moving cameras"]
    assert [bar.get_height() for bar in right.patches] == [0.9, 1.1, 0.7, 0.8]
    (tmp_path / "a" / "metrics.csv").write_text("epoch,step\n")
    with pytest.raises(InputError, match="train/loss"):
        depth.learned(models["standing"])


def test_the_study_is_read_from_the_page_that_reports_it(tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "recipe.md"
    study = depth.study_depths(page)
    assert list(study) == ["standing", "moving", "one in five moves", "untrained"]
    answer = page.read_text().split("Does motion teach depth?")[1].split("**What scales?**")[0]
    for name in ("standing", "moving", "untrained"):
        assert f"{study[name]:.3f}".lstrip("0") in answer
    (tmp_path / "page.md").write_text("| | depth, rmse m |\n|---|---|\n| other | 1 |\n")
    with pytest.raises(InputError, match="standing"):
        depth.study_depths(tmp_path / "page.md")


def test_camera_scores_show_ours_and_the_study_s(readings: depth.DepthReadings) -> None:
    study = {"standing": 0.4, "moving": 0.5}
    figure = depth.camera_scores(readings, study)
    standing, moving, theirs = figure.axes
    assert [line.get_xdata()[0] for line in theirs.lines[1::2]] == [0.4, 0.5]
    assert moving.lines[-1].get_xdata()[0] == readings.rmse(MEAN, moving=True)[0]
    assert "stand" in standing.get_title() and "study" in theirs.get_title()
