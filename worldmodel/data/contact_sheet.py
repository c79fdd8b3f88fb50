"""A contact sheet: a strip of frames per video, grouped by kind, with depth and ids if known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from worldmodel.data.quarantine import printable
from worldmodel.data.shards import SampleRef, read_members, read_metadata, video_members
from worldmodel.data.transforms import scaled_size
from worldmodel.data.truth import MEMBERS as TRUTH_MEMBERS
from worldmodel.data.truth import decode_truth
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

NUM_FRAMES = 7  # of a strip, evenly over the video
TILE = 112  # pixels of a picture's short side
MARGIN, CAPTION = 4, 14
MAX_STRIPS = 40
# At most so many samples per kind, if there is room for them.
MAX_PER_KIND = 6
# Depth is shown from near (bright) to far (dark) in this range, metres.
DEPTH_RANGE = (2.5, 8.0)
BLOCK_TILE = 80
BLOCK_FRAMES = 9
# Okabe and Ito's blue and orange: which world a picture is from.
WORLD_COLOURS = {"a": (0, 114, 178), "b": (230, 159, 0)}
CLIPS = {"AA": "possible", "BB": "possible", "AB": "impossible", "BA": "impossible"}


@dataclass(frozen=True)
class Strip:
    """One row of the sheet: its caption and pictures."""

    caption: str
    pictures: list[Image.Image]


def draw_contact_sheet(refs: Sequence[SampleRef], out: Path) -> int:
    """Draw strips of samples of every kind that there is, spread evenly over each kind.

    Args:
        refs: samples to choose from.
        out: where the picture goes, a PNG.

    Returns:
        How many samples it shows; without any, nothing is written.

    Raises:
        InputError: the picture cannot be written.
    """
    chosen = choose_samples(refs)
    strips = [strip for ref in chosen for strip in _strips(ref)]
    if not strips:
        return 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sheet(strips).save(out, format="PNG")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return len(chosen)


def choose_samples(refs: Sequence[SampleRef]) -> list[SampleRef]:
    """Of each kind of clip and of block equally many, kinds in order of their names."""
    kinds: dict[tuple[bool, str], list[SampleRef]] = defaultdict(list)
    for ref in refs:
        try:
            kind = str(read_metadata(ref).get("kind", "video"))
        except InputError:
            kind = "broken"
        kinds[len(video_members(ref)) > 1, kind].append(ref)
    strips_per_round = sum(2 if is_block else 1 for is_block, _ in kinds)
    share = min(MAX_PER_KIND, max(1, MAX_STRIPS // max(strips_per_round, 1)))
    chosen = []
    for _, members in sorted(kinds.items()):
        places = {int(at) for at in np.linspace(0, len(members) - 1, min(share, len(members)))}
        chosen += [members[place] for place in sorted(places)]
    return chosen


def _strips(ref: SampleRef) -> list[Strip]:
    """A row per video of a sample: one for a clip, two for a block."""
    strips = []
    for name in video_members(ref):
        prefix = name.rpartition(".")[0]
        world = f"{prefix}." if prefix else ""
        try:
            caption = _caption(ref, prefix)
            pictures = _frames(read_members(ref, [name])[name])
            if all(world + member in ref.members for member in TRUTH_MEMBERS):
                pictures += _truth(ref, world)
        except InputError:
            caption = printable(f"{ref.key} {prefix} cannot be read")
            pictures = [Image.new("RGB", (TILE, TILE), "darkred")]
        strips.append(Strip(caption, pictures))
    return strips


def _caption(ref: SampleRef, prefix: str) -> str:
    metadata = read_metadata(ref)
    parts = [ref.key, str(metadata.get("kind", ""))]
    if prefix:
        parts.append(f"world {prefix.upper()}")
    splices, windows = read_changes(ref, metadata)
    if splices:
        parts.append("changes at frame " + " and ".join(map(str, splices)))
    if windows:
        parts.append(
            "hidden in frames " + " and ".join(f"{start} to {stop - 1}" for start, stop in windows)
        )
    return printable(", ".join(part for part in parts if part))


def read_changes(
    ref: SampleRef, metadata: dict[str, Any]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Where a block changes worlds, and in which windows it may; both empty for a clip.

    Raises:
        InputError: the metadata says so in another form than blocks do.
    """
    try:
        splices = [int(frame) for frame in metadata.get("splice_frames", [])]
        windows = [(int(a), int(b)) for a, b in metadata.get("hidden_windows", [])]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{ref.key}.json of {ref.shard} must have splice_frames [frame, …] and hidden_windows "
            f"[[start, stop], …], found {str(metadata.get('splice_frames'))[:40]} and "
            f"{str(metadata.get('hidden_windows'))[:40]}; make the set again"
        ) from error
    return splices, windows


