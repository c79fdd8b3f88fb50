import json
import shutil
import zipfile

import numpy as np
import pytest
from benchmark_blocks import FRAMES, SIZE, random_block
from PIL import Image
from sklearn.metrics import roc_auc_score

from worldmodel.data.benchmarks import open_benchmark
from worldmodel.data.benchmarks.export import export_intphys, spliced_clips
from worldmodel.data.benchmarks.intphys import (
    FPS,
    list_movies,
    plausibility,
    read_depth,
    read_masks,
    write_submission,
)
from worldmodel.errors import InputError

KINDS = ("reveal", "constancy", "continuity", "permanence")
BLOCKS = ("O1", "O2", "O3", "O1")


def blocks():
    return [
        random_block(f"test-{kind}", kind, ((2, 4), (6, 9)) if kind == "continuity" else ((4, 8),))
        for kind in KINDS
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("intphys")
    export_intphys(blocks(), root, "dev", seed=3)
    export_intphys(blocks(), root, "test", seed=3)
    return root


@pytest.fixture
def root(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def test_movies_come_back_to_the_bit(written):
    movies = open_benchmark("intphys", written).movies
    assert len(movies) == 16
    for number, block in enumerate(blocks()):
        clips = spliced_clips(block)["frames"]
        scene = f"{BLOCKS[number]}/{1 + BLOCKS[:number].count(BLOCKS[number]):04d}"
        own = [movie for movie in movies if movie.group == scene]
        assert [movie.key for movie in own] == [f"{scene}/{n}" for n in (1, 2, 3, 4)]
        left = list(range(4))
        for movie in own:
            frames = movie.read(SIZE, FPS).frames.permute(0, 2, 3, 1).numpy()
            clip = next(n for n in left if np.array_equal(clips[n], frames))
            left.remove(clip)
            assert movie.possible is (clip < 2)
            assert movie.concept == BLOCKS[number]


def test_possible_movies_are_not_the_first_two(written):
    movies = open_benchmark("intphys", written).movies
    orders = {tuple(m.possible for m in movies[start : start + 4]) for start in range(0, 16, 4)}
    assert len(orders) > 1


def test_same_seed_writes_the_same_and_another_another_order(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        export_intphys(blocks(), tmp_path / name, "dev", seed)
    files = {
        name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]
        for name in "abc"
    }
    assert files["a"] == files["b"] != files["c"]


def test_condition_is_read_from_status_and_from_the_folder_name(root):
    movie = open_benchmark("intphys", root).movies[0]
    assert movie.tags == {"view": "occluded", "motion": "dynamic_1", "objects": "2"}
    (root / "test/O1/0001").rename(root / "test/O1/0001_O1_test_visible_static_nobj3")
    movie = open_benchmark("intphys", root, "test").movies[0]
    assert movie.tags == {"view": "visible", "motion": "static", "objects": "3"}
    assert movie.key == "O1/0001_O1_test_visible_static_nobj3/1"


def test_test_split_has_no_labels(written):
    movies = open_benchmark("intphys", written, "test")
    assert not movies.is_labelled
    assert {movie.possible for movie in movies.movies} == {None}
    assert movies.movies[0].tags == {}


def test_status_without_a_label_leaves_the_split_unlabelled(root):
    for path in (root / "dev").rglob("status.json"):
        status = json.loads(path.read_text())
        del status["header"]["is_possible"]
        path.write_text(json.dumps(status))
    assert not open_benchmark("intphys", root).is_labelled


def test_label_of_version_1_is_read(root):
    for path in (root / "dev").rglob("status.json"):
        status = json.loads(path.read_text())
        status["possible"] = status["header"].pop("is_possible")
        path.write_text(json.dumps(status))
    assert sum(bool(movie.possible) for movie in open_benchmark("intphys", root).movies) == 8


def test_two_digit_scenes_of_dev_are_read(root):
    for scene in list((root / "dev").glob("O*/*")):
        scene.rename(scene.with_name(scene.name[2:]))
    assert open_benchmark("intphys", root).movies[0].key == "O1/01/1"


def test_depth_comes_back_in_metres(written):
    block = blocks()[0]
    clips = spliced_clips(block)
    for name in "1234":
        folder = written / "dev/O1/0001" / name
        frames = np.stack([np.array(Image.open(p)) for p in sorted(folder.glob("scene/*.png"))])
        clip = next(n for n in range(4) if np.array_equal(clips["frames"][n], frames))
        depth, true = read_depth(folder), clips["depth"][clip]
        assert depth.shape == (FRAMES, SIZE, SIZE) and depth.dtype == np.float32
        hit = true > 0
        assert np.array_equal(depth[hit], true[hit])
        assert (depth[~hit] == np.float32(65.535)).all()


def test_what_is_near_is_bright_in_the_file(written):
    folder = written / "dev/O1/0001/1"
    pixels = np.array(Image.open(folder / "depth/depth_001.png")).astype(np.int64)
    metres = read_depth(folder)[0]
    assert np.array_equal(pixels, 65535 - np.rint(metres.astype(float) * 1000).astype(np.int64))


def test_greys_change_every_frame_and_ids_do_not(written):
    folder = written / "dev/O1/0001/1"
    status = json.loads((folder / "status.json").read_text())
    greys = {frame["masks"]["object_1"] for frame in status["frames"]}
    assert len(greys) > FRAMES // 2
    frames = np.stack([np.array(Image.open(p)) for p in sorted(folder.glob("scene/*.png"))])
    clips = spliced_clips(blocks()[0])
    clip = next(n for n in range(4) if np.array_equal(clips["frames"][n], frames))
    masks = read_masks(folder)
    assert masks.names == ("unlisted", "object_1", "object_2", "occluder_1", "walls")
    true = {"walls": 0, "object_1": 1, "object_2": 2, "occluder_1": 100}
    for name, number in true.items():
        shown = masks.ids == masks.names.index(name)
        assert np.array_equal(shown, clips["ids"][clip] == number)


def test_grey_that_status_does_not_name_is_unlisted(root):
    path = root / "dev/O1/0001/1/status.json"
    status = json.loads(path.read_text())
    grey = status["frames"][2]["masks"].pop("object_1")
    path.write_text(json.dumps(status))
    masks = read_masks(path.parent)
    pixels = np.array(Image.open(path.parent / "masks/masks_003.png"))
    assert np.array_equal(masks.ids[2] == 0, pixels == grey)
    assert (masks.ids[0] != 0).all()


def test_greys_of_version_1_hold_for_all_frames(root):
    folder = root / "dev/O1/0001/1"
    status = {"masks_grayscale": [[0, "sky"], [51, "floor"], [255, "object_1"]]}
    (folder / "status.json").write_text(json.dumps(status))
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[0], picture[1] = 51, 255
    for path in (folder / "masks").iterdir():
        Image.fromarray(picture).save(path)
    masks = read_masks(folder)
    assert masks.names == ("unlisted", "floor", "object_1", "sky")
    assert [int(value) for value in masks.ids[5, :3, 0]] == [1, 2, 3]


def test_mask_of_three_equal_channels_is_grey(root):
    folder = root / "dev/O1/0001/1"
    before = read_masks(folder).ids
    for path in (folder / "masks").iterdir():
        Image.open(path).convert("RGB").save(path)
    assert np.array_equal(read_masks(folder).ids, before)


def change_status(folder, change):
    path = folder / "status.json"
    status = json.loads(path.read_text())
    change(status)
    path.write_text(json.dumps(status))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s["frames"].pop(), "describes 11 frames but there are 12 masks"),
        (lambda s: s["frames"][3].pop("masks"), "actor of frame 4"),
        (lambda s: s["frames"][3]["masks"].update(walls=256), "actor of frame 4"),
        (lambda s: s["frames"][3]["masks"].update(walls="1"), "actor of frame 4"),
        (lambda s: s.pop("frames"), "describes 0 frames"),
    ],
)
def test_status_that_does_not_fit_its_masks_is_refused(root, change, text):
    change_status(root / "dev/O1/0001/1", change)
    with pytest.raises(InputError, match=text):
        read_masks(root / "dev/O1/0001/1")


