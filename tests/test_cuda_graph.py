"""A recorded step computes what the step itself does; what cannot be recorded is said before."""

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldmodel.cli import main
from worldmodel.clips import ClipBatch
from worldmodel.cuda_graph import RecordedStep, StepResult, why_not_recorded
from worldmodel.errors import InputError
from worldmodel.losses.baselines import InfoNCE
from worldmodel.losses.draws import draws_from, seeded_generator
from worldmodel.losses.objective import LossWeights
from worldmodel.losses.prediction import CombinedPrediction, SquaredError
from worldmodel.losses.regularizers import SIGReg
from worldmodel.task import WorldModelTask

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CONFIG = Path(__file__).parent / "conf" / "small.yaml"


@pytest.fixture
def task(encoder_config, level_configs):
    torch.manual_seed(0)
    task = WorldModelTask(
        [replace(level, depth=2) for level in level_configs],
        encoder_config,
        prediction_loss=CombinedPrediction(
            # Fewer negatives than there are tokens: they are drawn.
            [SquaredError(), InfoNCE(max_negatives=4)],
            [1.0, 0.1],
        ),
        regularizer=SIGReg(num_directions=8),
        weights=LossWeights(max_rows=8),  # places are drawn too
        top_down=True,
    )
    task.hierarchy.reset_heads()  # those of a new network are zero, and so most gradients
    return task


def gradients_of(module: nn.Module) -> list[torch.Tensor | None]:
    return [None if each.grad is None else each.grad.clone() for each in module.parameters()]


# --- On a CPU ----------------------------------------------------------------------------------


