"""What can be read of tokens: what a patch shows, where the object is, and where it has gone.

All are measured on test clips, beside a random network, the pixels, and the same place again.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import (
    BLACK,
    GREEN,
    RED,
    as_image,
)
from worldmodel.evaluation.footage import Footage
from worldmodel.evaluation.probes.linear import fit_ridge, fit_ridges
from worldmodel.evaluation.probes.objects import track_of
from worldmodel.evaluation.scores import r2_score
from worldmodel.viewing.canvas import FONT, bare, canvas
from worldmodel.viewing.tokens import NULL_COLOURS, Patches

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
# Of the largest value: a mean of a hundred thousand float32 errs by 1e-5.
MEAN_ROUNDING = 1e-4

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
    figure = canvas(10.5, 3.8)
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
    figure = canvas(2.7 * columns + 1.2, 2.75 * len(rows) + 0.3)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for row, (title, maps) in zip(panels, rows.items(), strict=True):
        # All below 0 where nothing can be read, as of tokens that are all equal.
        top = max(1e-6, *(float(values.max()) for values in maps.values()))
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
            bare(axes)
        row[0].set_ylabel(title, fontsize=FONT)
    return figure


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


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
    """Cosine of every token of a clip with one of them, `(T, N)`, -1 to 1; 0 if all are equal.

    Args:
        values: tokens, or pixels, of a clip.
        mean: `(dim,)`, over many clips; taken away first, or all would be alike.
        step: of the token that all are compared with.
        token: its place.
    """
    centred = values - mean
    if np.abs(centred).max() <= MEAN_ROUNDING * np.abs(mean).max():
        return np.zeros(values.shape[:2])
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
    figure = canvas(1.15 * num_frames + 2.0, 1.2 * (len(maps) + 1) + 0.5)
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
            # Where all tokens are equal none is the most alike.
            if values.any():
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
        bare(each)
    names = [name if values.any() else f"{name}:\nall equal" for name, values in maps.items()]
    for row, name in enumerate(("frames", *names)):
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
        nothing was asked; `same place` among them, and under `questions` how many there were. Of
        tokens that are equally alike each is taken with the same chance.
    """
    where = [token_of_object(clip, patches.grid, patches.span) for clip in clips]
    means = {name: values.mean((0, 1, 2)) for name, values in features.items()}
    names = [*features, "same place"]
    right = {case: {name: np.zeros(len(ahead)) for name in names} for case in ("all", "moved")}
    asked = {case: np.zeros(len(ahead)) for case in right}
    for number, tokens in enumerate(where):
        places = [int(token) for token in tokens]
        for step in np.flatnonzero(tokens >= 0).tolist():
            maps = {
                name: likeness(values[number], means[name], step, places[step])
                for name, values in features.items()
            }
            for column, gap in enumerate(ahead):
                later = step + gap
                if later >= len(tokens) or tokens[later] < 0:
                    continue
                best = {name: each[later] == each[later].max() for name, each in maps.items()}
                best["same place"] = np.arange(patches.label.shape[2]) == tokens[step]
                for case in ("all", "moved") if tokens[later] != tokens[step] else ("all",):
                    asked[case][column] += 1
                    for name, chosen in best.items():
                        right[case][name][column] += chosen[tokens[later]] / chosen.sum()
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
    figure = canvas(10.5, 3.8)
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
