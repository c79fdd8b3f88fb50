import csv
import shutil

import numpy as np
import pytest
from benchmark_blocks import FPS, SIZE, random_block

from worldmodel.data.benchmarks import open_benchmark
from worldmodel.data.benchmarks.export import export_intphys2, spliced_clips
from worldmodel.errors import InputError

KINDS = ("reveal", "solidity", "constancy")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("intphys2")
    for split in ("Main", "HeldOut"):
        export_intphys2([random_block(kind, kind) for kind in KINDS], root, split, seed=1)
    return root


@pytest.fixture
def root(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path, change):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_movies_come_back_to_the_bit_with_their_pairs(written):
    movies = open_benchmark("intphys2", written)
    assert [movie.group for movie in movies.movies[::4]] == ["0", "1", "2"]
    clip_of = {"1_Possible": 0, "2_Possible": 1, "1_Impossible": 2, "2_Impossible": 3}
    for movie in movies.movies:
        scene, kind = movie.key.split("/")
        clips = spliced_clips(random_block(KINDS[int(scene)], KINDS[int(scene)]))["frames"]
        frames = movie.read(SIZE, FPS).frames.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(frames, clips[clip_of[kind]])
        assert movie.possible is kind.endswith("_Possible")
        assert movie.pair == kind[0]


def test_concept_and_tags_are_those_of_the_csv(written):
    movies = open_benchmark("intphys2", written).movies
    assert [m.concept for m in movies[::4]] == ["permanence", "solidity", "immutability"]
    assert movies[0].tags == {"difficulty": "easy", "camera": "fixed"}


def test_rows_of_a_scene_come_in_no_order(written):
    with (written / "Main/metadata.csv").open() as file:
        types = [row["type"] for row in csv.DictReader(file)]
    assert len({tuple(types[start : start + 4]) for start in range(0, 12, 4)}) > 1


def test_held_out_videos_are_listed_without_labels(written):
    movies = open_benchmark("intphys2", written, "HeldOut")
    assert len(movies.movies) == 12 and not movies.is_labelled
    assert movies.movies[0].pair is None


def test_scene_index_may_be_no_number_and_sorts_by_its_numbers(root):
    names = {"0": "10", "1": "2", "2": "10_1"}
    rewrite(
        root / "Main/metadata.csv",
        lambda rows: [{**row, "SceneIndex": names[row["SceneIndex"]]} for row in rows],
    )
    movies = open_benchmark("intphys2", root).movies
    assert [movie.group for movie in movies[::4]] == ["2", "10", "10_1"]


def test_scene_that_comes_three_times_over_gives_three_quadruplets(root):
    def threefold(rows):
        videos = root / "Main/Videos"
        again = []
        for copy in ("x", "y"):
            for row in rows[:4]:
                name = f"{copy}{row['name']}.mp4"
                shutil.copy(root / "Main" / row["file_name"], videos / name)
                again.append({**row, "file_name": f"Videos/{name}"})
        return rows[:4] + again

    rewrite(root / "Main/metadata.csv", threefold)
    movies = open_benchmark("intphys2", root)
    assert list(movies.groups()) == ["0.0", "0.1", "0.2"]
    assert all(len(own) == 4 for own in movies.groups().values())


def test_other_name_of_the_file_column_is_read(root):
    rewrite(
        root / "Main/metadata.csv",
        lambda rows: [
            {"SceneIndex": r["SceneIndex"], "filename": r["name"] + ".mp4", "type": r["type"]}
            for r in rows
        ],
    )
    movies = open_benchmark("intphys2", root).movies
    assert len(movies) == 12
    assert movies[0].concept == "unknown" and movies[0].tags == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: rows[1:], "scene 0 has videos of the types"),
        (lambda rows: [{**rows[0], "type": "3_Possible"}, *rows[1:]], "scene 0 has videos of"),
        (lambda rows: [{**rows[0], "type": ""}, *rows[1:]], "scene 0 has videos of"),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "type"} for r in rows],
            "no column type",
        ),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "file_name"} for r in rows],
            "no column file_name",
        ),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "SceneIndex"} for r in rows],
            "no column SceneIndex",
        ),
        (
            lambda rows: [{**rows[0], "file_name": "Videos/none.mp4"}, *rows[1:]],
            r"names Videos/none\.mp4, but there is no",
        ),
        (
            lambda rows: [{**rows[0], "file_name": "../../secret.mp4"}, *rows[1:]],
            "no file within",
        ),
    ],
)
def test_csv_that_does_not_hold_together_is_refused(root, change, text):
    rewrite(root / "Main/metadata.csv", change)
    with pytest.raises(InputError, match=text):
        open_benchmark("intphys2", root)


def test_missing_csv_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no .*Main/metadata\.csv; get IntPhys2\.zip"):
        open_benchmark("intphys2", tmp_path)


def test_kind_without_a_name_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="block of gravity, which IntPhys 2 has no name for"):
        export_intphys2([random_block("k", "gravity")], tmp_path, "Main", 0)
