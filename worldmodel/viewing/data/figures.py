"""Figures of the data, and tables of what a set and a sample hold."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from worldmodel.clips import ClipBatch
from worldmodel.data import transforms
from worldmodel.data.index import read_index
from worldmodel.data.order import SetOrder, travel
from worldmodel.data.shards import SampleRef, read_metadata
from worldmodel.errors import InputError
from worldmodel.evaluation.figures import BLACK, BLUE, GREEN, ORANGE, RED, SKY, as_image
from worldmodel.evaluation.footage import Block, Footage
from worldmodel.evaluation.probes.objects import is_present, track_of
from worldmodel.evaluation.surprise.splices import (
    CLIPS,
    equal_frames,
    splice_frames,
    worlds_by_step,
)
from worldmodel.viewing.canvas import FONT, canvas, framed
from worldmodel.viewing.data.journey import Journey, Resumed
from worldmodel.viewing.data.scenes import named_ids

GREY = "0.6"
WORLD_COLOURS = (BLUE, ORANGE)  # of pictures of world A and of world B, as in docs/physics-world.md
# What a clip was decoded for: wanted, needed by a wanted one, neither.
WANTED, REFERRED, UNREAD = BLUE, SKY, "0.85"


def set_table(root: Path) -> str:
    """What a set holds, as a table in Markdown: per split and kind its samples, shards and MB."""
    rows = ["| split | what | samples | shards | MB |", "|---|---|---|---|---|"]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for shard in read_index(root)["shards"]:
        found.setdefault((shard["split"], shard["kind"]), []).append(shard)
    for (split, kind), shards in found.items():
        samples = sum(shard["num_samples"] for shard in shards)
        megabytes = sum(shard["bytes"] for shard in shards) / 1e6
        rows.append(f"| {split} | {kind} | {samples} | {len(shards)} | {megabytes:.1f} |")
    return "\n".join(rows)


def contact_sheet(clips: Sequence[Footage], num_frames: int = 8) -> Figure:
    """A row per clip, framed in orange where its tracked object is wholly hidden.

    Args:
        clips: such as `first_of_each_kind` gives.
        num_frames: pictures of a row, evenly over the clip.
    """
    figure = canvas(1.16 * num_frames + 1.4, 1.16 * len(clips) + 0.5)
    grid = figure.subplots(len(clips), num_frames, squeeze=False)
    for row, clip in zip(grid, clips, strict=True):
        hidden = track_of(clip.truth).hidden
        for axes, frame in zip(row, _evenly(len(clip.frames), num_frames), strict=True):
            axes.imshow(as_image(clip.frames[frame]))
            framed(axes, ORANGE if hidden[frame] else "0.8", 3.0 if hidden[frame] else 0.6)
        row[0].set_ylabel(clip.metadata["kind"], fontsize=FONT, rotation=0, ha="right", va="center")
    rate = float(clips[0].metadata["fps"]) / clips[0].frame_stride
    for axes, frame in zip(grid[0], _evenly(len(clips[0].frames), num_frames), strict=True):
        axes.set_title(f"{frame / rate:.1f} s", fontsize=FONT)
    figure.suptitle("One clip of each kind; orange: its object is wholly hidden", fontsize=FONT + 1)
    return figure


def what_is_shown(refs: Sequence[SampleRef]) -> Figure:
    """How many clips there are of each kind, and for how long their object is out of sight.

    Args:
        refs: clips; their metadata is read, no video.
    """
    metadata = [read_metadata(ref) for ref in refs]
    kinds = Counter(str(each["kind"]) for each in metadata)
    moving = Counter(str(each["kind"]) for each in metadata if each.get("moving_camera"))
    names = sorted(kinds, key=lambda kind: kinds[kind])
    hidden = [
        (each["hidden_frames"][1] - each["hidden_frames"][0]) / each["fps"]
        for each in metadata
        if each.get("present") and each.get("hidden_frames", [0, 0])[1] > each["hidden_frames"][0]
    ]
    figure = canvas(10.5, 3.6)
    left, right = figure.subplots(1, 2)
    left.barh(names, [kinds[name] for name in names], color=SKY, label="camera stands")
    left.barh(names, [moving[name] for name in names], color=BLUE, label="camera moves")
    for place, name in enumerate(names):
        left.text(kinds[name], place, f" {kinds[name]}", va="center", fontsize=FONT - 1)
    left.set(xlabel="clips", title=f"{len(metadata)} clips by kind")
    left.set_xlim(0, 1.12 * max(kinds.values()))
    left.legend(fontsize=FONT, loc="lower right")
    right.hist(hidden, bins=np.arange(0, 4.01, 0.25).tolist(), color=ORANGE, edgecolor="white")
    right.set(
        xlabel="time out of sight, s",
        ylabel="clips",
        title=f"{len(hidden)} clips in which the object is wholly hidden for a time",
    )
    return figure


def truth_maps(clip: Footage, num_frames: int = 6) -> Figure:
    """Frames of a clip over their depth in metres and the things that each pixel shows.

    Args:
        clip: of the physics world.
        num_frames: pictures of a row, evenly over the clip.
    """
    chosen = _evenly(len(clip.frames), num_frames)
    shown, names, colours = named_ids(clip)
    depth = clip.truth.depth[chosen]
    # So that one far corner, or a pixel that hit nothing, does not take all of the colours.
    low, high = np.percentile(depth[depth > 0], [0.5, 99.5])
    figure = canvas(1.5 * num_frames + 1.7, 5.0)
    grid = figure.subplots(3, num_frames, squeeze=False)
    palette = ListedColormap(colours)
    borders = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    rate = float(clip.metadata["fps"]) / clip.frame_stride
    for column, frame in enumerate(chosen):
        grid[0, column].imshow(as_image(clip.frames[frame]))
        grid[0, column].set_title(f"{frame / rate:.1f} s", fontsize=FONT)
        metres = grid[1, column].imshow(depth[column], cmap="cividis_r", vmin=low, vmax=high)
        ids = grid[2, column].imshow(shown[frame], cmap=palette, norm=borders)
    for axes in grid.flat:
        framed(axes)
    for row, name in enumerate(("frame", "depth", "what it is")):
        grid[row, 0].set_ylabel(name, fontsize=FONT)
    figure.colorbar(metres, ax=list(grid[1]), label="depth, m", shrink=0.9)
    bar = figure.colorbar(ids, ax=list(grid[2]), ticks=np.arange(len(names)), shrink=0.95)
    bar.ax.set_yticklabels(names, fontsize=FONT - 1)
    figure.suptitle(f"{clip.key}, a clip of the kind {clip.metadata['kind']}", fontsize=FONT + 1)
    return figure


def truth_over_time(clip: Footage) -> Figure:
    """The tracked object's way in the image, its place, how much of it shows, and how far it is.

    Args:
        clip: of which `is_present` says that the tracked object is there.

    Raises:
        InputError: it is not, or none is tracked.
    """
    if not is_present(clip.truth):
        raise InputError(f"{clip.key} tracks no object; choose an event clip with `present`")
    state, track = clip.truth.state, track_of(clip.truth)
    slot = int(state["tracked"])
    seconds = np.arange(len(clip.frames)) * clip.frame_stride / float(clip.metadata["fps"])
    figure = canvas(10.5, 4.4)
    image, plots = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 1.7]))
    way = image.subplots()
    background = clip.frames.float().median(0).values.byte()
    way.imshow(as_image(background))
    size = clip.frames.shape[-1]
    x, y = np.where(track.inside[:, None], track.position, np.nan).T
    # Pixel i reaches from i to i + 1 in the state, and from i - 1/2 to i + 1/2 in a picture.
    way.plot(x - 0.5, y - 0.5, "-", color="white", linewidth=1.5)
    for chosen, face, label in (
        (track.inside & ~track.hidden, RED, "seen, wholly or in part"),
        (track.hidden, "white", "wholly hidden"),
    ):
        way.plot(
            x[chosen] - 0.5, y[chosen] - 0.5, "o", color=RED, markerfacecolor=face, label=label
        )
    way.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="x, px", ylabel="y, px")
    way.legend(fontsize=FONT - 1, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    way.set_title("Its way, over the median frame", fontsize=FONT + 1)
    top, middle, bottom = plots.subplots(3, 1, sharex=True)
    top.plot(seconds, x, color=BLUE, label="x")
    top.plot(seconds, y, color=GREEN, linestyle="--", label="y")
    top.set(ylabel="place, px", ylim=(0, size))
    top.legend(fontsize=FONT - 1, loc="upper right")
    middle.plot(seconds, state["visible_fraction"][:, slot], color=RED)
    middle.set(ylabel="seen of it", ylim=(-0.05, 1.05))
    bottom.plot(seconds, state["distance"][:, slot], color=BLACK)
    bottom.set(ylabel="distance, m", xlabel="time, s")
    for axes in (top, middle, bottom):
        _shade(axes, track.hidden, seconds)
    top.set_title("Grey: wholly hidden; its place is known all the same", fontsize=FONT + 1)
    return figure


def block_worlds(block: Block, num_frames: int = 9) -> Figure:
    """Worlds A and B of a block, where they differ, and in how many pixels over time.

    Args:
        block: two worlds that are equal to the bit for a time.
        num_frames: pictures of a row, evenly over the clip.
    """
    chosen = _evenly(block.frames.shape[1], num_frames)
    differ = (block.frames[0] != block.frames[1]).any(1).numpy()
    seconds = np.arange(len(differ)) / block.fps
    figure = canvas(1.15 * num_frames + 0.6, 5.6)
    pictures, plot = np.asarray(figure.subfigures(2, 1, height_ratios=[1.5, 1]))
    grid = pictures.subplots(3, num_frames, squeeze=False)
    for column, frame in enumerate(chosen):
        for world in range(2):
            grid[world, column].imshow(as_image(block.frames[world, frame]))
            framed(grid[world, column], WORLD_COLOURS[world], 2.0)
        grid[2, column].imshow(differ[frame], cmap="gray_r", vmin=0, vmax=1)
        framed(grid[2, column], "0.8")
        grid[0, column].set_title(f"{frame / block.fps:.1f} s", fontsize=FONT)
    for row, name in enumerate(("world A", "world B", "pixels that\ndiffer")):
        grid[row, 0].set_ylabel(name, fontsize=FONT)
    axes = plot.subplots()
    axes.plot(seconds, differ.sum((1, 2)), "o-", color=BLACK, markersize=4)
    _shade(axes, equal_frames(block), seconds)
    axes.set(xlabel="time, s", ylabel="pixels that differ", xlim=(seconds[0], seconds[-1]))
    axes.set_ylim(0, None)
    axes.set_title(
        f"{block.key}: grey where all of A and B are equal to the bit "
        f"({int(equal_frames(block).sum())} of {len(differ)} frames)",
        fontsize=FONT + 1,
    )
    return figure


def block_clips(block: Block, num_frames: int = 9) -> Figure:
    """The clips AA, BB, AB and BA of a block, each picture framed in the colour of its world.

    Args:
        block: two worlds that are equal to the bit for a time.
        num_frames: pictures of a row, around the change of worlds.
    """
    splices, total = splice_frames(block.windows, 1), block.frames.shape[1]
    assert splices is not None, f"a window of {block.key} ends before it starts"
    worlds, equal = worlds_by_step(splices, total), equal_frames(block)
    first, last = block.windows[0][0], block.windows[-1][1]
    # From half a second before to as much after what is hidden.
    around = round(block.fps / 2) + 1
    span = np.linspace(max(first - around, 0), min(last + around, total - 1), num_frames)
    figure = canvas(1.15 * num_frames + 1.2, 5.2)
    grid = figure.subplots(4, num_frames, squeeze=False)
    for row, clip in enumerate(CLIPS):
        for column, frame in enumerate(span.astype(int)):
            world = int(worlds[row, frame])
            grid[row, column].imshow(as_image(block.frames[world, frame]))
            framed(grid[row, column], GREY if equal[frame] else WORLD_COLOURS[world], 3.0)
            if row == 0:
                grid[row, column].set_title(f"{frame / block.fps:.1f} s", fontsize=FONT)
        # Two changes of worlds give ABA and BAB.
        name = clip if len(splices) == 1 or row < 2 else clip + clip[0]
        verdict = "possible" if row < 2 else "impossible"
        label = f"{name}\n{verdict}"
        grid[row, 0].set_ylabel(label, fontsize=FONT, rotation=0, ha="right", va="center")
    figure.legend(
        handles=[
            Patch(color=WORLD_COLOURS[0], label="picture of world A"),
            Patch(color=WORLD_COLOURS[1], label="of world B"),
            Patch(color=GREY, label="the same to the bit in both"),
        ],
        loc="outside lower center",
        ncols=3,
        fontsize=FONT,
    )
    return figure


def members_table(journey: Journey) -> str:
    """A sample's members in its shard, as a table in Markdown."""
    rows = ["| member | first byte | bytes | what |", "|---|---|---|---|"]
    content = {
        "mp4": "H.264, one video",
        "mp4.packets": "where each of its pictures lies",
        "json": "source, rate, length, kind",
        "depth.png": "depth of every pixel, mm",
        "ids.png": "which thing each pixel shows",
        "state.npz": "poses, velocities, what is hidden",
    }
    for name, (first, size) in journey.ref.members.items():
        rows.append(f"| `{name}` | {first:,} | {size:,} | {content.get(name, '')} |")
    return f"`{journey.ref.key}` in `{journey.ref.shard.name}`\n\n" + "\n".join(rows)


