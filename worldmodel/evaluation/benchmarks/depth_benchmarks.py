"""How far is what a token shows, in real pictures? NYU Depth v2 and KITTI by a linear probe.

A picture is wider than high and the model takes squares, so it is covered with the fewest squares
of full height, evenly spaced (NYU two, KITTI four), each scaled to the model's size: pixels stay
square, as in training. A square is a frame of its own; the probe reads from each level-0 token the
depth of 4 x 4 cells of its patch. The cells become a map of the square, bilinearly at the truth's
resolution, and where squares overlap their maps are averaged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.benchmarks.depth_images import DepthImage, DepthSet
from worldmodel.data.benchmarks.kitti import Crop, Kitti
from worldmodel.data.benchmarks.nyuv2 import open_nyuv2
from worldmodel.data.shards import written_whole
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.depth_squares import (
    CELLS,
    cut_squares,
    depth_map,
    depth_rows,
    squares_of,
)
from worldmodel.evaluation.network import CHUNK, Network, chunked, levels_of, pad_chunk
from worldmodel.evaluation.probes.depth import patches
from worldmodel.evaluation.probes.depth_metrics import ALIGNMENTS, METRICS, DepthSums, align
from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridge
from worldmodel.evaluation.section_tables import interval, number, table
from worldmodel.models.checkpoint import LoadedModel

# Pictures that published scores are over: NYU's test split, and Eigen's of KITTI with depth.
PUBLISHED_TEST_IMAGES = {"nyuv2": 654, "kitti": 652}
# Pictures of one scene lie side by side; whole runs of them are held out, every fifth.
NUM_RUNS, HELD_OUT_EVERY = 50, 5
# Of training features under all networks together; what does not fit is left out evenly.
MAX_FEATURE_BYTES = 1 << 30
MODEL, PIXELS, MEAN = "model", "pixels", "mean"

PROTOCOL = """\
- The model is frozen. Each picture is covered with the fewest squares of full height, evenly
  spaced and scaled to the model's size. Probe: ridge regression from a level-0 token's change
  against its mean at that place to the change of depth in metres, 4 x 4 cells per token, one head
  for all places; its strength is chosen on held-out training pictures. A cell's depth is the median
  of its measured pixels; cells without any teach nothing.
- Predictions are clipped to the depths seen in training, enlarged bilinearly to the truth's
  resolution, averaged where squares overlap, and scored on measured pixels inside the crop.
- `metric` aligns nothing and is the headline. `median` and `affine_disparity` are fitted to the
  truth of each picture and are no measure of metric depth.
- Scores are means over pictures, as published ones are; `pooled` weighs every pixel the same.
- Nulls: the same probe on networks with fresh weights and on the patch's pixels, and the mean depth
  of the training split at each place.
- Intervals: 95 %, pictures resampled; pictures of one scene resemble one another, so they are
  rather too narrow.
