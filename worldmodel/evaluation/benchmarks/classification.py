"""What happens in a video? Something-Something v2, Kinetics and lists by probes on a frozen model.

Features of a level are its tokens and context states side by side at each step and place, `(S, N,
D + W)`; steps are averaged in runs until there are at most `MAX_STEPS`. The attentive probe takes
the tokens of all levels as one set, the linear probe each level's mean over steps and places, the
levels' means one after the other.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from worldmodel.data.benchmarks.labelled import (
    MAX_SKIPPED_SHARE,
    LabelledSet,
    LabelledVideo,
    SkippedVideos,
    VideoClips,
    open_labelled,
    read_clips,
)
from worldmodel.data.sampling import hash_words
from worldmodel.data.shards import written_whole
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.attentive import (
    AttentiveConfig,
    AttentiveFit,
    default_config,
    fit_attentive,
)
from worldmodel.evaluation.benchmarks.class_scores import class_scores
from worldmodel.evaluation.network import CHUNK, Network, levels_of, pad_chunk, run_chunk
from worldmodel.evaluation.probes.linear import LinearProbe, fit_ridge
from worldmodel.evaluation.section_tables import interval, number, table
from worldmodel.models.checkpoint import ClipSpec, LoadedModel

MAX_STEPS = 8
HELD_OUT_SHARE = 0.2
# Of training features under all networks together; what does not fit is left out evenly by class.
MAX_FEATURE_BYTES = 2 << 30
MAX_NAMED = 100
PROBES = ("attentive", "linear")
MODEL = "model"

PROTOCOL = """\
- The model is frozen and sees the middle clip of each video, or several evenly spread ones, of its
  own length and rate, the middle square scaled to its size. A video too short for that rate is
  taken at a lower frame stride; where it has fewer frames than a clip its last one stands still.
- Features: tokens and context states of every level, steps averaged in runs to at most 8.
  `attentive`: a learned query over all of them; `linear`: ridge regression to the classes from
  their means.
- A fifth of the training videos of each class, drawn by name, chooses the head of the grid and the
  ridge strength. Validation videos are scored once.
- A tie between k classes counts 1/k. Top-5 is trivial with five classes or fewer. Balanced
  accuracy: mean over classes of the share that is right.
- Nulls: the same probes on networks with fresh weights, and the class sizes of training.
- Intervals: 95 %, Wilson 1927.
"""


@dataclass(frozen=True)
class VideoFeatures:
    """Features of some videos.

    Attributes:
        levels: per level float16 `(n, S_l, N_l, F_l)`.
        labels: int64 `(n,)`.
    """

    levels: tuple[Tensor, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        if any(len(level) != len(self.labels) for level in self.levels):
            counts = [len(level) for level in self.levels]
            raise ValueError(f"levels of {counts} videos, but {len(self.labels)} labels")


@dataclass(frozen=True)
class Classifiers:
    """Both probes on one network's features."""

    attentive: AttentiveFit
    linear: LinearProbe

    def scores(self, levels: Sequence[Tensor]) -> dict[str, np.ndarray]:
        """Class scores float64 `(n, classes)` of each probe."""
        return {
            "attentive": self.attentive.scores(levels),
            "linear": self.linear(pooled(levels)),
        }

    @property
    def chosen(self) -> dict[str, dict[str, float]]:
        """What the held-out videos chose."""
        fit = self.attentive
        return {
            "attentive": {
                "learning_rate": fit.learning_rate,
                "weight_decay": fit.weight_decay,
                "held_out_top1": fit.held_out_top1,
            },
            "linear": {"strength": self.linear.strength},
        }