def decoding_plan(journey: Journey) -> Figure:
    """Each picture of a video by its bytes: wanted, decoded for others, or left alone."""
    figure = canvas(10.5, 3.0)
    axes = figure.subplots()
    kinds = ((2, WANTED, "wanted"), (1, REFERRED, "decoded for a wanted one"))
    for kind, colour, label in (*kinds, (0, UNREAD, "never decoded")):
        chosen = journey.decoded == kind
        frames = np.flatnonzero(chosen)
        axes.bar(
            frames,
            journey.packet_bytes[chosen],
            0.8,
            color=colour,
            edgecolor=GREY if kind == 0 else colour,
            linewidth=0.5,
            label=f"{label}: {len(frames)}",
        )
    for frame in np.flatnonzero(journey.is_start):
        axes.axvline(frame - 0.5, color=BLACK, linewidth=0.8, linestyle=":")
    rate = 1 / np.diff(journey.pts_seconds).mean()
    stride = journey.frames[1] - journey.frames[0]
    axes.set_yscale("log")
    axes.set(
        xlabel=f"frame of the video, {rate:g} a second (dotted: a group of pictures begins)",
        ylabel="bytes",
        xlim=(-1, len(journey.decoded)),
    )
    axes.set_ylim(0.6 * journey.packet_bytes.min(), 4 * journey.packet_bytes.max())
    axes.set_title(
        f"{journey.ref.key}: frames {journey.frames[0]}, {journey.frames[1]} ... "
        f"{journey.frames[-1]}, {stride} apart, from a start that was drawn",
        fontsize=FONT + 1,
    )
    axes.legend(fontsize=FONT - 1, ncols=3, loc="upper right")
    return figure


