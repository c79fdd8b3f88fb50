"""Two ranks with B clips each are one rank with 2 B: loss and gradient, whatever the objective."""

import datetime
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from worldmodel.blanks import BlankConfig, draw_blanks
from worldmodel.losses.baselines import InfoNCE, PixelPrediction
from worldmodel.losses.objective import LossWeights, level_losses, total_loss
from worldmodel.losses.prediction import (
    BarlowTwins,
    CombinedPrediction,
    PredictionLoss,
    SquaredError,
    VICRegL,
)
from worldmodel.losses.ranks import shared_batch
from worldmodel.losses.regularizers import Combined, NoRegularizer, Regularizer, SIGReg, VICReg
from worldmodel.losses.scopes import SCOPES
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig

# All are built here, before there is a process group: whether there is one is for them to ask when
# they are called.
REGULARIZERS: dict[str, Regularizer] = {
    "none": NoRegularizer(),
    "sigreg": SIGReg(num_directions=16),
    "vicreg": VICReg(),
    "combined": Combined([SIGReg(num_directions=8), VICReg()], [1.0, 0.5]),
}
PREDICTION_LOSSES: dict[str, Callable[[], PredictionLoss]] = {
    "squared": SquaredError,
    "moving": lambda: SquaredError(moving=2.0),
    "barlow": BarlowTwins,
    "vicregl": VICRegL,
    "infonce": lambda: InfoNCE(other_steps=False, max_negatives=0),
    "infonce_steps": lambda: InfoNCE(other_steps=True, max_negatives=5),
    "squared_infonce": lambda: CombinedPrediction([SquaredError(), InfoNCE()], [1.0, 0.1]),
    "pixels": PixelPrediction,
    "pixels_hidden": lambda: PixelPrediction(hidden=3, present=0.5),
}
# 12 rows over both ranks are 3 places of each of the 4 clips.
SAMPLED = list(product(SCOPES, (0, 12)))


def sampled(regularizer: str, prediction_loss: str) -> list[tuple[str, int]]:
    """Scopes and rows of a choice: the prediction loss sees neither, so each is met with one."""
    if prediction_loss == "squared":
        return SAMPLED
    place = list(PREDICTION_LOSSES).index(prediction_loss) + list(REGULARIZERS).index(regularizer)
    return [SAMPLED[place % len(SAMPLED)]]


CHOICES = [
    (regularizer, scope, max_rows, prediction_loss)
    for regularizer, prediction_loss in product(REGULARIZERS, PREDICTION_LOSSES)
    for scope, max_rows in sampled(regularizer, prediction_loss)
]
# Where a clip could not be read: every part that takes a mean or a statistic of its own.
UNEVEN = [
    *product(REGULARIZERS, SCOPES, (0, 12), ("squared",)),
    *(("none", "batch", 0, name) for name in PREDICTION_LOSSES),
]
WHOLE = [
    ("sigreg", "squared", "shown"),
    ("sigreg", "squared", "blanks"),
    ("vicreg", "barlow", "shown"),
    ("none", "infonce_steps", "shown"),
    ("none", "pixels", "blanks"),
]


def tiny_hierarchy() -> Hierarchy:
    torch.manual_seed(0)
    small = {"dim": 8, "width": 8, "depth": 1, "num_heads": 2}
    levels = [LevelConfig(stride=1, horizons=(1, 2), **small), LevelConfig(horizons=(1,), **small)]
    encoder = EncoderConfig(size=16, stem_channels=(8, 8), num_heads=2)
    hierarchy = Hierarchy(encoder, levels).double()
    hierarchy.reset_heads()
    return hierarchy


SHAPES = tiny_hierarchy()


def all_clips() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(4, 6, 3, 16, 16, generator=generator, dtype=torch.float64)
    # The second rank's frames are flat colours: its own statistics are not those of the first.
    return torch.cat(
        [clips[:2], 5 * clips[2:].mean(dim=(3, 4), keepdim=True).expand(clips[2:].shape)]
    )