class Crossings(TorchDispatchMode):
    """Operations that bring something from the processor to the device, or ask the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        kinds = {x.device.type for x in tree_leaves((args, kwargs, result)) if hasattr(x, "device")}
        if len(kinds) > 1 or "local_scalar" in str(function) or "nonzero" in str(function):
            self.found.append(str(function))
        return result


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_step__stays_on_the_device(task, clip, monkeypatch, again):
    # Tensors without content stand for the GPU's. What is drawn is drawn there, by no generator.
    meta = torch.device("meta")

    class Generator:
        device = meta

    for name in ("regularizers", "scopes", "baselines"):
        monkeypatch.setattr(f"worldmodel.losses.{name}.seeded_generator", lambda s, d: Generator)
    for name in ("rand", "randn"):
        real = getattr(torch, name)

        def on_meta(*args, real=real, generator=None, device=None, **options):
            return real(*args, device=meta, **options)

        monkeypatch.setattr(torch, name, on_meta)
    task = copy.deepcopy(task).to(meta)
    task.hierarchy.activation_checkpointing = again
    batch = clip.to(meta)
    with Crossings() as crossings:
        losses, _ = task.objective(batch)
        task.total(losses).backward()
    assert crossings.found == []
    assert all(each.grad is not None for each in task.parameters() if each.requires_grad)


def test_crossings__are_seen():
    with Crossings() as crossings:
        torch.ones(2).to("meta")
    assert crossings.found


def test_draws__come_from_a_generator_within():
    device = torch.device("cpu")
    own = torch.Generator().manual_seed(5)
    with draws_from(own):
        assert seeded_generator(1, device) is own
    first, second = seeded_generator(1, device), seeded_generator(1, device)
    assert first is not second
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def recorded(gradients) -> tuple[RecordedStep, nn.Linear]:
    """As after a replay that gave these gradients."""
    module = nn.Linear(2, 1)
    step = RecordedStep(module, lambda batch: StepResult(torch.zeros(()), [], {}))
    step.gradients = gradients
    return step, module


def test_hand_over__gives_the_gradients():
    step, module = recorded([torch.ones(1, 2), None])
    step.hand_over()
    assert torch.equal(module.weight.grad, torch.ones(1, 2))
    assert module.bias.grad is None


def test_hand_over__adds_up_shares_of_several_steps():
    gradients = [torch.ones(1, 2), torch.full((1,), 4.0)]
    step, module = recorded(gradients)
    step.hand_over(0.5)
    gradients[0].fill_(3)  # the next replay writes where the last did
    step.hand_over(0.5)
    assert torch.equal(module.weight.grad, torch.full((1, 2), 2.0))
    assert torch.equal(module.bias.grad, torch.full((1,), 4.0))
    assert torch.equal(gradients[0], torch.full((1, 2), 3.0))


def test_record__a_step_that_cannot_be_says_so(clip, monkeypatch):
    # Without a GPU: everything but the recording itself stands in for it.
    class Anything:
        def __init__(self, *_):
            pass

        def __getattr__(self, name):
            return lambda *_: None

    @contextmanager
    def graph(*_, **__):
        yield
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    for name in ("Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Anything)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    module = nn.Linear(2, 1)
    step = RecordedStep(module, lambda batch: StepResult(module(torch.ones(2)).sum(), [], {}))
    with pytest.raises(InputError, match=r"stream is capturing\).*cuda_graph to false"):
        step.replay(clip, 0)
    assert step.graph is None


def test_takes__no_batch_with_missing_clips_and_none_on_a_cpu(clip):
    step, _ = recorded([])
    assert not step.takes(clip)
    assert not step.takes(replace(clip, num_missing=1))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (("cpu", 1, []), "needs a GPU"),
        (("cuda", 2, []), "this run has 2"),
        (("cuda", 1, ["model.blanks"]), "model.blanks draws on the processor"),
        (("cuda", 1, [], True), "the strategy is fsdp2"),
    ],
)
def test_why_not__says_what_is_in_the_way(choices, words):
    device, *others = choices
    assert words in why_not_recorded(torch.device(device), *others)
    assert why_not_recorded(torch.device("cuda"), 1, []) is None


@pytest.mark.parametrize("choice", ["true", "auto"])
def test_fit__without_a_gpu(shards, tmp_path, capsys, choice):
    args = ["fit", "--config", str(CONFIG), "--data.shards", f"{shards}/*.tar"]
    more = ["--trainer.default_root_dir", str(tmp_path), "--model.compute.cuda_graph", choice]
    found = main([*args, *more, "--trainer.accelerator", "cpu", "--trainer.max_steps", "1"])
    said = capsys.readouterr().err
    if choice == "auto":
        assert found == 0
    else:
        assert found == 2
        assert "cuda_graph is true, but a CUDA graph needs a GPU, and this run is on cpu" in said
        assert "set it to auto or false" in said


# --- On a GPU ----------------------------------------------------------------------------------


def other_frames(clip: ClipBatch) -> ClipBatch:
    return replace(clip, frames=255 - clip.frames)


@needs_gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_replay__finds_what_the_step_itself_does(task, clip, precision):
    task, clip = task.cuda(), clip.to("cuda")
    twin = copy.deepcopy(task)
    step = RecordedStep(task, task._find)
    half = precision == torch.bfloat16
    loose = {"rtol": 3e-2, "atol": 3e-3} if half else {"rtol": 1e-4, "atol": 1e-5}
    for seed, batch in enumerate([clip, other_frames(clip), clip]):
        for each in (task, twin):
            each.zero_grad()
            with torch.no_grad():  # weights change between replays, as in training
                for weight in each.parameters():
                    weight.add_(0.01)
        assert step.takes(batch)
        # One context a step, as in training: it keeps casts of the weights.
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            found = step.replay(batch, seed)
        step.hand_over()
        generator = torch.Generator("cuda").manual_seed(seed)
        with draws_from(generator), torch.autocast("cuda", torch.bfloat16, enabled=half):
            expected = twin._find(batch)
        expected.loss.backward()
        torch.testing.assert_close(found.loss, expected.loss.detach(), **loose)
        for ours, theirs in zip(gradients_of(task), gradients_of(twin), strict=True):
            torch.testing.assert_close(ours, theirs, **loose)


@needs_gpu
def test_replay__draws_by_its_seed(task, clip):
    step, clip = RecordedStep(task.cuda(), task._find), clip.to("cuda")
    losses = [float(step.replay(clip, seed).loss) for seed in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


@needs_gpu
def test_takes__one_shape(task, clip):
    step, clip = RecordedStep(task.cuda(), task._find), clip.to("cuda")
    step.replay(clip, 0)
    assert step.takes(other_frames(clip))
    assert not step.takes(ClipBatch(clip.frames[:1], clip.pts_seconds[:1], clip.keys[:1]))


@needs_gpu
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_fit__learns_with_replays_what_it_learns_without(shards, tmp_path, accumulate):
    weights = {}
    for choice in ("true", "false"):
        folder = tmp_path / choice
        args = ["fit", "--config", str(CONFIG), "--data.shards", f"{shards}/*.tar"]
        args += ["--trainer.default_root_dir", str(folder), "--trainer.max_steps", "8"]
        args += ["--trainer.accelerator", "gpu", "--trainer.limit_val_batches", "0"]
        args += ["--trainer.accumulate_grad_batches", accumulate]
        # Slices are drawn differently; covariances are not drawn.
        args += ["--model.regularizer", "worldmodel.losses.regularizers.VICReg"]
        assert main([*args, "--model.compute.cuda_graph", choice]) == 0
        (last,) = folder.glob("runs/*/*/checkpoints/last.ckpt")
        weights[choice] = torch.load(last, weights_only=True, map_location="cpu")["state_dict"]
    for name, ours in weights["true"].items():
        torch.testing.assert_close(ours, weights["false"][name], rtol=1e-3, atol=1e-4)