def crop_and_colour(journey: Journey, num_frames: int = 5) -> Figure:
    """Frames as stored, scaled with the square that is cut out, and as they stand in the clip."""
    chosen = _evenly(len(journey.frames), num_frames)
    side = journey.clip.frames.shape[-1]
    height, width = journey.scaled.shape[1:3]
    figure = canvas(1.75 * num_frames + 1.2, 5.6)
    grid = figure.subplots(3, num_frames, squeeze=False)
    for column, frame in enumerate(chosen):
        grid[0, column].imshow(journey.source[frame])
        grid[0, column].set_title(f"frame {journey.frames[frame]}", fontsize=FONT)
        grid[1, column].imshow(journey.scaled[frame])
        square = Rectangle(
            (journey.corner[0] - 0.5, journey.corner[1] - 0.5),
            side,
            side,
            fill=False,
            edgecolor=RED,
            linewidth=2.5,
        )
        grid[1, column].add_patch(square)
        grid[2, column].imshow(as_image(journey.clip.frames[0, frame]))
    for axes in grid.flat:
        framed(axes)
    channels = transforms.CHANNEL_ORDERS[journey.draw.channels]
    names = (
        f"stored\n{journey.source.shape[2]} x {journey.source.shape[1]}",
        f"decoded to\n{width} x {height}",
        f"in the clip\n{side} x {side}",
    )
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
    power = transforms.MAX_GAMMA ** (2 * journey.draw.gamma - 1)
    figure.suptitle(
        f"Square at {journey.corner}, {'mirrored' if journey.draw.flip else 'not mirrored'}, red "
        f"green blue taken from {', '.join(('red', 'green', 'blue')[c] for c in channels)}, "
        f"brightness to the power {power:.2f}",
        fontsize=FONT,
    )
    return figure