def test_depth_of_eight_bits_is_refused(root):
    path = root / "dev/O1/0001/1/depth/depth_004.png"
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"depth_004\.png must be grey with 16 bits"):
        read_depth(root / "dev/O1/0001/1")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ("dev", r"no folder .*dev/O1; extract dev\.tar\.gz"),
        ("dev/O2", r"no folder .*dev/O2; extract dev\.tar\.gz"),
        ("dev/O2/0001", r"O2 has no scene"),
        ("dev/O1/0002/3", r"0002 must hold the movies 1, 2, 3 and 4 but has 1, 2, 4"),
        ("dev/O1/0002/3/scene", r"no folder .*0002/3/scene"),
        ("dev/O1/0002/3/status.json", r"no .*0002/3/status\.json"),
        ("dev/O1/0002/3/scene/scene_005.png", "lacks scene 5"),
        ("dev/O1/0002/3/scene/scene_012.png", "movies of .*0002 have 12, 12, 11, 12 pictures"),
    ],
)
def test_missing_piece_is_named(root, piece, text):
    remove(root / piece)
    with pytest.raises(InputError, match=text):
        open_benchmark("intphys", root)


def test_missing_archive_of_the_test_split_is_named(root):
    remove(root / "test/O3")
    with pytest.raises(InputError, match=r"extract test\.O3\.tar\.gz"):
        open_benchmark("intphys", root, "test")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"header": 3}', b"\xff\xfe"])
