"""Tokens, looked at: main directions, maps, neighbours, likeness over time, and their spectrum.

Every picture has a null beside it: the same architecture with fresh weights, the pixels of the same
patch, or the place alone. A map or a row of neighbours is a picture and no measurement; shares that
are measured stand beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import EffectiveRank
from worldmodel.evaluation.figures import (
    BLACK,
    BLUE,
    DPI,
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
from worldmodel.evaluation.probes.linear import fit_ridge, fit_ridges
from worldmodel.evaluation.probes.objects import track_of
from worldmodel.evaluation.scores import r2_score
from worldmodel.world.forms import CATEGORIES

FONT = 10
FIRST_SLAB_ID = 100  # ids of slabs in `ids.png`; below it stand the bodies' slots, from 1 on
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
# What a linear reading of single tokens is asked for; the place of a token is no knowledge.
ASKED = {
    "depth": "depth",
    "slabs": "share of\nscreens",
    "bodies": "share of\nbodies",
    "contrast": "contrast",
    "brightness": "brightness",
    "warmth": "red\nless blue",
    "greenness": "green",
}
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
    bodies = (ids > 0) & (ids < FIRST_SLAB_ID)
    slabs = ids >= FIRST_SLAB_ID
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


# ---- main directions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Directions:
    """Up to three main directions of a level's tokens, as red, green and blue, and what they mean.

    Attributes:
        mean: `(D,)`.
        axes: `(3, D)`, orthonormal.
        low: `(3,)`, what is shown as none of the colour; `high` as all of it.
        variance: `(3,)`, share of the tokens' variance along each.
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
        """Red, green and blue of one clip's tokens, `(T, N, 3)`, 0 to 1."""
        along = (tokens.double().numpy() - self.mean) @ self.axes.T
        return np.clip((along - self.low) / np.maximum(self.high - self.low, 1e-9), 0, 1)


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
    figure = _figure(1.05 * num_frames + 4.2, 1.12 * (len(levels) + 1) + 0.2)
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
            _bare(axes)
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


# ---- maps and neighbours -------------------------------------------------------------------------


