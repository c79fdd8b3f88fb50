import csv
import json
import math
import re
import shutil
import weakref
import zipfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from square_world import FPS, FRAMES, SIZE, Planted, block

from worldmodel.cli import main
from worldmodel.data.benchmarks import open_benchmark
from worldmodel.data.benchmarks.export import (
    export_grasp,
    export_inflevel,
    export_intphys,
    export_intphys2,
)
from worldmodel.data.benchmarks.intphys import list_movies
from worldmodel.data.benchmarks.movies import (
    Movie,
    MovieFrames,
    MovieSet,
    PictureFolder,
    VideoPart,
)
from worldmodel.data.encode import encode_video
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.expectation import (
    auroc_resampled,
    benchmark_table,
    compare_movies,
    equal_prefix,
    evaluate_benchmark,
    farthest_place,
    pixel_curve,
    score_movies,
    tell_apart,
    wins,
)
from worldmodel.evaluation.scores import wilson
from worldmodel.evaluation.surprise import score_blocks
from worldmodel.models.checkpoint import ClipSpec, load_model
from worldmodel.models.hierarchy import LevelPrediction

CPU = torch.device("cpu")
# Both IntPhys' 15 and the videos' 8 frames a second are then read frame by frame.
CLIP = ClipSpec(num_frames=FRAMES, fps=15.0, size=SIZE)


class Brightness(torch.nn.Module):
    """Its only token is a frame's mean brightness, 0 to 1, and it expects darkness."""

    steps_are_local = True

    def __init__(self, guess=0.0):
        super().__init__()
        self.guess = guess
        self.levels = [
            SimpleNamespace(span=1, dim=1, width=1, num_tokens=1, grid=(1, 1), horizons=(1,))
        ]

    def encode(self, frames):
        return [frames.double().flatten(2).mean(2)[:, :, None, None] / 255]

    def predict(self, tokens):
        guess = torch.full_like(tokens[0], self.guess)
        return [LevelPrediction(tokens[0], {1: guess})]


def square_blocks():
    kinds = ("reveal", "permanence", "constancy", "continuity")
    return [block(seed, kind) for seed, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    export_intphys(square_blocks(), root / "intphys", "dev", seed=1)
    export_intphys(square_blocks(), root / "intphys", "test", seed=1)
    export_intphys2(square_blocks(), root / "intphys2", "Main", seed=1)
    export_intphys2(square_blocks(), root / "intphys2", "HeldOut", seed=1)
    export_grasp(square_blocks(), root / "grasp")
    kinds = ("reveal", "solidity", "support")
    export_inflevel(
        [block(seed, kind) for seed, kind in enumerate(kinds)],
        root / "inflevel",
        seed=1,
        priming_frames=4,
    )
    return root


@pytest.fixture
def model(checkpoint):
    return replace(load_model(checkpoint), clip=CLIP)


def planted(model, remembers):
    return replace(model, network=Planted(remembers))


def labelled(groups, pairs=True):
    """A set of groups of two (pairs) or four movies; possible ones have even numbers."""
    size = 2 if pairs else 4
    movies = [
        Movie(
            f"g{group}/{n}",
            f"g{group}",
            "c",
            n % 2 == 0,
            PictureFolder.__new__(PictureFolder),
            pair="1" if pairs else None,
        )
        for group in range(groups)
        for n in range(size)
    ]
    return MovieSet("planted", "s", tuple(movies))


def sections(scores, movies, digests=()):
    comparison = compare_movies(movies, digests)
    kept = np.ones(len(comparison.names), dtype=bool)
    return tell_apart(np.stack([scores, scores], 1), comparison, kept, seed=0)


NUMBERS = ("relative_accuracy", "quadruplet_accuracy", "auroc")
ALL_NUMBERS = NUMBERS + tuple(
    f"{name}_max" for name in ("relative_accuracy", "quadruplet_accuracy", "auroc")
)


@pytest.mark.parametrize("pairs", [True, False])
def test_scorer_that_knows_the_truth_gets_one_and_its_opposite_nothing(pairs):
    movies = labelled(6, pairs)
    digests = [[b"a"]] * len(movies.movies)
    truth = np.array([float(not movie.possible) for movie in movies.movies])
    found = sections(truth, movies, digests)
    assert all(found[name] == 1.0 for name in ALL_NUMBERS)
    for name in ("ci95", "quadruplet_ci95", "auroc_ci95"):
        assert found[name] == pytest.approx(wilson(1.0, 6))
    found = sections(1 - truth, movies, digests)
    assert all(found[name] == 0.0 for name in ALL_NUMBERS)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-300, 1e12])
