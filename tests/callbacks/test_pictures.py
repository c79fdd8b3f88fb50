"""Pictures of a run: what is drawn, that it costs next to nothing, and that it changes nothing."""

import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from square_world import write_squares
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.callbacks import Pictures, pictures
from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation import figures
from worldmodel.runs import RUN_FOLDER
from worldmodel.task import WorldModelTask

SMALL = str(Path(__file__).parents[1] / "conf" / "small.yaml")


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A set with clips and blocks, as small as one gets, of the evaluation's tests."""
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 4, "val": 2}, {"val": 1})
    return root


@pytest.fixture
def often(monkeypatch):
    """Pictures whatever they cost."""
    monkeypatch.setattr(Pictures, "_in_time", lambda self: True)


def fit(shards: str, root: Path, *more: str) -> int:
    period = ("--pictures.every_n_steps", "2")
    args = ("--data.shards", shards, "--trainer.default_root_dir", str(root))
    return main(["fit", "--config", SMALL, *args, *period, *more])


def events_of(root: Path) -> EventAccumulator:
    (file,) = root.rglob("events.out.tfevents.*")
    return EventAccumulator(str(file), size_guidance={"images": 0}).Reload()


def test_pictures__tokens_and_surprise_are_drawn_every_n_steps(squares, tmp_path, often):
    assert fit(f"{squares}/train/clips-*.tar", tmp_path) == 0
    events = events_of(tmp_path)
    assert set(events.Tags()["images"]) == {"pictures/tokens", "pictures/surprise"}
    for name in events.Tags()["images"]:
        assert [each.step for each in events.Images(name)] == [2, 4, 6]
        assert events.Images(name)[0].width > 500
    assert any("custom_scalars" in name for name in events.Tags()["tensors"])


def test_pictures__the_training_is_the_same_to_the_bit(shards, tmp_path, often):
    assert fit(f"{shards}/*.tar", tmp_path / "with") == 0
    assert fit(f"{shards}/*.tar", tmp_path / "without", "--pictures.every_n_steps", "0") == 0
    assert events_of(tmp_path / "with").Tags()["images"] == ["pictures/tokens"]
    assert events_of(tmp_path / "without").Tags()["images"] == []
    one, two = (
        torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True)
        for name in ("with", "without")
    )
    assert all(torch.equal(one["state_dict"][k], two["state_dict"][k]) for k in two["state_dict"])
    assert torch.equal(one["rng_state"]["torch"], two["rng_state"]["torch"])


def test_pictures__go_on_in_the_same_colours(squares, tmp_path, often, monkeypatch):
    shards = f"{squares}/train/clips-*.tar"
    args = ("--trainer.max_steps", "4", "--checkpoint.every_n_train_steps", "2")
    assert fit(shards, tmp_path / "whole", *args) == 0

    def power_cut(self, *_):
        if self.global_step == 3:
            raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTask, "on_train_batch_end", power_cut)
        with pytest.raises(OSError, match="power cut"):
            fit(shards, tmp_path / "cut", *args)
    monkeypatch.delenv(RUN_FOLDER)
    assert fit(shards, tmp_path / "cut", *args, "--ckpt_path", "last") == 0
    whole, cut = (
        {
            each.step: each.encoded_image_string
            for file in sorted((tmp_path / name).rglob("events.out.tfevents.*"))
            for each in EventAccumulator(str(file), size_guidance={"images": 0})
            .Reload()
            .Images("pictures/tokens")
        }
        for name in ("whole", "cut")
    )
    assert list(whole) == list(cut) == [2, 4]
    assert whole == cut


def test_pictures__of_another_clip_follow_nothing():
    tokens = [torch.zeros(6, 4, 8), torch.zeros(3, 1, 8)]
    along = [np.zeros((24, 3)), np.zeros((3, 3))]
    assert pictures.to_follow(tokens, along) is along
    assert pictures.to_follow(tokens, None) == [None, None]
    assert pictures.to_follow([tokens[0], torch.zeros(4, 1, 8)], along) == [None, None]


def test_pictures__no_validation_no_pictures_and_no_word(shards, tmp_path, often):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*pictures.*")
        assert fit(f"{shards}/*.tar", tmp_path, "--trainer.limit_val_batches", "0") == 0
    assert events_of(tmp_path).Tags()["images"] == []


def test_pictures__what_goes_wrong_is_told_once_and_ends_nothing(
    shards, tmp_path, often, monkeypatch
):
    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(figures, "token_strip", broken)
    with pytest.warns(UserWarning, match="no more pictures") as told:
        assert fit(f"{shards}/*.tar", tmp_path) == 0
    assert sum("no more pictures" in str(each.message) for each in told) == 1
    assert "the disk is gone" in str(next(m.message for m in told if "pictures" in str(m.message)))
    assert next(tmp_path.rglob("last.ckpt")).is_file()


def test_pictures__take_no_more_than_their_share_of_the_time(module, trainer_at, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    drawn: list[int] = []

    class Slow(Pictures):
        def prepare(self, trainer, task) -> bool:
            return True

        def look(self, trainer, task) -> None:
            now[0] += 2.0  # seconds a set

        def show(self, trainer, task, seen) -> None:
            drawn.append(trainer.global_step)

    callback = Slow(every_n_steps=10)
    start = trainer_at(0)
    start.is_global_zero, start.loggers = True, []
    callback.on_train_start(start, module)
    for step in range(1, 1201):
        now[0] += 1.0
        trainer = trainer_at(step)
        trainer.is_global_zero = True
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert drawn[0] == 100 and all(step % 10 == 0 for step in drawn)
    assert callback.seconds == 2.0 * len(drawn) <= 0.01 * now[0]
    assert len(drawn) >= 3


def test_pictures__numbers_out_of_range_are_refused():
    for wrong in ({"every_n_steps": -1}, {"max_share": 0.0}, {"max_share": 1.5}):
        with pytest.raises(InputError, match="pictures"):
            Pictures(**wrong)


def test_pictures__other_loggers_get_them_too():
    keeper = Mock(spec=[*dir(Logger), "log_image"], __class__=Logger)
    assert pictures.takes_pictures(keeper)
    assert not pictures.takes_pictures(Mock(spec=Logger))
    pictures.add_picture(keeper, "pictures/tokens", np.zeros((4, 5, 3), np.uint8), 7)
    (name, (pixels,)), more = keeper.log_image.call_args
    assert (name, pixels.shape, more) == ("pictures/tokens", (4, 5, 3), {"step": 7})


def test_colours__follow_those_of_the_picture_before():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 4, 8, generator=generator) * torch.tensor([3.0, 2.5, 2, 1, 1, 1, 1, 1])
    before = figures.main_directions(tokens)
    # Another encoder that says the same in other words: turned, mirrored, a little noise.
    turned = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    later = tokens @ turned + 0.01 * torch.randn(6, 4, 8, generator=generator)
    followed = figures.main_directions(later, like=before)
    np.testing.assert_allclose(followed, before, atol=0.2)
    assert np.abs(figures.main_directions(later) - before).max() > 1
    one, two = (figures.token_colours(tokens, (2, 2), along) for along in (before, followed))
    assert np.abs(one - two).max() < 0.1
