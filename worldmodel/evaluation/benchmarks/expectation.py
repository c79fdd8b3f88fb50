"""Other people's benchmarks of violation of expectation: is the impossible movie more surprising?

The score of a movie is its surprise averaged over steps, over as many overlapping windows as it
takes (`long_video`). A possible movie is compared with its impossible twin, a quadruplet by the sum
of its two possible against that of its two impossible movies, and all movies with each other.
Level and horizon are never chosen on a benchmark: the caller gives them.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.benchmarks import intphys, open_benchmark
from worldmodel.data.benchmarks.movies import Movie, MovieFrames, MovieSet
from worldmodel.data.shards import written_whole
from worldmodel.errors import InputError
from worldmodel.evaluation.network import LevelShape, Network, Place, levels_of
from worldmodel.evaluation.nulls import pixel_surprise
from worldmodel.evaluation.scores import auroc, percentile_interval, wilson
from worldmodel.evaluation.section_tables import interval, number, table
from worldmodel.evaluation.surprise.measures import TIE_SHARE, accuracy_interval
from worldmodel.evaluation.videos.long_video import SurpriseCurve, surprise_over_video
from worldmodel.models.checkpoint import ClipSpec, LoadedModel

MEAN, MAXIMUM = 0, 1  # columns of scores
# 2,048 groups take a second.
AUROC_RESAMPLES = 1000

PROTOCOL = """\
- A movie is read at the frame rate and size of the model's clips, the whole frame scaled to a
  square. Its score is the distance of predicted tokens from what came (root of the mean square over
  dimensions), mean over tokens and steps, in float64, over overlapping windows of the length the
  model was trained on; the maximum over steps is given beside it. Only real frames are scored.
- Relative accuracy: a pair is right if the possible movie scores below the impossible one, half
  right if they are equal within 1e-9 of their sum. Quadruplet: right if the sum of its possible
  movies is below that of its impossible ones; IntPhys' relative error is 1 minus that. AUROC: of
  single movies, without their twins; IntPhys' absolute error is 1 minus that.
- Intervals: 95 %, percentiles over resampled pairs or quadruplets; Wilson's where all of them came
  out alike.
- Level and horizon are given from outside and never chosen on the benchmark's labels. The table of
  all places is for information.
- Untrained networks are scored at the same place; copy predicts that a step is as the one before;
  pixels compares each frame with the one before it.
