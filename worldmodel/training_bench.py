"""How fast training is: our trainer beside a bare loop, clips from memory and from the stream.

Each measured run is a process of its own, and runs that are compared take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset

from worldmodel.callbacks.throughput import peak_of, waited_seconds
from worldmodel.clips import ClipBatch
from worldmodel.compute import compile_parts
from worldmodel.cost import count_step
from worldmodel.data.datamodule import ClipDataModule
from worldmodel.environment import machine
from worldmodel.errors import InputError
from worldmodel.memory import keep_freed_memory
from worldmodel.optim import build_optimizer, build_schedule
from worldmodel.task import WorldModelTask

# Steps that are not timed: the first ones allocate, compile, and start workers.
WARM_UP = 10
# Batches that a run from memory goes round: more than a processor's cache holds.
BATCHES = 8
TIMES_FILE = "WORLDMODEL_BENCH_TIMES"
CHOICES = ("bare", "memory", "stream", "workers", "ddp", "compiled")
"""Subjects that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """What is measured.

    Attributes:
        config: the configuration that is trained.
        steps: timed steps of each run; at least `WARM_UP`.
        rounds: turns of each subject.
        shards: training shards; a small set of the physics world is made if there are none.
        compiled: measure `torch.compile` too, which takes minutes.
        subjects: only these of `CHOICES`, `ddp` with `apart`; without any, all of `bench_train`.
    """

    config: str = "configs/tiny.yaml"
    steps: int = 60
    rounds: int = 3
    shards: str | None = None
    compiled: bool = False
    subjects: Sequence[str] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.subjects) - set(CHOICES))
        if unknown:
            raise InputError(
                f"a benchmark of training has no subject {unknown[0]}; there are "
                f"{', '.join(CHOICES)}"
            )
        if self.steps < WARM_UP or self.rounds < 1:
            raise InputError(
                f"a benchmark of training needs at least {WARM_UP} steps and one round, got "
                f"{self.steps} and {self.rounds}"
            )


@dataclass(frozen=True)
class Shape:
    """What is trained.

    Attributes:
        batch_size: clips of a batch.
        num_frames: frames of a clip.
        size: pixels a side.
        precision: Lightning's name of it.
        flops: operations of a step.
    """

    batch_size: int
    num_frames: int
    size: int
    precision: str
    flops: int


def bench_train(options: TrainBench) -> dict[str, Any]:
    """Steps per second of each subject, and what they are beside one another.

    Subjects: `bare`, a loop of this file over the same model, batch and optimizer and nothing
    else; `memory`, `worldmodel fit` with batches that are there; on a CPU with two threads or more
    `bare_beside` and `memory_beside`, the same two at the same time with half of the threads each;
    `stream`, with the real stream and the configuration's workers; `workers`, with one worker for
    each device if it has none; `compiled`, the bare loop with compiled parts (those of `bare` are
    where the configuration says so); `ddp`, two processes on CPU cores of their own, beside
    `apart`, two runs of one process each at the same time (CPU), or all GPUs beside one.

    Returns:
        `subjects.{name}`: `steps_per_second` (median), `least`, `most`, and of runs with the stream
        `data_wait_share`; `ratios`, of subjects that were measured: `trainer_overhead`
        (1 - memory ÷ bare; at the same time where that was measured, median of rounds) and
        `trainer_overhead_alone` (with all threads, one after the other), `stream`
        (stream ÷ memory), `fit` (stream ÷ bare), `compiled` (÷ bare), `ddp` (÷ apart); `step`:
        `gflop`, and of `subject` `frames_per_second`, `gflop_per_second` and, on a GPU whose peak
        is known, `mfu`, the share of it; `machine`, `config`.

    Raises:
        InputError: the configuration cannot be used, or a run failed.
    """
    config = Path(options.config)
    shape = _shape(config)
    with tempfile.TemporaryDirectory() as folder:
        shards = options.shards or _small_set(Path(folder), shape.size)
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(options.rounds):
            for name in _subjects(options):
                runs = Path(folder) / f"{number}-{name}"
                if name == "ddp":
                    both, apart = _scaling(options, shards, runs)
                    found["ddp"].append(both)
                    found["apart"].append(apart)
                elif name == "beside":
                    for each, turn in _beside(options, shards, runs).items():
                        found[each].append(turn)
                else:
                    found[name].append(_run(name, options, shards, runs))
    report: dict[str, Any] = {
        "config": options.config,
        "machine": {**machine(), "torch": torch.__version__},
        "timed_steps": options.steps,
        "subjects": {name: _summary(each) for name, each in found.items()},
    }
    speed = {name: each["steps_per_second"] for name, each in report["subjects"].items()}
    report["ratios"] = _ratios(speed, found)
    report["step"] = _step(speed, shape)
    return report


