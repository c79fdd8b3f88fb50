"""What JEPA is compared with behind the same switch: contrast, and the prediction of pixels.

The same encoders and predictors learn from the same clips; only the prediction loss is another one,
and the regularizer's weights are 0: neither of them needs one.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.losses.draws import seeded_generator
from worldmodel.losses.prediction import PredictionLoss, mean_over_horizons
from worldmodel.losses.ranks import gather_clips, own_part
from worldmodel.models.hierarchy import Hierarchy


class InfoNCE(PredictionLoss):
    """Contrastive prediction: a predicted token must tell its target from other tokens.

    Van den Oord et al. 2018, arXiv 1807.03748, eq. 4: the mean of -log(exp(s_0) / sum_j exp(s_j)),
    where s_0 belongs to the target and the others to negatives. Here s = -(mean squared
    difference) / temperature instead of a bilinear form, so that the energy that is contrasted is
    the square of the surprise that is measured.

    Negatives are the tokens of the same step at other places and of other clips of the global batch
    and, with `other_steps`, what the same place of the same clip shows at all other steps. Without
    the latter what never changes in a clip tells it from all others, and nothing about change needs
    to be learned.

    It needs no regularizer: tokens that are all the same cost log(1 + number of negatives). But a
    prediction's own square is in all of its scores and cancels: what is learned is how much more
    likely a token is here than anywhere, and predictions overshoot their targets. Their energy
    orders futures of one model; it can be greater than that of copying.

    Args:
        temperature: in units of the mean squared difference of tokens.
        other_steps: whether the own clip's other steps are negatives.
        max_negatives: tokens of the same step that a prediction is contrasted with, over all ranks;
            if there are more, that many are drawn at every step of training, the same ones for all
            predictions (a prediction whose own target is drawn has one less). 0 takes all: the
            memory grows with the square of the global batch.
    """

    def __init__(
        self, temperature: float = 0.1, other_steps: bool = True, max_negatives: int = 1024
    ) -> None:
        super().__init__()
        if not temperature > 0 or max_negatives < 0:
            raise InputError(
                "InfoNCE needs a positive temperature and a max_negatives of 0 or more, got "
                f"{temperature} and {max_negatives}"
            )
        self.temperature, self.other_steps = temperature, other_steps
        self.max_negatives = max_negatives

    def forward(
        self,
        predicted: Mapping[int, Tensor],
        target: Tensor,
        level: int = 0,
        frames: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        gathered = gather_clips(target)
        everyone = rearrange(gathered.clips, "b t n d -> t (b n) d")
        if everyone.shape[1] == 1 and not self.other_steps:
            raise InputError(
                "InfoNCE has nothing to tell the target from: one clip with one token per step at "
                f"level {level}; raise data.batch_size or set other_steps to true"
            )
        chosen = self._candidates(everyone.shape[1], seed, target.device)
        candidates = everyone[:, chosen]
        per_step = target.shape[2]
        own = torch.arange(target.shape[0] * per_step, device=target.device)
        is_own = own[:, None] + gathered.first * per_step == chosen
        is_none = is_own | ~gathered.are_there.repeat_interleave(per_step)[chosen]

        contrast = self.kernel(mean_contrast, target)
        return own_part(
            contrast(predicted, target, candidates, is_none, self.other_steps, self.temperature)
        )

    def _candidates(self, count: int, seed: int, device: torch.device) -> Int[Tensor, " chosen"]:
        """Numbers of the tokens of a step, over all ranks, that serve as negatives."""
        if not self.max_negatives or count <= self.max_negatives:
            return torch.arange(count, device=device)
        # Drawn on the CPU: every rank and every kind of device then takes the same tokens.
        generator = seeded_generator(seed, torch.device("cpu"))
        order = torch.rand(count, generator=generator, device=generator.device).argsort()
        # Not waited for: a copy that is would have a GPU run dry.
        return order[: self.max_negatives].sort().values.to(device, non_blocking=True)


def mean_contrast(
    predicted: Mapping[int, Tensor],
    target: Tensor,
    candidates: Tensor,
    is_none: Tensor,
    other_steps: bool,
    temperature: float,
) -> Tensor:
    """InfoNCE's loss of a level on this rank's clips, mean over horizons.

    Args:
        predicted: per horizon `(B, T, N, D)`.
        target: `(B, T, N, D)`.
        candidates: the negatives of each step, `(T, chosen, D)`.
        is_none: `(B N, chosen)`, which of them are none for a clip's token.
        other_steps: whether the own clip's other steps are negatives too.
        temperature: in units of the mean squared difference of tokens.
    """

    def contrast(ahead: Tensor, came: Tensor, horizon: int) -> Tensor:
        energies = [token_energies(ahead, candidates[horizon:], is_none)]
        if other_steps:
            energies.append(step_energies(ahead, target, horizon))
        positive = (ahead - came).square().mean(-1, keepdim=True)
        logits = torch.cat([positive, *energies], dim=-1) / -temperature
        return (logits.logsumexp(-1) - logits[..., 0]).mean()

    return mean_over_horizons(predicted, target, contrast)


def energies_between(
    first: Float[Tensor, "*many rows dim"], second: Float[Tensor, "*many others dim"]
) -> Float[Tensor, "*many rows others"]:
    """Mean squared difference of every row of one with every row of the other."""
    cross = first @ second.mT
    squares = first.square().sum(-1, keepdim=True) + second.square().sum(-1)[..., None, :]
    return (squares - 2 * cross) / first.shape[-1]


def token_energies(
    ahead: Float[Tensor, "batch steps tokens dim"],
    candidates: Float[Tensor, "steps chosen dim"],
    is_none: Bool[Tensor, "rows chosen"],
) -> Float[Tensor, "batch steps tokens chosen"]:
    """Energies with tokens of the same step; infinite where `is_none`.

    Such are the target itself and the places of clips that could not be read.
    """
    energies = energies_between(rearrange(ahead, "b s n d -> s (b n) d"), candidates)
    energies = energies.masked_fill(is_none, float("inf"))
    return rearrange(energies, "s (b n) c -> b s n c", b=ahead.shape[0])


def step_energies(
    ahead: Float[Tensor, "batch steps tokens dim"],
    target: Float[Tensor, "batch time tokens dim"],
    horizon: int,
) -> Float[Tensor, "batch steps tokens time"]:
    """Energies with the same place of the same clip at every step; infinite at the target's."""
    energies = energies_between(
        rearrange(ahead, "b s n d -> b n s d"), rearrange(target, "b t n d -> b n t d")
    )
    steps = torch.arange(target.shape[1], device=target.device)
    energies = energies.masked_fill(steps[horizon:, None] == steps, float("inf"))
    return rearrange(energies, "b n s t -> b s n t")