def test_scorer_that_says_nothing_gets_exactly_one_half(value):
    for pairs in (True, False):
        movies = labelled(6, pairs)
        found = sections(np.full(len(movies.movies), value), movies, [[b"a"]] * len(movies.movies))
        assert all(found[name] == 0.5 for name in ALL_NUMBERS)
        assert found["ci95"] == found["auroc_ci95"] == [0.5, 0.5]


def test_difference_by_rounding_is_a_tie():
    low = np.array([1.0, 1.0, 1.0, 2.0, 0.0])
    high = np.array([1.0 + 1e-10, 1.0 + 1e-8, 1.0 - 1e-10, 1.0, 0.0])
    assert wins(low, high).tolist() == [0.5, 1.0, 0.5, 0.0, 0.5]


def test_numbers_are_those_of_plain_counting():
    movies = labelled(40, pairs=False)
    scores = np.random.default_rng(0).gamma(2.0, size=160).round(1)
    # Of four movies 0 and 2 are possible; 0 shares its start with 3, and 2 with 1.
    digests = [[names] for _ in range(40) for names in (b"a", b"b", b"b", b"a")]
    found = sections(scores, movies, digests)
    groups = scores.reshape(40, 4)
    right, sums = [], []
    for s0, s1, s2, s3 in groups.tolist():
        for low, high in ((s0, s3), (s2, s1)):
            right.append(0.5 if low == high else float(low < high))
        possible, impossible = s0 + s2, s1 + s3
        tie = math.isclose(possible, impossible, rel_tol=1e-9)
        sums.append(0.5 if tie else float(possible < impossible))
    assert found["relative_accuracy"] == pytest.approx(np.mean(right))
    assert found["quadruplet_accuracy"] == pytest.approx(np.mean(sums))
    truth = [not movie.possible for movie in movies.movies]
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert (found["num_pairs"], found["num_groups"], found["num_movies"]) == (80, 40, 160)


def test_intervals_hold_the_value_and_shrink_with_more_groups():
    widths = []
    for groups in (20, 500):
        movies = labelled(groups)
        generator = np.random.default_rng(1)
        scores = generator.normal(10, 1, 2 * groups)
        scores[1::2] += 0.5
        found = sections(scores, movies)
        for name, interval in (("relative_accuracy", "ci95"), ("auroc", "auroc_ci95")):
            low, high = found[interval]
            assert low <= found[name] <= high
        widths.append(found["ci95"][1] - found["ci95"][0])
    # The normal approximation: 2 x 1.96 sqrt(p (1 - p) / n).
    assert widths[1] == pytest.approx(3.92 * math.sqrt(0.63 * 0.37 / 500), rel=0.15)
    assert widths[0] > 2 * widths[1]


def test_area_of_resampled_groups_is_that_of_their_movies_repeated():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 9, (12, 4)).astype(float)
    impossible = generator.permuted(np.tile([True, True, False, False], (12, 1)), axis=1)
    counts = generator.multinomial(12, [1 / 12] * 12, 5)
    expected = []
    for own in counts:
        rows = np.repeat(np.arange(12), own)
        expected.append(roc_auc_score(impossible[rows].ravel(), values[rows].ravel()))
    assert auroc_resampled(values, impossible, counts) == pytest.approx(expected, abs=1e-12)