"""


@dataclass(frozen=True)
class MovieScores:
    """What every scorer says of every movie of a benchmark.

    Attributes:
        movies: the benchmark.
        scores: per scorer and place float64 `(n, 2)`, mean and maximum over a movie's steps.
        pixels: float64 `(n, 2)` of the scorer that compares each frame with the one before it.
        num_steps: per place int64 `(n,)`, steps that were scored.
        digests: per movie a hash of each frame as it was shown.
    """

    movies: MovieSet
    scores: dict[str, dict[Place, np.ndarray]]
    pixels: np.ndarray
    num_steps: dict[Place, np.ndarray]
    digests: list[list[bytes]]


@dataclass(frozen=True)
class Comparison:
    """Which movies are compared with which, G groups of P / G pairs.

    Attributes:
        names: of the groups, G.
        possible: int64 `(P,)`, place of a pair's possible movie among all movies.
        impossible: int64 `(P,)`, of its impossible one.
        group: int64 `(P,)`, the pair's group.
        members: int64 `(G, m)`, the movies of each group.
        num_ambiguous: quadruplets in which the frames allow both ways of pairing.
    """

    names: list[str]
    possible: np.ndarray
    impossible: np.ndarray
    group: np.ndarray
    members: np.ndarray
    num_ambiguous: int


def evaluate_benchmark(
    name: str,
    root: Path,
    model: LoadedModel,
    out: Path,
    place: Place | None,
    device: torch.device,
    split: str | None = None,
    num_untrained: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a model on a benchmark and write what was found.

    Written are `NAME.json`, `NAME.md` and `NAME-movies.csv` (the scores of single movies), for
    IntPhys also `answer.txt` and the zip that its challenge takes.

    Args:
        name: of the benchmark, one of `worldmodel.data.benchmarks.BENCHMARKS`.
        root: the benchmark's folder.
        model: what is scored.
        out: folder of the results.
        place: level and horizon of the headline, chosen on blocks of our own; None takes the one
            that looks farthest ahead, of equals the lowest level.
        device: where models run.
        split: of the benchmark; its first one by default.
        num_untrained: networks with fresh weights to compare with.
        seed: of these and of the bootstrap.

    Returns:
        The content of `NAME.json`: plain finite numbers.

    Raises:
        InputError: a piece of the benchmark is missing or broken, or the place is none of the
            model's.
    """
    movies = open_benchmark(name, root, split)
    levels = levels_of(model.network)
    headline = farthest_place(levels) if place is None else place
    if headline[0] not in range(len(levels)) or headline[1] not in levels[headline[0]].horizons:
        raise InputError(
            f"the model has no level {headline[0]} with horizon {headline[1]}; it has "
            + ", ".join(f"level {n}: {list(level.horizons)}" for n, level in enumerate(levels))
        )
    networks: dict[str, Network] = {"model": model.network.to(device)}
    for index in range(num_untrained):
        networks[f"untrained{index}"] = model.untrained(seed + index).to(device)
    scored = score_movies(movies, networks, model.clip, device)
    if headline not in scored.num_steps:
        raise InputError(
            f"level {headline[0]}, horizon {headline[1]} looks farther ahead than the shortest "
            f"movie of {name} lasts; choose one of {', '.join(map(str, scored.num_steps))}"
        )
    report: dict[str, Any] = {
        "benchmark": name,
        "split": movies.split,
        "checkpoint_sha256": model.sha256,
        "global_step": model.global_step,
        "clip": {"fps": model.clip.fps, "num_frames": model.clip.num_frames}
        | {"size": model.clip.size},
        "level": headline[0],
        "horizon": headline[1],
        "place": "given" if place is not None else "the one that looks farthest ahead",
        "labelled": movies.is_labelled,
        "absent": list(movies.absent),
        "notes": list(movies.notes),
        "seed": seed,
    }
    report |= summarize(scored, headline, seed)
    report["files"] = _write(name, root, out, report, scored, headline)
    return report


def farthest_place(levels: Sequence[LevelShape]) -> Place:
    """The level and horizon that look farthest ahead in frames; of equals the lowest level."""
    places = [(level, h) for level, shape in enumerate(levels) for h in shape.horizons]
    return max(places, key=lambda place: (place[1] * levels[place[0]].span, -place[0]))


def score_movies(
    movies: MovieSet, networks: Mapping[str, Network], clip: ClipSpec, device: torch.device
) -> MovieScores:
    """Score all movies, of which one is in memory at a time.

    Args:
        movies: the benchmark.
        networks: by name; `model` must be among them, whose copy predictor is scored as well.
        clip: frames, rate and size of the clips the networks see.
        device: where the networks are.

    Raises:
        InputError: a movie is missing, broken or too short, or a score is no number.
    """
    bar = tqdm(movies.movies, desc=f"{movies.name} {movies.split}", unit="movie")
    rows = [_score_movie(movie, networks, clip, device) for movie in bar]
    # Horizons that fit into every movie: all movies must be scored by the same rule.
    shared = [key for key in rows[0].steps if all(key in row.steps for row in rows)]
    return MovieScores(
        movies,
        {
            name: {key: np.array([row.scores[name][key] for row in rows]) for key in shared}
            for name in rows[0].scores
        },
        np.array([row.pixels for row in rows]),
        {key: np.array([row.steps[key] for row in rows], dtype=np.int64) for key in shared},
        [row.digests for row in rows],
    )


@dataclass(frozen=True)
class _Row:
    """What is kept of one movie, see `MovieScores`; its frames are not."""

    scores: dict[str, dict[Place, tuple[float, float]]]
    pixels: tuple[float, float]
    steps: dict[Place, int]
    digests: list[bytes]