def _subjects(options: TrainBench) -> list[str]:
    """What takes turns."""
    if options.subjects:
        return [name for name in CHOICES if name in options.subjects]
    subjects = ["bare", "memory", "stream", "workers", "ddp"]
    if options.compiled:
        subjects.append("compiled")
    if not torch.cuda.is_available() and torch.get_num_threads() > 1:
        subjects.append("beside")
    return subjects


def _ratios(
    speed: Mapping[str, float], found: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, float]:
    """Of subjects that were measured, one beside another."""
    ratios = {}
    if {"memory", "bare"} <= speed.keys():
        alone = 1 - speed["memory"] / speed["bare"]
        ratios["trainer_overhead"] = _paired_overhead(found) if "bare_beside" in found else alone
        ratios["trainer_overhead_alone"] = alone
    pairs = {
        "stream": ("stream", "memory"),
        "fit": ("stream", "bare"),
        "compiled": ("compiled", "bare"),
        "ddp": ("ddp", "apart"),
    }
    for name, (one, other) in pairs.items():
        if {one, other} <= speed.keys():
            ratios[name] = speed[one] / speed[other]
    return ratios


def _step(speed: Mapping[str, float], shape: Shape) -> dict[str, Any]:
    """What a step is, and how fast the first of these subjects does it."""
    found: dict[str, Any] = {"gflop": shape.flops / 1e9}
    subject = next((name for name in ("memory", "stream", "bare") if name in speed), None)
    if subject is None:
        return found
    found |= {
        "subject": subject,
        "frames_per_second": speed[subject] * shape.batch_size * shape.num_frames,
        "gflop_per_second": speed[subject] * shape.flops / 1e9,
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if peak := peak_of(device, shape.precision):
        found["mfu"] = speed[subject] * shape.flops / peak
    return found


# --- Runs, each in a process of its own --------------------------------------------------------


def _run(
    name: str, options: TrainBench, shards: str, runs: Path, threads: int | None = None
) -> dict[str, float]:
    """One turn of a subject."""
    return _finish(_start(name, options, shards, runs, threads), runs)


def _start(
    name: str, options: TrainBench, shards: str, runs: Path, threads: int | None = None
) -> subprocess.Popen[str]:
    runs.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, **{TIMES_FILE: str(runs / "times.json")})
    environment.setdefault("GOMP_SPINCOUNT", "10000")  # as the command sets it
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    arguments = (name, "--config", options.config, "--steps", str(options.steps))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "worldmodel.training_bench", *arguments),
            *("--shards", shards, "--runs", str(runs)),
        ],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _finish(process: subprocess.Popen[str], runs: Path) -> dict[str, float]:
    out, _ = process.communicate()
    if process.returncode:
        last = (out.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"a run of the benchmark failed: {last}")
    return json.loads((runs / "times.json").read_text(encoding="utf-8"))


