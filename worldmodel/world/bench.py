"""How fast clips are made, against the first version of this generator in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

import worldmodel
from worldmodel.data.encode import encode_video
from worldmodel.data.truth import encode_truth
from worldmodel.errors import InputError
from worldmodel.world.free import free_scene
from worldmodel.world.open_blocks import KINDS
from worldmodel.world.render import render
from worldmodel.world.samples import Task, draw_kind
from worldmodel.world.scenes import FPS
from worldmodel.world.simulate import UnstableSceneError, simulate

SIZES = (64, 96, 128)
# The first version that made whole sets, measured from this commit of the project's own history.
FIRST_VERSION = "14d7ed77cfc64b1cddc6ded8addeab9364ee7954"
ROUNDS = 3
# What each measured process runs: some clips from the same seeds, on one core, one thread. The
# first sample is not counted: it loads libraries, and compiles what is not compiled yet.
MEASURED = """
import json, sys, time
from worldmodel.world.samples import Task, make_sample
size, first, count = (int(word) for word in sys.argv[1:])
make_sample(Task(1, "train", "clip", 0, size))
before, size_in_bytes = time.process_time(), 0
for index in range(first, first + count):
    members = make_sample(Task(1, "train", "clip", index, size))
    size_in_bytes += sum(len(content) for content in members.values())
print(json.dumps({"seconds": time.process_time() - before, "bytes": size_in_bytes}))
"""


def bench_generate(
    num_clips: int = 48, sizes: Sequence[int] = SIZES, reference: str = FIRST_VERSION
) -> dict[str, Any]:
    """Clips per core-second of this version and of the first one, per size.

    Both make training clips of the same seeds in turns, `ROUNDS` times, each in a process of its
    own on one core. Their scenes are not the same: the first version's are plainer.

    Args:
        num_clips: per size and version, in all.
        sizes: pixels a side.
        reference: commit of the first version.

    Returns:
        `sizes.{size}.{ours, first}`: `clips_per_core_second`, `mb_per_1000_clips`; `.ratio` of the
        first figure; `stages.{size}`: milliseconds per clip of each stage of this version. Without
        the project's history `first` is missing, and `skipped` says why.

    Raises:
        InputError: `num_clips` is too small, or one of the measured processes failed.
    """
    if num_clips < ROUNDS:
        raise InputError(f"num_clips must be at least {ROUNDS}, got {num_clips}")
    here = Path(worldmodel.__file__).resolve().parents[1]
    report: dict[str, Any] = {"num_clips": num_clips, "reference_commit": reference, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        versions = {"ours": here}
        try:
            versions["first"] = _check_out(here, reference, Path(folder))
        except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
            report["skipped"] = f"first version not measured: no commit {reference} here ({error})"
        for size in sizes:
            report["sizes"][str(size)] = _compare(versions, size, num_clips)
    report["stages"] = {str(size): stage_times(size) for size in sizes}
    return report


def _check_out(repository: Path, commit: str, folder: Path) -> Path:
    archive = subprocess.run(
        ["git", "-C", str(repository), "archive", commit, "worldmodel"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _compare(versions: dict[str, Path], size: int, num_clips: int) -> dict[str, Any]:
    share = num_clips // ROUNDS
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    sizes_in_bytes = dict.fromkeys(versions, 0.0)
    for turn in range(ROUNDS):
        for name, root in versions.items():
            found = _measure(root, size, 1 + turn * share, share)
            seconds[name].append(found["seconds"] / share)
            sizes_in_bytes[name] += found["bytes"]
    result: dict[str, Any] = {
        name: {
            "clips_per_core_second": 1 / float(np.mean(seconds[name])),
            "mb_per_1000_clips": sizes_in_bytes[name] / (share * ROUNDS) / 1000,
        }
        for name in versions
    }
    if "first" in versions:
        result["ratio"] = (
            result["ours"]["clips_per_core_second"] / result["first"]["clips_per_core_second"]
        )
        turns = [b / a for a, b in zip(seconds["ours"], seconds["first"], strict=True)]
        result["ratio_min"], result["ratio_max"] = min(turns), max(turns)
    return result


def _measure(root: Path, size: int, first: int, count: int) -> dict[str, float]:
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(size), str(first), str(count)],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | single | {"PYTHONPATH": str(root)},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"making clips with the code in {root} failed: {last}")
    return json.loads(done.stdout)


def stage_times(size: int, num_clips: int = 16) -> dict[str, float]:
    """Milliseconds per training clip that simulating, rendering and encoding take."""
    spent = {"simulate": 0.0, "render": 0.0, "encode": 0.0}
    counted = 0
    for index in range(num_clips + 1):
        task = Task(1, "train", "clip", index, size)
        rng = task.generator(0)
        kind = draw_kind(rng, task)
        style = task.style
        scene = free_scene(rng, style) if kind == "free" else KINDS[kind](rng, style).a
        times = [time.process_time()]
        try:
            motion = simulate(scene)
        except UnstableSceneError:
            continue
        times.append(time.process_time())
        footage = render(scene, motion, size)
        times.append(time.process_time())
        encode_video(footage.frames, float(FPS))
        encode_truth(footage.truth)
        times.append(time.process_time())
        if index:  # the first one compiles and loads
            counted += 1
            for name, start, stop in zip(spent, times, times[1:], strict=False):
                spent[name] += stop - start
    return {name: 1000 * seconds / counted for name, seconds in spent.items()}


def bench_table(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        "| pixels | clips per core-second | first version | ratio | MB per 1000 clips | first |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for size, found in report["sizes"].items():
        ours, first = found["ours"], found.get("first")
        ratio = "not measured"
        before, weight = "", ""
        if first:
            ratio = f"{found['ratio']:.2f} ({found['ratio_min']:.2f} to {found['ratio_max']:.2f})"
            before = f"{first['clips_per_core_second']:.2f}"
            weight = f"{first['mb_per_1000_clips']:.0f}"
        lines.append(
            f"| {size} | {ours['clips_per_core_second']:.2f} | {before} | {ratio} | "
            f"{ours['mb_per_1000_clips']:.0f} | {weight} |"
        )
    lines += ["", "| pixels | simulate, ms per clip | render | encode |", "|---|---|---|---|"]
    for size, stages in report["stages"].items():
        lines.append(f"| {size} | " + " | ".join(f"{ms:.1f}" for ms in stages.values()) + " |")
    if "skipped" in report:
        lines += ["", report["skipped"]]
    return "\n".join(lines)
