"""Past tokens of a level -> its future tokens, at several horizons."""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.models.transformer import (
    FeedForward,
    KeysValues,
    RotaryTable,
    SelfAttention,
    full_precision,
    recomputed,
    rotary_table,
)


class Predictor(nn.Module):
    """Reads the steps up to τ and predicts the tokens at τ + h, for every τ in one pass.

    Attention is factorised as in TimeSformer's divided attention (Bertasius et al. 2021,
    arXiv 2102.05095, sec. 3): causal over time at each token position, then full over the tokens
    of a step. What is predicted is the *change* from the tokens at τ, and the output heads start at
    zero: an untrained predictor is exactly the copy baseline and can only improve on it. Heads that
    predicted the tokens themselves stayed worse than copying for a whole two-core budget.

    Args:
        dim: width of the tokens.
        num_tokens: tokens per step.
        horizons: steps ahead, one output head each.
        width: width of the hidden state.
        depth: layers.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward networks, in widths of the hidden state.
        residual: whether the change from the tokens at τ is predicted, or the tokens themselves.
        width_above: width of the slower level's context states that are added to what is read;
            None where there are none.
    """

    def __init__(
        self,
        dim: int,
        num_tokens: int,
        horizons: Sequence[int],
        width: int = 128,
        depth: int = 3,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        residual: bool = True,
        width_above: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.from_above: nn.Linear | None = None
        if width_above is not None:
            # Zero at first: a new path changes nothing until it is of use.
            self.from_above = nn.Linear(width_above, width, bias=False)
            nn.init.zeros_(self.from_above.weight)
        self.position = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.over_time = nn.ModuleList(
            SelfAttention(width, num_heads, causal=True) for _ in range(depth)
        )
        self.over_tokens = nn.ModuleList(
            nn.Sequential(SelfAttention(width, num_heads), FeedForward(width, mlp_ratio))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({str(horizon): nn.Linear(width, dim) for horizon in horizons})
        self.residual = residual
        self.head_dim = width // num_heads
        self.activation_checkpointing = False
        # Or what `torch.compile` makes of them.
        self.read_in, self.layer, self.read_out = read_in, run_layer, read_out
        if residual:
            for parameter in self.heads.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        tokens: Float[Tensor, "batch time tokens dim"],
        memory: list[KeysValues] | None = None,
        blank: Bool[Tensor, "batch time tokens"] | None = None,
        above: Float[Tensor, "batch time tokens width_above"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch time tokens width"], dict[int, Float[Tensor, "batch time tokens dim"]]
    ]:
        """Context state at every step τ, and per horizon h the tokens predicted for τ + h.

        Args:
            tokens: steps from the first on, or those that follow the remembered ones.
            memory: what was seen before, one entry per layer, or empty; lengthened in place.
            blank: tokens `(batch, time, tokens)` that are not shown; nowhere at the first step.
                Their change is predicted from the last token seen at their place.
            above: the slower level's context states, one for each token; only for predictors that
                were built with `width_above`.
        """
        past = memory if memory else [None] * len(self.over_time)
        seen = []
        if self.from_above is None:
            above = None
        x = self.read_in(self, tokens, blank, above)
        if blank is not None:
            tokens = last_seen(tokens, blank)
        start = 0 if past[0] is None else past[0][0].shape[2]
        table = rotary_table(x.shape[1], self.head_dim, start, x.device)
        for number, known in enumerate(past):
            attend = cast(SelfAttention, self.over_time[number])
            mix = self.over_tokens[number]
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, keys_values = recomputed(self.layer, attend, mix, x, known, table)
            else:
                x, keys_values = self.layer(attend, mix, x, known, table)
            seen.append(keys_values)
        if memory is not None:
            memory[:] = seen
        return self.read_out(self, x, tokens)

    def reset_heads(self) -> None:
        """Give the output heads fresh weights at the default scale.

        For the untrained networks that evaluation compares with: with heads at zero they would
        all be the copy baseline.
        """
        for head in self.heads.values():
            cast(nn.Linear, head).reset_parameters()


def read_in(
    predictor: Predictor, tokens: Tensor, blank: Tensor | None, above: Tensor | None
) -> Float[Tensor, "batch time tokens width"]:
    """What the first layer works on; arguments as in `Predictor.forward`."""
    x = predictor.embed(tokens)
    if blank is not None:
        x = x.masked_fill(blank[..., None], 0)
    if above is not None:
        assert predictor.from_above is not None
        x = x + predictor.from_above(above)
    # In the precision of x: half of the traffic where that is half.
    return x + predictor.position.to(x.dtype)


def read_out(predictor: Predictor, x: Tensor, tokens: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The context state, and from it the tokens of every horizon, in full precision."""
    context = predictor.norm(x)
    predicted = {int(horizon): head(context) for horizon, head in predictor.heads.items()}
    if predictor.residual:
        predicted = {horizon: tokens + change for horizon, change in predicted.items()}
    return context, {horizon: full_precision(each) for horizon, each in predicted.items()}


def run_layer(
    attend: SelfAttention,
    mix: nn.Module,
    x: Float[Tensor, "batch time tokens width"],
    known: KeysValues | None,
    table: RotaryTable,
) -> tuple[Float[Tensor, "batch time tokens width"], KeysValues]:
    """One layer of a predictor, and the keys and values of all steps so far.

    Args:
        attend: over time, at each token position.
        mix: over the tokens of each step.
        x: the new steps.
        known: keys and values of the steps before, if any.
        table: rotary positions of the new steps.
    """
    batch, time = x.shape[:2]
    x, keys_values = attend.extend(rearrange(x, "b t n w -> (b n) t w"), known, table)
    x = mix(rearrange(x, "(b n) t w -> (b t) n w", b=batch))
    return rearrange(x, "(b t) n w -> b t n w", t=time), keys_values


def last_seen(
    tokens: Float[Tensor, "batch time tokens dim"], blank: Bool[Tensor, "batch time tokens"]
) -> Float[Tensor, "batch time tokens dim"]:
    """Tokens with each blank one replaced by the last one before it, at its place, that is not."""
    steps = torch.arange(tokens.shape[1], device=tokens.device)[:, None]
    last = torch.where(blank, 0, steps).cummax(dim=1).values
    return tokens.gather(1, last[..., None].expand_as(tokens))
