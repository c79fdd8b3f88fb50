"""Figures of what was measured of a model's time-scales, and a table."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from worldmodel.errors import InputError
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
from worldmodel.evaluation.network import LevelShape
from worldmodel.evaluation.prediction import NULLS, ratio
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.viewing.alike import REMEDY, first_handles, say_in
from worldmodel.viewing.canvas import FONT, canvas, plain
from worldmodel.viewing.time_scales.measure import CONTENTS, NetworkScales, Scales

NUM_SHOWN = 8
"""Moments of the clip that is shown as a strip."""
NUM_BINS = 10
"""Tenths of all tokens, by how much they have just changed."""
RULES = {"copy": "copy", "running_mean": "mean so far", "ar1": "AR(1) + last change"}
RULE_COLOURS = {"copy": SKY, "running_mean": ORANGE, "ar1": GREEN}
ROUTES = {
    "fine_rollout": "level 0, one step at a time",
    "fine_direct": "level 0, its largest steps",
    "level1_direct": "level 1, its largest steps",
    "coarse_direct": "slowest level, its largest steps",
    "copy": "copy: where it was",
}
STILL = "its tokens never change"
"""Of a level that has collapsed so far that only rounding moves its tokens within a clip."""


def _seconds_axis(axes: Axes, seconds: Sequence[float]) -> None:
    """Doubling times at even distances, each one written down."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(seconds))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{value:.3g}" for value in sorted(set(seconds))])


def _title(level: int, shape: LevelShape, fps: float) -> str:
    tokens = f"{shape.num_tokens} token{'s' if shape.num_tokens > 1 else ''}"
    return f"level {level}: {tokens} every {shape.span / fps:g} s"


