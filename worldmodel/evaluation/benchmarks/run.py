"""Published benchmarks behind one door: which there are, and where the headline is read."""

import json
from pathlib import Path
from typing import Any

import torch

from worldmodel.data.benchmarks import BENCHMARKS as EXPECTATION
from worldmodel.data.shards import make_folder
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.classification import evaluate_classification
from worldmodel.evaluation.benchmarks.depth_benchmarks import evaluate_depth_benchmark
from worldmodel.evaluation.benchmarks.expectation import evaluate_benchmark
from worldmodel.evaluation.benchmarks.options import BenchmarkOptions
from worldmodel.evaluation.network import Place
from worldmodel.models.checkpoint import load_model
from worldmodel.models.hub_files import REPORT_NAME

DEPTH = ("nyuv2", "kitti")
CLASSIFICATION = ("ssv2", "kinetics", "list")
NAMES = (*EXPECTATION, *DEPTH, *CLASSIFICATION)


def run_benchmark(
    name: str,
    root: Path,
    checkpoint: str | Path,
    out: Path,
    options: BenchmarkOptions,
    num_workers: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a checkpoint on a benchmark and write `NAME.json` and `NAME.md` into a folder.

    Args:
        name: one of `NAMES`.
        root: the benchmark's folder.
        checkpoint: see `load_model`.
        out: where to; made where missing.
        options: what only some benchmarks ask for.
        num_workers: processes that read, where there is a use for them.
        seed: of untrained networks, probes and bootstrap.

    Raises:
        InputError: no such benchmark, something of it is missing, a number is out of range, or
            `out` cannot be written to.
    """
    if num_workers < 0:
        raise InputError(f"num_workers must be at least 0, got {num_workers}")
    if name not in NAMES:
        raise InputError(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
    model = load_model(checkpoint)
    make_folder(out)
    # Of videos with labels one costs as much as training on them.
    usual = 1 if name in CLASSIFICATION else 3
    untrained = usual if options.num_untrained is None else options.num_untrained
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.network.to(device)
    if name in EXPECTATION:
        place = chosen_place(model.file)
        return evaluate_benchmark(
            name, root, model, out, place, device, options.split, untrained, seed
        )
    if name in DEPTH:
        given = (("train", options.train_list), ("test", options.test_list))
        lists = {split: path for split, path in given if path is not None}
        return evaluate_depth_benchmark(
            name,
            root,
            model,
            out,
            device,
            seed,
            max_train=options.max_train,
            max_test=options.max_test,
            num_untrained=untrained,
            lists=lists or None,
            crop=options.crop,
        )
    return evaluate_classification(
        name,
        root,
        model,
        out,
        device,
        seed,
        max_train=options.max_train,
        max_validation=options.max_test,
        num_clips=options.num_clips,
        max_skipped_share=options.max_skipped_share,
        num_workers=num_workers,
        num_untrained=untrained,
    )


def chosen_place(checkpoint: Path) -> Place | None:
    """The single level and horizon that validation blocks of the physics world chose.

    Read from the report in an export, or in the checkpoint's run; None where it has none.

    Args:
        checkpoint: the file, of an export its weights.
    """
    run = checkpoint.parent.parent / "report"
    for folder in (checkpoint.parent, run):
        try:
            report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
            peak = report["surprise"]["overall"]["peak"]
            return int(peak["level"]), int(peak["horizon"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
