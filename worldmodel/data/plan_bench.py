"""The stream's plan at a scale that nobody has here: frames by the billion, ranks by the thousand.

Nothing but the data is left out: an index of so many shards is written, the shards are files of the
right size with nothing in them, and ranks open them and plan their batches as in a training. Each
measured rank is a process of its own.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from worldmodel.data import order
from worldmodel.data.catalog import MAX_KEPT_SAMPLES, Catalog, open_catalog
from worldmodel.data.index import FORMAT_VERSION, INDEX_NAME
from worldmodel.data.order import Mixture, SetOrder, StreamSampler, fitting_window
from worldmodel.data.shards import SampleRef
from worldmodel.environment import machine
from worldmodel.errors import InputError

SAMPLE_BYTES = 40_000


@dataclass(frozen=True, kw_only=True)
class PlanBench:
    """What is planned.

    Attributes:
        num_frames: of all videos together.
        num_shards: that they lie in.
        frames_per_sample: of each video.
        num_ranks: processes of the training.
        batch_size: samples of a rank's step.
        num_steps: whose batches are compared over all measured ranks.
        measured_ranks: how many ranks are measured, spread evenly.
    """

    num_frames: int = 10**9
    num_shards: int = 10**5
    frames_per_sample: int = 64
    num_ranks: int = 1024
    batch_size: int = 8
    num_steps: int = 200
    measured_ranks: int = 8

    def __post_init__(self) -> None:
        samples = self.num_frames // self.frames_per_sample
        if not 1 <= self.num_shards <= samples:
            raise InputError(
                f"{self.num_frames} frames in samples of {self.frames_per_sample} are {samples} "
                f"samples, which cannot be spread over {self.num_shards} shards"
            )
        if not 1 <= self.measured_ranks <= self.num_ranks:
            raise InputError(f"measured_ranks must be 1 to {self.num_ranks}")

    @property
    def shard_sizes(self) -> np.ndarray:
        """Samples of each shard; uneven, as real ones are."""
        samples = self.num_frames // self.frames_per_sample
        words = np.random.default_rng(0).uniform(0.5, 1.5, self.num_shards)
        sizes = np.maximum(1, (words / words.sum() * samples).astype(np.int64))
        sizes[0] += samples - sizes.sum()
        return sizes


def bench_plan(options: PlanBench) -> dict[str, Any]:
    """Time, memory and evenness of the plan.

    Returns:
        `index_megabytes`; `ranks`, of each measured one: `open_seconds` from the shards' names to
        what is known of their samples, `first_batch_seconds` more to the first batch,
        `batches_per_second` after it, `resume_seconds` from a place in the middle of the epoch to
        its batch, `megabytes` of memory it has more than before, `num_samples` and `num_shards` it
        asks of in `num_steps` steps, `steps_per_epoch`; `repeated` samples, which two ranks have
        (0); `machine`, `options`.

    Raises:
        InputError: there cannot be so many shards or ranks.
    """
    step = options.num_ranks // options.measured_ranks
    ranks = range(0, step * options.measured_ranks, step)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = _write_set(Path(folder), options)
        with context.Pool(1, maxtasksperchild=1) as pool:
            found = [pool.apply(measure_rank, (options, Path(folder), rank)) for rank in ranks]
    samples = np.concatenate([each.pop("samples") for each in found])
    return {
        "options": vars(options),
        "machine": machine(),
        "index_megabytes": num_bytes / 1e6,
        "ranks": {name: _range([float(each[name]) for each in found]) for name in found[0]},
        "repeated": int(len(samples) - len(np.unique(samples))),
    }


def _range(values: list[float]) -> dict[str, float]:
    return {"least": min(values), "median": float(np.median(values)), "most": max(values)}


def _write_set(root: Path, options: PlanBench) -> int:
    """An index of so many shards, which are holes of the right size; the index's own in bytes."""
    shards = [
        {
            "path": f"train/clips-{number:06d}.tar",
            "split": "train",
            "kind": "clips",
            "num_samples": int(size),
            "num_frames": options.frames_per_sample,
            "fps": 16.0,
            "bytes": int(size) * SAMPLE_BYTES,
            "sha256": f"{number:064x}",
        }
        for number, size in enumerate(options.shard_sizes)
    ]
    (root / "train").mkdir()
    for shard, size in zip(shards, options.shard_sizes.tolist(), strict=True):
        with (root / str(shard["path"])).open("wb") as file:
            file.truncate(size * SAMPLE_BYTES)
    path = root / INDEX_NAME
    path.write_text(json.dumps({"format_version": FORMAT_VERSION, "shards": shards}))
    return path.stat().st_size


def measure_rank(options: PlanBench, root: Path, rank: int) -> dict[str, Any]:
    """One rank's figures, and the samples of its first steps."""
    with patch.object(order, "this_rank", lambda: (rank, options.num_ranks)):
        before = _peak_megabytes()
        begun = time.perf_counter()
        catalog, _ = open_catalog(f"{root}/train/*.tar", options.frames_per_sample, 16.0, _probe)
        open_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        sampler = _sampler(catalog, options)
        batches = sampler.requests()
        first = next(batches)
        first_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        requests = first + [each for _ in range(options.num_steps - 1) for each in next(batches)]
        more_seconds = time.perf_counter() - begun
        megabytes = _peak_megabytes() - before
        samples = np.array([each.sample for each in requests])
        resumed = StreamSampler(sampler.mixture, options.batch_size, catalog.sha256())
        begun = time.perf_counter()
        state = resumed.state_dict() | {"samples": len(catalog) // 2}
        resumed.load_state_dict(state)
        next(resumed.requests())
        return {
            "open_seconds": open_seconds,
            "first_batch_seconds": first_seconds,
            "batches_per_second": (options.num_steps - 1) / more_seconds,
            "resume_seconds": time.perf_counter() - begun,
            "megabytes": megabytes,
            "num_samples": len(samples),
            "num_shards": len({catalog.shard_of(sample) for sample in samples.tolist()}),
            "steps_per_epoch": len(sampler),
            "samples": samples,
        }


def _probe(ref: SampleRef) -> tuple[int, float]:
    raise AssertionError(f"the index says how long {ref.key} is")


def _sampler(catalog: Catalog, options: PlanBench) -> StreamSampler:
    """As the data module makes it for a training."""
    sizes = catalog.shard_sizes
    mixture = Mixture((SetOrder(sizes, 0, fitting_window(sizes, MAX_KEPT_SAMPLES)),))
    return StreamSampler(mixture, options.batch_size, catalog.sha256())


def _peak_megabytes() -> float:
    try:
        # Of this program alone; getrusage starts at what the process had before it was started.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench_table(report: Mapping[str, Any]) -> str:
    """The figures for people."""
    options = report["options"]
    lines = [
        f"{options['num_frames']:.0e} frames in {options['num_shards']} shards, "
        f"{options['num_ranks']} ranks of {options['batch_size']} samples; "
        f"{options['measured_ranks']} of them measured",
        f"index: {report['index_megabytes']:.1f} MB",
        "",
        "| a rank | median | least to most |",
        "|---|---|---|",
    ]
    for name, each in report["ranks"].items():
        spread = f"{each['least']:,.4g} to {each['most']:,.4g}"
        lines.append(f"| {name.replace('_', ' ')} | {each['median']:,.4g} | {spread} |")
    lines += [
        "",
        f"samples that two ranks had in {options['num_steps']} steps: {report['repeated']}",
    ]
    return "\n".join(lines)
