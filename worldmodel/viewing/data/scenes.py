"""Clips and blocks to look at, and what their pixels show in words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.data.shards import SampleRef, read_metadata
from worldmodel.data.truth import SLAB_ID
from worldmodel.errors import InputError
from worldmodel.evaluation.figures import BLUE, GREEN, ORANGE, RED, SKY
from worldmodel.evaluation.footage import (
    Block,
    Footage,
    block_metadata,
    find_samples,
    read_block,
    read_footage,
)
from worldmodel.evaluation.surprise.splices import frame_sources
from worldmodel.models.checkpoint import ClipSpec
from worldmodel.world.forms import CATEGORIES

FREE = "free"


def first_of_each_kind(refs: Sequence[SampleRef], clip: ClipSpec) -> list[Footage]:
    """The first clip of each kind by key, kinds in order of their names and free scenes last.

    Of an event's two worlds the one is taken in which the object that may hide is there.
    """
    first: dict[str, SampleRef] = {}
    for ref in sorted(refs, key=lambda ref: ref.key):
        metadata = read_metadata(ref)
        if metadata.get("present", True):
            first.setdefault(str(metadata["kind"]), ref)
    kinds = sorted(first, key=lambda kind: (kind == FREE, kind))
    return [read_footage(first[kind], clip) for kind in kinds]


def of_kind(clips: Sequence[Footage], kind: str) -> Footage:
    """The first of some clips that is of a kind.

    Raises:
        InputError: none is.
    """
    for clip in clips:
        if clip.metadata["kind"] == kind:
            return clip
    kinds = ", ".join(sorted({str(clip.metadata["kind"]) for clip in clips}))
    raise InputError(f"no clip is of the kind {kind}, only of {kinds}; `make data` makes some")


def first_block(root: Path, kind: str, clip: ClipSpec) -> Block:
    """The first test block of a kind, by key.

    Args:
        root: folder of a set of the physics world.
        kind: such as `reveal`.
        clip: the clips that a model sees.

    Raises:
        InputError: there is none.
    """
    for ref in find_samples(root, "test", "blocks"):
        if block_metadata(ref)["kind"] == kind:
            return read_block(ref, clip)
    raise InputError(f"{root} has no {kind} among its test blocks; `make data` makes some")


def named_ids(clip: Footage) -> tuple[np.ndarray, list[str], list[str]]:
    """What each pixel shows, in words.

    Returns:
        Numbers `(T, H, W)` into the names, the names (things that are seen in this clip, the
        background first), and a colour for each; screens and what else stands about are greys.
    """
    ids, state = clip.truth.ids, clip.truth.state
    palette = iter((RED, SKY, GREEN, ORANGE, BLUE))
    number = np.zeros(256, int)
    names, colours = ["floor and wall"], ["#f2f2f2"]
    for value in np.unique(ids[ids > 0]).tolist():
        if value < SLAB_ID:
            category = CATEGORIES[int(state["category"][value - 1])]
            name = f"{category}, tracked" if value - 1 == int(state["tracked"]) else category
            colour = next(palette)
        else:
            is_screen = state["slab_screen"][value - SLAB_ID] > 0
            name, colour = ("screen", "#666666") if is_screen else ("furniture", "#aaaaaa")
        # Bodies have a colour each; all screens share one, and so does all that stands about.
        if value < SLAB_ID or name not in names:
            names.append(name)
            colours.append(colour)
        number[value] = len(names) - 1 if value < SLAB_ID else names.index(name)
    return number[ids], names, colours


def same_pictures(block: Block) -> bool:
    """Whether possible and impossible clips of a block are made of the very same pictures.

    Then whoever judges single pictures, and sums up, finds nothing: only their company differs.
    """
    sources = frame_sources(block)
    possible, impossible = (np.sort(sources[rows].ravel()) for rows in (slice(2), slice(2, 4)))
    return bool(np.array_equal(possible, impossible))
