"""The two parts every transformer here is made of: self-attention and a feed-forward network."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

KeysValues = tuple[Tensor, Tensor]
"""What attention remembers of positions: `(batch, heads, length, width)` each."""
RotaryTable = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, `(length, half of a head's width)` each."""

# Up to here the kernels made for long sequences are slower on a GPU than the memory-efficient one:
# 2048 x 12 causal sequences of 32 take 4.3 ms forward and backward with FlashAttention, 2.8 with
# cuDNN and 2.1 with this one, 1024 x 12 of 64 take 2.8, 2.2 and 1.8 (H100, bf16).
SHORT = 64


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention with a residual connection.

    Args:
        dim: width of a token; a multiple of `num_heads`.
        num_heads: attention heads; `dim // num_heads` must be even (rotary pairs).
        causal: position i sees positions <= i only, and their order is given by rotary position
            embeddings (Su et al. 2021, arXiv 2104.09864, eq. 34): attention then depends on how
            far apart two steps are, never on a step's absolute number, and any length is allowed.
            Without `causal` the positions are a set; the caller adds position embeddings.
    """

    def __init__(self, dim: int, num_heads: int = 4, causal: bool = False) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(
                f"dim must be a multiple of 2 * num_heads = {2 * num_heads}, got {dim}"
            )
        self.num_heads = num_heads
        self.causal = causal
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.extend(x)[0]

    def extend(
        self,
        x: Float[Tensor, "batch length dim"],
        past: KeysValues | None = None,
        table: RotaryTable | None = None,
    ) -> tuple[Float[Tensor, "batch length dim"], KeysValues]:
        """Attend to remembered positions as well, which come before those of `x`.

        Args:
            x: the new positions.
            past: what an earlier call returned; only where attention is causal.
            table: `rotary_table` of the new positions, where several layers share one.

        Returns:
            The new positions, and keys and values of all so far, `(batch, heads, length, width)`.
        """
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        start = 0 if past is None else past[0].shape[2]
        if self.causal:
            table = table or rotary_table(length, q.shape[-1], start, x.device)
            q, k = turned(q, table), turned(k, table)
        if past is None:
            mixed = attention(q, k, v, self.causal)
        else:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
            sees = torch.ones(length, start + length, dtype=torch.bool, device=x.device)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=sees.tril(start))
        return x + self.out(mixed.transpose(1, 2).reshape(batch, length, dim)), (k, v)


def attention(
    q: Float[Tensor, "*batch length dim"],
    k: Float[Tensor, "*batch length dim"],
    v: Float[Tensor, "*batch length dim"],
    causal: bool,
) -> Float[Tensor, "*batch length dim"]:
    """Scaled dot-product attention, on a GPU by the kernel that is fastest at this length."""
    if not q.is_cuda or q.shape[-2] > SHORT:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def rotary_table(length: int, dim: int, start: int, device: torch.device) -> RotaryTable:
    """By how much positions from `start` on are turned: pair i by position / 1000^(2i/dim) radians.

    The base is 1000 where text models take 10000: clips are tens to hundreds of steps long.

    Args:
        length: positions.
        dim: width of a head.
        start: the first position.
        device: where the table is to be.
    """
    half = dim // 2
    frequency = 1000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    position = torch.arange(start, start + length, device=device, dtype=torch.float32)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


def turned(
    x: Float[Tensor, "*batch length dim"], table: RotaryTable
) -> Float[Tensor, "*batch length dim"]:
    """Vectors with each of their pairs turned: rotary position embedding."""
    half = x.shape[-1] // 2
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotate(x: Float[Tensor, "*batch length dim"]) -> Float[Tensor, "*batch length dim"]:
    """Rotary position embedding of vectors at positions from the first on."""
    return turned(x, rotary_table(x.shape[-2], x.shape[-1], 0, x.device))


class FeedForward(nn.Module):
    """Pre-norm two-layer network on each token, with a residual connection."""

    def __init__(self, dim: int, ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(ratio * dim)
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return x + self.layers(x)


def full_precision(x: Tensor) -> Tensor:
    """Half-precision numbers as float32; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function returns; for the backward pass it is computed again instead of kept.

    Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): a third more operations, and of
    what the function computes nothing has to be remembered. Nothing in it may be random.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
