"""What is measured of each run: the report's sections at less effort, and the tokens' spectra.

Probes learn from the base's training clips and are chosen on its validation clips. Scores are those
of the development set's training clips and of its blocks: its own test split, and that of the set
the base learns from, stay unseen while recipes are chosen.

`python -m worldmodel.ablation.score CHECKPOINT --base SET --development SET --out FILE` is what a
study runs in a process of its own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldmodel.ablation.spectrum import TokenMoments, Watch
from worldmodel.data.shards import SampleRef
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples, read_footage
from worldmodel.evaluation.measure import (
    Data,
    Effort,
    Run,
    choose_blocks,
    choose_training,
    evenly,
    measure,
)
from worldmodel.evaluation.network import CHUNK, levels_of
from worldmodel.evaluation.passes import Pace, run_pass
from worldmodel.evaluation.readings import KINDS
from worldmodel.evaluation.report import finite
from worldmodel.memory import keep_freed_memory
from worldmodel.models.checkpoint import LoadedModel, load_model

# 110 s on one core for the tiny configuration. With half the training clips it is 95 s, and probes
# are starved: the same model was right about what is behind the screen in .52 instead of .64.
EFFORT = Effort(
    event_clips=200,
    free_clips=40,
    val_clips=80,
    num_untrained=1,
    num_untrained_unseen=0,
    context_frames=(),
    rollouts=False,
    kinds=KINDS,
)
# Clips that are measured on: as many of either sort as make intervals of r2 of about ± 0.06.
TEST_EVENT_CLIPS, TEST_FREE_CLIPS = 120, 20
# Sections that this effort leaves empty.
LEFT_OUT = ("surprise_by_context",)


def development_data(base: Path, development: Path, effort: Effort) -> Data:
    """Samples of both sets.

    Args:
        base: the set that is learned from.
        development: the set that is measured on.
        effort: how many.

    Raises:
        InputError: a set lacks clips or blocks.
    """
    shown = replace(effort, event_clips=TEST_EVENT_CLIPS, free_clips=TEST_FREE_CLIPS)
    return Data(
        clips={
            "train": choose_training(find_samples(base, "train", "clips"), effort),
            "val": evenly(find_samples(base, "val", "clips"), effort.val_clips),
            "test": choose_training(find_samples(development, "train", "clips"), shown),
        },
        blocks={
            split: choose_blocks(find_samples(development, split, "blocks"), effort)
            for split in ("val", "test")
        },
    )


def score(
    checkpoint: Path,
    base: Path,
    development: Path,
    effort: Effort = EFFORT,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Measure one run.

    Args:
        checkpoint: of `worldmodel fit`.
        base: the set that is learned from.
        development: the set that is measured on.
        effort: how much is measured.
        num_workers: processes beside this one; changes no number.

    Returns:
        `sections` as in a report, and `spectrum` of every level.

    Raises:
        InputError: the checkpoint or a set cannot be used.
    """
    model = load_model(checkpoint)
    data = development_data(base, development, effort)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(device, Pace(num_workers, quiet=True), effort=effort)
    sections, _ = measure(model, data, run)
    kept = {name: section for name, section in sections.items() if name not in LEFT_OUT}
    return finite({"sections": kept, "spectrum": spectra(model, data.clips["test"], run)})


def spectra(model: LoadedModel, clips: Sequence[SampleRef], run: Run) -> dict[str, dict]:
    """How fast the tokens of each level change, and where their variance lies: `level{l}`.

    Args:
        model: whose tokens.
        clips: that it sees.
        run: how.
    """
    network = model.network.to(run.device)
    levels = levels_of(network)
    moments = [TokenMoments.of(level.num_tokens, level.dim) for level in levels]
    read = partial(read_footage, clip=model.clip)
    for parts in run_pass(clips, read, Watch(network, run.device), CHUNK, run.device, run.pace):
        for whole, part in zip(moments, parts, strict=True):
            whole.merge(part)
    return {
        f"level{number}": each.section(level.span / model.clip.fps)
        for number, (each, level) in enumerate(zip(moments, levels, strict=True))
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a checkpoint and write what was found; the exit code is 2 if that is impossible."""
    parser = argparse.ArgumentParser(prog="python -m worldmodel.ablation.score")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--development", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        found = score(given.checkpoint, given.base, given.development)
    except InputError as error:
        print(f"worldmodel: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    given.out.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
