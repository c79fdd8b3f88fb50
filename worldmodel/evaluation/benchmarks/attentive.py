"""The attentive probe: a learned query looks at the tokens of all steps of all levels of a video.

As in the evaluations of V-JEPA 2 (https://arxiv.org/abs/2506.09985, section 4): some blocks of
self-attention over the frozen tokens, one block in which a learned query attends to them, and a
linear layer. A grid of learning rates and weight decays is trained side by side on the same
batches. They report the best head on the set that is reported; here a held-out part of the training
videos chooses, so that the reported set is looked at once.

Tokens of several levels are one set: each level's are standardised by the training videos, mapped
linearly to the probe's width, and told apart by a learned vector for each level, step and place.
Frozen tokens of a single frame know no time, which the vectors put back.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from worldmodel.errors import InputError
from worldmodel.models.transformer import FeedForward, SelfAttention

# Videos scored at once; fixed, so that kernels cannot round differently for another number.
SCORED_AT_ONCE = 32
MIN_HEAD_DIM = 8


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig:
    """How large an attentive probe is and how it is trained; by default as V-JEPA 2's."""

    self_attention_blocks: int = 3
    """Before the query's own block; 0 leaves the query alone."""
    max_heads: int = 16
    """Attention heads; fewer where the width does not allow as many of at least 8 dimensions."""
    mlp_ratio: float = 4.0
    """Hidden width of feed-forward networks over the width."""
    max_width: int = 384
    """The probe is as wide as the widest level's tokens, and at most this wide."""
    num_epochs: int = 20
    """Passes over the training videos."""
    batch_size: int = 64
    """Videos per optimizer step."""
    learning_rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    """Of AdamW, falling to 0 as a half cosine."""
    weight_decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    """Each with each learning rate."""

    def __post_init__(self) -> None:
        counts = (self.max_heads, self.num_epochs, self.batch_size)
        if self.self_attention_blocks < 0 or min(counts) < 1 or self.max_width < 2:
            raise InputError(
                "an attentive probe needs at least 0 blocks of self-attention and 1 head, epoch "
                f"and video per batch, got {self}"
            )
        if not self.learning_rates or not self.weight_decays:
            raise InputError("an attentive probe needs a learning rate and a weight decay to try")

    def shape(self, widest: int) -> tuple[int, int]:
        """Width and number of heads for levels whose widest tokens have `widest` dimensions."""
        width = max(2, min(widest, self.max_width) // 2 * 2)
        heads = [
            count
            for count in range(1, self.max_heads + 1)
            if width % (2 * count) == 0 and (width // count >= MIN_HEAD_DIM or count == 1)
        ]
        return width, heads[-1]


CPU_CONFIG = AttentiveConfig(
    self_attention_blocks=0,
    max_width=128,
    num_epochs=10,
    learning_rates=(3e-3, 1e-3, 3e-4),
    weight_decays=(0.01, 0.4),
)
"""The query alone and six heads: what a processor trains in minutes."""


def default_config(device: torch.device) -> AttentiveConfig:
    """V-JEPA 2's probe on a GPU, a small one elsewhere; the report says which it was."""
    return CPU_CONFIG if device.type == "cpu" else AttentiveConfig()


class QueryBlock(nn.Module):
    """One learned query attends to all tokens; then a feed-forward network, both residual.

    Args:
        width: of a token.
        num_heads: attention heads.
        mlp_ratio: of the feed-forward network.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.to_query, self.to_key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, mlp_ratio)

    def forward(self, tokens: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch dim"]:
        batch, length, width = tokens.shape
        split = (self.num_heads, width // self.num_heads)
        both = self.to_key_value(self.norm(tokens)).view(batch, length, 2, *split)
        key, value = both.permute(2, 0, 3, 1, 4)
        query = self.to_query(self.query).view(1, split[0], 1, split[1]).expand(batch, -1, -1, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.feed_forward(self.query + self.out(mixed.reshape(batch, width)))


class AttentiveProbe(nn.Module):
    """Class scores from the tokens of every level.

    Args:
        levels: training tokens per level `(n, S_l, N_l, F_l)`, for their sizes, mean and spread.
        num_classes: scores to give.
        config: how large.
    """

    def __init__(self, levels: Sequence[Tensor], num_classes: int, config: AttentiveConfig) -> None:
        super().__init__()
        width, heads = config.shape(max(level.shape[-1] for level in levels))
        self.inputs = nn.ModuleList(nn.Linear(level.shape[-1], width) for level in levels)
        self.positions = nn.ParameterList(
            nn.Parameter(torch.randn(*level.shape[1:3], width) * 0.02) for level in levels
        )
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(SelfAttention(width, heads), FeedForward(width, config.mlp_ratio))
                for _ in range(config.self_attention_blocks)
            )
        )
        self.query = QueryBlock(width, heads, config.mlp_ratio)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))
        for number, level in enumerate(levels):
            mean, spread = _mean_and_spread(level)
            self.register_buffer(f"mean{number}", mean)
            self.register_buffer(f"spread{number}", spread)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "batch classes"]:
        """Scores from tokens per level `(B, S_l, N_l, F_l)`, float."""
        parts = []
        for number, tokens in enumerate(levels):
            mean, spread = self.get_buffer(f"mean{number}"), self.get_buffer(f"spread{number}")
            inputs = self.inputs[number]((tokens - mean) / spread) + self.positions[number]
            parts.append(inputs.flatten(1, 2))
        return self.head(self.query(self.blocks(torch.cat(parts, dim=1))))


def _mean_and_spread(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of each dimension over videos, steps and places; float32 `(F,)`."""
    total = torch.zeros(tokens.shape[-1], dtype=torch.float64)
    square = torch.zeros_like(total)
    for part in tokens.split(SCORED_AT_ONCE):
        rows = part.double().flatten(0, 2)
        total += rows.sum(0)
        square += (rows**2).sum(0)
    count = tokens[..., 0].numel()
    mean = total / count
    spread = (square / count - mean**2).clamp_min(0).sqrt()
    # A dimension that never varies stays at 0 instead of being blown up.
    return mean.float(), torch.where(spread > 1e-6, spread, 1.0).float()


@dataclass(frozen=True)
class AttentiveFit:
    """The head that was chosen.

    Attributes:
        probe: in evaluation mode.
        learning_rate: it was trained with.
        weight_decay: likewise.
        held_out_top1: share of held-out training videos it got right.
        device: where it is.
    """

    probe: AttentiveProbe = field(repr=False)
    learning_rate: float
    weight_decay: float
    held_out_top1: float
    device: torch.device

    def scores(self, levels: Sequence[Tensor]) -> np.ndarray:
        """Class scores float64 `(n, classes)` from tokens per level `(n, S_l, N_l, F_l)`."""
        return _scores(self.probe, levels, self.device)


def fit_attentive(
    levels: Sequence[Tensor],
    labels: np.ndarray,
    held: np.ndarray,
    num_classes: int,
    config: AttentiveConfig,
    seed: int,
    device: torch.device,
    title: str = "attentive probe",
) -> AttentiveFit:
    """Train the grid on some training videos and choose a head on the others.

    Of heads that are equally often right the one with the lower loss is taken, then the first.

    Args:
        levels: tokens per level `(n, S_l, N_l, F_l)` on the CPU, of any floating type.
        labels: int `(n,)`, 0 to num_classes - 1.
        held: bool `(n,)`, the videos that choose; some, but not all.
        num_classes: how many there are.
        config: size and grid.
        seed: of weights, the same for all heads, and of the order of videos.
        device: where heads are trained.
        title: of the progress bar.

    Raises:
        InputError: tokens are not finite, or no head learned without its loss overflowing.
    """
    if not all(torch.isfinite(level).all() for level in levels):
        raise InputError(f"{title}: the model's tokens are not finite; its weights may be damaged")
    if held.all() or not held.any():
        raise ValueError("some but not all training videos must be held out to choose a head")
    grid = [(rate, decay) for rate in config.learning_rates for decay in config.weight_decays]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = AttentiveProbe(levels, num_classes, config)
    probes = [copy.deepcopy(first).to(device) for _ in grid]
    _train(probes, grid, levels, labels, np.flatnonzero(~held), config, seed, device, title)
    chosen = torch.from_numpy(np.flatnonzero(held))
    ranking = []
    for index, probe in enumerate(probes):
        scores = _scores(probe.eval(), [level[chosen] for level in levels], device)
        ranking.append((*_judge(scores, labels[held]), index))
    right, _, index = min(ranking)
    if not math.isfinite(right):
        raise InputError(f"{title}: no head of the grid could be trained; try lower learning rates")
    return AttentiveFit(probes[index], *grid[index], -right, device)


def _judge(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Minus the share that is right, and the loss; infinite where scores are not finite."""
    if not np.isfinite(scores).all():
        return math.inf, math.inf
    loss = functional.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
    return -float(np.mean(scores.argmax(1) == labels)), float(loss)


def _train(
    probes: Sequence[AttentiveProbe],
    grid: Sequence[tuple[float, float]],
    levels: Sequence[Tensor],
    labels: np.ndarray,
    rows: np.ndarray,
    config: AttentiveConfig,
    seed: int,
    device: torch.device,
    title: str,
) -> None:
    """All heads see the same batches, one head after the other to bound memory."""
    generator = np.random.default_rng(seed)
    optimizers = [
        torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=decay)
        for probe, (rate, decay) in zip(probes, grid, strict=True)
    ]
    num_batches = -(-len(rows) // config.batch_size)
    num_steps = num_batches * config.num_epochs
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, half_cosine(num_steps)) for one in optimizers
    ]
    wanted = torch.from_numpy(labels.astype(np.int64))
    with tqdm(total=num_steps, desc=title, unit="step") as bar:
        for _ in range(config.num_epochs):
            for batch in np.array_split(generator.permutation(rows), num_batches):
                chosen = torch.from_numpy(batch)
                inputs = [level[chosen].to(device).float() for level in levels]
                target = wanted[chosen].to(device)
                for probe, optimizer, schedule in zip(probes, optimizers, schedules, strict=True):
                    loss = functional.cross_entropy(probe(inputs), target)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                bar.update()


def half_cosine(num_steps: int) -> Callable[[int], float]:
    """A factor that falls from 1 to 0 over `num_steps`."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / num_steps, 1.0)))


@torch.no_grad()
def _scores(probe: AttentiveProbe, levels: Sequence[Tensor], device: torch.device) -> np.ndarray:
    parts = []
    for chunk in zip(*(level.split(SCORED_AT_ONCE) for level in levels), strict=True):
        parts.append(probe([level.to(device).float() for level in chunk]).double().cpu().numpy())
    return np.concatenate(parts)
