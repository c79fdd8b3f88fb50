import dataclasses
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from worldmodel.clips import ClipBatch
from worldmodel.compute import ComputeConfig
from worldmodel.errors import InputError
from worldmodel.losses.objective import LossWeights
from worldmodel.losses.regularizers import VICReg
from worldmodel.models.target import MovingAverage
from worldmodel.optim import OptimConfig
from worldmodel.task import WorldModelTask


@pytest.fixture
def task(encoder_config, level_configs) -> WorldModelTask:
    torch.manual_seed(0)
    return WorldModelTask(levels=level_configs, encoder=encoder_config)


def train(task: WorldModelTask, clip: ClipBatch, steps: int, **options) -> Trainer:
    """So many steps on one batch; goes on from `resume` where that is given."""
    resume = options.pop("resume", None)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(task, DataLoader([clip] * steps, batch_size=None), ckpt_path=resume)
    return trainer


def test_objective__one_set_of_losses_per_level(task, clip):
    losses, seen = task.objective(clip)
    assert [set(level) for level in losses] == [{"prediction", "batch", "within_clip"}] * 3
    assert all(value.ndim == 0 for level in losses for value in level.values())
    assert not any(target.requires_grad for target in seen["targets"])


def test_total__weights_losses_and_levels(task, clip):
    losses, _ = task.objective(clip)
    by_hand = sum(
        level["prediction"] + 10 * level["batch"] + 5 * level["within_clip"] for level in losses
    )
    torch.testing.assert_close(task.total(losses), by_hand)


def test_objective__same_step_same_loss(task, clip):
    first, _ = task.objective(clip)
    again, _ = task.objective(clip)
    assert torch.equal(task.total(first), task.total(again))


def test_objective__takes_as_many_rows_of_each_clip_whether_or_not_others_are_missing(
    encoder_config, level_configs, clip
):
    """Ranks that lack clips draw the same places as ranks that do not."""
    seen = []

    class Counting(VICReg):
        def forward(self, rows, seed):
            seen.append(rows.shape[1])
            return super().forward(rows, seed)

    task = WorldModelTask(
        levels=level_configs,
        encoder=encoder_config,
        regularizer=Counting(),
        weights=LossWeights(batch=1.0, within_clip=0.0, max_rows=16),
    )
    task.objective(clip)
    task.objective(dataclasses.replace(clip, num_missing=2))
    # 2 clips of 8 places each, and of 4 where there should have been 4 clips.
    assert (seen[0], seen[3]) == (16, 8)


def test_validation__counts_no_padding(task, clip, monkeypatch):
    logged = {}
    monkeypatch.setattr(task, "log_dict", lambda values, **more: logged.update(more))
    whole = task.validation_step(clip, 0)
    padded = task.validation_step(dataclasses.replace(clip, is_pad=(True, False)), 0)
    assert logged["batch_size"] == 1
    for level, part in zip(whole["targets"], padded["targets"], strict=True):
        assert torch.equal(level[1:], part)
    assert torch.equal(whole["predicted"][0][1][1:], padded["predicted"][0][1])


def test_validation__a_clip_that_stands_for_none_is_weighed_as_those_it_stands_for(
    task, clip, monkeypatch
):
    logged = {}
    monkeypatch.setattr(task, "log_dict", lambda values, **more: logged.update(more))
    stands_in = ClipBatch.filler(3, clip.frames.shape[1:])
    nothing = task.validation_step(stands_in, 0)
    assert logged["batch_size"] == 3
    assert all(len(level) == 0 for level in nothing["targets"])
    assert (stands_in.num_clips, stands_in.num_places, stands_in.counted) == (0, 3, [])
    moved = stands_in.to("cpu")
    assert moved.is_filler
    assert not clip.is_filler
    assert (clip.num_clips, clip.num_places) == (2, 2)


def test_checkpoint__what_its_first_weights_were_shown_is_not_left_out(task, monkeypatch):
    data = SimpleNamespace(left_out=["solidity", "support"])
    monkeypatch.setattr(WorldModelTask, "trainer", SimpleNamespace(datamodule=data))
    checkpoint: dict = {}
    task.on_save_checkpoint(checkpoint)
    assert checkpoint["worldmodel"]["data"] == {"left_out": ["solidity", "support"]}
    task.began_with = {"source": "a", "sha256": "b", "global_step": 1, "left_out": ["support"]}
    task.on_save_checkpoint(checkpoint)
    assert checkpoint["worldmodel"]["data"] == {"left_out": ["support"]}
    assert checkpoint["worldmodel"]["began_with"] == task.began_with


def test_resume__what_was_shown_before_stays_known(task, monkeypatch):
    began = {"source": "a", "sha256": "b", "global_step": 1, "left_out": ["support", "gravity"]}
    task.began_with = began
    checkpoint: dict = {"state_dict": task.state_dict()}
    for left_out in (["solidity", "support"], ["gravity", "support", "solidity"]):
        data = SimpleNamespace(left_out=left_out)
        monkeypatch.setattr(WorldModelTask, "trainer", SimpleNamespace(datamodule=data))
        task.on_save_checkpoint(checkpoint)
        assert checkpoint["worldmodel"]["data"] == {"left_out": ["support"]}
        assert checkpoint["worldmodel"]["began_with"] == began
        # Resumed without `init_from`, or with another.
        task.began_with = None
        task.on_load_checkpoint(checkpoint)


