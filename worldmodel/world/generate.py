"""Many scenes, many processes, one set of shards.

Each sample is a function of (seed, split, stream, index) alone, through `numpy.random.SeedSequence`
whose spawn key they form: splits and streams never share a scene, and neither the number of
processes nor an interruption changes a byte. A shard is written whole or not at all, as soon as its
last sample is there; a run that was killed goes on with the first shard that is missing.
"""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.data.engine import Crashed, Engine, run_jobs
from worldmodel.data.index import INDEX_NAME, has_all_shards, read_index, write_index
from worldmodel.data.journal import refuse_other_arguments, sole_writer
from worldmodel.data.shards import SPLITS, read_metadata, scan_shard, write_shard
from worldmodel.errors import InputError
from worldmodel.world.open_blocks import KINDS
from worldmodel.world.samples import UNSEEN_SPLIT, Members, Task, make_sample
from worldmodel.world.style import Mix

CLIPS_PER_SHARD = 32
# Samples that may be made before the oldest is taken, per worker; all take about as long.
AHEAD = 8
BLOCKS_PER_SHARD = 12
# Arguments of an unfinished run, so that it is never continued with others.
UNFINISHED_NAME = ".unfinished.json"
MIN_SIZE, MAX_SIZE = 16, 1024


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written and the samples that belong into it."""

    path: Path
    tasks: tuple[Task, ...]


def generate(
    out: Path,
    num_clips: int,
    num_blocks: int,
    size: int = 64,
    seed: int = 0,
    processes: int | None = None,
    mix: Mix | None = None,
    leave_out: Sequence[str] = (),
    *,
    engine: Engine = "processes",
) -> None:
    """Make a set of the physics world; the same arguments give the same bytes.

    Does nothing where the set is there already, and goes on where an earlier run was cut short.

    Args:
        out: folder of the set.
        num_clips: training clips; validation and test get a tenth each, at least one.
        num_blocks: test blocks of each kind; validation, and the split `ood` of shapes, colours and
            screens that no other split shows, get half, rounded up.
        size: height and width in pixels.
        seed: two sets with different seeds share no scene.
        processes: how many work at it; all cores by default.
        mix: shares of what scenes show.
        leave_out: kinds whose worlds are not shown in training and validation clips. Blocks and
            test clips stay as they are, to the bit.
        engine: `processes` of this machine, or a `ray` cluster; only this process writes to `out`.

    Raises:
        InputError: an argument is out of range, `out` cannot be written to, or holds a set that
            was made with other arguments, or another process is at work there.
    """
    out = Path(out)
    arguments = {
        "source": "physics-world",
        "num_clips": num_clips,
        "num_blocks": num_blocks,
        "size": size,
        "seed": seed,
        "leave_out": sorted(set(leave_out)),
        **{f"mix.{name}": share for name, share in asdict(mix or Mix()).items()},
    }
    _check_arguments(num_clips, num_blocks, size, seed, processes)
    unknown = sorted(set(leave_out) - set(KINDS))
    if unknown:
        raise InputError(
            f"leave_out knows no kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}"
        )
    plans = plan_shards(out, num_clips, num_blocks, size, seed, mix, tuple(leave_out))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(out, error) from error
    with sole_writer(out):
        if _is_finished(out, arguments):
            print(f"{out} is complete: nothing to do")
            return
        _begin(out, arguments)
        missing = [plan for plan in plans if not plan.path.exists()]
        _write_shards(plans, missing, engine, processes)
        write_index(out, arguments)
        (out / UNFINISHED_NAME).unlink()
    print(_rejections(plans))


def _rejections(plans: list[ShardPlan]) -> str:
    """How many scenes were drawn for the samples that were made, and why others were not."""
    accepted, reasons = 0, Counter[str]()
    for plan in plans:
        for ref in scan_shard(plan.path):
            accepted += 1
            reasons.update(read_metadata(ref)["rejected"])
    drawn = accepted + sum(reasons.values())
    why = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    return f"{drawn} scenes drawn, {accepted} accepted" + (f" ({why})" if why else "")


def plan_shards(
    out: Path,
    num_clips: int,
    num_blocks: int,
    size: int,
    seed: int,
    mix: Mix | None = None,
    leave_out: tuple[str, ...] = (),
) -> list[ShardPlan]:
    """Which samples go into which shard; pure arithmetic."""
    tenth = math.ceil(num_clips / 10)
    half = math.ceil(num_blocks / 2)
    counts = {"train": (num_clips, 0), "val": (tenth, half), "test": (tenth, num_blocks)}
    counts[UNSEEN_SPLIT] = (0, half)
    plans = []

    def task(split: str, stream: str, index: int) -> Task:
        return Task(seed, split, stream, index, size, mix or Mix(), leave_out)

    for split in SPLITS:
        clips, blocks = counts[split]
        tasks = [task(split, "clip", i) for i in range(clips)]
        plans += _cut(out / split / "clips", tasks, CLIPS_PER_SHARD)
        tasks = [task(split, kind, i) for i in range(blocks) for kind in KINDS]
        plans += _cut(out / split / "blocks", tasks, BLOCKS_PER_SHARD)
    return plans


def _cut(stem: Path, tasks: list[Task], length: int) -> list[ShardPlan]:
    plans = []
    for number, first in enumerate(range(0, len(tasks), length)):
        path = stem.with_name(f"{stem.name}-{number:06d}.tar")
        plans.append(ShardPlan(path, tuple(tasks[first : first + length])))
    return plans


def _check_arguments(
    num_clips: int, num_blocks: int, size: int, seed: int, processes: int | None
) -> None:
    if num_clips < 1:
        raise InputError(f"num_clips must be at least 1, got {num_clips}")
    if num_blocks < 0:
        raise InputError(f"num_blocks must be at least 0, got {num_blocks}")
    if not MIN_SIZE <= size <= MAX_SIZE or size % 2:
        raise InputError(f"size must be even, {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    if processes is not None and processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")


def _is_finished(out: Path, arguments: dict[str, Any]) -> bool:
    """Whether the whole set is there, as its index says."""
    if not (out / INDEX_NAME).is_file():
        return False
    index = read_index(out)
    refuse_other_arguments(out, index.get("arguments"), arguments)
    return has_all_shards(out, index)


def _begin(out: Path, arguments: dict[str, Any]) -> None:
    """Note what is being made, or refuse to mix it with something else."""
    note = out / UNFINISHED_NAME
    if note.is_file():
        refuse_other_arguments(out, _read_note(note), arguments)
    elif not (out / INDEX_NAME).is_file() and any(out.glob("*/*.tar")):
        raise InputError(
            f"{out} holds shards that this command did not make (no {INDEX_NAME}); "
            "choose another folder"
        )
    try:
        partial = note.with_name(f"{note.name}.part")
        partial.write_text(json.dumps(arguments, sort_keys=True) + "\n")
        os.replace(partial, note)
        # Of a run that was killed while it wrote.
        for leftover in [*out.glob("*.part"), *out.glob("*/*.part")]:
            leftover.unlink()
    except OSError as error:
        raise _cannot_write(out, error) from error


def _read_note(note: Path) -> object:
    try:
        return json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{note}, of an unfinished run, cannot be read ({error}); choose another folder or "
            "remove that one"
        ) from error


def _cannot_write(out: Path, error: OSError) -> InputError:
    return InputError(f"cannot write to {out}: {error}; choose another folder")


def _write_shards(
    plans: list[ShardPlan], missing: list[ShardPlan], engine: Engine, processes: int | None
) -> None:
    total = sum(len(plan.tasks) for plan in plans)
    tasks = [task for plan in missing for task in plan.tasks]
    with (
        tqdm(
            total=total, initial=total - len(tasks), unit="sample", desc="physics world"
        ) as progress,
        contextlib.closing(_samples(tasks, engine, processes)) as samples,
    ):
        for plan in missing:
            members = []
            for task in plan.tasks:
                members.append((task.key, next(samples)))
                progress.update()
            write_shard(plan.path, members)


def _samples(
    tasks: list[Task], engine: Engine, processes: int | None
) -> Generator[Members, None, None]:
    """The samples in order."""
    with contextlib.closing(run_jobs(make_sample, tasks, engine, processes, AHEAD)) as results:
        for task, members in zip(tasks, results, strict=True):
            if isinstance(members, Crashed):
                raise InputError(
                    f"the process that made {task.key} died ({members.reason}); the shards that "
                    "are written stay: the same command goes on, with fewer --processes if memory "
                    "was short"
                )
            yield members