def sample_tokens(patches: Patches, per_label: int = 300, seed: int = 0) -> np.ndarray:
    """Flat numbers of tokens, equally many of each thing shown, or all where there are fewer.

    Without this nine tenths of a map would be floor and wall.

    Args:
        patches: of a level.
        per_label: most tokens of one label.
        seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    flat = patches.label.ravel()
    chosen = []
    for label in [name for name in COLOURS if (flat == name).any()]:
        numbers = np.flatnonzero(flat == label)
        chosen.append(generator.permutation(numbers)[:per_label])
    return np.sort(np.concatenate(chosen))


def token_map(tokens: Float[Tensor, "tokens dim"], seed: int = 0) -> np.ndarray:
    """UMAP (McInnes et al. 2018, arXiv 1802.03426): tokens that are alike lie near one another.

    Distances between far groups, and how dense a group is, mean nothing.

    Args:
        tokens: at least 16.
        seed: the same one gives the same map; it keeps UMAP to one thread.

    Returns:
        float32 `(tokens, 2)`.
    """
    from umap import UMAP  # takes seconds to import, and is needed for this alone

    if len(tokens) < 16:
        raise InputError(f"a map needs at least 16 tokens, got {len(tokens)}; take more clips")
    mapper = UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1)
    return np.asarray(mapper.fit_transform(tokens.numpy()), np.float32)


def token_maps(
    maps: Mapping[str, np.ndarray], patches: Patches, chosen: np.ndarray, level: int
) -> Figure:
    """Maps of the same tokens, coloured by what they show, its depth, and their place.

    Args:
        maps: by name of the network, `(len(chosen), 2)`.
        patches: of the level.
        chosen: flat numbers of the tokens.
        level: for the title.
    """
    labels = patches.label.ravel()[chosen]
    names = [name for name in COLOURS if (labels == name).any()]
    # Drawn in a fixed random order: else what comes last in the data would lie on top.
    order = np.random.default_rng(0).permutation(len(chosen))
    figure = _figure(11.0, 3.5 * len(maps) + 0.9)
    grid = figure.subplots(len(maps), 3, squeeze=False)
    for row, (name, places) in zip(grid, maps.items(), strict=True):
        x, y = places[order].T
        row[0].scatter(x, y, s=9, c=[COLOURS[label] for label in labels[order]], linewidths=0)
        for axes, fact, colours, label in (
            (row[1], "depth", "cividis_r", "depth of the patch, m"),
            (row[2], "row", "viridis", "row of the patch, 0 is the top"),
        ):
            shade = patches.facts[fact].ravel()[chosen][order]
            low, high = np.percentile(shade, [1, 99])
            points = axes.scatter(x, y, s=9, c=shade, cmap=colours, vmin=low, vmax=high)
            points.set_linewidth(0)
            ticks = np.arange(patches.grid[0]) if fact == "row" else None
            figure.colorbar(points, ax=axes, label=label, ticks=ticks)
        row[0].set_ylabel(name, fontsize=FONT + 1)
        for axes in row:
            _bare(axes)
    for axes, title in zip(grid[0], ("what it shows", "how far it is", "where it is"), strict=True):
        axes.set_title(title, fontsize=FONT + 1)
    figure.legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=COLOURS[each], label=each)
            for each in names
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=FONT,
    )
    figure.suptitle(
        f"UMAP of {len(chosen)} tokens of level {level}, equally many of each thing",
        fontsize=FONT + 1,
    )
    return figure


def neighbours(
    features: Float[np.ndarray, "tokens dim"], clips: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest tokens of other clips, one of each, by the cosine of what differs from the mean.

    One of each clip, since frames of a clip that stands still are all alike.

    Args:
        features: tokens, or pixels.
        clips: `(tokens,)`, which clip each is of; its own clip is no neighbour.
        count: neighbours wanted; there must be as many other clips.

    Returns:
        Numbers `(tokens, count)`, nearest first, and cosines `(tokens, count)`.
    """
    unit = _unit(np.asarray(features, np.float64))
    cosine = unit @ unit.T
    cosine[clips[:, None] == clips[None]] = -np.inf
    columns = [np.flatnonzero(clips == clip) for clip in np.unique(clips)]
    best = np.stack([each[cosine[:, each].argmax(1)] for each in columns], 1)
    likeness_of_best = np.take_along_axis(cosine, best, 1)
    order = np.argsort(-likeness_of_best, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(best, order, 1), np.take_along_axis(likeness_of_best, order, 1)


def _unit(features: np.ndarray) -> np.ndarray:
    centred = features - features.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def neighbour_votes(
    features: Mapping[str, np.ndarray], labels: np.ndarray, clips: np.ndarray, count: int = 15
) -> dict[str, dict[str, float]]:
    """How often the nearest tokens of other clips show what a token shows: a measurement.

    A vote counts by one over the number of tokens of its label, so that what is rare can win.

    Args:
        features: by name, `(tokens, dim)`.
        labels: `(tokens,)`, what each shows.
        clips: `(tokens,)`.
        count: neighbours that vote; ties go to the nearer ones.

    Returns:
        By name of the features and by label the share of tokens whose neighbours' vote is right.
    """
    names, number, tokens = np.unique(labels, return_inverse=True, return_counts=True)
    found = {}
    for name, each in features.items():
        order, _ = neighbours(each, clips, count)
        votes = np.zeros((len(labels), len(names)))
        # Less than one vote all together, and the nearer the more: it decides between equals.
        weights = 1 + 0.5 / count * np.linspace(1, 0, count)
        np.add.at(votes, (np.arange(len(labels))[:, None], number[order]), weights)
        right = (votes / tokens).argmax(1) == number
        found[name] = {str(label): float(right[labels == label].mean()) for label in names}
    return found


def vote_bars(votes: Mapping[str, Mapping[str, float]], count: int = 15) -> Figure:
    """What `neighbour_votes` found: right votes by label, a group of bars for each.

    Args:
        votes: by name of the features; the first is the model.
        count: neighbours that voted.
    """
    labels = [name for name in COLOURS if name in next(iter(votes.values()))]
    groups = ["mean of all", *labels]
    figure = _figure(10.5, 3.8)
    axes = figure.subplots()
    width = 0.8 / len(votes)
    for number, (name, found) in enumerate(votes.items()):
        values = [float(np.mean(list(found.values()))), *(found[label] for label in labels)]
        axes.bar(
            np.arange(len(groups)) + width * (number - (len(votes) - 1) / 2),
            values,
            width,
            color=NULL_COLOURS[number % len(NULL_COLOURS)],
            label=f"{name}, {values[0]:.2f}",
        )
    chance = 1 / len(labels)
    axes.axhline(chance, color=BLACK, linewidth=0.8, linestyle=":", label=f"chance, {chance:.2f}")
    axes.set_xticks(np.arange(len(groups)), [_two_lines(group) for group in groups], fontsize=FONT)
    axes.set(ylabel="share of right votes", ylim=(0, 1))
    axes.set_title(f"What do the {count} nearest tokens of other clips show?", fontsize=FONT + 1)
    axes.legend(fontsize=FONT, ncols=len(votes) + 1)
    return figure


def clearest(patches: Patches, chosen: np.ndarray, labels: Sequence[str]) -> list[int]:
    """Per label which of the chosen tokens shows most of it: a rule, not a taste.

    Raises:
        InputError: none shows one of the labels.
    """
    found = []
    for label in labels:
        share = np.where(patches.label.ravel()[chosen] == label, patches.share.ravel()[chosen], -1)
        if share.max() < 0:
            raise InputError(f"none of {len(chosen)} tokens shows a {label}; take more clips")
        found.append(int(share.argmax()))
    return found


def neighbour_rows(
    clips: Sequence[Footage],
    patches: Patches,
    chosen: np.ndarray,
    queries: Sequence[int],
    features: Mapping[str, np.ndarray],
    count: int = 7,
) -> Figure:
    """For some tokens the nearest ones of other clips, each patch framed in what surrounds it.

    Args:
        clips: that the patches are of.
        patches: of the level.
        chosen: flat numbers of the tokens to look among.
        queries: which of these are asked about.
        features: by name, `(len(chosen), dim)`; a row each.
        count: neighbours shown.
    """
    clip_of, labels = patches.clip.ravel()[chosen], patches.label.ravel()[chosen]
    found = {name: neighbours(each, clip_of, count) for name, each in features.items()}
    figure = _figure(1.12 * (count + 1) + 2.0, 1.3 * len(queries) * len(features) + 0.5)
    grid = figure.subplots(len(queries) * len(features), count + 1, squeeze=False)
    rows = [(query, name) for query in queries for name in features]
    for row, (query, name) in zip(grid, rows, strict=True):
        order, cosine = found[name]
        for column, axes in enumerate(row):
            token = query if column == 0 else int(order[query, column - 1])
            _show_patch(axes, clips, patches, int(chosen[token]))
            if column:
                right = labels[token] == labels[query]
                axes.set_title(
                    f"{cosine[query, column - 1]:.2f}",
                    fontsize=FONT - 1,
                    pad=2,
                    color=BLACK if right else "0.55",
                    fontweight="bold" if right else "normal",
                )
        row[0].set_ylabel(
            f"{_two_lines(str(labels[query]))},\n{name}",
            fontsize=FONT,
            rotation=0,
            ha="right",
            va="center",
        )
    figure.suptitle(
        "A token (left) and the nearest of other clips, by cosine; bold: it shows the same",
        fontsize=FONT + 1,
    )
    return figure


def _show_patch(axes: Any, clips: Sequence[Footage], patches: Patches, token: int) -> None:
    """The patch of a token, framed, with half a patch around it."""
    clip, step, place = (int(each) for each in np.unravel_index(token, patches.label.shape))
    frame = as_image(clips[clip].frames[step * patches.span + patches.span - 1])
    height, width = (side // n for side, n in zip(frame.shape[:2], patches.grid, strict=True))
    top, left = place // patches.grid[1] * height, place % patches.grid[1] * width
    axes.imshow(frame)
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=RED, linewidth=2)
    )
    # At the picture's edge there is nothing around it, and white is shown.
    axes.set(
        xlim=(left - width / 2 - 0.5, left + 1.5 * width - 0.5),
        ylim=(top + 1.5 * height - 0.5, top - height / 2 - 0.5),
    )
    _bare(axes)


