"""How far back each level looks: the weights of its predictor's attention over time.

The model computes attention without ever holding its weights. They are computed again, from the
queries and keys that the model itself made, and nothing of it is changed.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import BLACK, BLUE, GREEN, ORANGE
from worldmodel.evaluation.network import CHUNK, one_thread
from worldmodel.models.transformer import SelfAttention, rotate
from worldmodel.viewing.canvas import FONT, canvas

LAYER_COLOURS = (BLUE, ORANGE, GREEN)


def attention_over_time(
    network: Any, tokens: Sequence[Tensor]
) -> list[Float[Tensor, "layers heads time time"]]:
    """Attention weights over time of each level's predictor, averaged over clips and tokens.

    Args:
        network: a `Hierarchy`.
        tokens: per level `(n, T_l, N_l, D_l)`, `encode`'s.

    Returns:
        Per level `(layers, heads, T_l, T_l)`: row τ sums to 1 over the steps up to τ.

    Raises:
        InputError: somebody else's encoder, whose predictor is none of ours.
    """
    if not all(hasattr(getattr(level, "predictor", None), "over_time") for level in network.levels):
        raise InputError(
            "attention over time is read from worldmodel's own predictors; this model has others"
        )
    sums: list[list[Tensor]] = [[] for _ in network.levels]
    for first in range(0, len(tokens[0]), CHUNK):
        chunk = [level[first : first + CHUNK] for level in tokens]
        for number, weights in enumerate(_weights(network, chunk)):
            # A chunk counts by its clips: the last one may be shorter.
            sums[number].append(weights * len(chunk[0]))
    return [torch.stack(parts).sum(0) / len(tokens[0]) for parts in sums]


def _weights(network: Any, tokens: Sequence[Tensor]) -> list[Tensor]:
    """`attention_over_time` of one chunk of clips."""
    layers = [
        cast(SelfAttention, layer)
        for level in network.levels
        for layer in level.predictor.over_time
    ]
    found: dict[nn.Module, Tensor] = {}
    # `extend` is called, not the module, so that hooks of the attention itself would stay silent.
    handles = [
        layer.qkv.register_forward_hook(
            lambda _module, _inputs, output, layer=layer: found.__setitem__(
                layer, attention_weights(layer, output).mean(0)
            )
        )
        for layer in layers
    ]
    try:
        with torch.no_grad(), one_thread():
            network.predict(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.stack([found[layer] for layer in level.predictor.over_time])
        for level in network.levels
    ]


def attention_weights(
    layer: SelfAttention, qkv: Float[Tensor, "batch length three_dim"]
) -> Float[Tensor, "batch heads length length"]:
    """The weights with which a layer mixes its values, from its queries, keys and values.

    Args:
        layer: whose number of heads, and whether it is causal, are used.
        qkv: what its `qkv` gave for a sequence that begins at its first position.
    """
    batch, length, width = qkv.shape
    head = width // 3 // layer.num_heads
    q, k, _ = qkv.view(batch, length, 3, layer.num_heads, head).permute(2, 0, 3, 1, 4)
    if layer.causal:
        q, k = rotate(q), rotate(k)
    scores = q @ k.transpose(-1, -2) / head**0.5
    if layer.causal:
        seen = torch.ones(length, length, dtype=torch.bool, device=qkv.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1)


def weight_by_age(weights: Float[Tensor, "layers heads time time"]) -> np.ndarray:
    """Of the last step, which sees all others: weight by steps back, `(layers, heads, T)`."""
    return weights[:, :, -1].flip(-1).numpy()


def looks_back(weights: Float[Tensor, "layers heads time time"], step_seconds: float) -> np.ndarray:
    """Mean age of what the last step looks at, seconds, `(layers, heads)`.

    Equal weight for every step would give half the time that is seen.

    Args:
        weights: of a level.
        step_seconds: from one step of it to the next.
    """
    by_age = weight_by_age(weights)
    return (by_age * np.arange(by_age.shape[-1])).sum(-1) * step_seconds


def attention_reach(
    found: Sequence[Tensor], untrained: Sequence[Tensor], step_seconds: Sequence[float]
) -> Figure:
    """How much the last step looks at each step before it, against equal weight for all.

    Args:
        found: `attention_over_time` of the model.
        untrained: the same of a network with fresh weights.
        step_seconds: per level from one step to the next.
    """
    figure = canvas(10.5, 4.2)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for level, (axes, weights) in enumerate(zip(panels, found, strict=True)):
        by_age, fresh = weight_by_age(weights), weight_by_age(untrained[level])
        steps = by_age.shape[-1]
        seconds = np.arange(steps) * step_seconds[level]
        for layer, heads in enumerate(by_age):
            colour = LAYER_COLOURS[layer % len(LAYER_COLOURS)]
            for head in heads:
                axes.plot(seconds, head * steps, color=colour, linewidth=0.6, alpha=0.45)
            axes.plot(seconds, heads.mean(0) * steps, color=colour, linewidth=2.2,
                      label=f"layer {layer}")  # fmt: skip
        axes.plot(seconds, fresh.mean((0, 1)) * steps, "--", color="0.5", linewidth=2,
                  label="untrained")  # fmt: skip
        axes.axhline(1, color=BLACK, linewidth=0.8, linestyle=":", label="equal weight")
        mean = looks_back(weights, step_seconds[level])
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="back in time, s")
        axes.set_title(
            f"level {level}: {mean.mean():.1f} s back on the mean\n"
            f"heads {mean.min():.1f} to {mean.max():.1f} s; equal weight {seconds[-1] / 2:.1f} s",
            fontsize=FONT,
        )
    panels[0].set_ylabel("weight / equal weight")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=FONT)
    figure.suptitle("What the last step of a clip looks back at (thin: single heads)",
                    fontsize=FONT + 1)  # fmt: skip
    return figure


def attention_maps(found: Sequence[Tensor], step_seconds: Sequence[float]) -> Figure:
    """Which step looks at which: per level a map for each layer, mean over its heads.

    Args:
        found: `attention_over_time`.
        step_seconds: per level from one step to the next.
    """
    layers = max(len(weights) for weights in found)
    figure = canvas(3.0 * layers + 1.6, 2.9 * len(found))
    grid = figure.subplots(len(found), layers, squeeze=False)
    for level, weights in enumerate(found):
        steps, end = weights.shape[-1], weights.shape[-1] * step_seconds[level]
        # Against equal weight for all steps seen so far, on a scale of doublings.
        equal = 1 / torch.arange(1, steps + 1, dtype=weights.dtype)[:, None]
        for layer in range(layers):
            axes = grid[level, layer]
            if layer >= len(weights):
                axes.set_axis_off()
                continue
            ratio = (weights[layer].mean(0) / equal).log2()
            ratio[~torch.ones(steps, steps, dtype=torch.bool).tril()] = torch.nan
            shown = axes.imshow(ratio.numpy(), cmap="PuOr_r", vmin=-2, vmax=2,
                                extent=(0, end, end, 0))  # fmt: skip
            if layer == 0:
                axes.set_ylabel(f"level {level}\nlooks from, s", fontsize=FONT)
            if level == len(found) - 1:
                axes.set_xlabel("looks at, s", fontsize=FONT)
            if level == 0:
                axes.set_title(f"layer {layer}", fontsize=FONT)
    bar = figure.colorbar(shown, ax=list(grid.flat), ticks=[-2, -1, 0, 1, 2], shrink=0.6)
    bar.ax.set_yticklabels(["1/4", "1/2", "equal", "twice", "4 times"])
    bar.set_label("weight / equal weight")
    return figure