def horizon_errors(scales: Scales) -> Figure:
    """How wrong predictions are, by level and seconds ahead, beside rules without a model.

    Above the error over the variance of the tokens within clips; below the model's over each
    rule's; the untrained network's, over its best rule's, is written down.

    Raises:
        InputError: no level's tokens change.
    """
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    _refuse_all_still(scales)
    figure = canvas(11.0, 6.4)
    grid = figure.subplots(2, len(scales.levels), squeeze=False, sharey="row", sharex="col")
    for level, shape in enumerate(scales.levels):
        places = [place for place in own.errors if place[0] == level]
        seconds = [scales.seconds(place) for place in places]
        above, below = grid[:, level]
        above.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
        below.set_xlabel("seconds ahead", fontsize=FONT)
        if not places:
            say_in(above, STILL if level in own.still else "too few clips")
            below.set_axis_off()
            continue
        for name, label in RULES.items():
            errors = [own.errors[place][name] for place in places]
            colour = RULE_COLOURS[name]
            above.plot(seconds, errors, "s--", color=colour, markersize=5, label=label)
            ratios = [ratio(own.errors[p]["model"], own.errors[p][name]) for p in places]
            below.plot(seconds, ratios, "s--", color=colour, markersize=5, label=f"model ÷ {label}")
        errors = [own.errors[place]["model"] for place in places]
        above.plot(seconds, errors, "o-", color=BLACK, linewidth=2, label="model")
        # An untrained predictor's head is random: its errors would make all others look alike.
        skill = ", ".join(f"{_skill(null.errors[place]):.3g}" for place in places)
        below.text(
            0.5,
            0.03,
            f"untrained network ÷ its best rule:\n{skill}, off the scale",
            transform=below.transAxes,
            ha="center",
            fontsize=FONT - 1,
            color="0.35",
        )
        for axes in (above, below):
            axes.axhline(1, color="0.3", linewidth=0.9)
            _seconds_axis(axes, seconds)
            plain(axes)
    grid[0, 0].set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    grid[1, 0].set_ylabel("squared error ÷\nthat of the rule", fontsize=FONT)
    for row in grid:
        row[0].set_ylim(0, None)
        handles, labels = first_handles(row)
        row[-1].legend(
            handles, labels, fontsize=FONT - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    return figure


def _refuse_all_still(scales: Scales) -> None:
    if len(scales.networks[MODEL].still) == len(scales.levels):
        raise InputError(
            "no level has anything to predict, as the tokens of none ever change and every rule "
            f"is right: {REMEDY}"
        )


def _skill(errors: Mapping[str, float]) -> float:
    return ratio(errors["model"], min(errors[name] for name in NULLS))


def memory_spectra(scales: Scales) -> Figure:
    """Time constants of tokens and of context states: all directions of each level, slowest first.

    Full lines are the model's, dotted ones the untrained network's; below, where tokens vary.
    """
    figure = canvas(11.0, 5.2)
    left, right, shares = figure.subplots(1, 3, width_ratios=(3, 3, 2.2))
    for axes, kind in ((left, "tokens"), (right, "states")):
        for name, line in ((MODEL, "-"), (UNTRAINED, ":")):
            for level, entry in enumerate(getattr(scales.networks[name], kind)):
                seconds = np.array(entry["time_constants"]) * entry["step_seconds"]
                own = scales.networks[name]
                if level in (own.still if kind == "tokens" else own.still_states):
                    axes.plot([], [], line, label=f"level {level}: never change")
                    continue
                share = (np.arange(len(seconds)) + 0.5) / max(len(seconds), 1)
                # A direction whose neighbours do not agree at all has no time constant: it ends
                # the line.
                known = seconds > 0
                axes.plot(
                    share[known],
                    seconds[known],
                    line,
                    color=LEVEL_COLOURS[level % len(LEVEL_COLOURS)],
                    linewidth=2 if name == MODEL else 1.4,
                    label=f"level {level}" + (", untrained" if name == UNTRAINED else ""),
                )
        axes.set_yscale("log", base=2)
        ticks = [2.0**power for power in range(-5, 4)]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticklabels([f"{tick:.3g}" for tick in ticks])
        axes.set(xlim=(0, 1), ylim=(2**-5, 2**3.4))
        axes.set_xlabel("share of directions, slowest first", fontsize=FONT)
        plain(axes)
    left.set_title("tokens: what is seen", fontsize=FONT + 1)
    right.set_title("context states: what is believed", fontsize=FONT + 1)
    left.set_ylabel("time constant, s", fontsize=FONT)
    left.legend(fontsize=FONT - 2, loc="upper right")
    _draw_shares(shares, scales)
    return figure


def _draw_shares(axes: Axes, scales: Scales) -> None:
    """Where the variance of tokens lies, a bar for each level and network."""
    parts = {
        "within_clips": (GREEN, "within a clip"),
        "between_clips": (ORANGE, "between clips"),
        "between_positions": (SKY, "between places"),
    }
    names, row = [], 0
    for level in range(len(scales.levels)):
        for name in (MODEL, UNTRAINED):
            start = 0.0
            for part, (colour, label) in parts.items():
                share = scales.networks[name].tokens[level]["variance_shares"][part]
                axes.barh(
                    row,
                    share,
                    left=start,
                    color=colour,
                    height=0.75,
                    label=label if row == 0 else None,
                )
                start += share
            if not start:
                axes.text(0.02, row, "all equal", va="center", fontsize=FONT - 1)
            names.append(f"level {level}" if name == MODEL else "untrained")
            row += 1
    axes.set_yticks(range(row), names, fontsize=FONT - 1)
    axes.set(xlim=(0, 1), ylim=(row - 0.4, -0.6))
    axes.set_xlabel("share of the tokens' variance", fontsize=FONT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(fontsize=FONT - 2, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)


def predictability(scales: Scales) -> Figure:
    """Where in the picture, and after how much change, a level's predictions are better than rules.

    Above, per token position, the model's error over copying's, at the longest horizon. Below, the
    errors by how much a token has just changed, in tenths of all tokens: what is known when the
    prediction is made.

    Raises:
        InputError: no level's tokens change.
    """
    own = scales.networks[MODEL]
    _refuse_all_still(scales)
    figure = canvas(11.0, 5.8)
    grid = figure.subplots(2, len(scales.levels), squeeze=False, height_ratios=(1, 1.5))
    for level, shape in enumerate(scales.levels):
        values = own.by_token[level]
        total = values.mean(0)
        gain = total[:, 1] / np.maximum(total[:, 2], 1e-12)
        above, below = grid[:, level]
        if level in own.still:
            above.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
            say_in(above, STILL)
            below.set_axis_off()
            continue
        shown = above.imshow(gain.reshape(shape.grid), cmap="RdBu_r", vmin=0.25, vmax=1.75)
        for number, value in enumerate(gain):
            row, column = divmod(number, shape.grid[1])
            above.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=FONT)
        above.set(xticks=[], yticks=[])
        seconds = scales.seconds((level, max(shape.horizons)))
        above.set_title(
            f"{_title(level, shape, scales.fps)}\n{seconds:g} s ahead", fontsize=FONT + 1
        )
        change, errors = tenths(values.reshape(-1, values.shape[-1]))
        tenth = np.arange(1, len(change) + 1)
        for number, (name, label) in enumerate(RULES.items(), 2):
            below.plot(
                tenth,
                errors[:, number],
                "s--",
                color=RULE_COLOURS[name],
                markersize=5,
                label=label,
            )
        below.plot(tenth, errors[:, 1], "o-", color=BLACK, linewidth=2, label="model")
        below.set_xticks(tenth)
        below.set_ylim(0, None)
        below.set_xlabel("tenth of tokens by last change, least first", fontsize=FONT)
        plain(below)
    grid[1, 0].set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    first = min(set(range(len(scales.levels))) - own.still)
    grid[1, first].legend(fontsize=FONT - 1)
    bar = figure.colorbar(shown, ax=list(grid[0]), shrink=0.9)
    bar.set_label("model's error ÷\ncopying's", fontsize=FONT)
    return figure


def by_contents(scales: Scales) -> Figure:
    """Errors at level 0 by what a token shows now and at the predicted moment.

    Raises:
        InputError: the level's tokens never change.
    """
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    _refuse_still(own)
    figure = canvas(11.0, 4.2)
    axes = figure.subplots()
    kinds = [kind for kind in range(len(CONTENTS)) if (own.contents == kind).any()]
    bars = {"model": (BLACK, "model")} | {
        name: (RULE_COLOURS[name], label) for name, label in RULES.items()
    }
    places, heights = np.arange(len(kinds)), []
    for number, (name, (colour, label)) in enumerate(bars.items()):
        column = 1 + ("model", *NULLS).index(name)
        values = [own.by_token[0][own.contents == kind, column].mean() for kind in kinds]
        axes.bar(places + 0.2 * (number - 1.5), values, 0.2, color=colour, label=label)
        heights.append(values)
    # What changes little in one network's tokens may change much in another's.
    copied = [null.by_token[0][null.contents == kind, 2].mean() for kind in kinds]
    label = "copy, untrained network's tokens"
    axes.hlines(copied, places - 0.4, places + 0.4, color=RED, linewidth=2, label=label)
    for x, (model, *rules) in enumerate(zip(*heights, strict=True)):
        text = f"{model / min(rules):.2f}"
        axes.text(x - 0.21, model + 0.05, text, ha="right", fontsize=FONT - 1)
        share = float((own.contents == kinds[x]).mean())
        axes.text(
            x,
            -0.02,
            f"\n\n\n{share:.0%} of tokens",
            ha="center",
            va="top",
            fontsize=FONT - 1,
            color="0.35",
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xticks(range(len(kinds)), [CONTENTS[kind] for kind in kinds])
    plain(axes)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    axes.set_ylabel("squared error ÷ variance\nof tokens within a clip", fontsize=FONT)
    seconds = scales.seconds((0, max(scales.levels[0].horizons)))
    axes.set_title(f"level 0, {seconds:g} s ahead (numbers: model ÷ best rule)", fontsize=FONT + 1)
    axes.legend(fontsize=FONT - 1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _refuse_still(own: NetworkScales) -> None:
    if 0 in own.still:
        raise InputError(
            f"level 0 has nothing to predict, as {STILL} and every rule is right: {REMEDY}"
        )


def tenths(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over tenths of the rows, sorted by their first column.

    Args:
        rows: `(n, K)`.

    Returns:
        The mean first column `(NUM_BINS,)`, and the mean row `(NUM_BINS, K)`, of each tenth; fewer
        where there are fewer rows.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    means = np.stack([rows[part].mean(0) for part in parts])
    return means[:, 0], means


def change_strip(scales: Scales) -> Figure:
    """One clip over time: its frames, what copying misses at level 0, and what the model misses.

    Raises:
        InputError: the level's tokens never change.
    """
    own, horizon = scales.networks[MODEL], scales.strip_horizon
    _refuse_still(own)
    grid_shape = scales.levels[0].grid
    # Entry i is about frame i + 1 + horizon, predicted from the frames up to i + 1.
    entries = len(own.strip["copy"])
    chosen = np.linspace(0, entries - 1, NUM_SHOWN).round().astype(int)
    figure = canvas(11.0, 4.6)
    axes = figure.subplots(3, NUM_SHOWN)
    top = float(np.percentile(own.strip["copy"], 98)) or 1.0
    for column, entry in enumerate(chosen):
        frame = int(entry) + 1 + horizon
        axes[0, column].imshow(as_image(scales.shown[frame]))
        axes[0, column].set_title(f"{frame / scales.fps:.2g} s", fontsize=FONT)
        for row, name in ((1, "copy"), (2, "model")):
            shown = axes[row, column].imshow(
                own.strip[name][entry].reshape(grid_shape), cmap="magma", vmin=0, vmax=top
            )
    rows = ("frame", "copy's\nerror", "model's\nerror")
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(label, fontsize=FONT)
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=list(axes[1:].flat), shrink=0.9)
    bar.set_label("÷ variance", fontsize=FONT)
    ahead = horizon * scales.levels[0].span / scales.fps
    figure.suptitle(f"{scales.shown_key}: level 0, {ahead:g} s ahead", fontsize=FONT + 1)
    return figure


def places_ahead(scales: Scales) -> Figure:
    """Where the object will be, read by linear probes from predicted tokens, by seconds ahead."""
    own, null = scales.networks[MODEL].ahead, scales.networks[UNTRAINED].ahead
    figure = canvas(11.0, 4.2)
    grid = figure.subplots(1, len(scales.levels), squeeze=False, sharey=True)[0]
    for level, (axes, shape) in enumerate(zip(grid, scales.levels, strict=True)):
        entries = list(own.get(f"level{level}", {}).values())
        seconds = [entry["horizon_frames"] / scales.fps for entry in entries]
        axes.set_title(_title(level, shape, scales.fps), fontsize=FONT + 1)
        axes.set_xlabel("seconds ahead", fontsize=FONT)
        axes.axhline(0, color="0.3", linewidth=0.9)
        plain(axes)
        still = level in scales.networks[MODEL].still
        if not entries or still:
            say_in(axes, f"{STILL}: nothing is read" if still else "too few clips")
            continue
        ends = np.array([entry["ci95_r2"] or (np.nan, np.nan) for entry in entries])
        axes.fill_between(seconds, *ends.T, color=BLUE, alpha=0.18, linewidth=0)
        # The untrained network's own predictions are random; its tokens are not.
        theirs = [null.get(f"level{level}", {}).get(f"h{h}") for h in shape.horizons]
        for found, colour, whose in ((entries, None, ""), (theirs, "0.5", "untrained: ")):
            known = [(t, e) for t, e in zip(seconds, found, strict=False) if e is not None]
            for style, shade, label, values in (
                ("--", BLACK, "tokens that came", [e["real_tokens"]["r2"] for _, e in known]),
                ("s:", ORANGE, "last tokens (copy)", [e["null"]["copy"]["r2"] for _, e in known]),
            ):
                axes.plot(
                    [t for t, _ in known],
                    values,
                    style,
                    color=colour or shade,
                    markersize=5,
                    label=whose + label,
                )
        r2 = [entry["r2"] for entry in entries]
        axes.plot(seconds, r2, "o-", color=BLUE, linewidth=2, label="predicted tokens")
        _seconds_axis(axes, seconds)
    grid[0].set_ylabel("r2 of the object's place", fontsize=FONT)
    grid[0].set_ylim(None, 1)
    figure.legend(
        *first_handles(grid),
        loc="outside lower center",
        ncols=3,
        fontsize=FONT - 1,
        frameon=False,
    )
    return figure


def fine_against_coarse(scales: Scales) -> Figure:
    """Many small steps or few large ones: error of the object's place, and what a route costs.

    On the left the error; in the middle how much nearer than copying, clip by clip; on the right
    the operations of the predictor.

    Raises:
        InputError: no level could be rolled out.
    """
    own, null = scales.networks[MODEL].rollout, scales.networks[UNTRAINED].rollout
    gaps = list(own)
    if not gaps:
        raise InputError(
            "no level could be rolled out: too few test clips show an object when its place is "
            "asked; take more clips"
        )
    figure = canvas(11.0, 4.4)
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(ROUTES, (BLUE, SKY, PURPLE, GREEN, ORANGE), strict=True))
    routes = [route for route in ROUTES if any(route in own[gap] for gap in gaps)]
    for number, route in enumerate(routes):
        known = [n for n, gap in enumerate(gaps) if route in own[gap]]
        x, colour = np.array(known) + 0.13 * (number - 2), colours[route]
        left.plot(
            x,
            [own[gaps[n]][route] for n in known],
            "o",
            color=colour,
            markersize=7,
            label=ROUTES[route],
        )
        if route == "copy":
            continue
        ends = np.array([own[gaps[n]][f"{route}_nearer_ci95"] for n in known])
        nearer = [own[gaps[n]][f"{route}_nearer"] for n in known]
        middle.vlines(x, *ends.reshape(-1, 2).T, color=colour, linewidth=2)
        middle.plot(x, nearer, "o", color=colour, markersize=7)
        cost = [own[gaps[n]][f"{route}_mflops"] for n in known]
        right.plot(known, cost, "o-", color=colour, markersize=7)
    theirs = [(n, null[gap]["copy"]) for n, gap in enumerate(gaps) if gap in null]
    if theirs:
        x, values = np.array(theirs).T
        left.plot(x + 0.39, values, "x", color="0.45", markersize=7, label="copy, untrained tokens")
    frames = [int(gap.removeprefix("gap")) for gap in gaps]
    for axes in (left, middle, right):
        axes.set_xticks(
            range(len(gaps)),
            [
                f"{count} frames\n{count / scales.fps:g} s\n{own[gap]['num_frames']} clips"
                for count, gap in zip(frames, gaps, strict=True)
            ],
        )
        axes.set_xlim(-0.5, len(gaps) - 0.4)
        plain(axes)
    left.set_ylim(0, None)
    left.set_ylabel("mean error of the place, px", fontsize=FONT)
    middle.axhline(0, color="0.3", linewidth=0.9)
    middle.set_ylabel("px nearer than copying (95 % interval)", fontsize=FONT)
    right.set_yscale("log")
    right.set_ylabel("predictor's cost, Mflop", fontsize=FONT)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=FONT - 1,
        frameon=False,
    )
    return figure


def scale_table(scales: Scales) -> str:
    """Errors at each level's longest horizon as a Markdown table, the untrained network beside."""
    own, null = scales.networks[MODEL], scales.networks[UNTRAINED]
    lines = [
        "| level | one step | ahead | error ÷ copy | ÷ mean so far | ÷ AR(1) "
        "| untrained ÷ its best rule |",
        "|---|---|---|---|---|---|---|",
    ]
    for level, shape in enumerate(scales.levels):
        for horizon in shape.horizons:
            place = level, horizon
            if place not in own.errors:
                if level in own.still and horizon == shape.horizons[0]:
                    lines.append(f"| {level} | {shape.span / scales.fps:g} s | {STILL} | | | | |")
                continue
            errors = own.errors[place]
            ratios = " | ".join(f"{ratio(errors['model'], errors[name]):.2f}" for name in NULLS)
            lines.append(
                f"| {level} | {shape.span / scales.fps:g} s | {scales.seconds(place):g} s "
                f"| {ratios} | {_skill(null.errors[place]):.2f} |"
            )
    return "\n".join(lines)
