import csv
import shutil

import numpy as np
import pytest
from benchmark_blocks import FPS, FRAMES, SIZE, random_block

from worldmodel.data.benchmarks import open_benchmark
from worldmodel.data.benchmarks.export import export_inflevel, spliced_clips
from worldmodel.data.benchmarks.inflevel import name_tags
from worldmodel.data.benchmarks.movies import count_frames
from worldmodel.errors import InputError

KINDS = ("reveal", "solidity", "support")
CONCEPTS = ("continuity", "solidity", "gravity")
PRIMING = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("inflevel")
    blocks = [random_block(kind, kind) for kind in KINDS]
    export_inflevel(blocks, root, seed=2, priming_frames=PRIMING)
    return root


@pytest.fixture
def root(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path, change):
    with path.open(newline="") as file:
        rows = change(list(csv.DictReader(file)))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def events(movie):
    """The clip that a movie's event should be."""
    kind = KINDS[CONCEPTS.index(movie.concept)]
    clip = ("vv", "ii", "vi", "iv").index(movie.source.path.stem.split("__")[4])
    return spliced_clips(random_block(kind, kind))["frames"][clip], clip


def test_event_comes_back_to_the_bit_without_its_priming(written):
    movies = open_benchmark("inflevel", written)
    assert movies.split == "unprimed" and len(movies.groups()) == 6
    for movie in movies.movies:
        frames, clip = events(movie)
        shown = movie.read(SIZE, FPS)
        assert np.array_equal(shown.frames.permute(0, 2, 3, 1).numpy(), frames)
        assert shown.first_scored == 0
        assert movie.possible is (clip < 2)


@pytest.mark.parametrize("split", ["primed", "whole"])
def test_priming_is_shown_and_scored_as_asked(written, split):
    movies = open_benchmark("inflevel", written, split).movies
    for movie in movies:
        frames, _ = events(movie)
        shown = movie.read(SIZE, FPS)
        assert PRIMING + FRAMES <= len(shown.frames) <= PRIMING + 1 + FRAMES
        assert np.array_equal(shown.frames[-FRAMES:].permute(0, 2, 3, 1).numpy(), frames)
        event = len(shown.frames) - FRAMES
        assert shown.first_scored == (event if split == "primed" else 0)
        priming = shown.frames[:event].numpy()
        assert (priming == priming[0, 0, 0, 0]).all()


def test_movies_of_a_pair_are_equally_long(written):
    movies = open_benchmark("inflevel", written, "whole")
    lengths = {movie.key: len(movie.read(SIZE, FPS).frames) for movie in movies.movies}
    files = {movie.key: count_frames(movie.source.path) for movie in movies.movies}
    pairs = [[movies.movies[n].key for n in pair] for pair in movies.groups().values()]
    assert any(files[one] != files[other] for one, other in pairs)
    assert all(
        lengths[one] == lengths[other] == min(files[one], files[other]) for one, other in pairs
    )


def test_what_becomes_of_the_priming_is_said(written):
    notes = {
        split: open_benchmark("inflevel", written, split).notes
        for split in ("unprimed", "primed", "whole")
    }
    assert len({note[0] for note in notes.values()}) == 3
    assert "only real frames are scored" in notes["whole"][1]


def test_which_video_is_possible_is_not_given_by_its_place(written):
    movies = open_benchmark("inflevel", written).movies
    assert {movie.key.split("/")[-1] for movie in movies if movie.possible} == {"1", "2"}


def test_videos_and_lists_may_lie_deeper(root):
    inner = root / "inflevel_lab"
    inner.mkdir()
    for concept in CONCEPTS:
        (root / concept).rename(inner / concept)
    assert len(open_benchmark("inflevel", root).movies) == 12  # lists above the videos
    for concept in CONCEPTS:
        (root / f"{concept}.csv").rename(inner / f"{concept}.csv")
    assert len(open_benchmark("inflevel", root).movies) == 12


def test_camera_and_cover_are_read_from_the_name():
    assert name_tags("center__continuity__darkbluecup__duck__vv__LR") == {
        "camera": "center",
        "cover": "darkbluecup",
    }
    assert name_tags("right__solidity__pot7__watch__ci") == {"camera": "right", "cover": "pot7"}
    assert name_tags("video") == {}


def first(rows, **values):
    return [{**rows[0], **values}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: first(rows, vid1_label="maybe"), "found maybe and"),
        (
            lambda rows: first(rows, vid1_label="possible", vid2_label="possible"),
            "found possible and possible",
        ),
        (lambda rows: first(rows, vid2_path="solidity/no.mp4"), r"names solidity/no\.mp4, but"),
        (lambda rows: first(rows, vid2_path="../no.mp4"), "no file within"),
        (lambda rows: first(rows, vid2_end_priming_2="x"), "end_priming_2 is 'x'"),
        (lambda rows: first(rows, vid2_end_priming_2="-1"), "end_priming_2 is '-1'"),
        (lambda rows: first(rows, vid2_end_priming_2="nan"), "end_priming_2 is 'nan'"),
        (lambda rows: first(rows, vid2_end_priming_2="inf"), "end_priming_2 is 'inf'"),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "vid1_label"} for r in rows],
            "no column vid1_label",
        ),
    ],
)
def test_list_that_does_not_hold_together_is_refused(root, change, text):
    rewrite(root / "solidity.csv", change)
    with pytest.raises(InputError, match=text):
        open_benchmark("inflevel", root)


def test_frame_number_may_be_written_with_a_point(root):
    rewrite(
        root / "solidity.csv",
        lambda rows: [
            {**row, "vid1_end_priming_2": row["vid1_end_priming_2"] + ".0"} for row in rows
        ],
    )
    assert len(open_benchmark("inflevel", root).movies) == 12


def test_missing_list_is_named(root):
    (root / "gravity.csv").unlink()
    with pytest.raises(InputError, match=r"no .*gravity\.csv; get continuity\.csv"):
        open_benchmark("inflevel", root)


def test_priming_that_never_ends_is_refused_when_the_movie_is_read(root):
    rewrite(root / "solidity.csv", lambda rows: first(rows, vid1_end_priming_2="99"))
    movie = next(m for m in open_benchmark("inflevel", root).movies if m.concept == "solidity")
    with pytest.raises(InputError, match=r"movie solidity/0000/1: .* begin at frame 100"):
        movie.read(SIZE, FPS)
