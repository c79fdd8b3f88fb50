"""Two ranks with B clips each are one rank with 2 B: loss and gradient of the whole objective."""

import datetime
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from worldmodel.losses.objective import LossWeights, level_losses, total_loss
from worldmodel.losses.regularizers import Regularizer, SIGReg, VICReg
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig

REGULARIZERS: dict[str, Regularizer] = {"sigreg": SIGReg(num_directions=16), "vicreg": VICReg()}


def loss_and_gradients(regularizer: Regularizer, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """The objective on these clips, with weights that depend on the seed alone."""
    torch.manual_seed(0)
    small = {"dim": 8, "width": 8, "depth": 1, "num_heads": 2}
    levels = [LevelConfig(stride=1, horizons=(1, 2), **small), LevelConfig(horizons=(1,), **small)]
    hierarchy = Hierarchy(
        EncoderConfig(size=16, stem_channels=(8, 8), num_heads=2), levels
    ).double()
    hierarchy.reset_heads()
    tokens = hierarchy.encode(frames)
    weights = LossWeights()
    losses = [
        total_loss(level_losses(t, p.predicted, t, regularizer, weights, seed=number), weights)
        for number, (t, p) in enumerate(zip(tokens, hierarchy.predict(tokens), strict=True))
    ]
    loss = torch.stack(losses).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in hierarchy.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def all_clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(4, 6, 3, 16, 16, generator=generator, dtype=torch.float64)
    # The second rank's frames are flat colours: its own statistics are not those of the first.
    return torch.cat(
        [clips[:2], 5 * clips[2:].mean(dim=(3, 4), keepdim=True).expand(clips[2:].shape)]
    )


def one_of_two(rank: int, store: str, out: str) -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    results = {}
    for name, regularizer in REGULARIZERS.items():
        result = loss_and_gradients(regularizer, all_clips()[2 * rank : 2 * rank + 2])
        for value in result.values():  # what DDP does with gradients
            distributed.all_reduce(value)
            value /= 2
        results[name] = result
    if rank == 0:
        torch.save(results, out)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    out = folder / "results.pt"
    multiprocessing.spawn(one_of_two, args=(str(folder / "store"), str(out)), nprocs=2)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", sorted(REGULARIZERS))
def test_objective__two_ranks_are_one_rank_with_both_batches(two_ranks, name):
    alone = loss_and_gradients(REGULARIZERS[name], all_clips())
    assert alone.keys() == two_ranks[name].keys()
    # Tokens are float32 inside the regularizers: rounding differs, nothing else.
    for key, value in alone.items():
        torch.testing.assert_close(two_ranks[name][key], value, rtol=1e-5, atol=1e-5, msg=key)
    # Averaging ranks that each use statistics of their own gives another gradient.
    halves = [loss_and_gradients(REGULARIZERS[name], all_clips()[i : i + 2]) for i in (0, 2)]
    key = "levels.1.encoder.layers.4.weight"
    local = (halves[0][key] + halves[1][key]) / 2
    assert (local - alone[key]).abs().max() > 1e-3 * alone[key].abs().max()