def _scaling(
    options: TrainBench, shards: str, runs: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Connected processes beside as many that know nothing of one another, one after the other.

    On a CPU two, with half of the threads each; all GPUs beside one of them.
    """
    if torch.cuda.is_available():
        together = _run("ddp", options, shards, runs / "ddp")
        return together, _run("memory", options, shards, runs / "apart")
    threads = max(1, torch.get_num_threads() // 2)
    together = _run("ddp", options, shards, runs / "ddp", 2 * threads)
    folders = [runs / f"apart{number}" for number in range(2)]
    alone = [_start("memory", options, shards, folder, threads) for folder in folders]
    found = [_finish(each, folder) for each, folder in zip(alone, folders, strict=True)]
    speeds = [each["steps_per_second"] for each in found]
    return together, {"steps_per_second": statistics.mean(speeds)}


def _beside(options: TrainBench, shards: str, runs: Path) -> dict[str, dict[str, float]]:
    """The bare loop and the trainer at the same time, with half of the threads each.

    What the machine does meanwhile slows both alike; turns one after the other differ by 10 %.
    """
    threads = torch.get_num_threads() // 2
    names = {"bare_beside": "bare", "memory_beside": "memory"}
    started = {
        name: _start(subject, options, shards, runs / subject, threads)
        for name, subject in names.items()
    }
    return {name: _finish(each, runs / names[name]) for name, each in started.items()}


def _paired_overhead(found: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
    """What the trainer adds to the bare loop's time, as a share, from runs at the same time."""
    pairs = zip(found["memory_beside"], found["bare_beside"], strict=True)
    speeds = [memory["steps_per_second"] / bare["steps_per_second"] for memory, bare in pairs]
    return 1 - statistics.median(speeds)


def _summary(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    speeds = [turn["steps_per_second"] for turn in turns]
    found = {
        "steps_per_second": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
    }
    waits = [turn["data_wait_share"] for turn in turns if "data_wait_share" in turn]
    return found | ({"data_wait_share": statistics.median(waits)} if waits else {})


def _small_set(folder: Path, size: int) -> str:
    """Training shards of a small set, made for the benchmark."""
    from worldmodel.world.generate import generate  # a renderer that is not needed otherwise

    generate(folder / "set", num_clips=200, num_blocks=0, size=size, seed=0)
    return f"{folder / 'set'}/train/clips-*.tar"


# --- What a measured process does --------------------------------------------------------------


class Stopwatch(Callback):
    """Times the steps after the first ones, and writes it to a file when they are done.

    Args:
        steps: how many are timed.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.begun = self.waited = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        waited = waited_seconds(trainer)
        if trainer.global_step == WARM_UP:
            self.begun, self.waited = now(pl_module.device), waited
        elif trainer.global_step == WARM_UP + self.steps and trainer.is_global_zero:
            seconds = now(pl_module.device) - self.begun
            write_times(self.steps / seconds, (waited - self.waited) / seconds)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write_times(steps_per_second: float, data_wait_share: float | None = None) -> None:
    """Leave what was measured for the process that asked."""
    found = {"steps_per_second": steps_per_second}
    if data_wait_share is not None:
        found["data_wait_share"] = data_wait_share
    Path(os.environ[TIMES_FILE]).write_text(json.dumps(found), encoding="utf-8")


class MemoryBatches(Dataset[ClipBatch]):
    """The same few batches over and over, as a dataset of which each item is a batch."""

    def __init__(self, batches: Sequence[ClipBatch], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> ClipBatch:
        return self.batches[number % len(self.batches)]


def take_batches(datamodule: ClipDataModule, count: int) -> list[ClipBatch]:
    """The first batches of the stream."""
    datamodule.setup("fit")
    return first_batches(datamodule.train_dataloader(), count)


def first_batches(loader: Iterable[ClipBatch], count: int) -> list[ClipBatch]:
    """As many batches, of several passes where one has fewer."""
    return list(islice(chain.from_iterable(repeat(loader)), count))


def run_bare(config: dict[str, Any], steps: int, compiled: bool) -> None:
    """A training loop of the fewest lines, over the same model, batches and optimizer."""
    torch.set_float32_matmul_precision("high")  # as in training
    task, datamodule = build(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = take_batches(datamodule, BATCHES)
    task = task.to(device).train()
    if compiled or task.compute_config.compile:
        compile_parts(task.hierarchy, (task.prediction_loss, task.regularizers))
    optimizer = build_optimizer(task, task.optim)
    schedule = build_schedule(optimizer, task.optim, WARM_UP + steps)
    half = str(config["trainer"].get("precision", "32")).startswith("bf16")
    most = config["trainer"].get("gradient_clip_val")
    begun = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            begun = now(device)
        batch = batches[step % BATCHES].to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            losses, _ = task.objective(batch)
            loss = task.total(losses)
        loss.backward()
        if most:
            clip_grad_norm_(task.parameters(), most)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    write_times(steps / (now(device) - begun))


def run_trainer(config_file: Path, name: str, steps: int, shards: str, runs: Path) -> None:
    """`worldmodel fit`, with a stopwatch beside its own callbacks."""
    from worldmodel.training import TrainCLI

    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    devices = {"ddp": -1 if torch.cuda.is_available() else 2}.get(name, 1)
    workers = config["data"].get("num_workers", 0)
    arguments = [
        *("fit", "--config", str(config_file), "--data.shards", shards),
        *("--trainer.default_root_dir", str(runs), "--trainer.limit_val_batches", "0"),
        *("--trainer.max_steps", str(WARM_UP + steps), "--trainer.devices", str(devices)),
        *("--trainer.callbacks+", f"{__name__}.Stopwatch", "--trainer.callbacks.steps", str(steps)),
        *("--trainer.enable_progress_bar", "true", "--trainer.num_sanity_val_steps", "0"),
        *("--data.num_workers", str(max(1, workers) if name == "workers" else workers)),
    ]
    if devices != 1:
        arguments += ["--trainer.strategy", "ddp"]
    if name in ("memory", "ddp"):
        plain = ClipDataModule.train_dataloader

        def from_memory(self: ClipDataModule) -> DataLoader[ClipBatch]:
            batches = first_batches(plain(self), BATCHES)
            return DataLoader(MemoryBatches(batches, 10**6), batch_size=None)

        ClipDataModule.train_dataloader = from_memory  # type: ignore[assignment]
    TrainCLI(arguments)


def build(config: dict[str, Any]) -> tuple[WorldModelTask, ClipDataModule]:
    """The task and the data module that a configuration names.

    Raises:
        InputError: it names something else.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WorldModelTask, "model")
    parser.add_class_arguments(ClipDataModule, "data")
    parts: dict[str, Any] = {name: config[name] for name in ("model", "data") if name in config}
    try:
        built = parser.instantiate_classes(parser.parse_object(parts))
    except ArgumentError as error:
        raise InputError(f"the configuration cannot be used: {error}") from error
    return built.model, built.data


def _shape(config: Path) -> Shape:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {config}: {error.strerror or error}") from error
    task, datamodule = build(content)
    return Shape(
        datamodule.batch_size,
        datamodule.num_frames,
        task.hierarchy.size,
        str((content.get("trainer") or {}).get("precision", "32")),
        count_step(task, datamodule.batch_size, datamodule.num_frames).flops,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """One measured run; what `bench_train` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CHOICES)
    for name, kind in (("config", Path), ("steps", int), ("shards", str), ("runs", Path)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    asked = parser.parse_args(arguments)
    keep_freed_memory()
    if asked.name in ("bare", "compiled"):
        config = yaml.safe_load(asked.config.read_text(encoding="utf-8"))
        config["data"]["shards"] = asked.shards
        run_bare(config, asked.steps, asked.name == "compiled")
    else:
        run_trainer(asked.config, asked.name, asked.steps, asked.shards, asked.runs)
    return 0


def bench_table(report: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{report['config']} on {report['machine']['cpu']}, {report['timed_steps']} steps", ""]
    lines += ["| | steps/s | least to most | waits for clips |", "|---|---|---|---|"]
    for name, each in report["subjects"].items():
        waits = f"{each['data_wait_share']:.1%}" if "data_wait_share" in each else ""
        spread = f"{each['least']:.2f} to {each['most']:.2f}"
        lines.append(f"| {SUBJECTS[name]} | {each['steps_per_second']:.2f} | {spread} | {waits} |")
    ratios, step = report["ratios"], report["step"]
    lines.append("")
    if "trainer_overhead" in ratios:
        whole, alone = 1 - ratios["trainer_overhead"], 1 - ratios["trainer_overhead_alone"]
        lines.append(
            f"worldmodel fit from memory {whole:.2f} of the bare loop's speed (one after the "
            f"other, with all threads, {alone:.2f})"
        )
    sentences = {
        "stream": "with the stream {:.2f} of the speed from memory",
        "fit": "worldmodel fit with the stream {:.2f} of the bare loop's speed",
        "ddp": "two processes {:.2f} of two that are not connected",
        "compiled": "compiled {:.2f} times as fast",
    }
    lines += [text.format(ratios[name]) for name, text in sentences.items() if name in ratios]
    if "subject" in step:
        lines.append(
            f"a step: {step['gflop']:.1f} GFLOP; {SUBJECTS[step['subject']]}: "
            f"{step['frames_per_second']:.0f} frames/s, {step['gflop_per_second']:.0f} GFLOP/s"
            + (f", {step['mfu']:.2f} of the GPU's peak" if "mfu" in step else "")
        )
    return "\n".join(lines)


SUBJECTS = {
    "bare": "bare loop, clips in memory",
    "memory": "worldmodel fit, clips in memory",
    "bare_beside": "bare loop, half of the threads, beside",
    "memory_beside": "worldmodel fit from memory, the other half",
    "stream": "worldmodel fit, the stream as configured",
    "workers": "worldmodel fit, the stream with a worker",
    "compiled": "bare loop, compiled",
    "ddp": "two processes in DDP (all GPUs)",
    "apart": "two processes apart (one GPU)",
}


if __name__ == "__main__":
    # Under its own name, so that classes are found by it.
    from worldmodel.training_bench import main as run

    sys.exit(run())