def _score_movie(
    movie: Movie, networks: Mapping[str, Network], clip: ClipSpec, device: torch.device
) -> _Row:
    shown = movie.read(clip.size, clip.fps)
    scores: dict[str, dict[Place, tuple[float, float]]] = {}
    steps: dict[Place, int] = {}
    for name, network in networks.items():
        curves = _curves(movie, network, shown, clip, device)
        scores[name] = {key: mean_and_maximum(values) for key, (values, _) in curves.items()}
        if name == "model":
            scores["copy"] = {key: mean_and_maximum(copied) for key, (_, copied) in curves.items()}
            steps = {key: len(values) for key, (values, _) in curves.items()}
    if not steps:
        raise InputError(
            f"movie {movie.key}: no step of any level lies within the part that is scored; its "
            "frames are too few"
        )
    _check_finite(movie, scores)
    digests = [hashlib.blake2b(frame.numpy()).digest() for frame in shown.frames]
    return _Row(scores, mean_and_maximum(pixel_curve(shown)), steps, digests)


def _curves(
    movie: Movie, network: Network, shown: MovieFrames, clip: ClipSpec, device: torch.device
) -> dict[Place, tuple[np.ndarray, np.ndarray]]:
    """Surprise at the steps that count, and that of the copy predictor; `(S,)` each."""
    try:
        curves = surprise_over_video(network, shown.frames, clip.num_frames, device)
    except InputError as error:
        raise InputError(f"movie {movie.key}: {error}") from error
    spans = [level.span for level in levels_of(network)]

    def scored(place: Place, curve: SurpriseCurve) -> tuple[np.ndarray, np.ndarray]:
        counts = curve.frames - spans[place[0]] + 1 >= shown.first_scored
        return curve.values[counts], curve.copied[counts]

    both = {place: scored(place, curve) for place, curve in curves.items()}
    return {place: found for place, found in both.items() if len(found[0])}


def mean_and_maximum(values: np.ndarray) -> tuple[float, float]:
    """Both over a movie's steps."""
    return float(values.mean()), float(values.max())


def pixel_curve(shown: MovieFrames) -> np.ndarray:
    """Change of each frame that counts from the one before it, `(S,)`."""
    frames: Tensor = shown.frames.flatten(1)
    pairs = [frames[start : start + 2].double().numpy() for start in range(len(frames) - 1)]
    values = np.array([pixel_surprise(pair, long=False)[0] for pair in pairs])
    return values[max(shown.first_scored - 1, 0) :]


def _check_finite(movie: Movie, row: Mapping[str, Mapping[Place, tuple[float, float]]]) -> None:
    for scorer, places in row.items():
        for place, values in places.items():
            if not np.isfinite(values).all():
                raise InputError(
                    f"movie {movie.key}: the surprise of {scorer} at level {place[0]}, horizon "
                    f"{place[1]} is {values[MEAN]}; the checkpoint's weights are no numbers any "
                    "more, take an earlier one"
                )


def compare_movies(movies: MovieSet, digests: Sequence[Sequence[bytes]]) -> Comparison:
    """Pair each possible movie with an impossible one of its group.

    Args:
        movies: a labelled benchmark.
        digests: per movie a hash of each frame. Where the benchmark names no pairs, those are
            taken whose first frames are equal for longest, over both pairs of the quadruplet.
    """
    groups = movies.groups()
    pairs: list[tuple[int, int, int]] = []
    num_ambiguous = 0
    for place, members in enumerate(groups.values()):
        possible = [n for n in members if movies.movies[n].possible]
        impossible = [n for n in members if not movies.movies[n].possible]
        if movies.movies[members[0]].pair is None:
            impossible, ambiguous = _by_prefix(possible, impossible, digests)
            num_ambiguous += ambiguous
        else:
            order = {movies.movies[n].pair: n for n in impossible}
            impossible = [order[movies.movies[n].pair] for n in possible]
        pairs += [(p, i, place) for p, i in zip(possible, impossible, strict=True)]
    columns = np.array(pairs, dtype=np.int64).T
    return Comparison(
        list(groups),
        columns[0],
        columns[1],
        columns[2],
        np.array(list(groups.values()), dtype=np.int64),
        num_ambiguous,
    )