def test_groups_that_are_left_out_do_not_count():
    movies = labelled(4)
    comparison = compare_movies(movies, ())
    scores = np.array([0, 1, 0, 1, 1, 0, 1, 0], float)
    kept = np.array([True, True, False, False])
    found = tell_apart(np.stack([scores, scores], 1), comparison, kept, seed=0)
    assert found["relative_accuracy"] == found["auroc"] == 1.0
    assert (found["num_pairs"], found["num_groups"], found["num_movies"]) == (2, 2, 4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_twins_are_found_by_their_longest_common_start(order):
    # Possible P and Q part at once; p begins as P, q as Q.
    clips = {"P": "aabb", "Q": "ccdd", "p": "aadd", "q": "ccbb"}
    names = ["PQpq"[n] for n in order]
    movies = MovieSet(
        "x",
        "s",
        tuple(
            Movie(name, "g", "c", name.isupper(), PictureFolder.__new__(PictureFolder))
            for name in names
        ),
    )
    found = compare_movies(movies, [[letter.encode() for letter in clips[n]] for n in names])
    twins = {(names[p], names[i]) for p, i in zip(found.possible, found.impossible, strict=True)}
    assert twins == {("P", "p"), ("Q", "q")}
    assert found.num_ambiguous == 0


def test_quadruplet_that_allows_both_ways_is_counted():
    movies = labelled(2, pairs=False)
    digests = [[b"a"]] * 4 + [[b"a"], [b"a"], [b"b"], [b"b"]]
    assert compare_movies(movies, digests).num_ambiguous == 1


def test_common_start_ends_with_the_shorter_movie():
    assert equal_prefix([b"a", b"b"], [b"a", b"b", b"c"]) == 2
    assert equal_prefix([b"a", b"b"], [b"b", b"b"]) == 0
    assert equal_prefix([], [b"a"]) == 0


def test_frames_of_exported_blocks_give_the_pairs_they_were_made_of(roots, model):
    movies = open_benchmark("intphys", roots / "intphys")
    scored = score_movies(movies, {"model": Planted(True)}, CLIP, CPU)
    found = compare_movies(movies, scored.digests)
    for p, i in zip(found.possible, found.impossible, strict=True):
        frames = [movies.movies[n].read(SIZE, 15.0).frames for n in (p, i)]
        assert torch.equal(frames[0][:8], frames[1][:8])
        assert not torch.equal(frames[0], frames[1])
    assert found.num_ambiguous == 0


def test_scores_of_exported_blocks_are_those_of_the_blocks_themselves(roots, model):
    movies = open_benchmark("intphys2", roots / "intphys2")
    scored = score_movies(movies, {"model": model.network}, CLIP, CPU)
    own = score_blocks(model.network, square_blocks(), CPU)
    columns = {"1_Possible": 0, "2_Possible": 1, "1_Impossible": 2, "2_Impossible": 3}
    for place, values in scored.scores["model"].items():
        for movie, found in zip(movies.movies, values, strict=True):
            scene, kind = movie.key.split("/")
            curve = own.curves[place][int(scene), columns[kind]]
            assert found == pytest.approx([curve.mean(), curve.max()], rel=1e-6)


@pytest.mark.parametrize("name", ["intphys", "intphys2", "grasp", "inflevel"])
def test_model_that_remembers_is_right_and_one_that_does_not_is_at_chance(
    roots, model, tmp_path, name
):
    knows = evaluate_benchmark(
        name, roots / name, planted(model, True), tmp_path / "a", (0, 1), CPU, num_untrained=0
    )
    assert knows["overall"]["relative_accuracy"] == 1.0
    assert knows["overall"]["quadruplet_accuracy"] == 1.0
    assert all(part["relative_accuracy"] == 1.0 for part in knows["concepts"].values())
    blind = evaluate_benchmark(
        name, roots / name, planted(model, False), tmp_path / "b", (0, 1), CPU, num_untrained=0
    )
    assert blind["overall"]["relative_accuracy"] < 1.0
    if name in ("intphys", "intphys2"):
        # Both movies of a quadruplet's other half show the same frames in other company.
        assert blind["overall"]["quadruplet_accuracy"] == 0.5
        assert blind["overall"]["relative_accuracy"] == 0.5
        assert blind["overall"]["null"]["pixels_short"] == 0.5


def test_report_is_written_with_its_counts_and_nulls(roots, model, tmp_path):
    report = evaluate_benchmark(
        "intphys2", roots / "intphys2", model, tmp_path, (1, 2), CPU, num_untrained=2
    )
    assert json.loads((tmp_path / "intphys2.json").read_text()) == report
    assert (report["level"], report["horizon"], report["place"]) == (1, 2, "given")
    assert report["counts"] == {
        "num_movies": 16,
        "num_groups": 4,
        "num_pairs": 8,
        "num_ambiguous_groups": 0,
        "num_unequal_pairs": 0,
    }
    assert set(report["concepts"]) == {"permanence", "immutability", "continuity"}
    assert report["concepts"]["permanence"]["num_groups"] == 2
    assert report["tags"]["camera"]["fixed"]["num_groups"] == 4
    assert report["overall"]["null"]["untrained"]["num_networks"] == 2
    assert set(report["overall"]["null"]) == {"untrained", "copy", "pixels_short"}
    assert set(report["places"]) == {"level0.h1", "level0.h2", "level1.h1", "level1.h2"}
    assert set(report["places"]["level0.h1"]) == {"model", "copy", "untrained0", "untrained1"}
    assert report["places"]["level1.h2"]["model"] == report["overall"]["relative_accuracy"]
    text = (tmp_path / "intphys2.md").read_text()
    assert benchmark_table(report) in text
    assert "| permanence" in text and "## By camera" in text and "given" in text
    with (tmp_path / "intphys2-movies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    right = [
        float(a["surprise"]) < float(b["surprise"])
        for a in rows
        for b in rows
        if a["possible"] == "1"
        and b["possible"] == "0"
        and a["key"].replace("Possible", "Impossible") == b["key"]
    ]
    assert np.mean(right) == report["overall"]["relative_accuracy"]


def test_same_input_gives_the_same_bits_in_any_order_of_movies(roots, model):
    movies = open_benchmark("intphys", roots / "intphys")
    networks = {"model": model.network}
    first = score_movies(movies, networks, CLIP, CPU)
    turned = replace(movies, movies=movies.movies[::-1])
    second = score_movies(turned, networks, CLIP, CPU)
    for place, values in first.scores["model"].items():
        assert np.array_equal(values, second.scores["model"][place][::-1])
    assert np.array_equal(first.pixels, second.pixels[::-1])


def test_place_must_be_one_of_the_model(roots, model, tmp_path):
    for place in ((2, 1), (0, 4), (-1, 1)):
        with pytest.raises(InputError, match=r"has no level .*; it has level 0: \[1, 2\], level 1"):
            evaluate_benchmark("grasp", roots / "grasp", model, tmp_path, place, CPU)


def test_without_a_place_the_one_that_looks_farthest_is_taken_and_said(roots, model, tmp_path):
    report = evaluate_benchmark(
        "grasp", roots / "grasp", model, tmp_path, None, CPU, num_untrained=0
    )
    assert (report["level"], report["horizon"]) == (1, 2)
    assert report["place"] == "the one that looks farthest ahead"
    assert set(report["overall"]["null"]) == {"copy", "pixels_short"}


def test_of_equally_far_places_the_lowest_level_is_taken():
    levels = [
        SimpleNamespace(span=span, horizons=horizons, num_tokens=1, grid=(1, 1), dim=1, width=1)
        for span, horizons in ((1, (1, 8)), (4, (1, 2)))
    ]
    assert farthest_place(levels) == (0, 8)


def test_split_without_labels_gives_a_submission_and_no_score(roots, model, tmp_path):
    report = evaluate_benchmark(
        "intphys", roots / "intphys", model, tmp_path, (0, 1), CPU, split="test", num_untrained=0
    )
    assert not report["labelled"] and "overall" not in report
    assert report["counts"] == {"num_movies": 16, "num_groups": 4}
    with (tmp_path / "intphys-movies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["possible"] for row in rows} == {""}
    surprise = {row["key"]: float(row["surprise"]) for row in rows}
    with zipfile.ZipFile(tmp_path / "intphys-submission.zip") as archive:
        lines = archive.read("answer.txt").decode().splitlines()
    score = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert set(score) == set(surprise) and len(lines) == 16
    assert min(score.values()) == 0 and max(score.values()) == 1
    ordered = sorted(surprise, key=lambda key: surprise[key])
    assert all(score[one] >= score[other] for one, other in pairwise(ordered))
    assert "can only be handed in" in (tmp_path / "intphys.md").read_text()
    held_out = evaluate_benchmark(
        "intphys2", roots / "intphys2", model, tmp_path, (0, 1), CPU, "HeldOut", num_untrained=0
    )
    assert not held_out["labelled"] and len(held_out["files"]) == 3


def test_concepts_that_the_folder_lacks_are_reported(roots, model, tmp_path):
    report = evaluate_benchmark(
        "grasp", roots / "grasp", model, tmp_path, (0, 1), CPU, num_untrained=0
    )
    assert "Collision" in report["absent"]
    assert "Not in this folder: Collision" in (tmp_path / "grasp.md").read_text()


@pytest.mark.parametrize("split", ["unprimed", "primed", "whole"])
def test_priming_is_in_the_score_only_where_it_is_asked_for(roots, split):
    movies = open_benchmark("inflevel", roots / "inflevel", split)
    scored = score_movies(movies, {"model": Brightness()}, CLIP, CPU)
    for number, movie in enumerate(movies.movies):
        shown = movie.read(SIZE, 15.0)
        priming = len(shown.frames) - FRAMES
        assert priming == 0 if split == "unprimed" else priming >= 4
        brightness = shown.frames.double().flatten(1).mean(1).numpy() / 255
        counted = brightness[max(1, priming if split == "primed" else 0) :]
        assert scored.scores["model"][0, 1][number, 0] == pytest.approx(counted.mean())
        assert scored.scores["model"][0, 1][number, 1] == pytest.approx(counted.max())
        assert scored.num_steps[0, 1][number] == len(counted)


def test_step_that_begins_in_the_priming_does_not_count(tmp_path):
    frames = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    movies = fixed_movies([MovieFrames(frames, first_scored=5)])
    scored = score_movies(movies, {"model": Planted(True)}, CLIP, CPU)
    # Steps of level 0 from frame 5 on; those of level 1 from frame 6 on, two frames each.
    assert scored.num_steps[0, 1].tolist() == [FRAMES - 5]
    assert scored.num_steps[1, 1].tolist() == [(FRAMES - 6) // 2]


@dataclass(frozen=True)
class Fixed(PictureFolder):
    """A movie that is there already."""

    shown: MovieFrames | None = None
    before: list | None = None

    def read(self, size, fps):
        if self.before is None:
            return self.shown
        assert all(earlier() is None for earlier in self.before)
        frames = self.shown.frames.clone()
        self.before.append(weakref.ref(frames))
        return MovieFrames(frames)


def fixed_movies(shown, before=None):
    movies = [
        Movie(
            f"m{n}",
            f"g{n // 2}",
            "c",
            n % 2 == 0,
            Fixed(folder=Path(), prefix="", fps=8.0, shown=one, before=before),
            pair="1",
        )
        for n, one in enumerate(shown)
    ]
    return MovieSet("fixed", "s", tuple(movies))


def test_one_movie_is_in_memory_at_a_time():
    frames = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    before = []
    score_movies(
        fixed_movies([MovieFrames(frames)] * 4, before), {"model": Brightness()}, CLIP, CPU
    )
    assert len(before) == 4


def test_score_that_is_no_number_names_its_movie():
    frames = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    movies = fixed_movies([MovieFrames(frames)])
    with pytest.raises(InputError, match=r"movie m0: the surprise of model at level 0.* is nan"):
        score_movies(movies, {"model": Brightness(math.nan)}, CLIP, CPU)


def test_movie_that_is_too_short_is_named():
    short = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(InputError, match="movie m0: the video has 1 frames"):
        score_movies(fixed_movies([MovieFrames(short)]), {"model": Brightness()}, CLIP, CPU)
    frames = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    late = MovieFrames(frames, first_scored=FRAMES)
    with pytest.raises(InputError, match="movie m0: no step of any level"):
        score_movies(fixed_movies([late]), {"model": Brightness()}, CLIP, CPU)


def test_horizon_that_does_not_fit_into_every_movie_is_left_out():
    long, short = (
        MovieFrames(torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)) for count in (FRAMES, 4)
    )
    scored = score_movies(fixed_movies([long, short]), {"model": Planted(True)}, CLIP, CPU)
    assert (1, 2) not in scored.num_steps and (0, 2) in scored.num_steps


def test_pairs_of_unequal_length_are_counted(tmp_path, roots, model):
    shutil.copytree(roots / "grasp", tmp_path / "grasp")
    folder = tmp_path / "grasp/level2/P_Continuity"
    source = block(0).frames[0].permute(0, 2, 3, 1).numpy()
    (folder / "000.mp4").write_bytes(encode_video(source[:12], FPS, lossless=True))
    report = evaluate_benchmark(
        "grasp", tmp_path / "grasp", model, tmp_path / "out", (0, 1), CPU, num_untrained=0
    )
    assert report["counts"]["num_unequal_pairs"] == 1
    assert "1 pairs whose movies are not equally long" in (tmp_path / "out/grasp.md").read_text()


def test_broken_movie_ends_the_evaluation_and_nothing_is_written(roots, model, tmp_path):
    shutil.copytree(roots / "intphys", tmp_path / "intphys")
    path = tmp_path / "intphys/dev/O3/0001/4/scene/scene_016.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"movie O3/0001/4: .*scene_016\.png is no readable PNG"):
        evaluate_benchmark(
            "intphys", tmp_path / "intphys", model, tmp_path / "out", (0, 1), CPU, num_untrained=0
        )
    assert not (tmp_path / "out").exists()


def test_pixels_are_compared_with_the_frame_before():
    frames = torch.zeros(4, 3, 1, 1, dtype=torch.uint8)
    frames[2:] = 3
    assert pixel_curve(MovieFrames(frames)).tolist() == [0.0, math.log(10), 0.0]
    assert pixel_curve(MovieFrames(frames, first_scored=2)).tolist() == [math.log(10), 0.0]


def test_scoring_reads_the_size_of_the_model_from_larger_pictures(tmp_path):
    large = Image.fromarray(np.full((64, 96, 3), 51, np.uint8))
    for movie in "1234":
        folder = tmp_path / "dev/O1/0001" / movie / "scene"
        folder.mkdir(parents=True)
        for number in range(1, 21):
            large.save(folder / f"scene_{number:03d}.png")
        header = {"is_possible": movie in "13"}
        (folder.parent / "status.json").write_text(json.dumps({"header": header}))
    movies = list_movies(tmp_path, "dev", blocks=("O1",))
    scored = score_movies(movies, {"model": Brightness()}, CLIP, CPU)
    assert scored.scores["model"][0, 1][:, 0] == pytest.approx([0.2] * 4, rel=0.02)
    assert compare_movies(movies, scored.digests).num_ambiguous == 1


def test_video_files_are_the_source_of_other_benchmarks(roots):
    for name in ("intphys2", "grasp", "inflevel"):
        for movie in open_benchmark(name, roots / name).movies:
            assert isinstance(movie.source, VideoPart)


def test_evaluate__leaves_a_page_with_every_table(roots, checkpoint, tmp_path, capsys):
    out = tmp_path / "scores"
    args = ("--benchmark", "grasp", "--root", str(roots / "grasp"), "--out", str(out))
    more = ("--options.num_untrained", "1")
    assert main(["evaluate", "--checkpoint", str(checkpoint), *args, *more]) == 0
    assert capsys.readouterr().out.endswith(f"page:     {out / 'grasp.html'}\n")
    page = (out / "grasp.html").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", (out / "grasp.md").read_text(), flags=re.MULTILINE)
    assert len(headings) >= 2 and all(f"<h2>{title}</h2>" in page for title in headings)
    assert ">untrained</th>" in page and ">copy</th>" in page
