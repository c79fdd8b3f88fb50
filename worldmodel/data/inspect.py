"""What is in shards: a report in words and figures, and a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.contact_sheet import draw_blocks, draw_contact_sheet
from worldmodel.data.quarantine import printable
from worldmodel.data.shards import (
    SampleRef,
    read_members,
    read_metadata,
    resolve_shards,
    scan_shard,
    video_members,
)
from worldmodel.data.video import open_video
from worldmodel.errors import InputError

# Opening a video takes some milliseconds; beyond this many the figures are those of a part.
MAX_OPENED = 1000


@dataclass(frozen=True)
class _Facts:
    """What is known of one sample's videos."""

    kind: str
    size: str
    fps: float
    num_frames: int


def inspect_shards(
    shards: Sequence[str], out: Path | None = None, blocks: Path | None = None
) -> str:
    """Describe shards and draw a contact sheet with samples of every kind.

    Where the truth is known the sheet shows depth and ids beside the frames.

    Args:
        shards: tars, globs, or folders (a set's folder stands for all its splits).
        out: where the contact sheet goes, a PNG; `contact-sheet.png` here by default.
        blocks: folder for a picture of each kind of block, its possible and impossible clips.

    Returns:
        The report, several lines.

    Raises:
        InputError: a pattern matches nothing, a shard is broken, or the picture cannot be written.
    """
    out = Path("contact-sheet.png") if out is None else Path(out)
    refs = [ref for path in _all_shards(shards) for ref in scan_shard(path)]
    lines = _shard_lines(refs, shards)
    facts, broken = _gather(refs[:MAX_OPENED])
    lines += _fact_lines(facts)
    if len(refs) > MAX_OPENED:
        lines.append(f"  (figures of the first {MAX_OPENED} samples)")
    lines += [f"broken: {place}: {reason}" for place, reason in broken[:20]]
    if len(broken) > 20:
        lines.append(f"broken: {len(broken) - 20} more")
    count = draw_contact_sheet(refs, out)
    lines.append(f"contact sheet of {count} samples: {out}" if count else "no picture to show")
    if blocks is not None:
        lines += [f"block: {path}" for path in draw_blocks(refs, Path(blocks))]
    return "\n".join(("  " if line.startswith("  ") else "") + printable(line) for line in lines)


def _all_shards(shards: Sequence[str]) -> list[Path]:
    paths: set[Path] = set()
    for pattern in shards:
        folder = Path(pattern)
        if folder.is_dir() and (inside := sorted(folder.rglob("*.tar"))):
            paths.update(inside)
        else:
            paths.update(resolve_shards(pattern))
    return sorted(paths)


def _shard_lines(refs: Sequence[SampleRef], shards: Sequence[str]) -> list[str]:
    per_shard = Counter(ref.shard for ref in refs)
    members = Counter(name for ref in refs for name in ref.members)
    total = sum(path.stat().st_size for path in _all_shards(shards))
    lines = [f"{len(refs)} samples in {len(_all_shards(shards))} shards, {total / 1e6:.1f} MB"]
    lines += [f"  {path}: {count} samples" for path, count in list(per_shard.items())[:40]]
    if len(per_shard) > 40:
        lines.append(f"  and {len(per_shard) - 40} more shards")
    listed = ", ".join(f"{name} {count}" for name, count in sorted(members.items())[:30])
    lines.append(f"members: {listed or 'none'}")
    return lines


def _gather(refs: Sequence[SampleRef]) -> tuple[list[_Facts], list[tuple[str, str]]]:
    facts: list[_Facts] = []
    broken: list[tuple[str, str]] = []
    for ref in refs:
        try:
            metadata = read_metadata(ref)
            facts += [_facts(ref, name, metadata) for name in video_members(ref)]
        except InputError as error:
            broken.append((f"{ref.key} of {ref.shard}", str(error)))
    return facts, broken


def _facts(ref: SampleRef, name: str, metadata: dict[str, Any]) -> _Facts:
    # From the video itself: what the metadata says is a claim.
    video = open_video(read_members(ref, [name])[name])
    try:
        return _Facts(
            kind=str(metadata.get("kind", "video")),
            size=f"{video.width}x{video.height}",
            fps=video.fps,
            num_frames=video.num_frames,
        )
    finally:
        video.close()


def _fact_lines(facts: Sequence[_Facts]) -> list[str]:
    if not facts:
        return ["videos: none"]
    lengths = [fact.num_frames for fact in facts]
    seconds = sorted(fact.num_frames / fact.fps for fact in facts)
    lines = [
        f"videos: {len(facts)}, {sum(lengths)} frames, {sum(seconds) / 3600:.3f} hours",
        f"frames per video: {min(lengths)} to {max(lengths)}, mean {np.mean(lengths):.1f}",
        f"seconds per video: {seconds[0]:.2f} to {seconds[-1]:.2f}, "
        f"median {seconds[len(seconds) // 2]:.2f}",
    ]
    for title, values in (
        ("kinds", Counter(fact.kind for fact in facts)),
        ("sizes", Counter(fact.size for fact in facts)),
        ("frames per second", Counter(_rate(fact.fps) for fact in facts)),
    ):
        shown = ", ".join(f"{value}: {count}" for value, count in values.most_common(12))
        lines.append(f"{title}: {shown}{', …' if len(values) > 12 else ''}")
    return lines


def _rate(fps: float) -> str:
    return str(round(fps, 3)) if fps >= 1 else f"{fps:.3g}"
