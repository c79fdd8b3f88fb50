"""Tokens, looked at: what their patches show, their main directions, and their spectrum.

Every picture has a null beside it: the same architecture with fresh weights, the pixels of the same
patch, or the place alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from worldmodel.data.truth import SLAB_ID
from worldmodel.evaluation.collapse import EffectiveRank, all_alike
from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    GREEN,
    LEVEL_COLOURS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    as_image,
)
from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.network import CHUNK, Network, chunked, one_thread, pad_chunk
from worldmodel.viewing.alike import collapse_words
from worldmodel.viewing.canvas import FONT, bare, canvas
from worldmodel.world.forms import CATEGORIES

BACKGROUND, SLAB = "floor or wall", "screen or furniture"
# A body seldom fills a patch of 16 pixels; a fifth of one is seen at a glance. A slab must fill
# half, or every patch that a screen's edge crosses would count as one.
BODY_SHARE, SLAB_SHARE = 0.2, 0.5
COLOURS = {
    BACKGROUND: "0.78",
    SLAB: "0.35",
    "sphere": RED,
    "box": SKY,
    "cylinder": GREEN,
    "capsule": BLACK,
    "ellipsoid": PURPLE,
    "cone": BLUE,
}
# What a direction may go with, and what it is called where it grows.
WORDS = {
    "row": "lower in the picture",
    "column": "farther right",
    "depth": "farther away",
    "brightness": "brighter",
    "warmth": "more red than blue",
    "greenness": "greener",
    "contrast": "more contrast",
    "bodies": "more of a body",
    "slabs": "more of a screen",
}
# Below this correlation nothing that is asked for explains a direction; among nine facts and fewer
# tokens than these, something always seems to.
LEAST_CORRELATION, LEAST_TOKENS = 0.3, 100
CHANNELS = ((RED, "red"), (GREEN, "green"), (BLUE, "blue"))
MODEL_STYLE, UNTRAINED_STYLE = "-", "--"
NULL_COLOURS = (BLUE, "0.6", ORANGE, SKY)  # the model, and what it is compared with


def encode_clips(network: Network, clips: Sequence[Footage]) -> list[Tensor]:
    """Tokens of some clips, of every level.

    Args:
        network: frozen.
        clips: of equal length.

    Returns:
        Per level `(n, T_l, N_l, D_l)`, on the CPU.
    """
    parts = []
    with torch.no_grad(), one_thread():
        for chunk in chunked((clip.frames for clip in clips), CHUNK):
            tokens = network.encode(pad_chunk(chunk, CHUNK))
            parts.append([level[: len(chunk)].cpu() for level in tokens])
    return [torch.cat(level) for level in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Patches:
    """What the patch of each token shows, one entry for each step and token of a level.

    Attributes:
        label: `(n, T_l, N_l)` of str, what it shows in a word: a body's category where one covers
            at least a fifth of it, else a slab where these cover half of it, else floor or wall.
        share: `(n, T_l, N_l)`, how much of the patch that is, 0 to 1.
        facts: by name of `WORDS`, `(n, T_l, N_l)` each.
        pixels: float32 `(n, T_l, N_l, F)`, 0 to 1, the patch itself in the step's last frame.
        grid: rows and columns of the tokens.
        span: frames of a step.
    """

    label: np.ndarray
    share: np.ndarray
    facts: dict[str, np.ndarray]
    pixels: np.ndarray
    grid: tuple[int, int]
    span: int

    @property
    def clip(self) -> np.ndarray:
        """`(n, T_l, N_l)`, number of the clip of each token."""
        count = len(self.label)
        return np.broadcast_to(np.arange(count)[:, None, None], self.label.shape)

    def of_clip(self, number: int) -> "Patches":
        """Those of one clip, still with an axis for clips."""
        one = slice(number, number + 1)
        facts = {name: fact[one] for name, fact in self.facts.items()}
        return replace(
            self,
            label=self.label[one],
            share=self.share[one],
            facts=facts,
            pixels=self.pixels[one],
        )

    @classmethod
    def of(cls, clips: Sequence[Footage], grid: tuple[int, int], span: int) -> "Patches":
        """Read what some clips show, patch by patch, in the last frame of each step.

        Args:
            clips: with their truth, of equal length.
            grid: rows and columns of the level's tokens.
            span: frames of its step.
        """
        parts = [_patches_of(clip, grid, span) for clip in clips]
        labels, shares, facts, pixels = zip(*parts, strict=True)
        return cls(
            np.stack(labels),
            np.stack(shares),
            {name: np.stack([each[name] for each in facts]) for name in WORDS},
            np.stack(pixels),
            grid,
            span,
        )


def _patches_of(
    clip: Footage, grid: tuple[int, int], span: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Label, share, facts and pixels of one clip, `(T_l, N_l, ...)` each."""
    last = slice(span - 1, None, span)
    rgb = _cut(clip.frames[last].permute(0, 2, 3, 1).numpy().astype(np.float32) / 255, grid)
    depth, ids = (_cut(maps[last], grid) for maps in (clip.truth.depth, clip.truth.ids))
    bodies = (ids > 0) & (ids < SLAB_ID)
    slabs = ids >= SLAB_ID
    slots = len(clip.truth.state["category"])
    of_slot = np.stack([(ids == 1 + slot).mean(-1) for slot in range(slots)], -1)
    largest = of_slot.argmax(-1)
    most, slab_share = of_slot.max(-1), slabs.mean(-1)
    names = np.array([CATEGORIES[int(number)] for number in clip.truth.state["category"]])
    is_body, is_slab = most >= BODY_SHARE, slab_share >= SLAB_SHARE
    label = np.where(is_body, names[largest], np.where(is_slab, SLAB, BACKGROUND))
    share = np.where(is_body, most, np.where(is_slab, slab_share, 1 - bodies.mean(-1) - slab_share))
    steps, tokens = label.shape
    place = np.arange(tokens)
    grey = rgb.mean(-1)
    facts = {
        "row": np.broadcast_to(place // grid[1], label.shape),
        "column": np.broadcast_to(place % grid[1], label.shape),
        "depth": depth.mean(-1),
        "brightness": grey.mean(-1),
        "warmth": (rgb[..., 0] - rgb[..., 2]).mean(-1),
        "greenness": (rgb[..., 1] - rgb[..., [0, 2]].mean(-1)).mean(-1),
        "contrast": grey.std(-1),
        "bodies": bodies.mean(-1),
        "slabs": slab_share,
    }
    return label, share, facts, rgb.reshape(steps, tokens, -1)


def _cut(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """`(T, H, W, ...)` -> `(T, N, P, ...)`, the P pixels of each of the grid's patches."""
    rows, columns = grid
    time, height, width = maps.shape[:3]
    split = maps.reshape(time, rows, height // rows, columns, width // columns, *maps.shape[3:])
    return np.moveaxis(split, 3, 2).reshape(time, rows * columns, -1, *maps.shape[3:])


@dataclass(frozen=True)
class Directions:
    """Up to three main directions of a level's tokens, as red, green and blue, and what they mean.

    Attributes:
        mean: `(D,)`.
        axes: `(3, D)`, orthonormal.
        low: `(3,)`, what is shown as none of the colour; `high` as all of it.
        variance: `(3,)`, share of the tokens' variance along each; 0 where all are equal.
        words: what grows along each with the colour, and its correlation.
        correlation: `(3,)`, of the fact in `words`; its size is at most 1.
    """

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    variance: np.ndarray
    words: tuple[str, ...]
    correlation: np.ndarray

    @classmethod
    def of(cls, tokens: Float[Tensor, "clips time tokens dim"], patches: Patches) -> "Directions":
        """Find them in the tokens of some clips, and among what patches show what goes with each.

        A direction has no sign of its own: it points to where its fact grows.
        """
        flat = tokens.double().flatten(0, 2).numpy()
        mean = flat.mean(0)
        if all_alike(flat):
            count, dim = min(3, len(mean)), len(mean)
            none, said = np.zeros(count), ("all tokens are equal",) * count
            return cls(mean, np.eye(dim)[:count], none, none, none, said, none)
        values, vectors = np.linalg.eigh(np.cov(flat.T))
        axes, variance = vectors[:, ::-1][:, :3].T, values[::-1][:3] / max(values.sum(), 1e-12)
        along = (flat - mean) @ axes.T
        words, correlations = [], np.zeros(len(axes))
        for number in range(len(axes)):
            found = {
                name: _correlation(along[:, number], fact.ravel())
                for name, fact in patches.facts.items()
            }
            name = max(found, key=lambda each: abs(found[each]))
            correlations[number] = abs(found[name])
            sign = -1 if found[name] < 0 else 1
            axes[number] *= sign
            along[:, number] *= sign
            if len(along) < LEAST_TOKENS:
                words.append("too few tokens to say")
            elif correlations[number] < LEAST_CORRELATION:
                words.append("none of what is asked")
            else:
                words.append(f"{WORDS[name]} (r {correlations[number]:.2f})")
        low, high = np.percentile(along, [2, 98], axis=0)
        return cls(mean, axes, low, high, variance, tuple(words), correlations)

    def colours(self, tokens: Float[Tensor, "time tokens dim"]) -> np.ndarray:
        """Red, green and blue of one clip's tokens, `(T, N, 3)`, 0 to 1; grey if all are equal."""
        along = (tokens.double().numpy() - self.mean) @ self.axes.T
        spread = self.high - self.low
        colours = np.clip((along - self.low) / np.maximum(spread, 1e-9), 0, 1)
        colours[..., spread <= 0] = 0.5
        return colours


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not vary."""
    a, b = one - one.mean(), other - other.mean()
    scale = np.sqrt((a * a).mean() * (b * b).mean())
    return float((a * b).mean() / scale) if scale > 1e-12 else 0.0


def direction_strip(
    clip: Footage,
    levels: Mapping[str, tuple[Tensor, tuple[int, int], Directions]],
    num_frames: int = 8,
) -> Figure:
    """Frames of a clip over the tokens of some levels as colours, with the colours in words.

    Args:
        clip: what is shown.
        levels: by name its tokens `(T_l, N_l, D_l)`, their grid, and the directions to colour by.
        num_frames: pictures of a row, evenly over the clip.
    """
    chosen = np.linspace(0, len(clip.frames) - 1, num_frames).astype(int)
    rate = float(clip.metadata["fps"]) / clip.frame_stride
    figure = canvas(1.05 * num_frames + 4.2, 1.12 * (len(levels) + 1) + 0.2)
    widths = [1.0] * num_frames + [3.0]
    grid = figure.subplots(len(levels) + 1, num_frames + 1, squeeze=False, width_ratios=widths)
    for axes, frame in zip(grid[0], chosen, strict=False):
        axes.imshow(as_image(clip.frames[frame]))
        axes.set_title(f"{frame / rate:.1f} s", fontsize=FONT)
    names = ["frames", *levels]
    for row, (tokens, shape, directions) in zip(grid[1:], levels.values(), strict=True):
        colours = directions.colours(tokens).reshape(len(tokens), *shape, -1)
        span = len(clip.frames) // len(tokens)
        for axes, frame in zip(row, chosen, strict=False):
            axes.imshow(colours[min(frame // span, len(colours) - 1)])
        for number, (colour, name) in enumerate(CHANNELS[: len(directions.words)]):
            text = f"{name}, {directions.variance[number]:.0%}: {directions.words[number]}"
            row[-1].text(0, 0.8 - 0.3 * number, text, color=colour, fontsize=FONT, va="center",
                         transform=row[-1].transAxes)  # fmt: skip
    text = "colour, its share of the variance:\nwhat more of it means"
    grid[0, -1].text(0, 0.5, text, fontsize=FONT, va="center", transform=grid[0, -1].transAxes)
    for row, name in zip(grid, names, strict=True):
        row[0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
        row[-1].set_axis_off()
        for axes in row[:-1]:
            bare(axes)
    return figure


def direction_table(found: Mapping[str, Sequence[Directions]]) -> str:
    """Directions of many clips and what goes with them, as a table in Markdown.

    Args:
        found: by name of the network, one for each level.
    """
    rows = ["| level | network | first | second | third |", "|---|---|---|---|---|"]
    for name, levels in found.items():
        for level, each in enumerate(levels):
            cells = [
                f"{share:.0%}: {words}"
                for share, words in zip(each.variance, each.words, strict=True)
            ]
            rows.append(f"| {level} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


@dataclass(frozen=True)
class Spectrum:
    """How the variance of a level's tokens is spread over directions.

    Attributes:
        share: `(D,)`, share of the variance along each main direction, largest first; 0 where it
            cannot be told from rounding.
        effective_rank: 1 to D, as in the report (`EffectiveRank`).
    """

    share: np.ndarray
    effective_rank: float

    @classmethod
    def of(cls, tokens: Float[Tensor, "clips time tokens dim"], within: bool = False) -> "Spectrum":
        """Of all tokens, or `within` clips: what is left of each without its clip's mean."""
        if within:
            tokens = tokens - tokens.mean(1, keepdim=True)
        metric = EffectiveRank(tokens.shape[-1])
        metric.update(tokens)
        values = torch.linalg.eigvalsh(metric.covariance()).flip(0)
        values = torch.where(values > metric.rounding(), values, 0.0).numpy()
        return cls(values / max(values.sum(), 1e-300), float(metric.compute()))


def spectra(
    found: Mapping[str, Sequence[Spectrum]], within: Mapping[str, Sequence[Spectrum]]
) -> Figure:
    """Spectra of all tokens, and of what changes within clips, level by level.

    Args:
        found: by name of the network, one for each level; the first is the model.
        within: the same of what changes within clips.
    """
    figure = canvas(10.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    model = next(iter(found.values()))
    collapsed = [
        collapse_words(level, each.effective_rank, len(each.share))
        for level, each in enumerate(model)
    ]
    words = "; ".join(each for each in collapsed if each)
    if words:
        figure.suptitle(words, fontsize=FONT + 1, color=RED, wrap=True)
    least = 1.0
    for axes, (title, sets) in zip(
        panels, (("all tokens", found), ("their change within a clip", within)), strict=True
    ):
        for number, (name, levels) in enumerate(sets.items()):
            line = UNTRAINED_STYLE if number else MODEL_STYLE
            for level, spectrum in enumerate(levels):
                shown = spectrum.share > 1e-9
                rank = f"{spectrum.effective_rank:.0f} of {len(shown)}"
                axes.plot(
                    np.flatnonzero(shown) + 1,
                    spectrum.share[shown],
                    line,
                    # A single direction is no line.
                    marker="o" if shown.sum() == 1 else None,
                    color=LEVEL_COLOURS[level % len(LEVEL_COLOURS)],
                    label=f"level {level}, {name}: {rank if shown.any() else 'all equal'}",
                )
                least = min([least, *spectrum.share[shown].tolist()])
        axes.set_yscale("log")
        axes.set(xlabel="direction, by its variance")
        axes.set_title(f"Spectrum of {title}", fontsize=FONT + 1)
        axes.legend(fontsize=FONT - 1, title="effective rank", title_fontsize=FONT - 1)
    panels[0].set_ylabel("share of the variance")
    panels[0].set_ylim(max(least / 2, 1e-7), 1)
    return figure