def _frames(data: bytes) -> list[Image.Image]:
    video = open_video(data)
    try:
        size = scaled_size(video.width, video.height, TILE, video.pixel_aspect)
        chosen = np.linspace(0, video.num_frames - 1, NUM_FRAMES).astype(int)
        return [Image.fromarray(frame) for frame in video.get_frames(chosen.tolist(), size)]
    finally:
        video.close()


def _truth(ref: SampleRef, world: str) -> list[Image.Image]:
    """Depth and ids of the frame in the middle."""
    truth = decode_truth(read_members(ref, [world + name for name in TRUTH_MEMBERS]), world)
    depth, ids = truth.depth[len(truth.depth) // 2], truth.ids[len(truth.ids) // 2]
    low, high = DEPTH_RANGE
    near = 1 - np.clip((depth - low) / (high - low), 0, 1)
    shown = matplotlib.colormaps["viridis"](near)[..., :3]
    shown[depth == 0] = 0
    # Twenty colours in turn; background is black.
    colours = matplotlib.colormaps["tab20"](ids % 20)[..., :3] * (ids > 0)[..., None]
    pictures = [Image.fromarray((255 * each).astype(np.uint8)) for each in (shown, colours)]
    return [picture.resize((TILE, TILE), Image.Resampling.NEAREST) for picture in pictures]


def _sheet(strips: Sequence[Strip]) -> Image.Image:
    cell = TILE + MARGIN
    columns = max(len(strip.pictures) for strip in strips)
    sheet = Image.new("RGB", (columns * cell + MARGIN, len(strips) * (cell + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, strip in enumerate(strips):
        top = row * (cell + CAPTION)
        draw.text((MARGIN, top + 2), strip.caption, fill="black")
        for column, picture in enumerate(strip.pictures):
            picture.thumbnail((TILE, TILE))
            sheet.paste(picture, (MARGIN + column * cell, top + CAPTION))
    return sheet


def draw_blocks(refs: Sequence[SampleRef], folder: Path) -> list[Path]:
    """Draw the four clips of the first block of each kind.

    Args:
        refs: samples; those that are no blocks are passed over.
        folder: where `KIND.png` go.

    Returns:
        The pictures.

    Raises:
        InputError: a block is broken, or a picture cannot be written.
    """
    first: dict[str, SampleRef] = {}
    for ref in refs:
        if {"a.mp4", "b.mp4"} <= set(ref.members):
            first.setdefault(str(read_metadata(ref).get("kind", "block")), ref)
    paths = []
    for kind, ref in sorted(first.items()):
        # A kind may be anything that JSON holds; what a file's name cannot is replaced.
        name = re.sub(r"[^\w-]+", "_", kind)[:80]
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # 96 colours: a third of the bytes, and no difference that an eye finds.
            _block_picture(ref).quantize(96).save(path, format="PNG", optimize=True)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        paths.append(path)
    return paths


def _block_picture(ref: SampleRef) -> Image.Image:
    """The clips AA, BB, AB and BA around the change, each picture framed in its world's colour."""
    cuts, windows = read_changes(ref, read_metadata(ref))
    edges = [edge for window in windows for edge in window] or cuts
    worlds = {}
    for world in "ab":
        try:
            video = open_video(read_members(ref, [f"{world}.mp4"])[f"{world}.mp4"])
            if not edges or not 0 <= edges[0] <= edges[-1] <= video.num_frames:
                raise InputError(
                    f"it has {video.num_frames} frames and changes at frames {edges or 'none'}"
                )
            # From three quarters of a second before to as much after.
            shown = np.linspace(max(edges[0] - 12, 0), min(edges[-1] + 13, video.num_frames - 1),
                                BLOCK_FRAMES).astype(int)  # fmt: skip
            worlds[world] = video.get_frames(shown.tolist(), (BLOCK_TILE, BLOCK_TILE))
            video.close()
        except InputError as error:
            raise InputError(f"{world}.mp4 of {ref.key} in {ref.shard}: {error}") from error
    cell, label = BLOCK_TILE + MARGIN, 88
    picture = Image.new("RGB", (label + BLOCK_FRAMES * cell, 4 * cell + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for column, frame in enumerate(shown):
        draw.text((label + column * cell + 2, 1), f"frame {frame}", fill="black")
    for row, (clip, verdict) in enumerate(CLIPS.items()):
        top = CAPTION + row * cell
        name = clip if len(cuts) == 1 or clip in ("AA", "BB") else clip + clip[0]
        draw.text((MARGIN, top + cell // 2 - 14), f"{name}\n{verdict}", fill="black")
        for column, frame in enumerate(shown):
            changed = sum(frame >= cut for cut in cuts) % 2 and clip in ("AB", "BA")
            world = "ab"["AB".index(clip[0]) ^ int(bool(changed))]
            left = label + column * cell
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), fill=WORLD_COLOURS[world])
            inner = Image.fromarray(worlds[world][column])
            picture.paste(inner.resize((cell - 5, cell - 5)), (left + 2, top + 2))
    return picture
