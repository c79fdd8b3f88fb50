"""Training through the command line, as a person types it."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fit_process import TWO, finish, last_checkpoint, start

from worldmodel.callbacks import stopping
from worldmodel.cli import main
from worldmodel.cost import count_step
from worldmodel.data.encode import encode_video
from worldmodel.data.shards import write_shard
from worldmodel.export import export_model
from worldmodel.models.checkpoint import load_model
from worldmodel.runs import RUN_FOLDER
from worldmodel.task import WorldModelTask
from worldmodel.training_bench import build

# A study is no configuration of a training; those for GPUs have weights of gigabytes, and are
# compiled, which on a CPU takes many minutes.
FOR_GPUS = {"base": 32, "large": 8}
CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[1] / "configs").glob("*.yaml")
    if path.stem not in ("ablation", *FOR_GPUS)
)
SMALL = str(Path(__file__).parent / "conf" / "small.yaml")


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    """Each run here stands for a process of its own."""
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])


def fit(shards: Path, root: Path, *more: str) -> int:
    return main(
        [
            *("fit", "--config", SMALL, "--data.shards", f"{shards}/*.tar"),
            *("--trainer.default_root_dir", str(root), *more),
        ]
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@contextmanager
def own_process() -> Iterator[None]:
    """As `fresh_process_state`, for a run that several tests read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN_FOLDER, raising=False)
        patch.setattr(sys, "argv", ["worldmodel"])
        yield
        os.environ.pop(RUN_FOLDER)  # which the run has set


VALIDATED = ("--trainer.val_check_interval", "3")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    """A finished run; nobody writes into it."""
    root = tmp_path_factory.mktemp("trained")
    with own_process():
        assert fit(shards, root, *VALIDATED) == 0
    return root


def test_fit__leaves_a_run_that_can_be_read(trained):
    run = trained / "runs" / "small" / "version_0"
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    assert {"optimizer_states", "lr_schedulers", "rng_state", "worldmodel"} <= last.keys()
    assert (run / "checkpoints" / "best.ckpt").is_file() and (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))
    assert not list(run.rglob("*.partial"))
    with (run / "metrics.csv").open() as file:
        logged = set(next(csv.reader(file)))
    assert {"val/skill_ratio", "val/level2/effective_rank", "val/level0/copy_ratio"} <= logged
    loaded = load_model(run / "checkpoints" / "last.ckpt")
    assert (loaded.clip.num_frames, loaded.clip.fps, loaded.clip.size) == (12, 8.0, 32)
    assert loaded.global_step == 6 and not loaded.network.training


