"""Which tokens are alike: maps, the nearest ones of other clips, and what those show.

A map or a row of neighbours is a picture and no measurement; the votes are one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import all_alike
from worldmodel.evaluation.figures import (
    BLACK,
    RED,
    as_image,
)
from worldmodel.evaluation.footage import Footage
from worldmodel.viewing.alike import say_in
from worldmodel.viewing.canvas import FONT, bare, canvas
from worldmodel.viewing.tokens import COLOURS, NULL_COLOURS, Patches


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
        float32 `(tokens, 2)`; all at one place where all tokens are equal.

    Raises:
        InputError: fewer tokens.
    """
    if len(tokens) < 16:
        raise InputError(f"a map needs at least 16 tokens, got {len(tokens)}; take more clips")
    if all_alike(tokens.numpy()):
        return np.zeros((len(tokens), 2), np.float32)
    from umap import UMAP  # takes seconds to import, and is needed for this alone

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
    figure = canvas(11.0, 3.5 * len(maps) + 0.9)
    grid = figure.subplots(len(maps), 3, squeeze=False)
    for row, (name, places) in zip(grid, maps.items(), strict=True):
        if all_alike(places):
            for axes in row[1:]:
                axes.set_axis_off()
            say_in(row[0], f"{name}: all tokens are equal")
            continue
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
            bare(axes)
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
        f"UMAP of {len(chosen)} tokens of level {level}, floor and wall thinned out",
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

    Raises:
        InputError: fewer clips.
    """
    num_clips = len(np.unique(clips))
    if num_clips <= count:
        raise InputError(
            f"{count} neighbours of other clips need {count + 1} clips, got {num_clips}; take more"
        )
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
        By name of the features and by label the share of tokens whose neighbours' vote is right;
        chance where all features are equal, since then none is nearer than another.
    """
    names, number, tokens = np.unique(labels, return_inverse=True, return_counts=True)
    found = {}
    for name, each in features.items():
        if all_alike(each):
            found[name] = dict.fromkeys(map(str, names), 1 / len(names))
            continue
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
    figure = canvas(10.5, 3.8)
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
    figure = canvas(1.12 * (count + 1) + 2.0, 1.3 * len(queries) * len(features) + 0.5)
    grid = figure.subplots(len(queries) * len(features), count + 1, squeeze=False)
    rows = [(query, name) for query in queries for name in features]
    for row, (query, name) in zip(grid, rows, strict=True):
        order, cosine = found[name]
        equal = all_alike(features[name])
        for column, axes in enumerate(row):
            if column and equal:  # whichever came first would stand here
                axes.set_axis_off()
                continue
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
            f"{_two_lines(str(labels[query]))},\n{name}" + (":\nall equal" if equal else ""),
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
    bare(axes)


def _two_lines(text: str) -> str:
    return text.replace(" or ", " or\n").replace(" of ", " of\n")