def _by_prefix(
    possible: list[int], impossible: list[int], digests: Sequence[Sequence[bytes]]
) -> tuple[list[int], bool]:
    """The impossible movies in their partners' order, and whether the other order does as well."""
    first, second = possible
    straight, crossed = impossible, impossible[::-1]

    def shared(order: list[int]) -> int:
        partners = zip((first, second), order, strict=True)
        return sum(equal_prefix(digests[p], digests[i]) for p, i in partners)

    lengths = shared(straight), shared(crossed)
    return (crossed if lengths[1] > lengths[0] else straight), lengths[0] == lengths[1]


def equal_prefix(first: Sequence[bytes], second: Sequence[bytes]) -> int:
    """How many frames two movies have in common from their start on."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def wins(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """1 where `low` is below `high`, 1/2 for a tie within rounding, else 0.

    Args:
        low: float64 `(n,)`, what should be less surprising.
        high: `(n,)`.
    """
    right = np.where(low < high, 1.0, 0.0)
    right[np.abs(low - high) <= TIE_SHARE * (low + high)] = 0.5
    return right


def tell_apart(
    scores: np.ndarray, comparison: Comparison, kept: np.ndarray, seed: int
) -> dict[str, Any]:
    """How well scores tell the impossible from the possible, on some of the groups.

    Args:
        scores: float64 `(n, 2)`, mean and maximum of every movie.
        comparison: which movies are compared.
        kept: bool `(G,)`, which groups count; at least one.
        seed: of the bootstrap.
    """
    by_pair = accuracy_by_group(scores[:, MEAN], comparison)[kept]
    by_sum = quadruplets_won(scores[:, MEAN], comparison)[kept]
    members = comparison.members[kept]
    impossible = np.isin(members, comparison.impossible)
    values = scores[:, MEAN][members]
    return {
        "relative_accuracy": float(by_pair.mean()),
        "ci95": accuracy_interval(by_pair, seed=seed),
        "relative_accuracy_max": float(
            accuracy_by_group(scores[:, MAXIMUM], comparison)[kept].mean()
        ),
        "quadruplet_accuracy": float(by_sum.mean()),
        "quadruplet_ci95": accuracy_interval(by_sum, seed=seed),
        "quadruplet_accuracy_max": float(
            quadruplets_won(scores[:, MAXIMUM], comparison)[kept].mean()
        ),
        "auroc": auroc(values.ravel(), impossible.ravel()),
        "auroc_ci95": auroc_interval(values, impossible, seed),
        "auroc_max": auroc(scores[:, MAXIMUM][members].ravel(), impossible.ravel()),
        "num_pairs": int(np.isin(comparison.group, np.flatnonzero(kept)).sum()),
        "num_groups": int(kept.sum()),
        "num_movies": members.size,
    }


def accuracy_by_group(values: np.ndarray, comparison: Comparison) -> np.ndarray:
    """Share of each group's pairs that are right, `(G,)`, from one score per movie `(n,)`."""
    right = wins(values[comparison.possible], values[comparison.impossible])
    pairs = np.bincount(comparison.group)
    return np.bincount(comparison.group, weights=right) / pairs


def quadruplets_won(values: np.ndarray, comparison: Comparison) -> np.ndarray:
    """Whether each group's possible movies sum to less than its impossible ones, `(G,)`."""
    sums = [
        np.bincount(comparison.group, weights=values[movies])
        for movies in (comparison.possible, comparison.impossible)
    ]
    return wins(sums[0], sums[1])


def auroc_interval(values: np.ndarray, impossible: np.ndarray, seed: int) -> list[float]:
    """95 % interval of the AUROC over resampled groups; Wilson's where every draw is all right.

    Args:
        values: float64 `(G, m)`, scores of each group's movies.
        impossible: bool `(G, m)`, half of each row.
        seed: of the resampling.
    """
    size = len(values)
    counts = np.random.default_rng(seed).multinomial(size, [1 / size] * size, AUROC_RESAMPLES)
    found = auroc_resampled(values, impossible, counts)
    if size < 2 or (found.min() == found.max() and found[0] in (0, 1)):
        return wilson(float(found[0]), size)
    return percentile_interval(found, size)