def test_resume__another_rate_holds_from_there_on_and_is_said(
    encoder_config, level_configs, clip, tmp_path, capsys
):
    tasks = [
        WorldModelTask(level_configs, encoder_config, optim=OptimConfig(lr=lr))
        for lr in (1e-3, 0.5)
    ]
    path = tmp_path / "last.ckpt"
    train(tasks[0], clip, 2).save_checkpoint(path)
    assert "model.optim" not in capsys.readouterr().out
    (optimizer,) = train(tasks[1], clip, 3, resume=path).optimizers
    assert "from step 2 on: model.optim.lr 0.001 -> 0.5\n" in capsys.readouterr().out
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(("algorithm", "expected"), [("norm", [0.6, 0.8]), ("value", [0.5, 1.0])])
def test_clipping__by_norm_or_by_values(task, clip, monkeypatch, algorithm, expected):
    """As `trainer.gradient_clip_algorithm` says; by the norm where it says nothing."""
    seen = []

    def give(self, *_):
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight = next(self.parameters()).grad.view(-1)
        weight[0], weight[1] = (3.0, 4.0) if algorithm == "norm" else (0.5, 4.0)

    def see(self, *_):
        seen.extend(next(self.parameters()).grad.view(-1)[:2].tolist())

    monkeypatch.setattr(WorldModelTask, "on_after_backward", give)
    monkeypatch.setattr(task.guard, "judge", lambda norm, optimizer: see(task))
    train(task, clip, 1, gradient_clip_val=1.0, gradient_clip_algorithm=algorithm)
    assert seen == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_precision__of_16_bits_is_refused(task, clip, precision):
    with pytest.raises(InputError, match=rf"{precision} is not supported.*take bf16-mixed or 32-"):
        train(task, clip, 1, precision=precision)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0, 1]}, "there are 2 levels here and 3 there"),
        ({"top_down": True}, "top_down is True here and False there"),
        ({"target": MovingAverage()}, r"it lacks target\..* and \d+ more"),
    ],
)
def test_resume__of_another_model_is_named(task, encoder_config, level_configs, changes, message):
    checkpoint = {"state_dict": task.state_dict()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorldModelTask, "trainer", SimpleNamespace(datamodule=None))
        task.on_save_checkpoint(checkpoint)
    task.on_load_checkpoint(checkpoint)
    levels = [level_configs[number] for number in changes.pop("levels", range(3))]
    other = WorldModelTask(levels, encoder_config, **changes)
    with pytest.raises(InputError, match=f"another model than the configuration: {message}"):
        other.on_load_checkpoint(checkpoint)


def test_training__every_parameter_gets_a_gradient(task, clip):
    for _ in range(2):  # heads start at zero: the predictor's gradient comes with the second step
        losses, _ = task.objective(clip)
        task.total(losses).backward()
        with torch.no_grad():
            for parameter in task.parameters():
                parameter -= 0.01 * parameter.grad
    silent = [
        name
        for name, parameter in task.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert silent == []


def test_training__prediction_improves_on_copying(task, clip):
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    # A world that repeats itself every two frames: copying is wrong, predicting is easy.
    frames = clip.frames.clone()
    frames[:, 0::2], frames[:, 1::2] = frames[:, :1], frames[:, 1:2]
    world = type(clip)(frames, clip.pts_seconds, clip.keys)
    for _ in range(60):
        losses, seen = task.objective(world)
        optimizer.zero_grad()
        task.total(losses).backward()
        optimizer.step()
    tokens, predicted = seen["targets"][0], seen["predicted"][0][1]
    error = (predicted[:, :-1] - tokens[:, 1:]).square().mean()
    copy = (tokens[:, :-1] - tokens[:, 1:]).square().mean()
    assert error < 0.5 * copy


def test_task__regularizer_by_choice(encoder_config, level_configs, clip):
    task = WorldModelTask(level_configs, encoder_config, regularizer=VICReg())
    losses, _ = task.objective(clip)
    assert losses[0]["batch"] > 0


def test_moving_average__is_in_the_state_but_not_trained(encoder_config, level_configs):
    task = WorldModelTask(level_configs, encoder_config, target=MovingAverage(0.9))
    averaged = [name for name in task.state_dict() if name.startswith("target.encoders")]
    assert averaged
    assert not any(p.requires_grad for p in task.target.parameters())


@pytest.mark.parametrize("top_down", [False, True])
def test_activation_checkpointing__changes_no_gradient(
    encoder_config, level_configs, clip, top_down
):
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        task = WorldModelTask(
            level_configs,
            encoder_config,
            top_down=top_down,
            compute=ComputeConfig(activation_checkpointing=again),
        )
        task.hierarchy.reset_heads()
        losses, _ = task.objective(clip)
        task.total(losses).backward()
        gradients.append([parameter.grad for parameter in task.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