def test_fit__same_seed_same_weights(shards, trained, tmp_path):
    fit(shards, tmp_path / "b", *VALIDATED)
    a, b = (weights(next(root.rglob("last.ckpt"))) for root in (trained, tmp_path / "b"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    fit(shards, tmp_path / "c", *VALIDATED, "--seed_everything", "5")
    c = weights(next((tmp_path / "c").rglob("last.ckpt")))
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_fit__begins_with_the_weights_of_another_run(shards, trained, tmp_path):
    run = trained / "runs" / "small" / "version_0"
    nothing = ("--trainer.max_steps", "1", "--model.optim.lr", "1e-30")
    assert fit(shards, tmp_path, *nothing, "--model.init_from", str(run)) == 0
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 1
    before = load_model(run).network.state_dict()
    after = load_model(last).network.state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)
    export = export_model(last, tmp_path / "export")
    began = json.loads((export / "config.json").read_text())["began_with"]
    assert began["source"] == "runs/small/version_0"
    assert (began["sha256"], began["global_step"]) == (load_model(run).sha256, 6)
    assert "`runs/small/version_0`, after 6 steps" in (export / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.init_from", "nowhere"), "there is no checkpoint at nowhere"),
        (("--model.init_from", "RUN", "--model.top_down", "true"), "top_down is True here"),
        (
            ("--model.init_from", "RUN", "--model.encoder.num_heads", "4"),
            "encoder.num_heads is 4 here and 2 there",
        ),
        (("--model.init_from", "tiny"), "encoder.size is 32 here and 64 there"),
    ],
)
def test_fit__what_it_cannot_begin_with_is_named(shards, trained, tmp_path, capsys, more, message):
    words = [str(trained / "runs" / "small") if word == "RUN" else word for word in more]
    assert fit(shards, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_fit__keeps_as_many_checkpoints_as_it_is_told(shards, tmp_path):
    args = ("--checkpoint.every_n_train_steps", "2", "--checkpoint.keep", "2", "--best.keep", "2")
    more = ("--checkpoint.asynchronous", "true", "--trainer.val_check_interval", "2")
    assert fit(shards, tmp_path, *args, *more) == 0
    names = {path.name for path in tmp_path.rglob("*.ckpt")}
    assert {"last.ckpt", "step-00000004.ckpt", "step-00000006.ckpt"} <= names
    assert sum(name.startswith("best-0000000") for name in names) == 2 and len(names) == 5
    assert torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["global_step"] == 6


def test_fit__says_what_it_needs_and_logs_how_fast_it_is(shards, tmp_path, capsys):
    assert fit(shards, tmp_path, "--trainer.max_steps", "70", "--trainer.max_epochs", "-1") == 0
    out = capsys.readouterr().out
    assert "a step: 2 clips of 12 frames on each of 1 devices" in out
    assert "of memory a device" in out and "of disk" in out
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    # Of the step at which it was measured, and not of those that are logged after it.
    (row,) = [row for row in rows if row["speed/frames_per_second"]]
    assert (row["step"], float(row["speed/frames_per_second"]) > 0) == ("49", True)
    assert 0 < float(row["speed/data_wait_share"]) < 1
    (row,) = [row for row in rows if row["train/level0/skill_ratio"]]
    assert row["step"] == "49"
    skipped = [(row["step"], row["train/skipped_steps"]) for row in rows]
    assert [(step, float(count)) for step, count in skipped if count] == [("49", 0.0)]
    assert sum(bool(row["train/loss"]) for row in rows) == 7


def test_fit__a_batch_that_cannot_fit_is_refused_before_it_starts(
    shards, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("worldmodel.callbacks.preflight.free_memory", lambda device: 10**6)
    assert fit(shards, tmp_path) == 2
    assert "a step needs about" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def spoil(monkeypatch, steps) -> None:
    """Make the loss of some steps not a number."""
    total = WorldModelTask.total

    def spoilt(self, losses):
        return total(self, losses) * (float("nan") if self.global_step in steps else 1.0)

    monkeypatch.setattr(WorldModelTask, "total", spoilt)


def test_fit__a_step_that_is_no_number_is_left_out(shards, tmp_path, monkeypatch):
    args = ("--trainer.max_steps", "6", "--trainer.limit_val_batches", "0")
    spoil(monkeypatch, {5})
    fit(shards, tmp_path / "last", *args)
    spoil(monkeypatch, {2})
    fit(shards, tmp_path / "third", *args)
    last, third = (
        torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True)
        for name in ("last", "third")
    )
    assert last["global_step"] == third["global_step"] == 6
    assert int(last["spikes"]["state"][2]) == 1 and int(third["spikes"]["state"][2]) == 2
    assert all(value.isfinite().all() for value in third["state_dict"].values())


def test_fit__stops_when_it_diverges_and_keeps_what_was_good(shards, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, range(20, 1000))
    args = ("--trainer.max_steps", "200", "--trainer.max_epochs", "-1")
    assert fit(shards, tmp_path, *args, "--checkpoint.every_n_train_steps", "20") == 2
    assert "the training diverges" in capsys.readouterr().err
    last = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values())


EIGHT_STEPS = ("--trainer.max_steps", "8", "--checkpoint.every_n_train_steps", "2")


@pytest.fixture(scope="module")
def eight_steps(shards, tmp_path_factory) -> Path:
    """The checkpoint of a run never stopped."""
    root = tmp_path_factory.mktemp("whole")
    with own_process():
        assert fit(shards, root, *EIGHT_STEPS) == 0
    return next(root.rglob("last.ckpt"))


