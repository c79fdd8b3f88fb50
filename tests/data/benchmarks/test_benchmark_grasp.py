import shutil

import numpy as np
import pytest
from benchmark_blocks import FPS, SIZE, random_block

from worldmodel.data.benchmarks import open_benchmark
from worldmodel.data.benchmarks.export import GRASP_CONCEPTS, export_grasp, spliced_clips
from worldmodel.errors import InputError

KINDS = ("reveal", "gravity")


@pytest.fixture
def root(tmp_path):
    export_grasp([random_block(kind, kind) for kind in KINDS], tmp_path)
    return tmp_path


def test_movies_come_back_to_the_bit_with_their_pairs(root):
    movies = open_benchmark("grasp", root)
    assert list(movies.groups()) == [
        "Gravity/000",
        "Gravity/001",
        "ObjectPermanence/000",
        "ObjectPermanence/001",
    ]
    kinds = {GRASP_CONCEPTS[kind]: kind for kind in KINDS}
    for group, members in movies.groups().items():
        concept, number = group.split("/")
        clips = spliced_clips(random_block(kinds[concept], kinds[concept]))["frames"]
        own = [movies.movies[n] for n in members]
        assert [movie.possible for movie in own] == [True, False]
        for movie, clip in zip(own, ((0, 2), (1, 3))[int(number)], strict=True):
            frames = movie.read(SIZE, FPS).frames.permute(0, 2, 3, 1).numpy()
            assert np.array_equal(frames, clips[clip])


def test_concepts_that_are_not_there_are_named(root):
    absent = open_benchmark("grasp", root).absent
    assert len(absent) == 14
    assert "Collision" in absent and "Gravity" not in absent


def test_video_without_its_other_half_is_named(root):
    (root / "level2/IP_Gravity/001.mp4").unlink()
    with pytest.raises(InputError, match=r"of 001\.mp4 .* only one of P_Gravity and IP_Gravity"):
        open_benchmark("grasp", root)


@pytest.mark.parametrize("half", ["P_Gravity", "IP_Gravity"])
def test_concept_without_its_other_half_is_named(root, half):
    shutil.rmtree(root / "level2" / half)
    with pytest.raises(InputError, match=f"no folder .*{half} to compare"):
        open_benchmark("grasp", root)


def test_concept_without_videos_is_named(root):
    for half in ("P_Gravity", "IP_Gravity"):
        shutil.rmtree(root / "level2" / half)
        (root / "level2" / half).mkdir()
    with pytest.raises(InputError, match=r"P_Gravity has no mp4 file"):
        open_benchmark("grasp", root)


def test_level_2_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*level2"):
        open_benchmark("grasp", tmp_path)
    (tmp_path / "level2/other").mkdir(parents=True)
    with pytest.raises(InputError, match="no folder such as P_Collision"):
        open_benchmark("grasp", tmp_path)