def auroc_resampled(values: np.ndarray, impossible: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC where each group is there several times, `(R,)`; exact, since all sums are of halves.

    Args:
        values: float64 `(G, m)`, scores of each group's movies.
        impossible: bool `(G, m)`, half of each row.
        counts: `(R, G)`, how often each group is there.
    """
    high, low = values[impossible].reshape(len(values), -1), values[~impossible]
    low = low.reshape(len(values), -1)
    beats = np.zeros((len(values), len(values)))  # of a group's impossible over another's possible
    for one in high.T:
        for other in low.T:
            beats += np.where(one[:, None] == other, 0.5, one[:, None] > other)
    sizes = counts.sum(1) * high.shape[1]
    return ((counts @ beats) * counts).sum(1) / (sizes.astype(np.float64) ** 2)


def summarize(scored: MovieScores, place: Place, seed: int) -> dict[str, Any]:
    """Everything that labels allow to say: overall, per concept, per tag and per place.

    Args:
        scored: of all movies.
        place: level and horizon of the headline.
        seed: of the bootstrap.
    """
    movies = scored.movies.movies
    counts: dict[str, Any] = {"num_movies": len(movies), "num_groups": len(scored.movies.groups())}
    if not scored.movies.is_labelled:
        return {"counts": counts}
    comparison = compare_movies(scored.movies, scored.digests)
    steps = scored.num_steps[place]
    counts |= {
        "num_pairs": len(comparison.possible),
        "num_ambiguous_groups": comparison.num_ambiguous,
        "num_unequal_pairs": int(
            (steps[comparison.possible] != steps[comparison.impossible]).sum()
        ),
    }
    first = [movies[row[0]] for row in comparison.members]
    everything = np.ones(len(first), dtype=bool)

    def section(kept: np.ndarray) -> dict[str, Any]:
        return _with_nulls(scored, comparison, place, kept, seed)

    def where(values: Sequence[str | None]) -> dict[str, dict[str, Any]]:
        known = sorted({value for value in values if value is not None})
        return {value: section(np.array([each == value for each in values])) for value in known}

    tags = sorted({tag for movie in first for tag in movie.tags})
    return {
        "counts": counts,
        "overall": section(everything),
        "concepts": where([movie.concept for movie in first]),
        "tags": {tag: where([movie.tags.get(tag) for movie in first]) for tag in tags},
        "places": {
            f"level{level}.h{horizon}": {
                name: float(accuracy_by_group(scores[level, horizon][:, MEAN], comparison).mean())
                for name, scores in scored.scores.items()
            }
            for level, horizon in scored.num_steps
        },
    }


def _with_nulls(
    scored: MovieScores, comparison: Comparison, place: Place, kept: np.ndarray, seed: int
) -> dict[str, Any]:
    """`tell_apart` of the model; relative accuracy and AUROC of what knows nothing."""
    named = {name: scores[place] for name, scores in scored.scores.items()}
    model = tell_apart(named.pop("model"), comparison, kept, seed)
    named["pixels_short"] = scored.pixels
    members = comparison.members[kept]
    impossible = np.isin(members, comparison.impossible).ravel()
    accuracy, areas = {}, {}
    for name, scores in named.items():
        values = scores[:, MEAN]
        accuracy[name] = float(accuracy_by_group(values, comparison)[kept].mean())
        areas[name] = auroc(values[members].ravel(), impossible)
    return model | {"null": _pool(accuracy), "null_auroc": _pool(areas)}


def _pool(values: Mapping[str, float]) -> dict[str, Any]:
    """The untrained networks as one entry, before the others."""
    nets = [value for name, value in values.items() if name.startswith("untrained")]
    others = {name: value for name, value in values.items() if not name.startswith("untrained")}
    if not nets:
        return others
    pooled = {"mean": float(np.mean(nets)), "std": float(np.std(nets)), "num_networks": len(nets)}
    return {"untrained": pooled, **others}


def _write(
    name: str,
    root: Path,
    out: Path,
    report: dict[str, Any],
    scored: MovieScores,
    place: Place,
) -> list[str]:
    """Write all files of a report and return their names."""
    scores = scored.scores["model"][place]
    files = [f"{name}.json", f"{name}.md", f"{name}-movies.csv"]
    if name == "intphys":
        keys = [movie.key for movie in scored.movies.movies]
        packed = intphys.write_submission(out, keys, scores[:, MEAN], root / intphys.TASK)
        files += [intphys.ANSWER, packed.name]
    report = report | {"files": files}
    texts = (
        json.dumps(report, indent=2, allow_nan=False) + "\n",
        markdown(report),
        movies_csv(scored.movies, scores),
    )
    for file_name, text in zip(files, texts, strict=False):
        with written_whole(out / file_name, "report") as file:
            file.write(text.encode())
    return files


def movies_csv(movies: MovieSet, scores: np.ndarray) -> str:
    """The scores of single movies; `possible` is 1, 0 or, where nobody says, empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "group", "concept", "possible", "surprise", "surprise_max"])
    for movie, row in zip(movies.movies, scores.tolist(), strict=True):
        label = "" if movie.possible is None else int(movie.possible)
        writer.writerow([movie.key, movie.group, movie.concept, label, *map(repr, row)])
    return text.getvalue()