"""


def evaluate_depth_benchmark(
    name: str,
    root: Path,
    model: LoadedModel,
    out: Path,
    device: torch.device,
    seed: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
    num_untrained: int = 3,
    lists: Mapping[str, Path] | None = None,
    crop: Crop = "garg",
) -> dict[str, Any]:
    """Score a model's depth on a benchmark and write `NAME.json` and `NAME.md`.

    Args:
        name: nyuv2 or kitti.
        root: the benchmark's folder.
        model: what is scored.
        out: folder of the results; made where missing.
        device: where networks run.
        seed: of untrained networks and the bootstrap.
        max_train: training pictures to use, taken evenly; by default as many as fit into
            `MAX_FEATURE_BYTES`.
        max_test: test pictures to use, taken evenly; all by default. With fewer than all the
            numbers are no benchmark result, and the result says so.
        num_untrained: networks with fresh weights to compare with.
        lists: for KITTI, files of lines that name the pictures of `train` and `test`.
        crop: for KITTI, the part that is scored.

    Returns:
        The content of `NAME.json`: plain finite numbers.

    Raises:
        InputError: something of the benchmark is missing or broken.
    """
    source = open_depth_set(name, root, lists, crop)
    report = score_depth_set(source, model, device, seed, max_train, max_test, num_untrained)
    for ending, text in (
        ("json", json.dumps(report, indent=2, allow_nan=False) + "\n"),
        ("md", markdown(report)),
    ):
        with written_whole(out / f"{name}.{ending}", "report") as file:
            file.write(text.encode())
    return report


def open_depth_set(
    name: str, root: Path, lists: Mapping[str, Path] | None = None, crop: Crop = "garg"
) -> DepthSet:
    """A depth benchmark by its name.

    Raises:
        InputError: there is none of this name, it takes no lists, or something of it is missing.
    """
    if name == "nyuv2":
        if lists:
            raise InputError("nyuv2 has its own split and takes no lists; only kitti takes them")
        return open_nyuv2(root)
    if name == "kitti":
        return Kitti(root, lists, crop)
    raise InputError(f"there is no depth benchmark {name!r}; there are nyuv2 and kitti")


@dataclass(frozen=True)
class Setting:
    """What is run on each picture.

    Attributes:
        networks: by name, all on the same device; `model` among them.
        num_frames: of the clips the model sees; it matters only to networks whose tokens of a step
            depend on other frames.
        size: height and width of a frame.
        device: where networks run.
    """

    networks: Mapping[str, Network]
    num_frames: int
    size: int
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of level 0."""
        rows, columns = levels_of(self.networks[MODEL])[0].grid
        return rows, columns

    def features(self, frames: Tensor) -> dict[str, Tensor]:
        """Float32 `(n, N, F)` of frames uint8 `(n, 3, size, size)`, per network and for pixels."""
        found = {
            name: frame_tokens(network, frames, self.num_frames, self.device)
            for name, network in self.networks.items()
        }
        return found | {PIXELS: patches(frames, self.grid)}


@dataclass
class TrainingRows:
    """Training pictures as the probe sees them; P places are all tokens of all squares.

    Attributes:
        features: per network float32 `(n, P, F)`, as list of pictures.
        metres: float64 `(P, CELLS * CELLS)` per picture, 0 where nothing was measured.
    """

    features: dict[str, list[Tensor]] = field(default_factory=dict)
    metres: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class PlaceProbe:
    """Depth as its mean at a place plus what one head per cell reads from that place's token.

    Attributes:
        mean: metres `(P, C)`, mean depth of training.
        usual: `(P, F)`, mean features of training.
        heads: per cell; maps changes of features to changes of metres. None: the mean alone.
        range_m: lowest and highest depth of training, to which guesses are clipped.
    """

    mean: np.ndarray
    usual: Tensor | None
    heads: tuple[LinearProbe, ...]
    range_m: tuple[float, float]

    def __call__(self, features: Tensor | None, num_images: int) -> np.ndarray:
        """Metres `(num_images, P, C)` from features `(num_images, P, F)`."""
        guess = np.broadcast_to(self.mean, (num_images, *self.mean.shape)).copy()
        if features is not None and self.usual is not None:
            rows = (features - self.usual).flatten(0, 1)
            for cell, head in enumerate(self.heads):
                guess[:, :, cell] += head(rows).reshape(num_images, -1)
        return np.clip(guess, *self.range_m)


