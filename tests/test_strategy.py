"""Weights that are shared out learn what whole ones do, and come back whole."""

from pathlib import Path

import pytest
import torch
from fit_process import TWO, finish, last_checkpoint, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.models.checkpoint import load_model

# Their gradients are zero but for rounding, which AdamW makes steps of: what comes before a
# normalisation of each channel, and what is added to all keys alike.
WITHOUT_GRADIENT = ("stem.0.bias", "stem.3.bias", "qkv.bias")


def fit(shards: Path, root: Path, steps: int, *more: str) -> dict:
    """Train in processes of its own; returns the checkpoint."""
    often = ("--trainer.max_steps", str(steps), "--checkpoint.every_n_train_steps", "4")
    finish(start(shards, root, *often, *more))
    return last_checkpoint(root)


@pytest.fixture(scope="module")
def sharded(shards, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sharded")
    fit(shards, root, 8, "--trainer.devices", "2", "--trainer.strategy", "fsdp2")
    return root


@pytest.mark.slow
def test_fsdp2__ends_where_ddp_does(shards, sharded, tmp_path):
    whole = fit(shards, tmp_path, 8, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    parts = last_checkpoint(sharded)
    assert parts["global_step"] == whole["global_step"] == 8
    assert parts["state_dict"].keys() == whole["state_dict"].keys()
    for name, expected in whole["state_dict"].items():
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(parts["state_dict"][name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_fsdp2__with_a_moving_average_and_pixels(shards, tmp_path):
    two = ("--trainer.devices", "2", "--model.target", "worldmodel.models.target.MovingAverage")
    more = ("--model.prediction_loss", "worldmodel.losses.baselines.PixelPrediction")
    ends = [
        fit(shards, tmp_path / name, 8, *two, *more, "--trainer.strategy", name)["state_dict"]
        for name in ("fsdp2", "ddp")
    ]
    assert any(name.startswith("target.encoders") for name in ends[0])
    for name, expected in ends[1].items():
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(ends[0][name], expected, rtol=1e-3, atol=1e-5)


def test_fsdp2__its_checkpoint_is_like_any_other(shards, sharded):
    checkpoint = next(sharded.rglob("last.ckpt"))
    assert load_model(checkpoint).global_step == 8
    moments = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["state"]
    assert len(moments) == sum(1 for _ in load_model(checkpoint).network.parameters())
    last = fit(shards, sharded, 10, "--data.batch_size", "4", "--ckpt_path", "last")
    assert last["global_step"] == 10


ALWAYS_DRAWN = """
from worldmodel.callbacks import Pictures

Pictures._in_time = lambda self: True
"""


def test_fsdp2__pictures_are_those_of_whole_weights_and_change_nothing(shards, tmp_path):
    ends = {}
    for name, strategy, period in (
        ("drawn", "fsdp2", "2"),
        ("plain", "fsdp2", "0"),
        ("whole", "ddp", "2"),
    ):
        often = ("--trainer.max_steps", "4", "--pictures.every_n_steps", period)
        two = ("--trainer.devices", "2", "--trainer.strategy", strategy)
        args = (*two, *often, "--trainer.limit_val_batches", "1")
        finish(start(shards, tmp_path / name, *args, program=ALWAYS_DRAWN))
        ends[name] = last_checkpoint(tmp_path / name)
    for key, expected in ends["plain"]["state_dict"].items():
        assert torch.equal(ends["drawn"]["state_dict"][key], expected), key
    (file,) = (tmp_path / "drawn").rglob("events.out.tfevents.*")
    images = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    assert [each.step for each in images.Images("pictures/tokens")] == [2, 4]
    drawn, whole = (ends[name]["callbacks"]["Pictures"]["along"] for name in ("drawn", "whole"))
    for own, expected in zip(drawn, whole, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-2, atol=1e-3)


HASHES = """
import hashlib
from pathlib import Path
from worldmodel.task import WorldModelTask


def note(self, *_):
    digest = hashlib.sha256()
    for parameter in self.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    with (Path(sys.argv[0]).parent / f"rank{self.global_rank}").open("a") as file:
        file.write(digest.hexdigest() + "\\n")


WorldModelTask.on_train_batch_end = note
"""


@pytest.mark.slow
def test_ddp__all_ranks_have_the_same_weights_to_the_bit_after_each_of_50_steps(shards, tmp_path):
    finish(start(shards, tmp_path, *TWO, "--trainer.max_steps", "50", program=HASHES))
    first, second = ((tmp_path / f"rank{rank}").read_text().splitlines() for rank in (0, 1))
    assert len(set(first)) == 50 and first == second