class PixelPrediction(PredictionLoss):
    """Generative prediction: predicted tokens are decoded to pixels and compared with the frames.

    A decoder per level turns a token into its patch of the last frame that its step covers; a patch
    is the frame's side / the grid's side pixels wide. The loss is the mean squared difference of
    pixels in `Hierarchy.normalize`'s units, mean over horizons. The target tokens are decoded by
    the same decoder into their own frame as well: tokens become pictures, so that their squared
    error, whose root is the surprise, is about what can be seen.

    It needs no regularizer: tokens that are all the same show one picture. If the target has no
    gradient (`MovingAverage`, or `stop_gradient`), decoding it trains the decoder alone.

    Args:
        present: weight of the error of decoding the target tokens themselves.
        hidden: width of a hidden layer of the decoders; 0: they are linear.
    """

    def __init__(self, present: float = 1.0, hidden: int = 0) -> None:
        super().__init__()
        if not present >= 0 or hidden < 0:
            raise InputError(
                "PixelPrediction needs a weight of the present and a hidden width of 0 or more, "
                f"got {present} and {hidden}"
            )
        self.present, self.hidden = present, hidden
        self.decoders: nn.ModuleList | None = None
        self.spans: list[int] = []
        self.grids: list[tuple[int, int]] = []

    def attach(self, hierarchy: Hierarchy) -> None:
        """Build a decoder for each level."""
        self.spans = [level.span for level in hierarchy.levels]
        self.grids = [level.grid for level in hierarchy.levels]
        decoders: list[nn.Module] = []
        for level in hierarchy.levels:
            rows, columns = level.grid
            if hierarchy.size % rows or hierarchy.size % columns:
                raise InputError(
                    f"PixelPrediction cuts frames of {hierarchy.size} x {hierarchy.size} pixels "
                    f"into {rows} x {columns} equal patches; set encoder.size to a multiple"
                )
            pixels = 3 * (hierarchy.size // rows) * (hierarchy.size // columns)
            if self.hidden:
                first, last = nn.Linear(level.dim, self.hidden), nn.Linear(self.hidden, pixels)
                decoders.append(nn.Sequential(first, nn.GELU(), last))
            else:
                decoders.append(nn.Linear(level.dim, pixels))
        self.decoders = nn.ModuleList(decoders)

    def forward(
        self,
        predicted: Mapping[int, Tensor],
        target: Tensor,
        level: int = 0,
        frames: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        assert self.decoders is not None, "attach() comes first"
        assert frames is not None, "PixelPrediction compares with the frames"
        decoder = self.decoders[level]
        pictures = last_patches(frames, self.spans[level], target.shape[1], self.grids[level]).to(
            target
        )
        loss = mean_over_horizons(
            predicted, pictures, lambda ahead, came, _: (decoder(ahead) - came).square().mean()
        )
        if self.present:
            loss = loss + self.present * (decoder(target) - pictures).square().mean()
        return own_part(loss)


def last_patches(
    frames: Tensor, span: int, steps: int, grid: tuple[int, int]
) -> Float[Tensor, "batch steps tokens pixels"]:
    """The last frame of each step, cut into the patches of its tokens.

    Args:
        frames: `(B, T, 3, H, W)`, uint8 or normalised floats.
        span: frames per step.
        steps: of the level; frames after them are left out.
        grid: rows and columns of tokens.

    Returns:
        Normalised pixels, per token in the order channel, row, column.
    """
    last = frames[:, span - 1 :: span][:, :steps]
    last = last if last.is_floating_point() else Hierarchy.normalize(last)
    return rearrange(last, "b t c (h p) (w q) -> b t (h w) (c p q)", h=grid[0], w=grid[1])