@pytest.mark.parametrize("at", [3, 5])
def test_fit__cut_short_and_resumed_ends_like_a_run_never_stopped(
    shards, eight_steps, tmp_path, monkeypatch, capsys, at
):
    args = EIGHT_STEPS

    def power_cut(self, *_):
        if self.global_step == at:
            raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTask, "on_train_batch_end", power_cut)
        with pytest.raises(OSError, match="power cut"):
            fit(shards, tmp_path / "cut", *args)
    monkeypatch.delenv(RUN_FOLDER)
    capsys.readouterr()
    assert fit(shards, tmp_path / "cut", *args, "--ckpt_path", "last") == 0
    assert f"at step {at - 1}" in capsys.readouterr().out
    cut = next((tmp_path / "cut").rglob("last.ckpt"))
    assert cut.parents[1].name == "version_0"
    a, b = weights(eight_steps), weights(cut)
    assert all(torch.equal(a[key], b[key]) for key in a)


# Where Ctrl-C comes, batches of a step, and the step that is then finished.
INTERRUPTIONS = {
    "within_the_batch": ("training_step", 1, 4),
    "after_the_update": ("lr_scheduler_step", 1, 3),
    "while_gradients_add_up": ("training_step", 2, 4),
}


def six_steps(add_up: int) -> tuple[str, ...]:
    args = ("--trainer.max_steps", "6", "--trainer.accumulate_grad_batches", str(add_up))
    return (*args, "--trainer.limit_val_batches", "0", "--trainer.max_epochs", "-1")


@pytest.fixture(scope="module")
def never_interrupted(shards, tmp_path_factory) -> Callable[[int], Path]:
    """The checkpoint of `six_steps`, which nobody interrupts, by the batches of a step."""

    @cache
    def run(add_up: int) -> Path:
        root = tmp_path_factory.mktemp("whole")
        with own_process():
            assert fit(shards, root, *six_steps(add_up)) == 0
        return next(root.rglob("last.ckpt"))

    return run


@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_fit__ctrl_c_ends_the_step_and_no_clip_is_lost_or_seen_twice(
    shards, never_interrupted, tmp_path, monkeypatch, capfd, where
):
    name, add_up, finished = INTERRUPTIONS[where]
    args, uncut = six_steps(add_up), never_interrupted(add_up)
    original = getattr(WorldModelTask, name)
    pressed = []

    def press(self, *args):
        if self.global_step == 3 and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTask, name, press)
        assert fit(shards, tmp_path / "cut", *args) == 128 + signal.SIGINT
    monkeypatch.delenv(RUN_FOLDER)
    said = capfd.readouterr().out
    assert "finishing the step, then saving; Ctrl-C again stops at once, without" in said
    assert f"stopped by SIGINT at step {finished}; saved" in said
    assert fit(shards, tmp_path / "cut", *args, "--ckpt_path", "unfinished") == 0
    assert f"at step {finished}" in capfd.readouterr().out
    whole, cut = (
        torch.load(path, weights_only=True)
        for path in (uncut, next((tmp_path / "cut").rglob("last.ckpt")))
    )
    assert whole["global_step"] == cut["global_step"] == 6
    assert all(
        torch.equal(each, whole["state_dict"][key]) for key, each in cut["state_dict"].items()
    )
    places = [each["loops"]["fit_loop"]["state_dict"]["combined_loader"] for each in (whole, cut)]
    assert places[0] == places[1]