# ---- what can be read ----------------------------------------------------------------------------

Splits = Mapping[str, np.ndarray]
"""Values of the clips of `train`, `val` and `test`, `(n, T_l, N_l, F)` each."""


def read_facts(
    features: Mapping[str, Splits], patches: Mapping[str, Patches]
) -> dict[str, dict[str, float]]:
    """How much of what a patch shows can be read linearly from its own token: r2 on test clips.

    Ridge regressions, fitted on training clips, their strength chosen on validation clips.

    Args:
        features: by name, values of each split.
        patches: of each split.

    Returns:
        By name and fact of `ASKED`, 1 at most; 0 is what the mean alone would get, and a reading
        that fails on new clips is below.
    """
    targets = {
        split: {name: each.facts[name].reshape(-1, 1).astype(np.float64) for name in ASKED}
        for split, each in patches.items()
    }
    found = {}
    for name, splits in features.items():
        rows = {split: torch.from_numpy(_rows(values)) for split, values in splits.items()}
        fits = fit_ridges((rows["train"], targets["train"]), (rows["val"], targets["val"]))
        found[name] = {
            fact: r2_score(fits[fact][0](rows["test"]), targets["test"][fact]) for fact in ASKED
        }
    return found


def fact_bars(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """What `read_facts` found: a group of bars for each fact.

    Args:
        found: by name of the features; the first is the model.
    """
    figure = _figure(10.5, 3.8)
    axes = figure.subplots()
    width = 0.8 / len(found)
    for number, (name, scores) in enumerate(found.items()):
        places = np.arange(len(ASKED)) + width * (number - (len(found) - 1) / 2)
        values = [scores[fact] for fact in ASKED]
        colour = NULL_COLOURS[number % len(NULL_COLOURS)]
        # What is worse than the mean by much would push the rest together.
        axes.bar(places, np.maximum(values, -0.3), width, color=colour, label=name)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_xticks(np.arange(len(ASKED)), list(ASKED.values()), fontsize=FONT)
    axes.set(ylabel="r2 on test clips")
    axes.set_ylim(min(-0.02, axes.get_ylim()[0]), 1.15)
    axes.set_title("What can be read linearly of a patch", fontsize=FONT + 1)
    axes.legend(fontsize=FONT, ncols=len(found), loc="upper left")
    return figure


def change_by_place(values: Float[np.ndarray, "clips time tokens dim"]) -> np.ndarray:
    """How much the tokens at each place change within a clip, `(N,)`, 1 on the mean over places.

    Args:
        values: tokens, or pixels of their patches.
    """
    change = np.square(values - values.mean(1, keepdims=True)).mean((0, 1, 3))
    return change / max(change.mean(), 1e-12)


def object_by_place(
    features: Mapping[str, Splits], clips: Mapping[str, Sequence[Footage]], span: int
) -> dict[str, np.ndarray]:
    """Which single token tells where the tracked object is, wherever that is: r2 on test clips.

    A ridge regression for each place of the grid, from the token there to x and y of the object,
    at the steps at whose end it is in full view; fitted and chosen as in `read_facts`.

    Args:
        features: by name, values of each split.
        clips: of each split, with their truth.
        span: frames of a step.

    Returns:
        By name `(N,)`, mean of the r2 of x and of y.
    """
    tracks = {split: [track_of(clip.truth) for clip in each] for split, each in clips.items()}
    shown = {
        split: np.stack([track.visible[span - 1 :: span] for track in each])
        for split, each in tracks.items()
    }
    targets = {
        split: np.stack([track.position[span - 1 :: span] for track in each])[shown[split]]
        for split, each in tracks.items()
    }
    found = {}
    for name, splits in features.items():
        scores = []
        for place in range(splits["test"].shape[2]):
            rows = {
                split: torch.from_numpy(values[:, :, place][shown[split]])
                for split, values in splits.items()
            }
            probe, _ = fit_ridge((rows["train"], targets["train"]), (rows["val"], targets["val"]))
            guess = probe(rows["test"])
            scores.append(np.mean([r2_score(guess[:, i], targets["test"][:, i]) for i in range(2)]))
        found[name] = np.array(scores)
    return found


def place_maps(rows: Mapping[str, Mapping[str, np.ndarray]], grid: tuple[int, int]) -> Figure:
    """A number for each place of the grid, as maps with the numbers written in.

    Args:
        rows: by title of a row and by name of a map, `(N,)`.
        grid: rows and columns of the N tokens.
    """
    columns = max(len(maps) for maps in rows.values())
    figure = _figure(2.7 * columns + 1.2, 2.75 * len(rows) + 0.3)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for row, (title, maps) in zip(panels, rows.items(), strict=True):
        top = max(float(values.max()) for values in maps.values())
        for axes in row[len(maps) :]:
            axes.set_axis_off()
        for axes, (name, values) in zip(row, maps.items(), strict=False):
            square = values.reshape(grid)
            axes.imshow(square, cmap="Blues", vmin=0, vmax=top)
            for (y, x), value in np.ndenumerate(square):
                colour = "white" if value > 0.6 * top else BLACK
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour,
                          fontsize=FONT)  # fmt: skip
            axes.set_title(name, fontsize=FONT + 1)
            _bare(axes)
        row[0].set_ylabel(title, fontsize=FONT)
    return figure


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


