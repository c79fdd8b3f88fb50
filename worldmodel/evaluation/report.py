"""Everything that is measured, in one report: `report.json`, `report.md`, pictures and a page.

Protocol. Probes are fitted on the training split, their strength, level and all other settings
chosen on validation, and reported on test. Where the surprise headline is read is chosen on
validation blocks. The model runs in chunks of fixed size in the order of keys, each on one thread,
so batch size, workers and processes never change a number.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data.index import check_shards, index_sha256, read_index
from worldmodel.data.shards import SampleRef, make_folder, read_metadata
from worldmodel.errors import InputError
from worldmodel.evaluation.card import report_card
from worldmodel.evaluation.footage import find_samples, sampled_frames
from worldmodel.evaluation.measure import (
    Data,
    Effort,
    Run,
    choose_blocks,
    choose_training,
    evenly,
    measure,
)
from worldmodel.evaluation.page import write_clips, write_page
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.pictures import write_pictures
from worldmodel.evaluation.probes.stored import write_probes
from worldmodel.evaluation.provenance import describe, describe_model
from worldmodel.evaluation.tables import markdown
from worldmodel.models.checkpoint import ClipSpec, load_model
from worldmodel.models.hub_files import PROBES, REPORT_NAME

DEFAULT_DATA = Path("data/physics")
DEFAULT_SET = {"num_clips": 2000, "num_blocks": 20, "size": 64, "seed": 0}
SPLITS = ("train", "val", "test")


def evaluate(
    checkpoint: Path | str,
    out: Path,
    data: Path | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    metrics: Path | None = None,
    seed: int = 0,
    beside: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Measure what a checkpoint knows and write the report.

    Args:
        checkpoint: of `worldmodel fit`, or somebody else's encoder (see `load_model`).
        out: folder for `report.json`, `report.md`, `report.html`, `probes.safetensors`, `figures/`
            and `clips/`; made where missing.
        data: a set of the physics world. By default `data/physics`, generated where missing.
        batch_size: samples that a process hands over at a time; changes speed only.
        num_workers: processes that read and run; changes speed only. By default one per core.
        metrics: the run's `metrics.csv`; by default the one beside the checkpoint's folder.
        seed: of untrained networks, small MLPs and bootstrap.
        beside: other checkpoints, measured on the same clips and shown beside this one.

    Returns:
        The content of `report.json`.

    Raises:
        InputError: no such checkpoint or set, a set that lacks clips or blocks, whose videos are
            too short or which is not the one that its index describes, or a folder that cannot be
            written to; said before anything is measured.
    """
    started = time.monotonic()
    model = load_model(checkpoint)
    others = {name: load_model(path) for name, path in names_of(beside).items()}
    root = find_set(data)
    index = index_sha256(root)
    run = Run(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        Pace(num_workers, batch_size),
        seed,
    )
    found, counts = open_data(root, run.effort)
    samples = [
        ref for part in (found.clips, found.blocks) for refs in part.values() for ref in refs
    ]
    check_shards(root, (*SPLITS, "ood"), {ref.shard for ref in samples})
    for name, other in others.items():  # each is measured after the one before
        check_lengths(samples, other.clip, name)
    make_folder(out)
    sections, shown = measure(model, found, run)
    meta = describe(model, index, counts) | {"device": str(run.device), "seed": seed}
    report = {"meta": meta | {"seconds": 0.0}, "card": report_card(sections)} | sections
    for name, other in others.items():
        theirs, _ = measure(other, found, run)
        report.setdefault("beside", {})[name] = {"meta": describe_model(other)} | theirs
    # A run's checkpoints lie in a folder of their own, beside its metrics.
    csv = metrics if metrics is not None else model.file.parent.parent / "metrics.csv"
    write_pictures(out / "figures", report, shown, csv)
    write_clips(out, report["meta"], found.blocks["test"], model.clip, shown)
    if shown.probes is not None:
        write_probes(out / PROBES, shown.probes, model, report["meta"])
    report["meta"]["seconds"] = round(time.monotonic() - started, 1)
    written = write_report(out, report)
    write_page(out)
    return written


def names_of(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """A short name for each checkpoint, no two alike."""
    named: dict[str, str | Path] = {}
    for path in paths:
        parts = [part for part in str(path).split("/") if part not in ("checkpoints", "")]
        name = "-".join(parts[-3:])
        named[name if name not in named else f"{name}-{len(named)}"] = path
    return named


def check_lengths(refs: Iterable[SampleRef], clip: ClipSpec, name: str) -> None:
    """Refuse a model that sees longer clips than a set has.

    Args:
        refs: what it shall be measured on.
        clip: what it sees.
        name: of the model.

    Raises:
        InputError: one is too short.
    """
    for ref in refs:
        try:
            sampled_frames(read_metadata(ref), clip, ref.key)
        except InputError as error:
            raise InputError(f"{name} cannot be measured beside: {error}") from error


def open_data(root: Path, effort: Effort) -> tuple[Data, dict[str, int]]:
    """What is measured on in a set, and how many of each there are.

    Args:
        root: folder of the set.
        effort: how many clips of training and validation, and which blocks.

    Raises:
        InputError: clips or blocks of a split are missing.
    """
    clips = {split: find_samples(root, split, "clips") for split in SPLITS}
    clips["train"] = choose_training(clips["train"], effort)
    clips["val"] = evenly(clips["val"], effort.val_clips)
    splits = ["val", "test"] + ["ood"] * any(root.glob("ood/blocks-*.tar"))
    blocks = {split: choose_blocks(find_samples(root, split, "blocks"), effort) for split in splits}
    counts = {f"num_{split}_clips": len(refs) for split, refs in clips.items()}
    counts |= {f"num_{split}_blocks": len(refs) for split, refs in blocks.items()}
    return Data(clips, blocks), counts


def write_report(out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write `report.json` and `report.md` into a folder and return what was written."""
    plain = finite(report)
    text = json.dumps(plain, indent=2, allow_nan=False)
    (out / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(plain, out / "figures"), encoding="utf-8")
    return plain


def find_set(data: Path | None) -> Path:
    """The set to evaluate on; the default one is generated where it is missing.

    Raises:
        InputError: a folder was named that is no set.
    """
    root = DEFAULT_DATA if data is None else Path(data)
    if data is None and not (root / "index.json").is_file():
        from worldmodel.world.generate import generate  # a renderer that reports seldom need

        generate(
            root,
            num_clips=DEFAULT_SET["num_clips"],
            num_blocks=DEFAULT_SET["num_blocks"],
            size=DEFAULT_SET["size"],
            seed=DEFAULT_SET["seed"],
        )
    read_index(root)
    return root


def finite(value: Any, path: str = "report") -> Any:
    """A report in plain types that JSON can hold.

    Raises:
        ValueError: a number is not finite; a score that is not a number must not pass for one.
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, f"{path}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}")
        return float(value)
    return value if value is None else str(value)