def test_fit__ctrl_c_twice_stops_at_once_and_leaves_what_was_saved_as_it_was(
    shards, tmp_path, monkeypatch, capfd
):
    args = ("--trainer.max_steps", "6", "--checkpoint.every_n_train_steps", "2")

    def press(self, *_):
        if self.global_step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # as torchrun does, beside the terminal
            monkeypatch.setattr(stopping, "SAME_PRESS_SECONDS", 0.0)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTask, "on_before_zero_grad", press)
        with pytest.raises(SystemExit):
            fit(shards, tmp_path, *args)
    assert "stopped at once, in step 4; what was saved before is" in capfd.readouterr().out
    (path,) = tmp_path.rglob("last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signal__in_the_last_step_leaves_a_complete_run(shards, tmp_path, monkeypatch, capsys):
    def send(self, *_) -> None:
        if self.global_step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(WorldModelTask, "on_train_batch_start", send)
    assert fit(shards, tmp_path) == 0
    assert "stopped by" not in capsys.readouterr().out
    (path,) = tmp_path.rglob("last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 6
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_fit__unfinished_goes_on_only_with_what_was_cut_short(
    shards, tmp_path, monkeypatch, capsys
):
    for expected in ("no run to go on with", "is complete (6 steps): starting a new version"):
        assert fit(shards, tmp_path, "--ckpt_path", "unfinished") == 0
        assert expected in capsys.readouterr().out
        monkeypatch.delenv(RUN_FOLDER)
    more = ("--trainer.max_steps", "7", "--ckpt_path", "unfinished")
    assert fit(shards, tmp_path, *more) == 0
    starts = (tmp_path / "runs/small/version_1/starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, 6]
    assert json.loads(starts[1])["hardware"]["cores"] >= 1
    assert "version_1/checkpoints/last.ckpt at step 6" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "runs/small").iterdir()) == ["version_0", "version_1"]
    # What was logged before is still there.
    assert (tmp_path / "runs/small/version_1/metrics-0.csv").is_file()


def test_validate__scores_a_checkpoint(shards, trained, capsys):
    checkpoint = next(trained.rglob("last.ckpt"))
    args = ["validate", "--config", SMALL, "--data.shards", f"{shards}/*.tar"]
    assert main([*args, "--ckpt_path", str(checkpoint)]) == 0
    assert "val/skill_ratio" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs__each_trains_two_steps(config, shards, tmp_path, capsys):
    args = [
        *("fit", "--config", str(config), "--data.shards", f"{shards}/*.tar"),
        *("--data.batch_size", "1", "--data.num_workers", "0", "--data.num_frames", "24"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
        *("--trainer.default_root_dir", str(tmp_path), "--data.fps", "16"),
    ]
    assert main(args) == 0
    last = next(tmp_path.rglob("last.ckpt"))
    assert last.parents[2].name == config.stem
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("name", FOR_GPUS)
def test_configs__those_for_gpus_can_be_built_and_fit_their_devices(name):
    path = Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        task, datamodule = build(config)
    assert datamodule.num_frames >= task.hierarchy.min_frames
    assert datamodule.batch_size == FOR_GPUS[name]
    cost = count_step(task, datamodule.batch_size, datamodule.num_frames)
    assert 2.5e8 < cost.weights < 3.5e8
    assert cost.kept_bytes + cost.state_bytes < 80e9


@pytest.mark.slow
def test_fit__compiled_learns_the_same(shards, tmp_path):
    ends = []
    for compiled in ("false", "true"):
        root = tmp_path / compiled
        command = [
            *(sys.executable, "-m", "worldmodel", "fit", "--config", SMALL),
            *("--data.shards", f"{shards}/*.tar", "--trainer.default_root_dir", str(root)),
            *("--trainer.limit_val_batches", "0", "--model.compute.compile", compiled),
        ]
        environment = {name: value for name, value in os.environ.items() if name != RUN_FOLDER}
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        ends.append(weights(next(root.rglob("last.ckpt"))))
    plain, compiled_weights = ends
    assert plain.keys() == compiled_weights.keys()
    for name, expected in plain.items():
        # Biases before a normalisation have no gradient but rounding, which AdamW makes steps of.
        if not name.endswith(("stem.0.bias", "stem.3.bias", "qkv.bias")):
            torch.testing.assert_close(compiled_weights[name], expected, rtol=1e-3, atol=1e-5)


def test_fit__two_processes_on_uneven_shards(shards, tmp_path):
    command = [
        *(sys.executable, "-m", "worldmodel", "fit", "--config", SMALL),
        *("--data.shards", f"{shards}/*.tar", "--trainer.default_root_dir", str(tmp_path)),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "2"),
        *("--checkpoint.every_n_train_steps", "1"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != RUN_FOLDER}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stderr + done.stdout
    (last,) = tmp_path.rglob("last.ckpt")
    # 10 training samples in batches of 2 on two ranks: two steps an epoch, two left out.
    assert torch.load(last, weights_only=True)["global_step"] == 4


@pytest.fixture(scope="module")
def one_broken(tmp_path_factory) -> Path:
    """A folder with a shard of 8 videos, of which one cannot be decoded."""
    folder = tmp_path_factory.mktemp("broken")
    generator = np.random.default_rng(0)
    known = json.dumps({"fps": 16.0, "num_frames": 32}).encode()
    samples = []
    for number in range(8):
        frames = generator.integers(0, 256, (32, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        video = encode_video(frames, fps=16.0) if number != 5 else b"garbage" * 50
        samples.append((f"video-{number}", {"json": known, "mp4": video}))
    write_shard(folder / "clips-000000.tar", samples)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("clips", [1, 2], ids=["all that it had", "one of two"])
@pytest.mark.parametrize("loss", ["SquaredError", "InfoNCE"])
def test_fit__where_a_clip_cannot_be_read_two_processes_learn_what_one_does(
    one_broken, tmp_path, loss, clips
):
    module = "prediction" if loss == "SquaredError" else "baselines"
    args = ("--trainer.max_steps", str(4 // clips), "--data.val_shards", f"{one_broken}/*.tar")
    args += ("--model.prediction_loss", f"worldmodel.losses.{module}.{loss}")
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        more = ("--data.batch_size", str(2 * clips // processes), *(TWO if processes > 1 else ()))
        out = finish(start(one_broken, tmp_path / name, *args, *more))
        assert "skipped video-5 of" in out
        moments = last_checkpoint(tmp_path / name)["optimizer_states"][0]["state"]
        found[name] = torch.cat([moments[key]["exp_avg"].flatten() for key in sorted(moments)])
    # Means of gradients: of the last step a tenth, of the one before nine hundredths.
    off = (found["two"] - found["one"]).norm() / found["one"].norm()
    assert off < 1e-4


def test_fit__length_must_be_known(shards, tmp_path, capsys):
    assert fit(shards, tmp_path, "--trainer.max_steps", "-1") == 2
    assert "Set trainer.max_steps" in capsys.readouterr().err


def test_fit__clip_too_short_for_the_horizons(shards, tmp_path, capsys):
    assert fit(shards, tmp_path, "--data.num_frames", "11") == 2
    error = capsys.readouterr().err
    assert "12 frames" in error and "num_frames" in error and error.count("\n") == 1


def test_fit__a_checkpoint_that_is_none(shards, tmp_path, capsys):
    assert fit(shards, tmp_path, "--ckpt_path", str(tmp_path / "none.ckpt")) == 2
    assert "none.ckpt" in capsys.readouterr().err


def test_fit__a_logger_whose_package_is_missing_is_one_line(shards, tmp_path, capsys):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    config = tmp_path / "wandb.yaml"
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"save_dir": str(tmp_path), "offline": True},
    }
    config.write_text(yaml.safe_dump({"trainer": {"logger": [logger]}}))
    assert fit(shards, tmp_path, "--config", str(config)) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert line.endswith("needs wandb, which is not installed: pip install wandb")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_fit__weights_and_biases_offline_needs_no_account(shards, tmp_path):
    pytest.importorskip("wandb")
    config = tmp_path / "wandb.yaml"
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"save_dir": str(tmp_path), "offline": True},
    }
    config.write_text(yaml.safe_dump({"trainer": {"logger": [logger]}}))
    assert fit(shards, tmp_path, "--config", str(config)) == 0
    assert list(tmp_path.rglob("offline-run-*"))