# ---- one token through time ----------------------------------------------------------------------


def token_of_object(clip: Footage, grid: tuple[int, int], span: int) -> np.ndarray:
    """Which token shows the tracked object's centre at the end of each step, `(T_l,)`; -1 if none.

    Where more of the object can be seen than `VISIBLE_FRACTION`.
    """
    track = track_of(clip.truth)
    height, width = clip.frames.shape[-2:]
    row = (track.position[:, 1] * grid[0] // height).astype(int)
    column = (track.position[:, 0] * grid[1] // width).astype(int)
    token = np.where(track.visible, row * grid[1] + column, -1)
    return token[span - 1 :: span]


def most_travelled(clips: Sequence[Footage], patches: Patches) -> tuple[int, int, int]:
    """The clip whose object is seen in most different tokens, of equals the first.

    Returns:
        The clip's number, the step of its first half at which the object fills most of its token,
        and that token.

    Raises:
        InputError: no clip shows its tracked object in its first half.
    """
    half = patches.label.shape[1] // 2
    best: tuple[int, int, int] | None = None
    most = 0
    for number, clip in enumerate(clips):
        where = token_of_object(clip, patches.grid, patches.span)
        seen = np.flatnonzero(where[:half] >= 0)
        if len(seen) and len(np.unique(where[where >= 0])) > most:
            most = len(np.unique(where[where >= 0]))
            share = patches.facts["bodies"][number, seen, where[seen]]
            step = int(seen[share.argmax()])
            best = (number, step, int(where[step]))
    if best is None:
        raise InputError(
            f"none of {len(clips)} clips shows a tracked object in its first half; take more clips"
        )
    return best


def likeness(
    values: Float[np.ndarray, "time tokens dim"], mean: np.ndarray, step: int, token: int
) -> np.ndarray:
    """Cosine of every token of a clip with one of them, `(T, N)`, -1 to 1.

    Args:
        values: tokens, or pixels, of a clip.
        mean: `(dim,)`, over many clips; taken away first, or all would be alike.
        step: of the token that all are compared with.
        token: its place.
    """
    centred = values - mean
    unit = centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)
    return unit @ unit[step, token]


def likeness_strip(
    clip: Footage,
    maps: Mapping[str, np.ndarray],
    patches: Patches,
    step: int,
    token: int,
    num_frames: int = 8,
) -> Figure:
    """A token that shows the object, and how alike all others are to it, later in the clip.

    Args:
        clip: what is shown.
        maps: by name of the network, `likeness` `(T_l, N_l)`.
        patches: of the level; its grid and span are used.
        step: of the chosen token.
        token: its place.
        num_frames: pictures of a row, from that step on.
    """
    grid, span = patches.grid, patches.span
    steps = len(next(iter(maps.values())))
    chosen = np.linspace(step, steps - 1, num_frames).astype(int)
    rate = float(clip.metadata["fps"]) / clip.frame_stride / span
    size = clip.frames.shape[-1]
    where = token_of_object(clip, grid, span)
    figure = _figure(1.15 * num_frames + 2.0, 1.2 * (len(maps) + 1) + 0.5)
    axes = figure.subplots(len(maps) + 1, num_frames, squeeze=False)
    for column, at in enumerate(chosen):
        axes[0, column].imshow(as_image(clip.frames[at * span + span - 1]))
        axes[0, column].set_title(f"{at / rate:.1f} s", fontsize=FONT)
        for row, values in enumerate(maps.values(), 1):
            shown = axes[row, column].imshow(
                values[at].reshape(grid),
                cmap="PuOr_r",
                vmin=-1,
                vmax=1,
                extent=(-0.5, size - 0.5, size - 0.5, -0.5),
            )
            best = int(values[at].argmax())
            axes[row, column].plot(
                (best % grid[1] + 0.5) * size / grid[1] - 0.5,
                (best // grid[1] + 0.5) * size / grid[0] - 0.5,
                "x",
                color=BLACK,
                markersize=7,
                markeredgewidth=2,
            )
        for row in axes[:, column]:
            if where[at] >= 0:
                row.add_patch(_box(int(where[at]), grid, size, GREEN, "--"))
    axes[0, 0].add_patch(_box(token, grid, size, RED, "-"))
    for each in axes.flat:
        _bare(each)
    for row, name in enumerate(("frames", *maps)):
        axes[row, 0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
    figure.colorbar(shown, ax=list(axes[1:].flat), label="cosine", shrink=0.9)
    figure.suptitle(
        "Likeness to the token in the red box; x: the most alike; green: the one that shows the "
        "object",
        fontsize=FONT,
    )
    return figure


def _box(token: int, grid: tuple[int, int], size: int, colour: str, line: str) -> Rectangle:
    width, height = size / grid[1], size / grid[0]
    corner = (token % grid[1] * width + 0.5, token // grid[1] * height + 0.5)
    return Rectangle(
        corner, width - 2, height - 2, fill=False, edgecolor=colour, linestyle=line, linewidth=2
    )


def found_again(
    features: Mapping[str, np.ndarray],
    clips: Sequence[Footage],
    patches: Patches,
    ahead: Sequence[int],
) -> dict[str, dict[str, np.ndarray]]:
    """Is the most alike token, some steps later, the one that shows the object then?

    Only where the object is in full view at both times. `moved` counts where another token shows
    it, so that whoever looks at the same place again is never right.

    Args:
        features: by name, `(n, T_l, N_l, F)` tokens or pixels of the clips.
        clips: with their truth.
        patches: of the level.
        ahead: steps from the chosen token to the question.

    Returns:
        Under `all` and `moved`: by name the share of right answers for each of `ahead`, NaN where
        nothing was asked; `same place` among them, and under `questions` how many there were.
    """
    where = [token_of_object(clip, patches.grid, patches.span) for clip in clips]
    means = {name: values.mean((0, 1, 2)) for name, values in features.items()}
    names = [*features, "same place"]
    right = {case: {name: np.zeros(len(ahead)) for name in names} for case in ("all", "moved")}
    asked = {case: np.zeros(len(ahead)) for case in right}
    for number, tokens in enumerate(where):
        for step in np.flatnonzero(tokens >= 0).tolist():
            maps = {
                name: likeness(values[number], means[name], step, tokens[step])
                for name, values in features.items()
            }
            for column, gap in enumerate(ahead):
                later = step + gap
                if later >= len(tokens) or tokens[later] < 0:
                    continue
                guesses = {name: int(each[later].argmax()) for name, each in maps.items()}
                guesses["same place"] = int(tokens[step])
                for case in ("all", "moved") if tokens[later] != tokens[step] else ("all",):
                    asked[case][column] += 1
                    for name, guess in guesses.items():
                        right[case][name][column] += guess == tokens[later]
    with np.errstate(invalid="ignore"):
        return {
            case: {
                **{name: each / asked[case] for name, each in right[case].items()},
                "questions": asked[case],
            }
            for case in right
        }


def found_again_curves(
    found: Mapping[str, Mapping[str, np.ndarray]], seconds: Sequence[float], num_tokens: int
) -> Figure:
    """What `found_again` measured, over the time between.

    Args:
        found: its result.
        seconds: between the chosen token and the question.
        num_tokens: of a step; one of them is right by chance.
    """
    figure = _figure(10.5, 3.8)
    titles = {"all": "Where the object is in full view", "moved": "Where another token shows it"}
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (case, shares) in zip(panels, found.items(), strict=True):
        names = [name for name in shares if name != "questions"]
        for number, name in enumerate(names):
            colour = {"same place": BLACK}.get(name, NULL_COLOURS[number % len(NULL_COLOURS)])
            line = ":" if name == "same place" else "-"
            axes.plot(seconds, shares[name], line, marker="o", markersize=4, color=colour,
                      label=name)  # fmt: skip
        axes.axhline(1 / num_tokens, color=BLACK, linewidth=0.8, linestyle="--", label="chance")
        counts = shares["questions"]
        axes.set_title(
            f"{titles[case]}\n({int(counts.min())} to {int(counts.max())} questions)",
            fontsize=FONT + 1,
        )
        axes.set(xlabel="time between, s", ylim=(0, 1))
    panels[0].set_ylabel("most alike token shows the object")
    panels[0].legend(fontsize=FONT - 1, ncols=2)
    return figure


# ---- spectrum ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """How the variance of a level's tokens is spread over directions.

    Attributes:
        share: `(D,)`, share of the variance along each main direction, largest first.
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
        values = torch.linalg.eigvalsh(metric.covariance()).flip(0).clamp(min=0).numpy()
        return cls(values / max(values.sum(), 1e-300), float(metric.compute()))


def spectra(
    found: Mapping[str, Sequence[Spectrum]], within: Mapping[str, Sequence[Spectrum]]
) -> Figure:
    """Spectra of all tokens, and of what changes within clips, level by level.

    Args:
        found: by name of the network, one for each level; the first is the model.
        within: the same of what changes within clips.
    """
    figure = _figure(10.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    least = 1.0
    for axes, (title, sets) in zip(
        panels, (("all tokens", found), ("their change within a clip", within)), strict=True
    ):
        for number, (name, levels) in enumerate(sets.items()):
            line = UNTRAINED_STYLE if number else MODEL_STYLE
            for level, spectrum in enumerate(levels):
                share = np.where(spectrum.share > 1e-9, spectrum.share, np.nan)
                least = min(least, float(np.nanmin(share)))
                axes.plot(
                    np.arange(1, len(share) + 1),
                    share,
                    line,
                    color=LEVEL_COLOURS[level % len(LEVEL_COLOURS)],
                    label=f"level {level}, {name}: {spectrum.effective_rank:.0f} of {len(share)}",
                )
        axes.set_yscale("log")
        axes.set(xlabel="direction, by its variance")
        axes.set_title(f"Spectrum of {title}", fontsize=FONT + 1)
        axes.legend(fontsize=FONT - 1, title="effective rank", title_fontsize=FONT - 1)
    panels[0].set_ylabel("share of the variance")
    panels[0].set_ylim(max(least / 2, 1e-7), 1)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _two_lines(text: str) -> str:
    return text.replace(" or ", " or\n").replace(" of ", " of\n")
