"""Figures of what a model believes of hidden things, and of its surprise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, as_image
from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.probes.observe import MODEL, UNTRAINED
from worldmodel.evaluation.probes.whereabouts import MIN_ROWS
from worldmodel.evaluation.surprise import (
    accuracy_interval,
    contrast_wins,
    splice_frames,
    worlds_by_step,
)
from worldmodel.evaluation.surprise.splices import equal_frames
from worldmodel.viewing.alike import first_handles, say_in
from worldmodel.viewing.canvas import bare, canvas
from worldmodel.viewing.permanence.belief import (
    CLOCK,
    LAST_SEEN,
    NETWORKS,
    VELOCITY,
    Belief,
    Watched,
)
from worldmodel.viewing.permanence.surprise import Judgement, Presence

COLOURS = {MODEL: BLUE, UNTRAINED: ORANGE, LAST_SEEN: GREEN, VELOCITY: PURPLE, CLOCK: "0.45"}
# Bins of how long the object has been hidden, in frames [first, last].
HIDDEN_FOR = ((1, 4), (5, 8), (9, 10**6))
COLUMNS = 8
CLIP_LOOKS = (("AA", BLUE, "-"), ("BB", SKY, "-"), ("AB", RED, "--"), ("BA", ORANGE, "--"))


def _border(axes: Any, colour: str, line: str = "-") -> None:
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3, linestyle=line)


def belief_frames(belief: Belief, watched: Watched, numbers: Sequence[int]) -> Figure:
    """Frames of test clips with the object's true place and where the probes say it is.

    Args:
        belief: of `watched`.
        watched: clips.
        numbers: which test clips, one row each.
    """
    figure = canvas(1.42 * COLUMNS + 0.3, 1.6 * len(numbers) + 0.9)
    grid = figure.subplots(len(numbers), COLUMNS, squeeze=False)
    for axes_row, number in zip(grid, numbers, strict=True):
        clip, steps = watched.footage(number), np.flatnonzero(belief.asked[number])
        size = clip.frames.shape[-1]
        chosen = steps[np.linspace(0, len(steps) - 1, COLUMNS).astype(int)]
        for axes, step in zip(axes_row, chosen, strict=True):
            frame = int(belief.ends[step])
            bare(axes)
            axes.imshow(
                as_image(clip.frames[frame]), interpolation="nearest", extent=(0, size, size, 0)
            )
            hidden = belief.part("hidden")[number, step]
            partly = belief.part("partly")[number, step]
            state = "hidden" if hidden else "partly" if partly else "visible"
            axes.set_title(f"{frame / belief.fps:.2f} s, {state}", fontsize=7)
            if hidden:
                _border(axes, BLACK)
            true = belief.true[number, step]
            axes.plot(*true, "o", markersize=11, fillstyle="none", color="white", mew=2.6)
            axes.plot(*true, "o", markersize=11, fillstyle="none", color=BLACK, mew=1.2)
            for name, marker in ((MODEL, "P"), (UNTRAINED, "X")):
                x, y = np.clip(belief.said[name][number, step], 0, size)
                axes.plot(x, y, marker, color=COLOURS[name], markersize=7, mec="white", mew=0.8)
            axes.set(xlim=(0, size), ylim=(size, 0))
        axes_row[0].set_ylabel(watched.keys[number], fontsize=8)
    marks = [
        Line2D([], [], marker="o", fillstyle="none", color=BLACK, linestyle="", label="true"),
        *(
            Line2D([], [], marker=marker, color=COLOURS[name], linestyle="", label=name)
            for name, marker in ((MODEL, "P"), (UNTRAINED, "X"))
        ),
        Patch(facecolor="none", edgecolor=BLACK, linewidth=2.5, label="frame: wholly hidden"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def belief_over_time(belief: Belief, keys: Sequence[str], numbers: Sequence[int]) -> Figure:
    """The object's x over time, true and decoded, with the spread of the ensemble of probes.

    Args:
        belief: of test clips.
        keys: of all test clips.
        numbers: which are shown, one column each; a row for each network.
    """
    figure = canvas(2.6 * len(numbers) + 0.8, 5.0)
    grid = figure.subplots(len(NETWORKS), len(numbers), sharey=True, sharex=True, squeeze=False)
    for row, name in enumerate(NETWORKS):
        for axes, number in zip(grid[row], numbers, strict=True):
            track, steps = belief.tracks[number], belief.asked[number]
            for frame in np.flatnonzero(track.hidden):
                edges = (frame - 0.5) / belief.fps, (frame + 0.5) / belief.fps
                axes.axvspan(*edges, color="0.87", linewidth=0)
            seconds = np.arange(len(track.position)) / belief.fps
            true = np.where(track.inside, track.position[:, 0], np.nan)
            when = belief.ends[steps] / belief.fps
            low, high = np.percentile(belief.members[name][:, number, :, 0], [5, 95], axis=0)
            axes.fill_between(
                when, low[steps], high[steps], color=COLOURS[name], alpha=0.25, linewidth=0
            )
            axes.plot(seconds, true, color=BLACK, linewidth=1.5, label="true")
            decoded = belief.said[name][number, steps, 0]
            axes.plot(when, decoded, "o-", color=COLOURS[name], markersize=3, label=name)
            rule = belief.said[LAST_SEEN][number, steps, 0]
            axes.plot(when, rule, ":", color=COLOURS[LAST_SEEN], label=LAST_SEEN)
            if row == 0:
                axes.set_title(keys[number], fontsize=9)
            else:
                axes.set_xlabel("time, s")
        grid[row, 0].set_ylabel(f"{name}: x in the image, px")
        grid[row, 0].legend(fontsize=7)
    figure.suptitle(
        f"Grey: nothing of it shows. Band: 5 to 95 % of {len(belief.members[MODEL])} probes on "
        "resampled training clips",
        fontsize=9,
    )
    return figure


def belief_errors(belief: Belief) -> Figure:
    """Error of the decoded place by how much of the object shows and how long it has been gone."""
    hidden = belief.part("hidden")
    bins = {"in full view": belief.part("visible"), "partly hidden": belief.part("partly")}
    for first, last in HIDDEN_FOR:
        inside = hidden & (belief.hidden_for >= first) & (belief.hidden_for <= last)
        low, high = (first - 1) / belief.fps, last / belief.fps
        bins[f"hidden, {low:g} to {high:g} s" if last < 10**6 else f"hidden, over {low:g} s"] = (
            inside
        )
    shown = {name: rows for name, rows in bins.items() if rows.sum() >= MIN_ROWS}
    figure = canvas(9.6, 3.8)
    axes = figure.subplots()
    x = np.arange(len(shown))
    for number, who in enumerate(COLOURS):
        found = [belief.error(who, rows) for rows in shown.values()]
        values = np.array([value for value, _ in found])
        ends = np.array([interval for _, interval in found])
        reach = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
        axes.errorbar(
            x + 0.15 * (number - 2),
            values,
            yerr=reach,
            fmt="os^vD"[number],
            color=COLOURS[who],
            capsize=2,
            label=who if who in NETWORKS else f"{who} (rule)",
        )
    names = [f"{name}\n{rows.sum()} steps" for name, rows in shown.items()]
    axes.set_xticks(x, names, fontsize=8)
    axes.set(ylabel="mean error of the place, px", ylim=(0, None))
    axes.set_title(
        "One probe for all steps; rules are given the true past (95 % over clips)", fontsize=9
    )
    axes.legend(fontsize=8, ncols=5, loc="upper center")
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])
    return figure


def presence_over_time(presence: Presence) -> Figure:
    """What the probe of permanence answers while both worlds look the same, and how often rightly.

    Args:
        presence: of test blocks.
    """
    figure = canvas(10.2, 3.5)
    panels = figure.subplots(1, 3)
    times = [t for t in np.unique(presence.seconds) if (presence.seconds == t).sum() >= MIN_ROWS]
    for axes, name in zip(panels, NETWORKS, strict=False):
        for there, colour, label in ((True, BLUE, "it is there"), (False, RED, "it is not")):
            rows = [(presence.seconds == time) & (presence.there == there) for time in times]
            middle = np.array([np.median(presence.said[name][each]) for each in rows])
            ends = np.array([np.percentile(presence.said[name][each], [25, 75]) for each in rows])
            axes.fill_between(times, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
            axes.plot(times, middle, "o-", color=colour, markersize=3, label=label)
        axes.axhline(0, color=BLACK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="s since the worlds look the same", title=name)
    panels[0].set_ylabel("answer: median, middle half")
    panels[0].legend(fontsize=8)
    ends = np.array([axes.get_ylim() for axes in panels[:2]])
    for axes in panels[:2]:
        axes.set_ylim(ends.min(), ends.max())
    for name in NETWORKS:
        found = [presence.accuracy(name, presence.seconds == time) for time in times]
        values, ends = np.array([v for v, _ in found]), np.array([e for _, e in found])
        panels[2].fill_between(
            times, ends[:, 0], ends[:, 1], color=COLOURS[name], alpha=0.15, linewidth=0
        )
        panels[2].plot(times, values, "o-", color=COLOURS[name], markersize=3, label=name)
    panels[2].axhline(0.5, color=BLACK, linewidth=0.8, linestyle=":", label="chance")
    panels[2].set(
        xlabel="s since the worlds look the same", title="right answers (95 %)", ylim=(0, 1.02)
    )
    panels[2].legend(fontsize=8, loc="lower right")
    return figure


def block_frames(block: Block, figure: Any) -> None:
    """The four clips of a block as strips: what is equal to the bit, and what is impossible."""
    num_frames = block.frames.shape[1]
    worlds = worlds_by_step(splice_frames(block.windows, 1) or (), num_frames)
    equal = equal_frames(block)
    began = worlds[:, :1]
    grid = figure.subplots(4, COLUMNS)
    for column, frame in enumerate(np.linspace(0, num_frames - 1, COLUMNS).astype(int)):
        mark = "\nequal" if equal[frame] else "\n"
        grid[0, column].set_title(f"{frame / block.fps:.1f} s{mark}", fontsize=7)
        for row, (name, _, _) in enumerate(CLIP_LOOKS):
            axes = grid[row, column]
            bare(axes)
            picture = as_image(block.frames[worlds[row, frame], frame])
            axes.imshow(picture, interpolation="nearest")
            if equal[frame]:
                _border(axes, GREEN)
            elif worlds[row, frame] != began[row, 0]:
                _border(axes, RED, "--")
            if column == 0:
                words = "possible" if row < 2 else "impossible"
                axes.set_ylabel(f"{name}\n{words}", fontsize=7)


def block_surprise(block: Block, judgement: Judgement) -> Figure:
    """One block: its four clips, and their surprise over time at every level and horizon.

    Args:
        block: one of those that were scored.
        judgement: of its set.

    Raises:
        InputError: it was not scored.
    """
    scores = judgement.scores
    if block.key not in scores.keys:
        raise InputError(
            f"{block.key} was not scored; blocks of {', '.join(set(scores.kinds))} were"
        )
    number, levels = scores.keys.index(block.key), sorted({level for level, _ in scores.places})
    columns = max(sum(place[0] == level for place in scores.places) for level in levels)
    figure = canvas(11.0, 4.4 + 1.75 * len(levels))
    heights = [4.4, 1.75 * len(levels)]
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=heights))
    block_frames(block, top)
    grid = bottom.subplots(len(levels), columns, squeeze=False)
    equal, half = np.flatnonzero(equal_frames(block)), 0.5 / judgement.fps
    for axes in grid.flat:
        axes.set_visible(False)
    for row, level in enumerate(levels):
        span = judgement.spans[level]
        horizons = [horizon for own, horizon in scores.places if own == level]
        for axes, horizon in zip(grid[row], horizons, strict=False):
            axes.set_visible(True)
            ahead = f"level {level}, {horizon * span / judgement.fps:g} s ahead"
            if not judgement.is_surprised((level, horizon)):
                axes.set_title(f"{ahead}: tie", fontsize=7)
                say_in(axes, "whatever happens surprises it alike")
                continue
            curves = scores.curves[level, horizon][number]
            steps = np.arange(curves.shape[1]) + horizon
            seconds = ((steps + 1) * span - 1) / judgement.fps
            for middle in equal / judgement.fps:
                axes.axvspan(middle - half, middle + half, color=GREEN, alpha=0.13, linewidth=0)
            for (_, colour, line), curve in zip(CLIP_LOOKS, curves, strict=True):
                axes.plot(seconds, curve, line, color=colour, linewidth=1.2)
            for frame in splice_frames(block.windows, 1) or ():
                axes.axvline(frame / judgement.fps, color=BLACK, linewidth=0.8, linestyle=":")
            means = curves.mean(1)
            contrast = float(means[2] + means[3] - means[0] - means[1])
            word = {1.0: "right", 0.5: "tie", 0.0: "wrong"}[float(contrast_wins(means[None])[0])]
            axes.set_title(f"{ahead}: {contrast:+.2g}, {word}", fontsize=7)
            axes.tick_params(labelsize=7)
            axes.set(xlim=(0, block.frames.shape[1] / judgement.fps), ylim=(0, None))
            axes.set_xlabel("time, s", fontsize=7)
        grid[row, 0].set_ylabel("surprise", fontsize=8)
    handles: list[Any] = [
        Line2D([], [], color=colour, ls=line, label=name) for name, colour, line in CLIP_LOOKS
    ]
    handles += [
        Patch(color=GREEN, alpha=0.3, label="A and B equal to the bit"),
        Line2D([], [], color=BLACK, linestyle=":", label="change of worlds"),
        Patch(facecolor="none", edgecolor=RED, linestyle="--", label="after the change"),
    ]
    bottom.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=8)
    figure.suptitle(
        f"{block.key}; numbers: S(AB) + S(BA) - S(AA) - S(BB), means over time; above 0 is right",
        fontsize=9,
    )
    return figure


def kind_accuracies(judgement: Judgement, kinds: Sequence[str]) -> Figure:
    """Relative accuracy of some kinds at every level and horizon, beside what knows nothing.

    Args:
        judgement: of blocks of these kinds.
        kinds: one panel each; where no block of it was scored, the panel says so.

    Raises:
        InputError: no block of any was.
    """
    if not np.isin(judgement.scores.kinds, kinds).any():
        raise InputError(f"no block of the kinds {', '.join(kinds)} was scored")
    places = judgement.scores.places
    groups: dict[str, list[Place]] = {
        f"L{level} {horizon * judgement.spans[level] / judgement.fps:g} s": [(level, horizon)]
        for level, horizon in places
    }
    for level in sorted({level for level, _ in places}):
        groups[f"L{level} all"] = [place for place in places if place[0] == level]
    groups["all"] = list(places)
    figure = canvas(11.0, 2.3 * -(-len(kinds) // 2) + 0.7)
    panels = figure.subplots(-(-len(kinds) // 2), 2, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(kinds) :]:
        axes.set_visible(False)
    x = np.arange(len(groups))
    for axes, kind in zip(panels.flat, kinds, strict=False):
        wins = [judgement.wins(kind, own) for own in groups.values()]
        count = len(wins[0][MODEL])
        if not count:
            axes.set_title(kind, fontsize=9)
            say_in(axes, "no block of this kind was scored")
            axes.set_axis_on()  # its ticks are those of the column
            axes.set_xticks(x, list(groups), rotation=60, fontsize=7)
            continue
        others = np.array([each[UNTRAINED].mean(1) for each in wins])
        axes.bar(
            x,
            others.max(1) - others.min(1),
            bottom=others.min(1),
            width=0.7,
            color="0.85",
            label=f"{others.shape[1]} untrained networks, range",
        )
        axes.plot(x, others.mean(1), "_", color="0.4", markersize=14, label="their mean")
        axes.plot(x, [each["copy"].mean() for each in wins], "x", color=ORANGE, label="copy")
        for name, colour, line in (("pixels_long", PURPLE, "--"), ("pixels_short", GREEN, ":")):
            value, label = judgement.rule(kind, name), name.replace("_", ", ") + " memory"
            axes.axhline(value, color=colour, linestyle=line, linewidth=1.3, label=label)
        values = np.array([each[MODEL].mean() for each in wins])
        ends = np.array([accuracy_interval(each[MODEL]) for each in wins])
        reach = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
        axes.errorbar(x, values, yerr=reach, fmt="o", color=BLUE, capsize=2, label="model, 95 %")
        alike = not any(map(judgement.is_surprised, places))
        more = "; whatever happens surprises the model alike" if alike else ""
        axes.set_title(f"{kind} ({count} blocks){more}", fontsize=9)
        axes.set_ylim(-0.03, 1.05)
        axes.axvline(len(places) - 0.5, color="0.7", linewidth=0.8)
        axes.set_xticks(x, list(groups), rotation=60, fontsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel("relative accuracy", fontsize=8)
    handles, labels = first_handles(panels.flat)
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return figure
