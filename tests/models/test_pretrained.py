import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from worldmodel.data.encode import encode_video
from worldmodel.data.shards import scan_shard
from worldmodel.data.stream import ClipDataset
from worldmodel.data.transforms import scaled_size
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.evaluation.protocol import PROTOCOL
from worldmodel.export import export_model
from worldmodel.losses.prediction import prediction_energy
from worldmodel.models import checkpoint as checkpoints
from worldmodel.models.checkpoint import load_model, shipped_folder, shipped_names
from worldmodel.models.pretrained import WorldModel, fit_frames, frame_stride

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE, FRAMES, FPS = 32, 12, 8.0
SPANS = (1, 2, 4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The folder of an exported model whose heads are not at zero."""
    small = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2}
    config = {
        "version": "0.0.1",
        "encoder": {"size": SIZE, "stem_channels": (8, 8), "depth": 1, "num_heads": 2},
        "levels": [
            {"stride": 1, "horizons": (1, 2), **small},
            {"stride": 2, "horizons": (1, 2), **small},
            {"stride": 2, "horizons": (1,), **small},
        ],
        "clip": {"num_frames": FRAMES, "fps": FPS, "size": SIZE},
    }
    torch.manual_seed(0)
    network = checkpoints.build_hierarchy(config)
    network.reset_heads()
    folder = tmp_path_factory.mktemp("exported")
    weights = {f"hierarchy.{name}": value for name, value in network.state_dict().items()}
    content = {"state_dict": weights, "global_step": 12, "worldmodel": config}
    torch.save(content, folder / "last.ckpt")
    return export_model(folder / "last.ckpt", folder / "model")


@pytest.fixture
def model(exported) -> WorldModel:
    return WorldModel.from_pretrained(exported)


@pytest.fixture
def no_type_checks(monkeypatch) -> None:
    """As in use: types are checked in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """A copy of the export that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def video(num_frames: int = FRAMES, height: int = SIZE, width: int = SIZE, seed: int = 0):
    shape = (num_frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def seen(frames: np.ndarray) -> torch.Tensor:
    """A video of the model's size as its network takes it, a batch of one."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None]


def edit_config(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def smooth_video(num_frames: int, height: int, width: int) -> np.ndarray:
    """Waves of colour and a square that moves."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for time in range(num_frames):
        waves = np.sin((x + 5 * time) / 20), np.cos(y / 30), np.sin((x + y) / 25)
        frame = 128 + 90 * np.stack(waves, axis=-1)
        frame[height // 4 : height // 2, 5 * time : 5 * time + width // 5] = (220, 60, 40)
        frames.append(frame.astype(np.uint8))
    return np.stack(frames)


# Encoding


def test_encode__is_the_network_to_the_bit(model):
    frames = video()
    tokens = model.encode(frames)
    assert [tuple(level.shape) for level in tokens] == [(12, 16, 16), (6, 4, 16), (3, 1, 16)]
    for own, expected in zip(tokens, model.network.encode(seen(frames)), strict=True):
        assert torch.equal(own, expected[0])


def test_encode__arrays_tensors_and_batches_give_the_same_bits(model):
    frames = np.stack([video(seed=1), video(seed=2), video(seed=1)])
    batch = model.encode(frames)
    for number, one in enumerate(frames):
        for own, alone in zip(batch, model.encode(torch.from_numpy(one)), strict=True):
            assert torch.equal(own[number], alone)
    assert not torch.equal(batch[0][0], batch[0][1])


@pytest.mark.parametrize("num_frames", [4, 11, 12, 13, 29])
def test_encode__no_step_depends_on_what_follows_it(model, num_frames):
    frames = video(40)
    long, short = model.encode(frames), model.encode(frames[:num_frames])
    for span, own, expected in zip(SPANS, short, long, strict=True):
        assert len(own) == num_frames // span
        assert torch.equal(own, expected[: num_frames // span])


def test_encode__tokens_may_be_learned_from(model):
    tokens = model.encode(video())
    assert not any(level.requires_grad for level in tokens)
    torch.nn.Linear(16, 1)(tokens[0]).sum().backward()  # inference tensors would refuse
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training


# Rates


@pytest.mark.parametrize(
    ("fps", "stride"),
    [(8.0, 1), (7.99, 1), (11.9, 1), (12.0, 2), (16.0, 2), (23.976, 3), (24.0, 3), (30.0, 4)],
)
def test_fps__every_nth_frame_as_in_training(model, fps, stride):
    frames = video(48)
    assert frame_stride(fps, FPS) == stride
    expected = model.encode(frames[::stride])
    found = model.encode(frames, fps=fps)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("fps", [0.0, -8.0, float("nan"), float("inf")])
def test_fps__no_rate(model, fps):
    with pytest.raises(InputError, match="fps must be a video's frames per second, got"):
        model.encode(video(), fps=fps)


@pytest.mark.usefixtures("no_type_checks")
def test_types__what_nobody_can_mean_is_said_in_a_line(model):
    for fps in ("8", [8.0]):
        with pytest.raises(InputError, match="fps must be a video's frames per second, got"):
            model.encode(video(), fps=fps)
    for wrong, kind in ((None, "object"), (video().tolist(), "int64"), ("a.mp4", "<U5")):
        with pytest.raises(InputError, match=f"must be uint8 from 0 to 255, got {kind}; "):
            model.encode(wrong)


def test_fps__a_slower_video_is_refused(model):
    with pytest.raises(InputError, match=r"has 7\.5 frames a second, .* trained on 8; give"):
        model.encode(video(), fps=7.5)


def test_video_as_the_stream_reads_it(model, shards):
    (ref, *_) = scan_shard(shards / "clips-000000.tar")
    batch = ClipDataset([ref], FRAMES, FPS, SIZE)[0]
    offset, size = ref.members["mp4"]
    decoder = open_video((shards / "clips-000000.tar").read_bytes()[offset : offset + size])
    start = round(float(batch.pts_seconds[0, 0]) * decoder.fps)
    frames = decoder.get_frames(range(start, decoder.num_frames))
    assert start > 0 and decoder.fps == 2 * FPS
    expected = model.network.encode(batch.frames)
    for own, other in zip(model.encode(frames, fps=decoder.fps), expected, strict=True):
        assert torch.equal(own[: other.shape[1]], other[0])


# Pictures


def test_fit_frames__a_picture_of_the_right_height_is_cut_and_not_touched():
    wide, tall = video(2, SIZE, 48), video(2, 48, SIZE)
    assert np.array_equal(fit_frames(wide, SIZE), wide[:, :, 8:40])
    assert np.array_equal(fit_frames(tall, SIZE), tall[:, 8:40])
    assert np.array_equal(fit_frames(wide[:, ::-1], SIZE), wide[:, ::-1, 8:40])  # not contiguous


def test_fit_frames__middle_of_a_wide_picture():
    frames = np.zeros((1, 64, 192, 3), np.uint8)
    frames[:, :, :64, 0] = frames[:, :, 64:128, 1] = frames[:, :, 128:, 2] = 200
    square = fit_frames(frames, SIZE)
    assert square.shape == (1, SIZE, SIZE, 3)
    inside = square[0, :, 2:-2].reshape(-1, 3).astype(int)
    assert (np.abs(inside - (0, 200, 0)) <= 4).all()


def test_fit_frames__an_odd_long_side_is_scaled_to_an_even_one():
    ramp = np.broadcast_to(np.arange(0, 231, 7)[:, None], (1, SIZE, 33, 3)).astype(np.uint8)
    square = fit_frames(ramp, SIZE)[0, 5].astype(int)
    assert square.shape == (SIZE, 3)
    # All of its width is there, which a cut at 32 would have ended at 217.
    assert (square[-1] > 219).all() and (np.diff(square, axis=0) > 0).all()


@pytest.mark.parametrize(("height", "width"), [(240, 320), (241, 319), (180, 90), (20, 26)])
def test_fit_frames__pixels_of_the_training_pipeline(height, width):
    even = smooth_video(4, height - height % 2, width - width % 2)
    decoder = open_video(encode_video(even, fps=FPS))
    full, size = decoder.get_frames(range(4)), scaled_size(*even.shape[2:0:-1], SIZE)
    pipeline = decoder.get_frames(range(4), size)
    left, top = (size[0] - SIZE + 1) // 2, (size[1] - SIZE + 1) // 2
    expected = pipeline[:, top : top + SIZE, left : left + SIZE].astype(int)
    error = np.abs(fit_frames(full, SIZE) - expected).mean()
    box = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.BOX)) for one in full])
    plain = np.abs(box[:, top : top + SIZE, left : left + SIZE] - expected).mean()
    assert error < 3 and error < 0.8 * plain
    assert fit_frames(smooth_video(1, height, width), SIZE).shape == (1, SIZE, SIZE, 3)  # odd too


def test_fit_frames__one_far_longer_than_wide():
    with pytest.raises(InputError, match="more than 16 times as long as"):
        fit_frames(video(1, 4, 100), SIZE)


def test_video__lists_of_frames_and_rates_as_fractions(model):
    frames = np.stack([video(24, seed=1), video(24, seed=2)])
    for whole, parts in (
        (frames[0], list(frames[0])),
        (frames[0], tuple(map(torch.from_numpy, frames[0]))),
        (frames, list(frames)),
    ):
        expected, found = model.encode(whole, fps=16.0), model.encode(parts, fps=Fraction(16))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    curve, other = (model.surprise(each, fps=16.0)[1, 1] for each in (frames[0], list(frames[0])))
    assert np.array_equal(curve.values, other.values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (video().astype(int), r"got int64; if that is its range: np\.asarray\(video\)\.astype"),
        (torch.from_numpy(video()).int(), r"got int32; if that is its range"),
        (torch.zeros(4, 32, 32, 3, dtype=torch.bfloat16), "got bfloat16; scale it"),
        ([video()[0], video(height=8)[0]], r"of one size, got \[\(8, 32, 3\), \(32, 32, 3\)\]$"),
        ([], r"got \(0,\)$"),
        (video().astype(np.float32) / 255, "must be uint8 from 0 to 255, got float32; scale it"),
        (torch.zeros(4, 32, 32, 3), "must be uint8 from 0 to 255, got float32"),
        (video().transpose(0, 3, 1, 2), r"\(12, 3, 32, 32\); .*permute\(0, 2, 3, 1\)$"),
        (video()[None].transpose(0, 1, 4, 2, 3), r"; .*permute\(0, 1, 3, 4, 2\)$"),
        (video()[0], r"must be \(time, height, width, 3\).* got \(32, 32, 3\)$"),
        (video()[..., :1], r"got \(12, 32, 32, 1\)$"),
        (video()[:0], r"got \(0, 32, 32, 3\)$"),
        (video(3), "one step of the slowest level spans 4 frames at 8 a second, .* has 3"),
    ],
)
def test_video__what_is_none(model, wrong, message):
    for method in (model.encode, model.surprise):
        with pytest.raises(InputError, match=message):
            method(wrong)


# Prediction


def test_predict__is_the_network_to_the_bit(model):
    frames = np.stack([video(seed=1), video(seed=2)])
    batch = model.predict(model.encode(frames))
    for number, one in enumerate(frames):
        tokens = model.encode(one)
        expected = model.network.predict([level[None] for level in tokens])
        alone = model.predict(tokens)
        for own, single, other in zip(batch, alone, expected, strict=True):
            assert torch.equal(own.context[number], other.context[0])
            assert torch.equal(single.context, other.context[0])
            assert own.predicted.keys() == single.predicted.keys() == other.predicted.keys()
            for horizon, values in other.predicted.items():
                assert torch.equal(own.predicted[horizon][number], values[0])
                assert torch.equal(single.predicted[horizon], values[0])


def test_predict__what_are_no_tokens(model):
    tokens = model.encode(video())
    wide = [torch.zeros(4, 16, 8), *tokens[1:]]
    mixed = [tokens[0][None], *tokens[1:]]
    batches = [tokens[0].expand(2, -1, -1, -1), *(level[None] for level in tokens[1:])]
    empty = [tokens[0][:0], *tokens[1:]]
    for wrong in (tokens[:2], wide, mixed, batches, empty, [level[0] for level in tokens], []):
        with pytest.raises(InputError, match=r"takes the tokens of `encode`, .*\(16, 16\)"):
            model.predict(wrong)


def test_predict__tokens_of_another_precision(model):
    tokens = model.encode(video())
    expected = model.predict(tokens)
    for given in ([level.double() for level in tokens], [level.numpy() for level in tokens]):
        found = model.predict(given)
        assert all(torch.equal(a.context, b.context) for a, b in zip(found, expected, strict=True))
    for given in ([level.half() for level in tokens], tuple(level.bfloat16() for level in tokens)):
        assert model.predict(given)[0].context.dtype == torch.float32


@pytest.mark.usefixtures("no_type_checks")
def test_predict__tokens_that_cannot_be(model):
    tokens = model.encode(video())
    for wrong, found in (
        (tokens[0], "Tensor instead of a list"),
        (dict(enumerate(tokens)), "dict instead of a list"),
        ([level.int() for level in tokens], "int32 instead of floating-point"),
        ([level.tolist() for level in tokens], "list instead of floating-point"),
        (["tokens"] * 3, "str instead of floating-point"),
    ):
        with pytest.raises(InputError, match=rf"takes the tokens of `encode`, .* got .*{found}"):
            model.predict(wrong)
    tokens[1][0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="tokens of level 1 have values that are not finite"):
        model.predict(tokens)


def test_predict__levels_that_read_one_another_go_equally_far(exported):
    loaded = load_model(exported)
    network = checkpoints.build_hierarchy(loaded.config | {"top_down": True})
    model = WorldModel(replace(loaded, network=network.eval()))
    fast, middle, slow = model.encode(video())
    whole, part = model.predict([fast, middle, slow])[0], model.predict([fast[:7], middle, slow])[0]
    assert torch.allclose(part.context, whole.context[:7], atol=1e-5)
    model.predict([fast[:7], middle[:3], slow[:1]])
    with pytest.raises(InputError, match=r"level 0 .* its 12 steps need 6 of that one, got 2;"):
        model.predict([fast, middle[:2], slow])


# Surprise


def test_surprise__is_the_energy_of_the_objective(model):
    frames = video()
    tokens = [level.double() for level in model.network.encode(seen(frames))]
    predictions = model.network.predict(model.network.encode(seen(frames)))
    found = model.surprise(frames)
    assert sorted(found) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
    for (level, horizon), one in found.items():
        predicted = predictions[level].predicted[horizon].double()
        distance = prediction_energy(predicted, tokens[level], horizon)[0].sqrt().numpy()
        np.testing.assert_allclose(one.values, distance.mean(1), rtol=1e-5)
        grid = model.levels[level].grid
        np.testing.assert_allclose(one.maps, distance.reshape(-1, *grid), rtol=1e-4, atol=1e-7)
        copied = (tokens[level][0, horizon:] - tokens[level][0, :-horizon]).square().mean(2).sqrt()
        np.testing.assert_allclose(one.copied, copied.mean(1).numpy(), rtol=1e-5)
        assert one.values.dtype == np.float64


@pytest.mark.parametrize("fps", [None, 16.0, 24.0])
def test_surprise__times_of_the_last_frame_of_each_step(model, fps):
    stride = 1 if fps is None else int(fps / FPS)
    found = model.surprise(video(30 * stride), fps=fps)
    for (level, horizon), one in found.items():
        steps = np.arange(horizon, 30 // SPANS[level])
        last_frames = (steps + 1) * SPANS[level] - 1
        np.testing.assert_allclose(one.seconds, last_frames / FPS)
        assert len(one.values) == len(one.maps) == len(one.copied) == len(steps)


def test_surprise__does_not_depend_on_what_follows(model):
    frames = video(40)
    long, short = model.surprise(frames), model.surprise(frames[:25])
    for place, one in short.items():
        count = len(one.values)
        assert np.array_equal(one.values, long[place].values[:count])
        assert np.array_equal(one.seconds, long[place].seconds[:count])


def test_surprise__batches_are_single_videos_to_the_bit(model):
    frames = np.stack([video(20, seed=1), video(20, seed=2)])
    batch = model.surprise(frames)
    for number, one in enumerate(frames):
        for place, alone in model.surprise(one).items():
            assert np.array_equal(batch[place].values[number], alone.values)
            assert np.array_equal(batch[place].maps[number], alone.maps)
            assert np.array_equal(batch[place].copied[number], alone.copied)
            assert np.array_equal(batch[place].seconds, alone.seconds)


def test_surprise__horizons_that_do_not_fit_are_left_out(model):
    assert sorted(model.surprise(video(4))) == [(0, 1), (0, 2), (1, 1)]


# What is known of a model, and where models are


def test_model__knows_its_clips_levels_and_card(model, exported):
    assert (model.clip.num_frames, model.clip.fps, model.clip.size) == (FRAMES, FPS, SIZE)
    assert [level.span for level in model.levels] == list(SPANS)
    assert model.config == json.loads((exported / "config.json").read_text())
    assert model.card == (exported / "README.md").read_text() != ""
    assert repr(model) == "WorldModel(3 levels, 12 frames of 32 x 32 pixels at 8 a second, cpu)"
    assert model.to("cpu") is model and model.device == torch.device("cpu")


@pytest.mark.parametrize("device", ["meat", "cuda:99"])
def test_to__a_device_that_is_not_there_leaves_the_model_as_it_was(model, device):
    before = model.encode(video())
    message = f"cannot be moved to {device} and stays on cpu: [A-Z]"
    with pytest.raises(InputError, match=message) as raised:
        model.to(device)
    assert "\n" not in str(raised.value)
    assert model.device == torch.device("cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, model.encode(video()), strict=True))


def test_to__what_had_been_moved_comes_back(model, monkeypatch):
    asked = []

    def full(device: torch.device) -> None:
        asked.append(device.type)
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.network, "to", full)
    with pytest.raises(InputError, match=r"cuda and stays on cpu: CUDA out of memory\.$"):
        model.to("cuda")
    assert asked == ["cuda", "cpu"] and model.device.type == "cpu"


def test_from_pretrained__without_a_card(copied):
    (copied / "README.md").unlink()
    assert WorldModel.from_pretrained(copied).card == ""


def test_from_pretrained__leaves_the_random_state_alone(exported):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    WorldModel.from_pretrained(exported)
    load_model(exported)
    assert torch.equal(torch.get_rng_state(), before)


def test_names__of_shipped_models(exported, tmp_path, monkeypatch):
    assert shipped_folder() == Path(checkpoints.__file__).parents[1] / "weights"
    assert (shipped_folder() / "README.md").is_file()
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path / "weights")
    assert shipped_names() == []
    shutil.copytree(exported, tmp_path / "weights" / "small")
    assert shipped_names() == ["small"]
    expected = load_model(exported)
    loaded = load_model("small")
    assert loaded.sha256 == expected.sha256
    assert loaded.file.parent == tmp_path / "weights" / "small"
    assert WorldModel.from_pretrained("small").config == expected.config
    monkeypatch.chdir(tmp_path)
    for wrong in ("smal", Path("small")):  # a Path is a path
        with pytest.raises(InputError, match=r"no checkpoint at smal.* by its name: small$"):
            load_model(wrong)
        with pytest.raises(InputError, match=r"no model smal.*shipped one \(small\), a folder"):
            WorldModel.from_pretrained(wrong)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped__says_how_it_was_made_and_is_the_one_that_was_measured(name):
    model = WorldModel.from_pretrained(name)  # its hash is checked
    folder = shipped_folder() / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    training = model.config["training"]
    assert training["command"] == f"make train CONFIG=configs/{name}.yaml"
    assert isinstance(training["seed"], int)
    report = json.loads((folder / "report.json").read_text())
    # The report is on the checkpoint, or on the export that was made of it.
    ours = (model.config["checkpoint_sha256"], model.config["weights_sha256"])
    assert report["meta"]["checkpoint_sha256"] in ours
    assert report["meta"]["data"]["reference_hash_equal"] is True
    # By the rules that are printed now: a changed protocol asks for a new measurement.
    protocol = hashlib.sha256(PROTOCOL.encode()).hexdigest()
    assert report["meta"]["protocol_sha256"] == protocol
    overall = report["surprise"]["overall"]
    assert overall["ci95"][0] > overall["null"]["untrained"]["mean"]
    levels = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["levels"]
    assert [level.horizons for level in model.levels] == [tuple(x["horizons"]) for x in levels]
    assert [level.dim for level in model.levels] == [x["dim"] for x in levels]


def test_shipped__small_and_tiny_are_there():
    assert {"small", "tiny"} <= set(shipped_names())


def test_names__none_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="none in this installation"):
        WorldModel.from_pretrained("small")


def test_hub__one_of_ours(exported, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        return str(exported)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert load_model("hf://org/small@v1").sha256 == load_model(exported).sha256
    assert WorldModel.from_pretrained("hf://org/small").config == load_model(exported).config
    assert asked == [("org/small", "v1"), ("org/small", None)]


def test_hub__somebody_elses_keeps_its_address_in_errors(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setattr(hub, "snapshot_download", lambda *args, **more: str(tmp_path))
    with pytest.raises(InputError, match=r"^hf://org/bert@.*of model_type 'bert'"):
        load_model("hf://org/bert")
    with pytest.raises(InputError, match="hf://org/bert holds no model of worldmodel"):
        WorldModel.from_pretrained("hf://org/bert")


def test_from_pretrained__what_is_no_export(exported, tmp_path):
    checkpoint = exported.parent / "last.ckpt"
    with pytest.raises(InputError, match=r"is a file; .*export --checkpoint .*last\.ckpt --out"):
        WorldModel.from_pretrained(checkpoint)
    (tmp_path / "config.json").write_text('{"model_type": "vjepa2"}')
    for folder in (tmp_path, exported.parent):
        with pytest.raises(InputError, match="holds no model of worldmodel"):
            WorldModel.from_pretrained(folder)


# Damage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "is of format version 2, this program knows up to 1; update"),
        ({"format_version": "1"}, "is damaged: its format_version is '1'"),
        ({"format_version": True}, "is damaged: its format_version is True"),
        ({"encoder": None}, "is damaged: its encoder is None"),
        ({"levels": {}}, "is damaged: its levels is {}"),
        ({"global_step": "x"}, "is damaged: its global_step is 'x'"),
        ({"weights_sha256": 1}, "is damaged: its weights_sha256 is 1"),
        ({"normalisation": {"mean": [0]}}, r"pixels normalised by {'mean': \[0\]}, this program"),
        ({"clip": {"num_frames": 12, "fps": 8.0}}, "pixels a side are 12, 8.0 and None"),
        ({"clip": {"num_frames": 0, "fps": 8.0, "size": 32}}, "does not say what clips"),
        ({"clip": {"num_frames": 12, "fps": "8", "size": 32}}, "does not say what clips"),
        ({"weights_sha256": "0" * 64}, "000000000000…; it has been damaged or changed"),
        ({"levels": [3]}, r"version 0\.0\.1 and cannot be built here"),
        ({"levels": [{"horizons": [1], "unheard_of": 1}]}, "cannot be built here: .*unheard_of"),
        ({"levels": [{"horizons": [1], "stride": 1, "num_heads": 0}]}, "cannot be built here"),
        ({"encoder": {"size": 33}}, "cannot be built here: .*multiple of 16 pixels"),
        ({"encoder": {"size": SIZE, "stem_channels": [8, 8], "depth": 2}}, "does not fit this one"),
    ],
)
def test_load_export__configuration_that_cannot_be_used(copied, changes, message):
    edit_config(copied, **changes)
    for load in (load_model, WorldModel.from_pretrained):
        with pytest.raises(InputError, match=message):
            load(copied)


def test_load_export__weights_that_do_not_fit_are_named(copied):
    levels = json.loads((copied / "config.json").read_text())["levels"]
    edit_config(copied, levels=[level | {"depth": 2} for level in levels])
    with pytest.raises(InputError, match=r"it lacks levels\.0\.predictor.* and \d+ more"):
        load_model(copied)
    edit_config(copied, levels=levels[:2])
    with pytest.raises(InputError, match=r"holds what the architecture has not: levels\.2"):
        load_model(copied)
    edit_config(copied, levels=[*levels[:2], levels[2] | {"dim": 24}])
    with pytest.raises(InputError, match=r"of another shape: levels\.2"):
        load_model(copied)


def test_load_export__a_description_larger_than_memory(copied):
    levels = json.loads((copied / "config.json").read_text())["levels"]
    edit_config(copied, levels=[levels[0] | {"dim": 4_000_000}, *levels[1:]])
    with pytest.raises(InputError, match="of another shape"):
        load_model(copied)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_load_export__damaged_weights(copied, length):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match="it has been damaged or changed"):
        load_model(copied)
    # Even where the hash is that of the damaged file, nothing but an error in one line comes of it.
    edit_config(copied, weights_sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"cannot be read as safetensors") as caught:
        load_model(copied)
    assert "\n" not in str(caught.value)


def test_load_export__missing_weights(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors; copy or export"):
        load_model(copied)


def test_load_export__pickles_are_not_read(copied, monkeypatch):
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    assert WorldModel.from_pretrained(copied).encode(video())
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load_model(copied)


def test_using_a_model_imports_nothing_of_training(exported):
    code = (
        "import sys, numpy as np\n"
        "from worldmodel.models.pretrained import WorldModel\n"
        "model = WorldModel.from_pretrained(sys.argv[1])\n"
        f"model.predict(model.encode(np.zeros((8, {SIZE}, {SIZE}, 3), np.uint8), fps=8.0))\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    heavy = {"lightning", "pytorch_lightning", "jsonargparse", "torchmetrics", "transformers"}
    heavy |= {"huggingface_hub", "av", "webdataset", "sklearn", "matplotlib", "numba", "mujoco"}
    heavy |= {f"worldmodel.{name}" for name in ("task", "training", "callbacks", "evaluation")}
    heavy |= {"worldmodel.losses", "worldmodel.data.stream", "worldmodel.data.shards"}
    assert "safetensors" in loaded and not heavy & loaded


def test_a_checkpoint_still_loads_as_before(exported):
    loaded = load_model(exported.parent / "last.ckpt")
    frames = video()
    tokens = WorldModel.from_pretrained(exported).encode(frames)
    for one, other in zip(loaded.network.encode(seen(frames)), tokens, strict=True):
        assert torch.equal(one[0], other)
    assert asdict(loaded.clip) == {"num_frames": FRAMES, "fps": FPS, "size": SIZE}