def test_status_that_is_none_is_refused(root, content):
    (root / "dev/O1/0001/1/status.json").write_bytes(content)
    with pytest.raises(InputError, match=r"0001/1/status\.json is (no JSON file|JSON but no)"):
        open_benchmark("intphys", root)


def test_scene_of_three_possible_movies_is_refused(root):
    for name in "1234":
        change_status(
            root / f"dev/O1/0001/{name}", lambda s, n=name: s["header"].update(is_possible=n != "4")
        )
    with pytest.raises(InputError, match="0001 has 3 possible movies by their status"):
        open_benchmark("intphys", root)


def test_one_missing_label_is_refused(root):
    change_status(root / "dev/O1/0001/2", lambda s: s["header"].pop("is_possible"))
    with pytest.raises(InputError, match="1 of 16 movies are not said"):
        open_benchmark("intphys", root)


def test_folder_that_is_no_scene_is_refused_and_hidden_ones_pass(root):
    (root / "dev/O1/.cache").mkdir()
    assert len(open_benchmark("intphys", root).movies) == 16
    (root / "dev/O1/notes").mkdir()
    with pytest.raises(InputError, match="notes is no scene"):
        open_benchmark("intphys", root)


def test_some_blocks_can_be_listed_alone(root):
    remove(root / "dev/O2")
    assert {m.concept for m in list_movies(root, "dev", blocks=("O1", "O3")).movies} == {"O1", "O3"}


def test_kind_without_a_name_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="block of inertia, which IntPhys has no name for"):
        export_intphys([random_block("k", "inertia")], tmp_path, "dev", 0)


def test_submission_is_read_as_the_challenge_reads_it(tmp_path):
    keys = ["O1/0001/1", "O1/0001/2", "O3/1080/4"]
    packed = write_submission(tmp_path, keys, np.array([0.3, 0.1, 0.2]))
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["answer.txt"]
        text = archive.read("answer.txt").decode()
    assert text == (tmp_path / "answer.txt").read_text()
    lines = [line.split(" ") for line in text.splitlines()]
    assert [line[0] for line in lines] == keys
    assert [float(line[1]) for line in lines] == pytest.approx([0.0, 1.0, 0.5])
    assert text.endswith("\n") and "e" not in text


def test_submission_has_the_same_bytes_twice(tmp_path):
    packed = [
        write_submission(tmp_path / name, ["O1/0001/1", "O1/0001/2"], np.array([1.0, 2.0]))
        for name in "ab"
    ]
    assert packed[0].read_bytes() == packed[1].read_bytes()


def test_submission_keeps_the_order_of_the_task(tmp_path):
    (tmp_path / "task.txt").write_text("O1/0001/2\nO1/0001/1\n\n")
    write_submission(
        tmp_path, ["O1/0001/1", "O1/0001/2"], np.array([1.0, 2.0]), tmp_path / "task.txt"
    )
    lines = (tmp_path / "answer.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["O1/0001/2", "O1/0001/1"]


def test_movies_that_the_task_lists_must_be_there(root):
    keys = [movie.key for movie in open_benchmark("intphys", root, "test").movies]
    (root / "task.txt").write_text("\n".join(keys))
    assert len(open_benchmark("intphys", root, "test").movies) == 16
    (root / "task.txt").write_text("\n".join([*keys, "O1/0077/1"]))
    with pytest.raises(InputError, match=r"lists 17 movies, but this folder has no O1/0077/1"):
        open_benchmark("intphys", root, "test")
    (root / "task.txt").write_text("\n".join(keys[1:]))
    with pytest.raises(InputError, match=r"has O1/0001/1 besides"):
        open_benchmark("intphys", root, "test")


def test_plausibility_orders_movies_and_sums_as_surprise_does():
    surprise = np.random.default_rng(0).gamma(1.0, size=(30, 4))
    score = plausibility(surprise.ravel()).reshape(30, 4)
    assert score.min() == 0 and score.max() == 1
    below = surprise[:, :2].sum(1) < surprise[:, 2:].sum(1)
    assert np.array_equal(below, score[:, :2].sum(1) > score[:, 2:].sum(1))
    possible = np.tile([1, 1, 0, 0], 30)
    assert roc_auc_score(possible, score.ravel()) == pytest.approx(
        roc_auc_score(1 - possible, surprise.ravel())
    )


def test_plausibility_of_a_constant_is_a_half():
    assert plausibility(np.full(4, 3.0)).tolist() == [0.5] * 4