def markdown(report: Mapping[str, Any]) -> str:
    """A benchmark's result as text, every number beside its nulls."""
    counts = report["counts"]
    parts = [
        f"# {report['benchmark']}, {report['split']}",
        f"Checkpoint {report['checkpoint_sha256'][:12]} at step {report['global_step']}, level "
        f"{report['level']}, horizon {report['horizon']} ({report['place']}). "
        f"{counts['num_movies']} movies in {counts['num_groups']} groups.",
    ]
    if report["absent"]:
        parts.append(f"Not in this folder: {', '.join(report['absent'])}.")
    if not report["labelled"]:
        parts.append(benchmark_table(report))
    else:
        parts += [benchmark_table(report), _pairing(counts)]
        for tag, values in report["tags"].items():
            parts += [f"## By {tag}", _sections_table(tag, values)]
        parts += ["## Every level and horizon", _places_table(report["places"])]
    parts += ["## Protocol", "\n".join([PROTOCOL.rstrip(), *(f"- {n}" for n in report["notes"])])]
    return "\n\n".join(parts) + "\n"


def benchmark_table(report: Mapping[str, Any]) -> str:
    """The headline and its parts by concept; of a split without labels, what can be done with it.

    Args:
        report: what `evaluate_benchmark` returns.
    """
    if not report["labelled"]:
        return (
            "This split does not say which movies are possible; it can only be handed in. The "
            f"scores are in {', '.join(report['files'][2:])}."
        )
    return _sections_table("concept", {"overall": report["overall"], **report["concepts"]})


def _pairing(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['num_pairs']} pairs; {counts['num_ambiguous_groups']} quadruplets whose frames "
        f"allow both ways of pairing; {counts['num_unequal_pairs']} pairs whose movies are not "
        "equally long."
    )


def _sections_table(title: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    head = [title, "relative accuracy", "95 %", "by maximum", "quadruplets", "95 %"]
    head += ["AUROC", "95 %", "pairs", "untrained", "copy", "pixels, short"]
    rows = [
        [
            name,
            number(values["relative_accuracy"]),
            interval(values["ci95"]),
            number(values["relative_accuracy_max"]),
            number(values["quadruplet_accuracy"]),
            interval(values["quadruplet_ci95"]),
            number(values["auroc"]),
            interval(values["auroc_ci95"]),
            str(values["num_pairs"]),
            _untrained(values["null"]),
            number(values["null"]["copy"]),
            number(values["null"]["pixels_short"]),
        ]
        for name, values in sections.items()
    ]
    return table(head, rows)


def _untrained(null: Mapping[str, Any]) -> str:
    if "untrained" not in null:
        return "-"
    nets = null["untrained"]
    return f"{nets['mean']:.2f} ± {nets['std']:.2f} ({nets['num_networks']})"


def _places_table(places: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, values in places.items():
        nets = [value for scorer, value in values.items() if scorer.startswith("untrained")]
        mean = number(float(np.mean(nets))) if nets else "-"
        rows.append([name, number(values["model"]), number(values["copy"]), mean])
    return table(["", "relative accuracy", "copy", "untrained"], rows)