def batch_sheet(batch: ClipBatch, num_frames: int = 8) -> Figure:
    """A batch as the model gets it: a row per clip, with its key and times."""
    figure = canvas(1.05 * num_frames + 1.9, 1.08 * len(batch) + 0.4)
    grid = figure.subplots(len(batch), num_frames, squeeze=False)
    chosen = _evenly(batch.frames.shape[1], num_frames)
    for row, key in enumerate(batch.keys):
        for axes, frame in zip(grid[row], chosen, strict=True):
            axes.imshow(as_image(batch.frames[row, frame]))
            framed(axes)
        times = batch.pts_seconds[row]
        label = f"{key}\n{times[0]:.2f} to {times[-1]:.2f} s"
        grid[row, 0].set_ylabel(label, fontsize=FONT - 1, rotation=0, ha="right", va="center")
    figure.suptitle(
        f"uint8 {tuple(batch.frames.shape)}: clip, frame, colour, height, width", fontsize=FONT + 1
    )
    return figure


def order_of_epochs(order: SetOrder) -> Figure:
    """Where each sample stands in one epoch and the next, and how an epoch begins.

    Args:
        order: of one set.
    """
    epochs = [order.epoch(epoch) for epoch in (0, 1)]
    places = [np.argsort(epoch, kind="stable") for epoch in epochs]
    shards = np.repeat(np.arange(len(order.shard_sizes)), order.shard_sizes)
    distance, together = travel(order)
    figure = canvas(10.5, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
    points = left.scatter(*places, c=shards, s=4, cmap="viridis", linewidths=0, rasterized=True)
    left.set(
        xlabel="place in epoch 0",
        ylabel="place in epoch 1",
        title=f"a sample travels {distance:.3f} of an epoch on the mean;\na perfect shuffle: 0.333",
        aspect="equal",
    )
    figure.colorbar(points, ax=left, label="shard", shrink=0.8)
    count = min(64, len(order))
    for row, epoch in enumerate(epochs):
        right.scatter(
            np.arange(count), shards[epoch[:count]], s=18, color=(BLUE, ORANGE)[row],
            marker="os"[row], label=f"epoch {row}",
        )  # fmt: skip
    right.set(
        xlabel=f"the first {count} samples of an epoch",
        ylabel="shard",
        title=f"neighbours share a shard {together:.2f} times as often\nas by chance; "
        "a perfect shuffle: 1",
    )
    right.legend(fontsize=FONT, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.14))
    return figure


