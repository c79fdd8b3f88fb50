"""Everything that is measured, in one report: `report.json`, `report.md` and pictures.

Protocol. Probes are fitted on the training split, their strength, level and all other settings
chosen on validation, and reported on test. Level and horizon of the surprise headline are chosen
on validation blocks. The model runs in chunks of fixed size in the order of keys, so batch size
and workers never change a number.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.index import index_sha256, read_index
from worldmodel.data.shards import SampleRef, read_metadata
from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import EffectiveRank, MinStd
from worldmodel.evaluation.depth import DepthSamples, depth_section
from worldmodel.evaluation.footage import (
    Block,
    Footage,
    find_samples,
    is_event,
    mirrored_too,
    read_samples,
)
from worldmodel.evaluation.network import CHUNK, chunked, levels_of, run_chunk
from worldmodel.evaluation.objects import (
    PERMANENCE_KINDS,
    HiddenWorlds,
    ObjectSamples,
    hidden_windows,
    is_present,
    permanence_section,
    position_section,
    velocity_section,
)
from worldmodel.evaluation.pictures import Shown, write_pictures
from worldmodel.evaluation.prediction import PredictionErrors
from worldmodel.evaluation.provenance import describe
from worldmodel.evaluation.rollout import rollout_section
from worldmodel.evaluation.surprise import (
    BlockScores,
    Place,
    score_blocks,
    score_pixels,
    surprise_sections,
    wins_at,
    world_states,
)
from worldmodel.evaluation.tables import markdown
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.hierarchy import Hierarchy

DEFAULT_DATA = Path("data/physics")
DEFAULT_SET = {"num_clips": 2000, "num_blocks": 20, "size": 64, "seed": 0}
# Training clips for probes and trivial predictors. Event clips count twice, mirrored as well.
EVENT_CLIPS, FREE_CLIPS = 1000, 150
NUM_UNTRAINED = 10
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Gathered:
    """What one pass over the clips of all splits leaves behind.

    Attributes:
        depth: per split single frames with tokens and true depth.
        objects: per split event clips with context states and the truth of the tracked object.
        errors: of prediction on test clips.
        ranks: effective rank of each level's test tokens; `spreads` their smallest deviation.
    """

    depth: dict[str, DepthSamples]
    objects: dict[str, ObjectSamples]
    errors: PredictionErrors
    ranks: list[EffectiveRank]
    spreads: list[MinStd]


def evaluate(
    checkpoint: Path,
    out: Path,
    data: Path | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    metrics: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what a checkpoint knows and write the report.

    Args:
        checkpoint: a checkpoint of `worldmodel fit`.
        out: folder for `report.json`, `report.md` and `figures/`; made where missing.
        data: a set of the physics world. By default `data/physics`, generated where missing.
        batch_size: samples read at a time; changes speed only.
        num_workers: processes that read; changes speed only.
        metrics: the run's `metrics.csv`; by default the one beside the checkpoint's folder.
        seed: of untrained networks, small MLPs and bootstrap.

    Returns:
        The content of `report.json`.

    Raises:
        InputError: no such checkpoint or set, or a set that lacks clips or blocks.
    """
    started = time.monotonic()
    model = load_model(checkpoint)
    root = find_set(data)
    index = index_sha256(root)
    refs = {split: find_samples(root, split, "clips") for split in SPLITS}
    block_refs = {split: find_samples(root, split, "blocks") for split in ("val", "test")}
    refs["train"] = choose_training(refs["train"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {"model": model.network.to(device), "untrained": model.untrained(seed).to(device)}

    def read(kept: list[SampleRef], title: str, blocks: bool) -> Iterator[Any]:
        samples = read_samples(kept, model.clip, batch_size, num_workers, blocks)
        # A generator, so that a bar appears when its turn has come.
        yield from tqdm(samples, desc=title, total=len(kept), unit="sample")

    clips = {split: read(refs[split], f"{split} clips", False) for split in SPLITS}
    clips["train"] = mirrored_too(clips["train"])
    gathered = gather(networks, clips, device, model.clip.fps)
    blocks = {
        split: list(read(kept, f"{split} blocks", True)) for split, kept in block_refs.items()
    }
    report, shown = measure(model, networks, gathered, blocks, device, seed)
    place = {"device": str(device), "seed": seed, "seconds": 0.0}
    counts = {f"num_{split}_clips": len(kept) for split, kept in refs.items()}
    report = {"meta": describe(model, index, blocks, counts) | place} | report
    csv = metrics if metrics is not None else Path(checkpoint).parent.parent / "metrics.csv"
    out.mkdir(parents=True, exist_ok=True)
    write_pictures(out / "figures", report, shown, csv)
    report["meta"]["seconds"] = round(time.monotonic() - started, 1)
    return write_report(out, report)


def write_report(out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write `report.json` and `report.md` into a folder and return what was written."""
    plain = finite(report)
    text = json.dumps(plain, indent=2, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(plain), encoding="utf-8")
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


def choose_training(refs: list[SampleRef]) -> list[SampleRef]:
    """At most `EVENT_CLIPS` event clips and `FREE_CLIPS` others, in the order of their keys."""
    event = [ref for ref in refs if is_event(read_metadata(ref))]
    names = {ref.key for ref in event}
    free = [ref for ref in refs if ref.key not in names]
    chosen = evenly(event, EVENT_CLIPS) + evenly(free, FREE_CLIPS)
    return sorted(chosen, key=lambda ref: ref.key)


def evenly(items: list[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spread over the list."""
    if len(items) <= count:
        return items
    return [items[number * len(items) // count] for number in range(count)]


def gather(
    networks: Mapping[str, Hierarchy],
    clips: Mapping[str, Iterable[Footage]],
    device: torch.device,
    fps: float,
) -> Gathered:
    """Run the networks `model` and `untrained` over the clips of all splits, training first."""
    levels = levels_of(networks["model"])
    spans = [level.span for level in levels]
    dims = [level.dim for level in levels]
    found = Gathered(
        {split: DepthSamples(levels[0].grid) for split in SPLITS},
        {split: ObjectSamples(spans, fps) for split in SPLITS},
        PredictionErrors(dims, [level.horizons for level in levels], spans),
        [EffectiveRank(dim) for dim in dims],
        [MinStd(dim) for dim in dims],
    )
    for split in SPLITS:
        depth, objects = found.depth[split], found.objects[split]
        for chunk in chunked(clips[split], CHUNK):
            depth.add_truth(chunk)
            places = objects.add_truth(chunk)
            for name, network in networks.items():
                tokens, context, predicted = run_chunk(
                    network, [clip.frames for clip in chunk], device
                )
                depth.add_tokens(name, tokens[0])
                objects.add_context(name, context, places)
                if name == "model":
                    objects.add_context("tokens", tokens, places)
                    _watch(found, split, tokens, predicted)
        if split == "train":
            found.errors.solve()
    return found


def _watch(
    found: Gathered, split: str, tokens: list[Tensor], predicted: list[dict[int, Tensor]]
) -> None:
    """Trivial predictors learn from training clips; errors, rank and spread are those of test."""
    if split == "train":
        found.errors.fit(tokens)
    elif split == "test":
        found.errors.add(tokens, predicted)
        for rank, spread, values in zip(found.ranks, found.spreads, tokens, strict=True):
            rank.update(values)
            spread.update(values)


def measure(
    model: LoadedModel,
    networks: Mapping[str, Hierarchy],
    found: Gathered,
    blocks: Mapping[str, list[Block]],
    device: torch.device,
    seed: int,
) -> tuple[dict[str, Any], Shown]:
    """All sections but `meta`, and what the pictures need."""
    spans = found.errors.spans
    scores = {
        split: score_blocks(networks["model"], tqdm(some, desc=f"surprise on {split}"), device)
        for split, some in blocks.items()
    }
    headline, by_level = surprise_sections(
        scores["val"],
        scores["test"],
        score_pixels(blocks["test"]),
        lambda place: untrained_wins(model, blocks["test"], place, device, seed),
        spans,
        seed,
    )
    worlds = {
        split: hidden_worlds(networks, some, scores[split], spans, device)
        for split, some in blocks.items()
    }
    splits = (found.objects["train"], found.objects["val"], found.objects["test"])
    depth, depth_probe = depth_section(*(found.depth[split] for split in SPLITS))
    position, decoders = {}, {}
    for part in ("visible", "hidden"):
        position[part], decoders[part] = position_section(splits, part, seed)
    report = {
        "collapse": {
            f"level{level}": {
                "effective_rank": float(rank.compute()),
                "rank_fraction": float(rank.compute()) / rank.dim,
                "min_std": float(spread.compute()),
                "num_clips": found.errors.clips,
            }
            for level, (rank, spread) in enumerate(zip(found.ranks, found.spreads, strict=True))
        },
        "prediction": found.errors.report(),
        "depth": depth,
        "position": position,
        "velocity": velocity_section(splits),
        "permanence": permanence_section(splits[0], worlds["val"], worlds["test"]),
        "surprise": headline,
        "surprise_by_level": by_level,
        "rollout": rollout_section(networks["model"], splits, device),
    }
    shown = Shown(
        found.depth["test"],
        depth_probe,
        splits[2],
        decoders,
        blocks["test"],
        scores["test"],
    )
    return {name: section for name, section in report.items() if section}, shown


def untrained_wins(
    model: LoadedModel, blocks: Sequence[Block], place: Place, device: torch.device, seed: int
) -> list[np.ndarray]:
    """Relative accuracy of each block for `NUM_UNTRAINED` networks with fresh weights."""
    networks = (model.untrained(seed + number).to(device) for number in range(NUM_UNTRAINED))
    bar = tqdm(networks, desc="untrained networks", total=NUM_UNTRAINED)
    return [wins_at(network, blocks, device, place) for network in bar]


def hidden_worlds(
    networks: Mapping[str, Hierarchy],
    blocks: Sequence[Block],
    scores: BlockScores,
    spans: Sequence[int],
    device: torch.device,
) -> HiddenWorlds:
    """Blocks of the kinds that the permanence probe asks about, as it sees them."""
    rows = np.flatnonzero(np.isin(scores.kinds, PERMANENCE_KINDS))
    some = [blocks[int(row)] for row in rows]
    frames = blocks[0].frames.shape[1]
    return HiddenWorlds(
        np.array([[is_present(truth) for truth in b.truth] for b in some]).reshape(-1, 2),
        np.array([hidden_windows(block) for block in some]).reshape(-1, frames),
        {
            "model": [states[torch.from_numpy(rows)] for states in scores.context],
            "untrained": world_states(networks["untrained"], some, device),
        },
        spans,
    )


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


def newest_checkpoint(start: Path | None = None) -> Path:
    """The `last.ckpt` written last under `runs/` here or in a folder above.

    Args:
        start: folder to look from; the current one by default.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        found = list(folder.glob("runs/*/*/checkpoints/last.ckpt"))
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    raise InputError(
        f"no runs/<name>/<version>/checkpoints/last.ckpt in {start} or above; "
        "`make train` makes one"
    )