class OneLevel(nn.Module):
    """Tokens that are linear in patches, predictions that are linear in tokens."""

    def __init__(self, prediction_loss: PredictionLoss) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.Linear(3 * 8 * 8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.prediction_loss = prediction_loss
        prediction_loss.attach(SHAPES)
        self.double()

    def forward(self, frames: Tensor, regularizer: Regularizer, weights: LossWeights) -> Tensor:
        patches = rearrange(frames, "b t c (h p) (w q) -> b t (h w) (c p q)", h=2, w=2)
        tokens = self.encoder(patches)
        predicted = {h: tokens + head(tokens) for h, head in enumerate(self.heads, start=1)}
        losses = level_losses(
            tokens,
            predicted,
            tokens,
            regularizer,
            weights,
            seed=7,
            prediction_loss=self.prediction_loss,
            level=0,
            frames=frames,
        )
        return total_loss(losses, weights)


def clips_of(rank: int, lacks: int) -> Tensor:
    """Of two ranks with two clips each, one of which lacks its first."""
    clips = all_clips()[2 * rank : 2 * rank + 2]
    return clips[1:] if rank == lacks else clips


def loss_and_gradients(choice: tuple[str, str, int, str], frames: Tensor) -> dict[str, Tensor]:
    regularizer, scope, max_rows, prediction_loss = choice
    model = OneLevel(PREDICTION_LOSSES[prediction_loss]())
    scopes = {name: float(name == scope) for name in SCOPES}
    weights = LossWeights(prediction=1.0, max_rows=max_rows, **scopes)
    return with_gradients(model, model(frames, REGULARIZERS[regularizer], weights))


class WholeObjective(nn.Module):
    """Both levels of a hierarchy with every scope at once, as a module that DDP can wrap."""

    def __init__(self, regularizer: str, prediction_loss: str, shown: str) -> None:
        super().__init__()
        self.blanks = BlankConfig(share=0.8, num_frames=2) if shown == "blanks" else None
        self.hierarchy = tiny_hierarchy()
        self.regularizer = REGULARIZERS[regularizer]
        self.prediction_loss = PREDICTION_LOSSES[prediction_loss]()
        self.prediction_loss.attach(self.hierarchy)
        self.double()

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.hierarchy.encode(frames)
        weights = LossWeights(per_step=1.0, per_token=1.0)
        blanks = self.blanks and draw_blanks(self.blanks, self.hierarchy, tokens, seed=3)
        losses = [
            total_loss(
                level_losses(
                    level,
                    prediction.predicted,
                    level,
                    self.regularizer,
                    weights,
                    seed=number,
                    prediction_loss=self.prediction_loss,
                    level=number,
                    frames=frames,
                ),
                weights,
            )
            for number, (level, prediction) in enumerate(
                zip(tokens, self.hierarchy.predict(tokens, blanks), strict=True)
            )
        ]
        return torch.stack(losses).sum()


def with_gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def one_of_two(rank: int, store: str, out: str) -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    frames = all_clips()[2 * rank : 2 * rank + 2]
    results = {}
    for choice in CHOICES:
        results[choice] = loss_and_gradients(choice, frames)
        with shared_batch(len(frames), len(frames), frames.device):
            counted = loss_and_gradients(choice, frames)
        results["counted alike", *choice] = {
            key: (value != results[choice][key]).sum() for key, value in counted.items()
        }
    for choice, lacks in product(UNEVEN, (0, 1)):
        clips = clips_of(rank, lacks)
        with shared_batch(len(clips), 2, clips.device):
            results[lacks, *choice] = loss_and_gradients(choice, clips)
    for choice, has in product(UNEVEN, (0, 1, None)):
        # The other rank, or each of them, has a clip without content that stands for none.
        clips = frames if rank == has else torch.zeros_like(frames[:1])
        with shared_batch(2 if rank == has else 0, 2, clips.device):
            results["alone", has, *choice] = loss_and_gradients(choice, clips)
    for value in [value for result in results.values() for value in result.values()]:
        distributed.all_reduce(value)  # what DDP does with gradients
        if value.is_floating_point():
            value /= 2
    for choice in WHOLE:
        results[choice] = in_parallel(WholeObjective(*choice), frames)
        clips = clips_of(rank, 0)
        with shared_batch(len(clips), 2, clips.device):
            results[0, *choice] = in_parallel(WholeObjective(*choice), clips)
    if rank == 0:
        torch.save(results, out)
    # Neither rank leaves while the other still works: its gloo threads would end with an abort.
    distributed.barrier()
    distributed.destroy_process_group()


def in_parallel(model: nn.Module, frames: Tensor) -> dict[str, Tensor]:
    """The wrapper, which holds on to the process group, is gone when this returns."""
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    found = with_gradients(model, parallel(frames))
    distributed.all_reduce(found["loss"])
    found["loss"] /= 2
    return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, dict[str, Tensor]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    out = folder / "results.pt"
    multiprocessing.spawn(one_of_two, args=(str(folder / "store"), str(out)), nprocs=2)
    return torch.load(out, weights_only=True)


def assert_same(found: dict[str, Tensor], alone: dict[str, Tensor]) -> None:
    for key, value in alone.items():
        error = (found[key] - value).abs().max()
        # Everything is float64 here; float32 would round at 1e-7 of the greatest.
        assert error <= 1e-9 * value.abs().max() + 1e-12, f"{key}: off by {error}"


@pytest.mark.parametrize("prediction_loss", PREDICTION_LOSSES)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_choice__two_ranks_are_one_rank_with_both_batches(
    two_ranks, regularizer, prediction_loss
):
    for scope, max_rows in sampled(regularizer, prediction_loss):
        choice = (regularizer, scope, max_rows, prediction_loss)
        alone = loss_and_gradients(choice, all_clips())
        assert alone.keys() == two_ranks[choice].keys()
        assert_same(two_ranks[choice], alone)


@pytest.mark.parametrize("choice", WHOLE, ids="-".join)
def test_whole_objective__under_ddp_itself(two_ranks, choice):
    model = WholeObjective(*choice)
    alone = with_gradients(model, model(all_clips()))
    assert_same(two_ranks[choice], alone)


@pytest.mark.parametrize("lacks", [0, 1])
@pytest.mark.parametrize("choice", UNEVEN, ids=lambda choice: "-".join(map(str, choice)))
def test_uneven_ranks__are_one_rank_with_the_clips_that_there_are(two_ranks, choice, lacks):
    clips = torch.cat([clips_of(rank, lacks) for rank in (0, 1)])
    with shared_batch(3, 4, clips.device):
        alone = loss_and_gradients(choice, clips)
    assert_same(two_ranks[lacks, *choice], alone)


@pytest.mark.parametrize("has", [0, 1])
@pytest.mark.parametrize("choice", UNEVEN, ids=lambda choice: "-".join(map(str, choice)))
def test_a_rank_without_clips__the_other_one_learns_alone(two_ranks, choice, has):
    clips = all_clips()[2 * has : 2 * has + 2]
    with shared_batch(2, 4, clips.device):
        alone = loss_and_gradients(choice, clips)
    assert_same(two_ranks["alone", has, *choice], alone)


@pytest.mark.parametrize("choice", UNEVEN, ids=lambda choice: "-".join(map(str, choice)))
def test_no_rank_has_clips__nothing_is_learned(two_ranks, choice):
    found = two_ranks["alone", None, *choice]
    assert all(value.isfinite().all() for value in found.values())
    assert not any(value.any() for key, value in found.items() if key != "loss")


@pytest.mark.parametrize("choice", WHOLE, ids="-".join)
def test_uneven_ranks__whole_objective_under_ddp_itself(two_ranks, choice):
    model = WholeObjective(*choice)
    clips = torch.cat([clips_of(rank, 0) for rank in (0, 1)])
    with shared_batch(3, 4, clips.device):
        alone = with_gradients(model, model(clips))
    assert_same(two_ranks[0, *choice], alone)


def test_even_ranks__counting_their_clips_changes_no_bit(two_ranks):
    for choice in CHOICES:
        assert not any(two_ranks["counted alike", *choice].values()), choice


def test_uneven_parity__would_fail_for_ranks_that_count_alike():
    alone = loss_and_gradients(("none", "batch", 0, "squared"), all_clips()[1:])
    halves = [
        loss_and_gradients(("none", "batch", 0, "squared"), clips_of(rank, 0)) for rank in (0, 1)
    ]
    for key in ("loss", "encoder.weight"):
        alike = (halves[0][key] + halves[1][key]) / 2
        assert (alike - alone[key]).abs().max() > 1e-2 * alone[key].abs().max()


@pytest.mark.parametrize(
    "choice",
    [
        *(("sigreg", scope, 0, "squared") for scope in SCOPES),
        *(("vicreg", scope, 12, "squared") for scope in SCOPES),
        *(("none", "batch", 0, name) for name in ("moving", "barlow", "infonce", "infonce_steps")),
    ],
    ids=lambda choice: "-".join(map(str, choice)),
)
def test_parity__would_fail_for_ranks_with_statistics_of_their_own(choice):
    alone = loss_and_gradients(choice, all_clips())
    halves = [loss_and_gradients(choice, all_clips()[i : i + 2]) for i in (0, 2)]
    for key in ("loss", "encoder.weight"):
        local = (halves[0][key] + halves[1][key]) / 2
        assert (local - alone[key]).abs().max() > 1e-3 * alone[key].abs().max()