def resumed_batches(resumed: Resumed, num_clips: int = 8) -> Figure:
    """The middle frame of each clip of the three batches, one below the other."""
    rows = (
        ("never stopped", resumed.unbroken, BLACK),
        ("stopped, gone on", resumed.resumed, GREEN if resumed.is_equal else RED),
        ("begun afresh", resumed.afresh, RED),
    )
    count = min(num_clips, len(resumed.unbroken))
    figure = canvas(1.2 * count + 1.4, 4.2)
    grid = figure.subplots(3, count, squeeze=False)
    for row, (name, batch, colour) in enumerate(rows):
        for axes, clip, key in zip(grid[row], batch.frames, batch.keys, strict=False):
            axes.imshow(as_image(clip[len(clip) // 2]))
            axes.set_title(key, fontsize=FONT - 2)
            framed(axes, colour, 2.0)
        grid[row, 0].set_ylabel(name, fontsize=FONT, rotation=0, ha="right", va="center")
    words = "equal to the bit" if resumed.is_equal else "not equal"
    figure.suptitle(f"The next batch; the first two rows are {words}", fontsize=FONT + 1)
    return figure


def _evenly(count: int, wanted: int) -> np.ndarray:
    """Numbers of `wanted` frames of `count`, the first and the last among them."""
    return np.linspace(0, count - 1, wanted).astype(int)


def _shade(axes: Any, chosen: np.ndarray, seconds: np.ndarray) -> None:
    """Grey behind the frames that are chosen, half a frame to either side."""
    half = (seconds[1] - seconds[0]) / 2
    for second in seconds[chosen]:
        axes.axvspan(second - half, second + half, color="0.85", linewidth=0)
