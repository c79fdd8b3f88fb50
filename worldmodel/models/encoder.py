"""What turns a step into tokens: frames at level 0, steps of the level below above it."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.models.transformer import FeedForward, SelfAttention, full_precision, recomputed

# Groups of channels that the stem normalises together.
NORM_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder of level 0, which sees one frame at a time."""

    size: int = 64
    """Height and width of a frame in pixels."""
    stem_channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the convolutions before the last one, which has `dim`; each halves the frame,
    so a token covers 2^(number + 1) pixels a side: 16 by default."""
    depth: int = 1
    """Transformer blocks over the tokens of a frame."""
    num_heads: int = 4
    """Attention heads of those blocks."""
    mlp_ratio: float = 2.0
    """Hidden width of the feed-forward networks, in widths of a token."""

    def __post_init__(self) -> None:
        if any(channels < 1 or channels % NORM_GROUPS for channels in self.stem_channels):
            raise InputError(
                f"encoder.stem_channels must be multiples of {NORM_GROUPS}, over which they are "
                f"normalised, got {list(self.stem_channels)}"
            )
        if self.depth < 0 or self.num_heads < 1 or not self.mlp_ratio > 0:
            raise InputError(
                "encoder.depth must be at least 0, num_heads at least 1 and mlp_ratio above 0, got "
                f"{self.depth}, {self.num_heads} and {self.mlp_ratio}"
            )
        if self.size < 1 or self.size % self.patch:
            raise InputError(
                f"encoder.size must be a multiple of {self.patch} pixels "
                f"(2 per convolution of the stem), got {self.size}"
            )

    @property
    def patch(self) -> int:
        """Pixels a side that one token covers."""
        return 2 ** (len(self.stem_channels) + 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.size // self.patch, self.size // self.patch


class FrameEncoder(nn.Module):
    """Frame -> tokens: a convolutional stem, then transformer blocks over the frame's own tokens.

    A stem of several small strided convolutions trains faster and more stably than one patch
    projection (Xiao et al. 2021, arXiv 2106.14881). GroupNorm, because it has no batch statistics:
    a frame's tokens depend on that frame alone.
    """

    def __init__(self, config: EncoderConfig, dim: int) -> None:
        super().__init__()
        if config.depth and dim % (2 * config.num_heads):
            raise InputError(
                "level 0's dim must be a multiple of twice encoder.num_heads, here "
                f"{2 * config.num_heads}, got {dim}"
            )
        layers: list[nn.Module] = []
        channels = (3, *config.stem_channels)
        for before, after in pairwise(channels):
            convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            layers += [convolution, nn.GroupNorm(NORM_GROUPS, after), nn.GELU()]
        layers.append(nn.Conv2d(channels[-1], dim, kernel_size=3, stride=2, padding=1))
        # Channels last is the convolutions' own layout: 590 against 480 frames/s in training on two
        # cores, and the tokens come out without a copy.
        self.stem = nn.Sequential(*layers)
        self.stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        num_tokens = config.grid[0] * config.grid[1]
        self.position = nn.Parameter(torch.randn(num_tokens, dim) * 0.02)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    SelfAttention(dim, config.num_heads), FeedForward(dim, config.mlp_ratio)
                )
                for _ in range(config.depth)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, dim))
        self.activation_checkpointing = False

    def forward(
        self, frames: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch time tokens dim"]:
        time = frames.shape[1]
        pictures = rearrange(frames, "b t c h w -> (b t) c h w")
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        again = self.activation_checkpointing and torch.is_grad_enabled()
        maps = recomputed(self.stem, pictures) if again else self.stem(pictures)
        tokens = rearrange(maps, "b d h w -> b (h w) d") + self.position.to(maps.dtype)
        for block in self.blocks:
            tokens = recomputed(block, tokens) if again else block(tokens)
        return full_precision(rearrange(self.head(tokens), "(b t) n d -> b t n d", t=time))


class StepEncoder(nn.Module):
    """`stride` steps and `pool` x `pool` tokens of the level below -> one token of one step.

    A step of this level sees no step of the level below that is later than its own end; steps at
    the end of a clip that do not fill one are left out.

    Args:
        dim_below: width of a token of the level below.
        grid_below: rows and columns of its tokens; multiples of `pool`.
        dim: width of this level's tokens.
        stride: steps of the level below per step of this one, at least 1.
        pool: rows and columns of tokens merged into one, at least 1.
    """

    def __init__(
        self, dim_below: int, grid_below: tuple[int, int], dim: int, stride: int, pool: int
    ) -> None:
        super().__init__()
        self.grid_below, self.stride, self.pool = grid_below, stride, pool
        self.layers = nn.Sequential(
            nn.Linear(dim_below * stride * pool**2, 2 * dim),
            nn.GELU(),
            nn.Linear(2 * dim, dim),
            nn.LayerNorm(dim, elementwise_affine=False),
            nn.Linear(dim, dim),
        )

    def forward(
        self, below: Float[Tensor, "batch time_below tokens_below dim_below"]
    ) -> Float[Tensor, "batch time tokens dim"]:
        time = below.shape[1] // self.stride
        merged = rearrange(
            below[:, : time * self.stride],
            "b (t s) (h p w q) d -> b t (h w) (s p q d)",
            s=self.stride,
            h=self.grid_below[0] // self.pool,
            p=self.pool,
            q=self.pool,
        )
        return full_precision(self.layers(merged))