def score_depth_set(
    source: DepthSet,
    model: LoadedModel,
    device: torch.device,
    seed: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
    num_untrained: int = 3,
) -> dict[str, Any]:
    """The report of `evaluate_depth_benchmark`, without files."""
    networks: dict[str, Network] = {MODEL: model.network.to(device)}
    for index in range(num_untrained):
        networks[f"untrained{index}"] = model.untrained(seed + index).to(device)
    setting = Setting(networks, model.clip.num_frames, model.clip.size, device)
    available, test = source.keys("train"), source.keys("test")
    num_squares, row_bytes = _look_at_first(source, setting, available[0])
    wanted = len(available) if max_train is None else max_train
    kept = evenly(available, min(wanted, MAX_FEATURE_BYTES // row_bytes))
    if len(kept) < 2 * HELD_OUT_EVERY:
        raise InputError(
            f"{source.name} needs at least {2 * HELD_OUT_EVERY} training pictures, one in "
            f"{HELD_OUT_EVERY} of them to choose the probe's strength, found {len(kept)}"
        )
    held = held_out(len(kept))
    fitting, choosing = gather_rows(source, kept, held, setting, num_squares)
    probes = fit_probes(fitting, choosing, source)
    tested = evenly(test, len(test) if max_test is None else max_test)
    sums = score_images(source, tested, setting, probes, num_squares)
    return {
        "benchmark": source.name,
        "source": source.source,
        "checkpoint_sha256": model.sha256,
        "global_step": model.global_step,
        "level": 0,
        "size": setting.size,
        "squares_per_image": num_squares,
        "cells_per_square": int(np.prod(setting.grid)) * CELLS**2,
        "range_m": [source.nearest_m, source.cap_m],
        "num_test_images": sums[MODEL, "metric"].num_images,
        "num_test_cells": sums[MODEL, "metric"].num_cells,
        "num_test_without_depth": sums[MODEL, "metric"].num_empty + source.num_left_out,
        "num_test_published": PUBLISHED_TEST_IMAGES.get(source.name, len(test)),
        "whole_test_split": len(tested) == len(test),
        "num_train_images": len(kept) - int(held.sum()),
        "num_held_out_images": int(held.sum()),
        "num_train_available": len(available),
        "seed": seed,
        **_sections(sums, num_untrained, seed),
    }


def evenly(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, or all where there are fewer, evenly spaced."""
    count = min(count, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def held_out(count: int) -> np.ndarray:
    """Which of `count` training pictures choose the strength: runs of neighbours, bool."""
    run = np.arange(count) * min(NUM_RUNS, count) // count
    return run % HELD_OUT_EVERY == HELD_OUT_EVERY // 2


@torch.no_grad()
def frame_tokens(network: Network, frames: Tensor, num_frames: int, device: torch.device) -> Tensor:
    """Level-0 tokens of single frames.

    Where a step is one frame and sees no other, several frames go into one clip. Otherwise each
    frame stands still for a whole clip, and the middle step's tokens are taken.

    Args:
        network: on `device`.
        frames: uint8 `(n, 3, size, size)`.
        num_frames: of a clip that stands still.
        device: where the network is.

    Returns:
        Float32 `(n, N, D)` on the CPU.
    """
    levels = levels_of(network)
    alone = network.steps_are_local and levels[0].span == 1
    length = max(level.span for level in levels)
    clips = (
        [pad_chunk(list(part), length) for part in frames.split(length)]
        if alone
        else [frame.expand(max(num_frames, length), -1, -1, -1) for frame in frames]
    )
    found = []
    for chunk in chunked(clips, CHUNK):
        tokens = network.encode(pad_chunk(chunk, CHUNK).to(device))[0][: len(chunk)]
        found.append((tokens.flatten(0, 1) if alone else tokens[:, tokens.shape[1] // 2]).cpu())
    return torch.cat(found)[: len(frames)].float()


def _look_at_first(source: DepthSet, setting: Setting, key: str) -> tuple[int, int]:
    """Squares of a picture, and bytes of its features."""
    image = source.read(key)
    frames = _squares(source, image, setting.size)
    features = setting.features(frames).values()
    return len(frames), sum(values.numel() * values.element_size() for values in features)


def _squares(source: DepthSet, image: DepthImage, size: int, expected: int | None = None) -> Tensor:
    height, width = image.depth_m.shape
    if height > width:
        raise InputError(
            f"{source.name}, {image.key}: pictures must be at least as wide as high, found "
            f"{width}x{height} pixels"
        )
    count = len(squares_of(height, width))
    if expected not in (None, count):
        raise InputError(
            f"{source.name}, {image.key}: {count} squares cover its {width}x{height} pixels, but "
            f"{expected} cover the first picture; all must have about the same shape"
        )
    return cut_squares(image.rgb, size)


def _read(
    source: DepthSet, keys: Sequence[str], setting: Setting, num_squares: int, title: str
) -> Iterator[tuple[list[DepthImage], dict[str, Tensor]]]:
    """Pictures and their features `(n, P, F)`, some at a time."""
    bar = tqdm(keys, desc=f"{source.name} {title}", unit="image")
    for chunk in chunked(bar, CHUNK):
        images = [source.read(key) for key in chunk]
        frames = [_squares(source, image, setting.size, num_squares) for image in images]
        features = setting.features(torch.cat(frames))
        yield (
            images,
            {name: x.unflatten(0, (len(images), -1)).flatten(1, 2) for name, x in features.items()},
        )


def gather_rows(
    source: DepthSet, keys: Sequence[str], held: np.ndarray, setting: Setting, num_squares: int
) -> tuple[TrainingRows, TrainingRows]:
    """Rows that fit probes, and rows that choose their strength."""
    fitting, choosing = TrainingRows(), TrainingRows()
    position = 0
    for images, features in _read(source, keys, setting, num_squares, "train"):
        for index, image in enumerate(images):
            rows = choosing if held[position] else fitting
            position += 1
            inside = (image.depth_m > source.nearest_m) & (image.depth_m < source.cap_m)
            rows.metres.append(depth_rows(image.depth_m, inside, setting.grid))
            for name, values in features.items():
                rows.features.setdefault(name, []).append(values[index].clone())
    return fitting, choosing


def fit_probes(
    fitting: TrainingRows, choosing: TrainingRows, source: DepthSet
) -> dict[str, PlaceProbe]:
    """A probe per network, one for pixels, and the mean map.

    Raises:
        InputError: no training picture has a measured cell, or none that chooses has.
    """
    metres, chosen = np.stack(fitting.metres), np.stack(choosing.metres)
    measured = metres > 0
    if not measured.any() or not (chosen > 0).any():
        raise InputError(
            f"{source.name}: no depth between {source.nearest_m:g} and {source.cap_m:g} m in the "
            "training pictures; the depth files are not what they should be"
        )
    range_m = (float(metres[measured].min()), float(metres.max()))
    count = measured.sum(0)
    overall = float(metres[measured].mean())
    mean = np.where(count > 0, metres.sum(0) / np.maximum(count, 1), overall)
    probes = {MEAN: PlaceProbe(mean, None, (), range_m)}
    for name in list(fitting.features):
        features = torch.stack(fitting.features.pop(name))
        usual = features.mean(0)
        parts = [
            ((values - usual).flatten(0, 1), truth.reshape(-1, mean.shape[1]))
            for values, truth in (
                (features, metres),
                (torch.stack(choosing.features.pop(name)), chosen),
            )
        ]
        probes[name] = PlaceProbe(mean, usual, _fit_heads(parts, mean), range_m)
    return probes


def _fit_heads(
    parts: Sequence[tuple[Tensor, np.ndarray]], mean: np.ndarray
) -> tuple[LinearProbe, ...]:
    """One ridge head per cell, each on the rows where that cell was measured."""
    heads: list[LinearProbe] = []
    for cell in range(mean.shape[1]):
        rows = []
        for features, metres in parts:
            measured = metres[:, cell] > 0
            usual = np.tile(mean[:, cell], len(metres) // len(mean))
            change = (metres[:, cell] - usual)[measured]
            kept = features if measured.all() else features[torch.from_numpy(measured)]
            rows.append((kept, change[:, None]))
        if all(len(change) for _, change in rows):
            heads.append(fit_ridge(rows[0], rows[1])[0])
        else:  # never measured anywhere: the mean is all there is
            nothing = torch.zeros(parts[0][0].shape[1], 1, dtype=torch.float64)
            heads.append(LinearProbe(nothing, nothing[:1, 0], 0.0))
    return tuple(heads)


def score_images(
    source: DepthSet,
    keys: Sequence[str],
    setting: Setting,
    probes: Mapping[str, PlaceProbe],
    num_squares: int,
) -> dict[tuple[str, str], DepthSums]:
    """Sums per probe and alignment over test pictures, one after the other."""
    sums: dict[tuple[str, str], DepthSums] = {
        (name, how): DepthSums() for name in probes for how in ALIGNMENTS
    }
    for images, features in _read(source, keys, setting, num_squares, "test"):
        guesses = {name: probe(features.get(name), len(images)) for name, probe in probes.items()}
        for index, image in enumerate(images):
            valid = source.valid(image)
            for name, cells in guesses.items():
                guess = depth_map(cells[index], setting.grid, image.depth_m.shape)
                for how in ALIGNMENTS:
                    limits = (source.nearest_m, source.cap_m)
                    aligned = align(guess, image.depth_m, valid, how, *limits)
                    sums[name, how].add(aligned, image.depth_m, valid)
    if not sums[MEAN, "metric"].num_images:
        raise InputError(
            f"{source.name}: no test picture has depth inside the crop; the depth files are not "
            "what they should be"
        )
    return sums


def _sections(
    sums: Mapping[tuple[str, str], DepthSums], num_untrained: int, seed: int
) -> dict[str, Any]:
    """The model's scores, and the nulls' beside them."""
    found = {name: _case(sums, name, seed) for name, how in sums if how == "metric"}
    null: dict[str, Any] = {}
    untrained = [found[f"untrained{index}"] for index in range(num_untrained)]
    if untrained:
        spread = float(np.std([case["rmse_m"] for case in untrained]))
        null["untrained"] = _mean_case(untrained)
        null["untrained"] |= {"num_networks": num_untrained, "std_rmse_m": spread}
    null |= {PIXELS: found[PIXELS], MEAN: found[MEAN]}
    return found[MODEL] | {"null": null}


def _case(sums: Mapping[tuple[str, str], DepthSums], name: str, seed: int) -> dict[str, Any]:
    metric = sums[name, "metric"]
    spread = metric.intervals(seed)
    return {
        **metric.mean_over_images(),
        "ci95_rmse_m": spread["mean_over_images"],
        "pooled": {**metric.pooled(), "ci95_rmse_m": spread["pooled"]},
        **{how: sums[name, how].mean_over_images() for how in ALIGNMENTS if how != "metric"},
    }


def _mean_case(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics averaged over networks."""
    mean: dict[str, Any] = {}
    for name, value in cases[0].items():
        if name in METRICS:
            mean[name] = float(np.mean([case[name] for case in cases]))
        elif isinstance(value, Mapping):
            mean[name] = _mean_case([case[name] for case in cases])
    return mean


def markdown(report: Mapping[str, Any]) -> str:
    """The report as text: every number beside its nulls."""
    cases: list[tuple[str, Mapping[str, Any]]] = [(MODEL, report), *report["null"].items()]
    head = ["from", *METRICS]

    def rows(part: str | None) -> list[list[str]]:
        return [
            [name, *(number((case[part] if part else case)[metric], 3) for metric in METRICS)]
            for name, case in cases
        ]

    counts = (
        f"{report['num_test_images']} test pictures "
        f"({report['num_test_published']} in published results), {report['num_train_images']} of "
        f"{report['num_train_available']} training pictures and {report['num_held_out_images']} "
        f"held out; {report['source']}; 95 % interval of the rmse "
        f"{interval(report['ci95_rmse_m'])} m."
    )
    parts = [
        f"# {report['benchmark']}: depth from single pictures",
        f"Checkpoint {report['checkpoint_sha256'][:12]} at step {report['global_step']}.",
        table(head, rows(None)),
        counts,
    ]
    if not report["whole_test_split"]:
        parts.append("Only a part of the test split: no benchmark result.")
    for part in ("pooled", "median", "affine_disparity"):
        parts += [f"## {part}", table(head, rows(part))]
    return "\n\n".join([*parts, "## Protocol", PROTOCOL.rstrip()]) + "\n"
