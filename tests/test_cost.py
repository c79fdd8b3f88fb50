"""What is counted without computing is what is computed."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.blanks import BlankConfig
from worldmodel.compute import ComputeConfig
from worldmodel.cost import BYTES_PER_WEIGHT, count_step, kept_for_backward
from worldmodel.losses.baselines import InfoNCE, PixelPrediction
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.target import MovingAverage
from worldmodel.models.transformer import recomputed
from worldmodel.task import WorldModelTask

TASKS = {
    "default": {},
    "top_down": {"top_down": True},
    "blanks": {"blanks": BlankConfig(share=0.5)},
    "moving_average": {"target": MovingAverage()},
    "contrast": {"prediction_loss": InfoNCE()},
    "pixels": {"prediction_loss": PixelPrediction()},
}


@pytest.mark.parametrize("name", TASKS)
def test_count__equals_what_a_real_step_does_and_keeps(name, encoder_config, level_configs, clip):
    task = WorldModelTask(level_configs, encoder_config, **TASKS[name])
    state = {key: value.clone() for key, value in task.state_dict().items()}
    random = torch.get_rng_state()
    counted = count_step(task, batch_size=2, num_frames=12)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())
    # The CPU's own attention kernel is not counted by torch's counter.
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as flops,
        kept_for_backward(task) as kept,
    ):
        losses, _ = task.objective(clip)
        total = task.total(losses)
        kept_bytes = kept.most
        total.backward()
    assert counted.flops == flops.get_total_flops()
    assert counted.kept_bytes == pytest.approx(kept_bytes + clip.frames.numel(), rel=0.02)


def test_count__weights_and_their_state(encoder_config, level_configs):
    task = WorldModelTask(level_configs, encoder_config)
    weights = sum(parameter.numel() for parameter in task.parameters())
    cost = count_step(task, 2, 12)
    assert (cost.weights, cost.state_bytes) == (weights, BYTES_PER_WEIGHT * weights)
    following = count_step(
        WorldModelTask(level_configs, encoder_config, target=MovingAverage()), 2, 12
    )
    assert following.weights == weights and following.state_bytes > cost.state_bytes


def test_count__grows_with_clips_and_shrinks_with_checkpointing(encoder_config, level_configs):
    task = WorldModelTask(level_configs, encoder_config)
    one, two = count_step(task, 4, 12), count_step(task, 8, 12)
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert two.kept_bytes == pytest.approx(2 * one.kept_bytes, rel=0.05)
    saving = WorldModelTask(
        level_configs, encoder_config, compute=ComputeConfig(activation_checkpointing=True)
    )
    less = count_step(saving, 4, 12)
    assert less.kept_bytes < 0.65 * one.kept_bytes
    assert less.flops == one.flops


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors made within it that are still there, but for some.

    Args:
        others: that were there before.
    """

    def __init__(self, others: list[Tensor]) -> None:
        super().__init__()
        self.known = {each.untyped_storage()._cdata for each in others}
        self.now = self.most = 0

    def _gone(self, block: int, count: int) -> None:
        self.known.discard(block)
        self.now -= count

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return found


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_count__is_what_a_real_step_has_in_memory_at_the_worst_moment(again, level_configs, clip):
    compute = ComputeConfig(activation_checkpointing=again)
    # Most is kept within the stem, as at the sizes that are trained.
    encoder = EncoderConfig(size=32, stem_channels=(64, 64), num_heads=2)
    task = WorldModelTask(level_configs, encoder, compute=compute)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in task.parameters()]
    with Living([clip.frames, *task.parameters(), *gradients]) as living:
        losses, _ = task.objective(clip)
        total = task.total(losses)
        del losses, _
        gc.collect()
        living.most = living.now
        total.backward()
    measured = living.most + clip.frames.numel()
    # Besides, operations need something for themselves while they run.
    counted = count_step(task, 2, 12).kept_bytes
    assert 0.8 * measured < counted <= 1.02 * measured


def test_kept__of_a_function_computed_again_its_inputs_and_then_its_inside():
    x = torch.randn(1000, requires_grad=True)
    with kept_for_backward(nn.Identity()) as kept:
        inner = recomputed(lambda each: each.exp().exp(), x)
        inner.exp()
    # x and the last result all the time; at the worst moment x and both results inside.
    assert sum(kept.blocks.values()) == 8000
    assert kept.most == 12000