def evaluate_classification(
    name: str,
    root: Path,
    model: LoadedModel,
    out: Path,
    device: torch.device,
    seed: int = 0,
    max_train: int | None = None,
    max_validation: int | None = None,
    num_untrained: int = 1,
    num_clips: int = 1,
    attentive: AttentiveConfig | None = None,
    max_skipped_share: float = MAX_SKIPPED_SHARE,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Score a model on a benchmark of labelled videos and write `NAME.json` and `NAME.md`.

    Args:
        name: ssv2, kinetics or list.
        root: the benchmark's folder.
        model: what is scored.
        out: folder of the results; made where missing.
        device: where networks and probes run.
        seed: of untrained networks and probes.
        max_train: training videos to use, evenly by class; by default as many as fit into
            `MAX_FEATURE_BYTES`.
        max_validation: validation videos to use, likewise; all by default. With fewer than all the
            numbers are no benchmark result, and the result says so.
        num_untrained: networks with fresh weights to compare with.
        num_clips: clips per video.
        attentive: size and grid of the attentive probe; by default `default_config`.
        max_skipped_share: of the videos of a split that may be missing or broken.
        num_workers: processes that read videos; changes speed only.

    Returns:
        The content of `NAME.json`: plain finite numbers.

    Raises:
        InputError: something of the benchmark is missing, a label is unknown, or too many videos
            are missing or broken.
    """
    config = attentive or default_config(device)
    if num_clips < 1:
        raise InputError(f"at least 1 clip per video is needed, got {num_clips}")
    videos = open_labelled(name, root, max_skipped_share)
    networks: dict[str, Network] = {MODEL: model.network.to(device)}
    for index in range(num_untrained):
        networks[f"untrained{index}"] = model.untrained(seed + index).to(device)
    reader = Reader(networks, model.clip, num_clips, device, num_workers)
    chosen, validation = _choose(videos, reader, max_train, max_validation)
    train, keys = gather(reader, chosen, videos.skipped["train"], f"{name} train")
    check_classes(name, train[MODEL].labels)
    held = held_out(keys, train[MODEL].labels)
    classifiers = {
        network: fit_classifiers(
            train.pop(network), held, len(videos.classes), config, seed, device, f"{name} {network}"
        )
        for network in networks
    }
    sizes = np.bincount([video.label for video in chosen], minlength=len(videos.classes))
    skipped = videos.skipped["validation"]
    scores, labels = score_videos(reader, validation, skipped, classifiers, f"{name} validation")
    report = {
        "benchmark": name,
        "checkpoint_sha256": model.sha256,
        "global_step": model.global_step,
        "clip": asdict(model.clip) | {"clips_per_video": num_clips},
        "probe": asdict(config),
        "seed": seed,
        "num_classes": len(videos.classes),
        "num_train": int((~held).sum()),
        "num_held_out": int(held.sum()),
        "num_train_available": len(videos.videos["train"]),
        "num_validation": len(labels),
        "whole_validation_split": len(validation) == len(videos.videos["validation"]),
        "num_slower": reader.num_slower,
        "num_held_still": reader.num_held,
        "skipped": {
            split: {
                "num_videos": len(tally.reasons),
                "named": dict(sorted(tally.reasons.items())[:MAX_NAMED]),
            }
            for split, tally in videos.skipped.items()
        },
        **sections(scores, labels, sizes, classifiers),
    }
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    for ending, content in (("json", text), ("md", markdown(report))):
        with written_whole(out / f"{name}.{ending}", "report") as file:
            file.write(content.encode())
    plain: dict[str, Any] = json.loads(text)
    return plain


@dataclass
class Reader:
    """Reads videos and runs networks on them.

    Attributes:
        networks: by name, all on the same device; `model` among them.
        clip: what the model sees.
        num_clips: per video.
        device: where networks run.
        num_workers: processes that read.
        num_slower: videos taken below the model's rate so far.
        num_held: videos whose last frame stood still so far.
    """

    networks: Mapping[str, Network]
    clip: ClipSpec
    num_clips: int
    device: torch.device
    num_workers: int = 0
    num_slower: int = field(default=0, init=False)
    num_held: int = field(default=0, init=False)

    def read(
        self, videos: Sequence[LabelledVideo], skipped: SkippedVideos, title: str
    ) -> Iterator[tuple[list[LabelledVideo], dict[str, list[Tensor]]]]:
        """Videos that could be read and each network's features of them, some at a time."""
        loader: DataLoader[VideoClips | str] = DataLoader(
            _Videos(videos, self.clip, self.num_clips),
            batch_size=CHUNK,
            num_workers=self.num_workers,
            collate_fn=_as_list,
        )
        with tqdm(total=len(videos), desc=title, unit="video") as bar:
            for start, items in zip(range(0, len(videos), CHUNK), loader, strict=True):
                kept, frames = [], []
                for video, item in zip(videos[start : start + CHUNK], items, strict=True):
                    if isinstance(item, str):
                        skipped.add(video.key, item)
                        continue
                    self.num_slower += item.is_slower
                    self.num_held += item.is_held
                    kept.append(video)
                    frames.append(item.frames)
                bar.update(len(items))
                if kept:
                    yield kept, self.features(frames)

    def features(self, frames: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Per network and level float16 `(n, S_l, N_l, F_l)` of n videos `(clips, T, 3, H, W)`."""
        clips = [clip for video in frames for clip in video]
        found = {}
        for name, network in self.networks.items():
            chunks = [
                clip_features(network, clips[start : start + CHUNK], self.device)
                for start in range(0, len(clips), CHUNK)
            ]
            found[name] = [
                torch.cat(parts).unflatten(0, (len(frames), -1)).flatten(1, 2)
                for parts in zip(*chunks, strict=True)
            ]
        return found


class _Videos(Dataset[Any]):
    """Clips of each video, or why there are none."""

    def __init__(self, videos: Sequence[LabelledVideo], clip: ClipSpec, num_clips: int) -> None:
        self.videos, self.clip, self.num_clips = list(videos), clip, num_clips

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> VideoClips | str:
        try:
            return read_clips(self.videos[index].path, self.clip, self.num_clips)
        except InputError as error:
            return " ".join(str(error).split())


def _as_list(items: list[Any]) -> list[Any]:
    return items


@torch.no_grad()
def clip_features(network: Network, clips: list[Tensor], device: torch.device) -> list[Tensor]:
    """Features of at most `CHUNK` clips, per level float16 `(n, S_l, N_l, F_l)` on the CPU.

    A level that predicts nothing has no context state of its own; its tokens stand alone.
    """
    predicts = [bool(level.horizons) for level in levels_of(network)]
    if any(predicts):
        tokens, contexts, _ = run_chunk(network, clips, device)
        both = [
            torch.cat([own.float(), context.float()], dim=-1) if expects else own.float()
            for own, context, expects in zip(tokens, contexts, predicts, strict=True)
        ]
    else:
        encoded = network.encode(pad_chunk(clips, CHUNK).to(device))
        both = [own[: len(clips)].cpu().float() for own in encoded]
    largest = torch.finfo(torch.float16).max
    return [
        average_steps(level, MAX_STEPS).clamp(-largest, largest).to(torch.float16) for level in both
    ]


def average_steps(level: Tensor, max_steps: int) -> Tensor:
    """Means over runs of steps, the shortest runs that leave at most `max_steps`.

    Args:
        level: `(n, T, N, F)`.
        max_steps: at least 1.

    Returns:
        `(n, S, N, F)`; the last run may be shorter.
    """
    run = -(-level.shape[1] // max_steps)
    return torch.stack([part.mean(1) for part in level.split(run, dim=1)], dim=1)


def pooled(levels: Sequence[Tensor]) -> Tensor:
    """Mean over steps and places of each level, one after the other: float32 `(n, sum of F_l)`."""
    return torch.cat([level.float().mean((1, 2)) for level in levels], dim=1)


def evenly_by_class(videos: Sequence[LabelledVideo], count: int) -> list[LabelledVideo]:
    """`count` of the videos, of each class about the same share, drawn by their names."""
    order = sorted(videos, key=lambda video: (hash_words(f"subset/{video.key}")[0], video.key))
    total = np.bincount([video.label for video in videos])
    seen = np.zeros_like(total)
    shares = []
    for video in order:
        shares.append((float((seen[video.label] + 0.5) / total[video.label]), video.key))
        seen[video.label] += 1
    kept = {key for _, key in sorted(shares)[:count]}
    return [video for video in videos if video.key in kept]


def held_out(keys: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """A fifth of the videos of each class, drawn by their names; bool.

    At least one of each class that has two.
    """
    held = np.zeros(len(keys), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label).tolist()
        order = sorted(rows, key=lambda row: (hash_words(f"held out/{keys[row]}")[0], keys[row]))
        count = max(round(HELD_OUT_SHARE * len(rows)), int(len(rows) > 1))
        held[order[:count]] = True
    return held


def check_classes(name: str, labels: np.ndarray) -> None:
    """Refuse what no probe can be fitted and chosen on.

    Raises:
        InputError: fewer than two classes, or no class with two videos.
    """
    sizes = np.bincount(labels)
    if np.count_nonzero(sizes) < 2 or sizes.max() < 2:
        raise InputError(
            f"{name}: probes need training videos of at least two classes, and two of one class, "
            f"one of them to choose the head; found {len(labels)} videos of "
            f"{np.count_nonzero(sizes)} classes"
        )


def _choose(
    videos: LabelledSet, reader: Reader, max_train: int | None, max_validation: int | None
) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """The videos to use of both splits."""
    train, validation = list(videos.videos["train"]), list(videos.videos["validation"])
    clip = torch.zeros(
        reader.num_clips, reader.clip.num_frames, 3, reader.clip.size, reader.clip.size
    ).to(torch.uint8)
    each = sum(
        level.numel() * level.element_size()
        for levels in reader.features([clip]).values()
        for level in levels
    )
    wanted = len(train) if max_train is None else max_train
    return (
        evenly_by_class(train, min(wanted, MAX_FEATURE_BYTES // each)),
        validation if max_validation is None else evenly_by_class(validation, max_validation),
    )


def gather(
    reader: Reader, videos: Sequence[LabelledVideo], skipped: SkippedVideos, title: str
) -> tuple[dict[str, VideoFeatures], list[str]]:
    """Features of videos under each network, and the keys of those that could be read.

    Raises:
        InputError: too many cannot be read, or there are none.
    """
    parts: dict[str, list[list[Tensor]]] = {name: [] for name in reader.networks}
    kept: list[LabelledVideo] = []
    for some, features in reader.read(videos, skipped, title):
        kept += some
        for name, levels in features.items():
            parts[name].append(levels)
    if not kept:
        raise InputError(f"{title}: there is no video to use")
    labels = np.array([video.label for video in kept], np.int64)
    found = {}
    for name in reader.networks:
        whole = tuple(torch.cat(chunks) for chunks in zip(*parts.pop(name), strict=True))
        found[name] = VideoFeatures(whole, labels)
    return found, [video.key for video in kept]


def fit_classifiers(
    train: VideoFeatures,
    held: np.ndarray,
    num_classes: int,
    config: AttentiveConfig,
    seed: int,
    device: torch.device,
    title: str = "probes",
) -> Classifiers:
    """Fit both probes on training videos; those that are `held` choose.

    Args:
        train: features of all training videos.
        held: bool `(n,)`.
        num_classes: how many there are.
        config: of the attentive probe.
        seed: of its weights and of the order of videos.
        device: where the attentive probe runs.
        title: of its progress bar.
    """
    fit = fit_attentive(train.levels, train.labels, held, num_classes, config, seed, device, title)
    means, wanted = pooled(train.levels), np.eye(num_classes)[train.labels]
    chosen = torch.from_numpy(held)
    linear, _ = fit_ridge((means[~chosen], wanted[~held]), (means[chosen], wanted[held]))
    return Classifiers(fit, linear)


def score_videos(
    reader: Reader,
    videos: Sequence[LabelledVideo],
    skipped: SkippedVideos,
    classifiers: Mapping[str, Classifiers],
    title: str,
) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray]:
    """Class scores per network and probe, and the labels, of the videos that could be read.

    Raises:
        InputError: too many cannot be read, or there are none.
    """
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    labels: list[int] = []
    for some, features in reader.read(videos, skipped, title):
        labels += [video.label for video in some]
        for name, classifier in classifiers.items():
            for probe, scores in classifier.scores(features[name]).items():
                parts.setdefault((name, probe), []).append(scores)
    if not labels:
        raise InputError(f"{title}: there is no video to use")
    return (
        {place: np.concatenate(scores) for place, scores in parts.items()},
        np.array(labels, np.int64),
    )


def sections(
    scores: Mapping[tuple[str, str], np.ndarray],
    labels: np.ndarray,
    sizes: np.ndarray,
    classifiers: Mapping[str, Classifiers],
) -> dict[str, Any]:
    """Scores of both probes on the model, and the nulls' beside them.

    Args:
        scores: class scores per network and probe.
        labels: of the validation videos.
        sizes: training videos of each class.
        classifiers: per network.
    """
    cases = {
        name: {
            probe: class_scores(scores[name, probe], labels) | fitted.chosen[probe]
            for probe in PROBES
        }
        for name, fitted in classifiers.items()
    }
    others = [case for name, case in cases.items() if name != MODEL]
    null: dict[str, Any] = {}
    if others:
        null["untrained"] = {probe: _mean([case[probe] for case in others]) for probe in PROBES}
        null["untrained"]["num_networks"] = len(others)
    majority = np.broadcast_to(sizes.astype(np.float64), (len(labels), len(sizes)))
    null["majority"] = class_scores(majority, labels)
    return {**cases[MODEL], "null": null}


def _mean(cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = ("top1", "top5", "balanced_accuracy")
    mean = {name: float(np.mean([case[name] for case in cases])) for name in names}
    return mean | {"std_top1": float(np.std([case["top1"] for case in cases]))}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as text: every number beside its nulls."""
    null = report["null"]
    cases = {f"model, {probe}": report[probe] for probe in PROBES}
    if "untrained" in null:
        cases |= {f"untrained, {probe}": null["untrained"][probe] for probe in PROBES}
    cases["majority class"] = null["majority"]
    rows = [
        [
            name,
            *(number(case[key], 3) for key in ("top1", "top5", "balanced_accuracy")),
            interval(case.get("ci95_top1")),
        ]
        for name, case in cases.items()
    ]
    probe = report["probe"]
    heads = len(probe["learning_rates"]) * len(probe["weight_decays"])
    skipped = {split: part["num_videos"] for split, part in report["skipped"].items()}
    parts = [
        f"# {report['benchmark']}: what happens",
        f"Checkpoint {report['checkpoint_sha256'][:12]} at step {report['global_step']}.",
        table(["from", "top-1", "top-5", "balanced accuracy", "95 % of top-1"], rows),
        f"{report['num_classes']} classes; {report['num_train']} of "
        f"{report['num_train_available']} training videos and {report['num_held_out']} held out; "
        f"{report['num_validation']} validation videos. Skipped: {skipped['train']} of training, "
        f"{skipped['validation']} of validation. {report['num_slower']} videos below the model's "
        f"rate, {report['num_held_still']} with a last frame that stands still. Attentive probe: "
        f"{probe['self_attention_blocks']} blocks of self-attention, {heads} heads trained, "
        f"{probe['num_epochs']} epochs.",
    ]
    if not report["whole_validation_split"]:
        parts.append("Only a part of the validation split: no benchmark result.")
    return "\n\n".join([*parts, "## Protocol", PROTOCOL.rstrip()]) + "\n"
