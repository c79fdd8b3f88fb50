"""Blocks of the physics world in the layouts of the benchmarks, oddities included.

The readers can so be proved without the benchmarks' data, which is not ours to hand out, and other
people's code can be run on our blocks. Pictures and videos are lossless; the same blocks and seed
give the same files.

Of a block the clips AA and BB are possible, AB and BA impossible; AA shares its first frames with
AB, BB with BA.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.data.benchmarks import inflevel, intphys, intphys2
from worldmodel.data.encode import encode_video
from worldmodel.data.truth import SLAB_ID
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Block
from worldmodel.evaluation.surprise.splices import splice_frames, worlds_by_step

# Kind of a block -> what each benchmark calls it; blocks of other kinds have no place there.
INTPHYS_BLOCKS = {"reveal": "O1", "permanence": "O1", "constancy": "O2", "continuity": "O3"}
INTPHYS2_CONDITIONS = {
    "reveal": "permanence",
    "permanence": "permanence",
    "constancy": "immutability",
    "continuity": "continuity",
    "solidity": "solidity",
}
GRASP_CONCEPTS = {
    "reveal": "ObjectPermanence",
    "permanence": "ObjectPermanence2",
    "constancy": "Unchangeableness",
    "continuity": "Continuity",
    "solidity": "SolidityContinuity",
    "support": "GravitySupport",
    "gravity": "Gravity",
    "inertia": "Inertia",
    "collision": "Collision",
}
INFLEVEL_CONCEPTS = {
    "reveal": "continuity",
    "permanence": "continuity",
    "continuity": "continuity",
    "solidity": "solidity",
    "support": "gravity",
    "gravity": "gravity",
}
AA, BB, AB, BA = range(4)
PAIRS = ((AA, AB), (BB, BA))  # possible, impossible


def export_intphys(blocks: Iterable[Block], root: Path, split: str, seed: int) -> None:
    """Write blocks as a split of IntPhys 2019.

    Movies are shuffled, masks have other greys in every frame, depth is 65535 - millimetres. The
    test split has neither status nor depth nor masks.

    Args:
        blocks: of the kinds in `INTPHYS_BLOCKS`.
        root: folder that gets the split.
        split: dev or test.
        seed: of what is shuffled.

    Raises:
        InputError: a block is of another kind.
    """
    counts = dict.fromkeys(intphys.BLOCKS, 0)
    for block in blocks:
        own = _concept(INTPHYS_BLOCKS, block, "IntPhys")
        counts[own] += 1
        scene = root / split / own / f"{counts[own]:04d}"
        generator = _generator(seed, block)
        clips = spliced_clips(block)
        order = generator.permutation(4)
        for name, clip in zip(intphys.MOVIES, order, strict=True):
            _write_pictures(scene / name / "scene", "scene", clips["frames"][clip])
            if split == "test":
                continue
            millimetres = depth_pixels(clips["depth"][clip])
            _write_pictures(scene / name / "depth", "depth", millimetres)
            masks, greys = shuffled_masks(clips["ids"][clip], generator)
            _write_pictures(scene / name / "masks", "masks", masks)
            objects = int(np.sum(block.truth[0].state["present"]))
            header = {
                "block_name": f"{own}_{split}_occluded_dynamic_{len(block.windows)}_nobj{objects}",
                "is_possible": bool(clip in (AA, BB)),
            }
            status = {"header": header, "frames": [{"masks": frame} for frame in greys]}
            (scene / name / "status.json").write_text(json.dumps(status, indent=4))


def export_intphys2(blocks: Iterable[Block], root: Path, split: str, seed: int) -> None:
    """Write blocks as a split of IntPhys 2: hashed names, one csv, no labels in HeldOut.

    Args:
        blocks: of the kinds in `INTPHYS2_CONDITIONS`.
        root: folder that gets the split.
        split: Main, Debug or HeldOut.
        seed: of the names and of the rows' order within a scene.

    Raises:
        InputError: a block is of another kind, or there is none.
    """
    rows = []
    for scene, block in enumerate(blocks):
        condition = _concept(INTPHYS2_CONDITIONS, block, "IntPhys 2")
        frames = spliced_clips(block)["frames"]
        types = dict(zip(intphys2.TYPES, (AA, AB, BB, BA), strict=True))
        for kind in _generator(seed, block).permutation(list(types)).tolist():
            name = hashlib.sha256(f"{seed}/{block.key}/{kind}".encode()).hexdigest()
            path = f"Videos/{name}.mp4"
            _write_video(root / split / path, frames[types[kind]], block.fps)
            row = {"SceneIndex": str(scene), "name": name, "file_name": path}
            labels = {
                "game_name": block.kind,
                "condition": condition,
                "env": "physics-world",
                "type": kind,
                "occluder": "screen",
                "Difficulty": "Easy",
                "Camera": "Moving" if block.metadata.get("moving_camera") else "Fixed",
            }
            rows.append(row if split == "HeldOut" else row | labels)
    if not rows:
        raise InputError(f"there is no block to write to {root / split}")
    _write_csv(root / split / "metadata.csv", rows)


def export_grasp(blocks: Iterable[Block], root: Path) -> None:
    """Write blocks as level 2 of GRASP, two pairs each.

    Args:
        blocks: of any kind.
        root: folder that gets `level2`.
    """
    counts: dict[str, int] = {}
    for block in blocks:
        concept = _concept(GRASP_CONCEPTS, block, "GRASP")
        frames = spliced_clips(block)["frames"]
        for pair in PAIRS:
            number = counts.get(concept, 0)
            counts[concept] = number + 1
            for prefix, clip in zip(("P_", "IP_"), pair, strict=True):
                path = root / "level2" / f"{prefix}{concept}" / f"{number:03d}.mp4"
                _write_video(path, frames[clip], block.fps)


def export_inflevel(
    blocks: Iterable[Block], root: Path, seed: int, priming_frames: int = 8
) -> None:
    """Write blocks as InfLevel-lab with its lists of pairs, two pairs each.

    Before the event each video shows grey priming frames of its own brightness; one of a pair may
    have a frame more of them, as in some pairs of the original.

    Args:
        blocks: of the kinds in `INFLEVEL_CONCEPTS`.
        root: folder that gets videos and lists.
        seed: of which video of a pair comes first and of the priming's length.
        priming_frames: before the event.

    Raises:
        InputError: a block is of another kind.
    """
    rows: dict[str, list[dict[str, object]]] = {concept: [] for concept in inflevel.CONCEPTS}
    for block in blocks:
        concept = _concept(INFLEVEL_CONCEPTS, block, "InfLevel")
        generator = _generator(seed, block)
        frames = spliced_clips(block)["frames"]
        for pair in PAIRS:
            row: dict[str, object] = {}
            order = generator.permutation(2)
            for number, which in enumerate(order, start=1):
                clip = pair[which]
                length = priming_frames + int(generator.integers(0, 2))
                grey = generator.integers(0, 256, dtype=np.uint8)
                priming = np.full((length, *frames.shape[2:]), grey, np.uint8)
                kind = ("vv", "ii", "vi", "iv")[clip]
                path = f"{concept}/center__{block.kind}__screen__{block.key}__{kind}__LR.mp4"
                _write_video(root / path, np.concatenate([priming, frames[clip]]), block.fps)
                row |= {
                    f"vid{number}_path": path,
                    f"vid{number}_start_priming_1": 0,
                    f"vid{number}_end_priming_1": 0,
                    f"vid{number}_start_priming_2": 0,
                    f"vid{number}_end_priming_2": length - 1,
                    f"vid{number}_label": ("possible", "impossible")[which],
                }
            rows[concept].append(row)
    for concept, own in rows.items():
        if own:
            _write_csv(root / f"{concept}.csv", own)


def spliced_clips(block: Block) -> dict[str, np.ndarray]:
    """The clips AA, BB, AB, BA of a block.

    Returns:
        `frames` uint8 `(4, T, H, W, 3)`, `depth` float32 metres `(4, T, H, W)`, `ids` uint8
        `(4, T, H, W)`.
    """
    splices = splice_frames(block.windows, 1)
    assert splices is not None, f"{block.key} has an empty window"
    steps = np.arange(block.frames.shape[1])
    worlds = worlds_by_step(splices, len(steps))
    values = {
        "frames": block.frames.permute(0, 1, 3, 4, 2).numpy(),
        "depth": np.stack([truth.depth for truth in block.truth]),
        "ids": np.stack([truth.ids for truth in block.truth]),
    }
    return {name: array[worlds, steps] for name, array in values.items()}


def depth_pixels(metres: np.ndarray) -> np.ndarray:
    """Metres, 0 where nothing is hit, as IntPhys has them: uint16, 65535 - millimetres."""
    millimetres = np.rint(metres.astype(np.float64) * 1000).clip(0, intphys.MAX_DEPTH_MILLIMETRES)
    millimetres[metres == 0] = intphys.MAX_DEPTH_MILLIMETRES  # as far as can be
    return (intphys.MAX_DEPTH_MILLIMETRES - millimetres).astype(np.uint16)


def actor_name(number: int) -> str:
    """An id of the physics world as IntPhys would call it."""
    if number == 0:
        return "walls"
    if number >= SLAB_ID:
        return f"occluder_{number - SLAB_ID + 1}"
    return f"object_{number}"


def shuffled_masks(
    ids: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Masks whose greys are drawn anew for every frame, and per frame the grey of each actor.

    Args:
        ids: uint8 `(T, H, W)`.
        generator: draws.
    """
    masks = np.zeros_like(ids)
    greys: list[dict[str, int]] = []
    for number, frame in enumerate(ids):
        shown = np.unique(frame)
        drawn = generator.permutation(256)[: len(shown)]
        table = np.zeros(256, np.uint8)
        table[shown] = drawn
        masks[number] = table[frame]
        pairs = zip(shown.tolist(), drawn.tolist(), strict=True)
        greys.append({actor_name(one): grey for one, grey in pairs})
    return masks, greys


def _concept(names: Mapping[str, str], block: Block, benchmark: str) -> str:
    if block.kind not in names:
        raise InputError(
            f"{block.key} is a block of {block.kind}, which {benchmark} has no name for; give "
            f"blocks of {', '.join(names)}"
        )
    return names[block.kind]


def _generator(seed: int, block: Block) -> np.random.Generator:
    """One per block, so that a block's files do not depend on the others."""
    digest = hashlib.sha256(f"{seed}/{block.key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _write_pictures(folder: Path, prefix: str, pictures: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start=1):
        Image.fromarray(picture).save(folder / f"{prefix}_{number:03d}.png", compress_level=1)


def _write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(frames, fps, lossless=True))


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
