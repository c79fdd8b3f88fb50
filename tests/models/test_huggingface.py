import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.models.adapters import AdapterLevel, ImageEncoder, PixelScale, VideoPredictor
from worldmodel.models.checkpoint import load_model
from worldmodel.models.huggingface import LoadedEncoder, load_encoder

transformers = pytest.importorskip("transformers")

SIZE, PATCH, DIM = 32, 8, 24
SMALL = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": PATCH}
# Weights large enough that a change anywhere can be seen in single precision.
WIDE = {"initializer_range": 0.2}
IMAGE_KINDS = {  # per model_type: names, settings, tokens before the patches
    "dinov2": ("Dinov2", {"mlp_ratio": 2, "image_size": SIZE}, 1),
    "dinov2_with_registers": (
        "Dinov2WithRegisters",
        {"mlp_ratio": 2, "image_size": SIZE, "num_register_tokens": 3},
        4,
    ),
    "dinov3_vit": (
        "DINOv3ViT",
        {"intermediate_size": 48, "image_size": SIZE, "num_register_tokens": 2},
        3,
    ),
    "ijepa": ("IJepa", {"intermediate_size": 48, "image_size": SIZE}, 0),
    "vit": ("ViT", {"intermediate_size": 48, "image_size": SIZE}, 1),
}
VIDEO_SETTINGS = {
    "crop_size": SIZE,
    "frames_per_clip": 8,
    "mlp_ratio": 2.0,
    "pred_hidden_size": DIM,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
    "pred_num_mask_tokens": 2,
    "pred_mlp_ratio": 2.0,
    "pred_zero_init_mask_tokens": False,
}


def save(model: torch.nn.Module, folder: Path, **more: object) -> Path:
    model.save_pretrained(folder, **more)
    return folder


@pytest.fixture(scope="module")
def video_config():
    return transformers.VJEPA2Config(**SMALL, **VIDEO_SETTINGS, **WIDE)


@pytest.fixture(scope="module")
def video_folder(video_config, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = transformers.VJEPA2Model(video_config)
    # A fresh final norm leaves every token at mean 0 and variance 1; a trained one does not.
    torch.nn.init.uniform_(model.encoder.layernorm.weight, 0.5, 2)
    torch.nn.init.uniform_(model.encoder.layernorm.bias, -1, 1)
    return save(model, tmp_path_factory.mktemp("hf") / "vjepa")


@pytest.fixture(scope="module", params=list(IMAGE_KINDS))
def image_kind(request, tmp_path_factory):
    """Folder, network as transformers reads it, and tokens before the patches."""
    name, settings, prefix = IMAGE_KINDS[request.param]
    config = getattr(transformers, f"{name}Config")(**SMALL, **settings, **WIDE)
    torch.manual_seed(2)
    model = getattr(transformers, f"{name}Model")(config).eval()
    return save(model, tmp_path_factory.mktemp("hf") / request.param), model, prefix


@pytest.fixture
def copied(video_folder, tmp_path) -> Path:
    """A copy of the video encoder's folder that a test may spoil."""
    return Path(shutil.copytree(video_folder, tmp_path / "copied"))


def random_frames(num_frames: int = 10, size: int = SIZE, clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (clips, num_frames, 3, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def edit_config(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit_weights(folder: Path, change) -> Path:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def imagenet(frames: torch.Tensor) -> torch.Tensor:
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    return torch.from_numpy((frames.numpy() / 255 - mean) / std).float()


# Images


def test_image_encoder__patch_tokens_of_every_frame(image_kind):
    folder, model, prefix = image_kind
    loaded = load_encoder(folder, num_frames=4)
    frames = random_frames(3)
    pixels = imagenet(frames).flatten(0, 1)
    if loaded.config["model_type"] == "vit":  # its own default: a half
        pixels = (frames.flatten(0, 1).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, prefix:]
    (tokens,) = loaded.network.encode(frames)
    assert tokens.shape == (2, 3, 16, DIM) and tokens.dtype == torch.float32
    assert torch.allclose(tokens.flatten(0, 1), expected, atol=2e-5)
    level = loaded.network.levels[0]
    assert (level.grid, level.num_tokens, level.span) == ((4, 4), 16, 1)
    assert (level.horizons, level.dim, level.width) == ((), DIM, DIM)


def test_image_encoder__each_frame_alone_and_nothing_predicted(image_kind):
    network = load_encoder(image_kind[0]).network
    frames = random_frames(3)
    changed = frames.clone()
    changed[:, 1] = 255 - changed[:, 1]
    before, after = network.encode(frames), network.encode(changed)
    same = (before[0] == after[0]).flatten(2).all(2)
    assert network.steps_are_local and same.tolist() == [[True, False, True]] * 2
    (prediction,) = network.predict(before)
    assert torch.equal(prediction.context, before[0]) and prediction.predicted == {}


def test_image_encoder__takes_other_sizes_by_interpolated_positions(image_kind):
    loaded = load_encoder(image_kind[0], size=48)
    assert loaded.clip.size == 48 and loaded.network.levels[0].grid == (6, 6)
    (tokens,) = loaded.network.encode(random_frames(1, 48))
    assert tokens.shape == (2, 1, 36, DIM) and bool(tokens.isfinite().all())
    with pytest.raises(
        InputError, match=r"frames of 50 pixels .* patches of 8; set size to a mult"
    ):
        load_encoder(image_kind[0], size=50)


def test_image_encoder__does_not_depend_on_how_many_frames_come_at_once(image_kind):
    network = load_encoder(image_kind[0]).network
    frames = random_frames(40, clips=1)  # more than one part
    whole = network.encode(frames)[0]
    alone = torch.cat([network.encode(frames[:, t : t + 1])[0] for t in range(40)], dim=1)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.equal(whole, network.encode(frames)[0])


# Video


def test_video_tokens__are_the_last_of_windows_that_end_with_their_step(video_config, video_folder):
    loaded = load_encoder(video_folder, num_frames=32)
    frames = random_frames(13)  # six steps and a frame that no step covers
    (tokens,) = loaded.network.encode(frames)
    assert tokens.shape == (2, 6, 16, DIM) and loaded.network.levels[0].span == 2
    assert loaded.config["window_frames"] == 8 and not loaded.network.steps_are_local
    model = transformers.VJEPA2Model.from_pretrained(video_folder).eval()
    for step in range(6):
        start = 2 * max(0, step - 3)
        pixels = imagenet(frames[:, start : 2 * step + 2])
        with torch.no_grad():
            own = model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        last = own[:, -16:]
        spread = last.var(-1, keepdim=True, unbiased=False)
        expected = (last - last.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()
        assert torch.allclose(tokens[:, step], expected, atol=2e-5)


@pytest.mark.parametrize("frame", [0, 5, 8, 11])
def test_video__nothing_is_known_of_what_comes_after_a_step(video_folder, frame):
    network = load_encoder(video_folder, num_frames=12, window=8, horizons=(1, 3)).network
    frames = random_frames(12)
    changed = frames.clone()
    changed[:, frame] = 255 - changed[:, frame]
    before, after = network.encode(frames), network.encode(changed)
    step = frame // 2
    tokens_moved = (before[0] != after[0]).flatten(2).any(2)[0]
    # Within the window of four steps, and nowhere else.
    assert tokens_moved.tolist() == [step <= t < step + 4 for t in range(6)]
    (one,), (other,) = network.predict(before, frames), network.predict(after, changed)
    for horizon in (1, 3):
        moved = (one.predicted[horizon] != other.predicted[horizon]).flatten(2).any(2)[0]
        assert moved.tolist() == [step <= t and step > t + horizon - 4 for t in range(6)]
    assert torch.equal(one.context, before[0])


def test_video_prediction__asks_for_the_masked_steps_after_the_context(video_folder):
    network = load_encoder(video_folder, num_frames=12, window=8, horizons=(1, 2)).network
    frames = random_frames(12)
    tokens = network.encode(frames)
    (prediction,) = network.predict(tokens, frames)
    model = transformers.VJEPA2Model.from_pretrained(video_folder).eval()
    for step, horizon in [(0, 1), (1, 2), (2, 2), (4, 1), (5, 2)]:
        first = max(0, step + horizon - 3)
        with torch.no_grad():
            hidden = model.encoder(imagenet(frames[:, 2 * first : 2 * step + 2])).last_hidden_state
            seen = 16 * (step + 1 - first)
            ids = torch.arange(seen + 16 * horizon).repeat(2, 1)
            answer = model.predictor(hidden, [ids[:, :seen]], [ids[:, seen:]]).last_hidden_state
        expected = answer.unflatten(1, (horizon, 16))[:, -1]
        assert torch.allclose(prediction.predicted[horizon][:, step], expected, atol=2e-5)
    assert prediction.predicted[2].shape == tokens[0].shape


class Recorder(torch.nn.Module):
    """Tokens say which frames were seen; predictions say what they were made from."""

    def encoder(self, pixels: torch.Tensor) -> SimpleNamespace:
        values = pixels[:, :, 0, 0, 0]
        own = values[:, 1::2]
        first = values[:, :1].expand_as(own)
        hidden = torch.stack([first, own, own * 0], dim=-1).repeat_interleave(4, dim=1)
        return SimpleNamespace(last_hidden_state=hidden)

    def predictor(self, hidden, context, target) -> SimpleNamespace:
        assert torch.equal(context[0], torch.arange(hidden.shape[1]).expand(len(hidden), -1))
        first, last = hidden[:, :1, 0], hidden[:, -1:, 1]
        answer = torch.stack(
            [first.expand(target[0].shape), last.expand(target[0].shape), target[0].float()], -1
        )
        return SimpleNamespace(last_hidden_state=answer)


def test_video_windows__by_hand():
    level = AdapterLevel(grid=(2, 2), span=2, horizons=(1, 2), dim=3)
    plain = PixelScale(factor=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    network = VideoPredictor(Recorder(), level, 4, plain, window=3)
    frames = torch.arange(10, dtype=torch.uint8)[None, :, None, None, None].expand(9, -1, 3, 4, 4)
    (prediction,) = network.predict([torch.zeros(9, 5, 4, 3)], frames)
    # Per step: the first frame of the context, its last, and the last token that was asked for.
    assert prediction.predicted[1][8, :, -1].tolist() == [
        [0, 1, 7],
        [0, 3, 11],
        [2, 5, 11],
        [4, 7, 11],
        [6, 9, 11],
    ]
    assert prediction.predicted[2][8, :, -1].tolist() == [
        [0, 1, 11],
        [2, 3, 11],
        [4, 5, 11],
        [6, 7, 11],
        [8, 9, 11],
    ]


def test_video__a_window_needs_room_for_a_context(video_folder):
    with pytest.raises(InputError, match=r"window of 2 steps .* \[1, 2\] steps; lengthen it"):
        load_encoder(video_folder, window=4, horizons=(1, 2))
    assert load_encoder(video_folder, window=4).network.levels[0].horizons == (1,)
    assert load_encoder(video_folder).network.levels[0].horizons == (1, 2)
    assert load_encoder(video_folder, window=20).network.levels[0].horizons == (1, 2, 4)
    assert load_encoder(video_folder, num_frames=2).network.levels[0].horizons == ()
    for wrong in [(0, 1), (2, 1), (1, 1)]:
        with pytest.raises(InputError, match="strictly increasing steps of at least 1"):
            load_encoder(video_folder, horizons=wrong)
    with pytest.raises(InputError, match="window of 1 frames is shorter than one step of 2"):
        load_encoder(video_folder, window=1)


def test_video__another_frame_size_has_other_rows(video_folder):
    loaded = load_encoder(video_folder, size=16)
    frames = random_frames(4, 16)
    tokens = loaded.network.encode(frames)
    assert tokens[0].shape == (2, 2, 4, DIM)
    assert loaded.network.backbone.encoder.layer[0].attention.grid_size == 2
    assert loaded.network.predict(tokens, frames)[0].predicted[1].shape == (2, 2, 4, DIM)


def test_video__refuses_frames_that_do_not_suit(video_folder):
    network = load_encoder(video_folder).network
    with pytest.raises(InputError, match="takes frames of 32 x 32 pixels, got 16 x 16"):
        network.encode(random_frames(4, 16))
    with pytest.raises(InputError, match="one step of this encoder spans 2 frames, but the clip"):
        network.encode(random_frames(1))


def test_video__same_bits_again_and_in_inference_mode(video_folder):
    network = load_encoder(video_folder).network
    frames = random_frames(8)
    once = network.predict(network.encode(frames), frames)[0]
    with torch.inference_mode():
        again = network.predict(network.encode(frames), frames)[0]
    assert torch.equal(once.context, again.context)
    assert torch.equal(once.predicted[2], again.predicted[2])
    assert not once.context.requires_grad


def test_video__no_number_depends_on_the_clips_beside_it(video_folder):
    network = load_encoder(video_folder, num_frames=12, window=4).network
    frames = random_frames(12, clips=3)
    frames[1, 6:] = frames[0, 6:]  # alike once the window has passed the first half
    tokens = network.encode(frames)[0]
    predicted = network.predict([tokens], frames)[0].predicted[1]
    for clip in range(3):
        (alone,) = network.encode(frames[clip : clip + 1])
        (guess,) = network.predict([alone], frames[clip : clip + 1])
        assert torch.equal(alone[0], tokens[clip])
        assert torch.equal(guess.predicted[1][0], predicted[clip])
    same = (tokens[0] == tokens[1]).flatten(1).all(1)
    assert same.tolist() == [False, False, False, False, True, True]


def test_video__windows_that_show_the_same_are_run_once(video_folder, monkeypatch):
    network = load_encoder(video_folder).network
    runs = []
    encoder = network.backbone.encoder
    monkeypatch.setattr(encoder, "forward", lambda x, f=encoder.forward: runs.append(1) or f(x))
    frames = random_frames(8, clips=1).repeat(3, 1, 1, 1, 1)
    frames[2, 4:] = 255 - frames[2, 4:]
    network.encode(frames)
    assert len(runs) == 2 + 2 * 2


def test_adapters__run_in_bfloat16(video_folder, image_kind):
    frames = random_frames(4)
    for folder in (video_folder, image_kind[0]):
        network = load_encoder(folder).network
        exact = network.encode(frames)[0]
        (rough,) = network.to(torch.bfloat16).encode(frames)
        assert rough.dtype == torch.bfloat16
        assert float((rough.float() - exact).abs().mean()) < 0.1


# What is known of a loaded encoder


def test_load_encoder__frozen_and_described_in_plain_words(video_folder):
    loaded = load_encoder(video_folder, num_frames=16, fps=4.0)
    assert isinstance(loaded, LoadedEncoder) and loaded.global_step == 0
    assert (loaded.clip.num_frames, loaded.clip.fps, loaded.clip.size) == (16, 4.0, SIZE)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    content = (video_folder / "model.safetensors").read_bytes()
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    assert json.loads(json.dumps(loaded.config)) == loaded.config
    assert loaded.config["source"] == "vjepa" and loaded.config["model_type"] == "vjepa2"
    assert str(video_folder.parent) not in json.dumps(loaded.config)


def test_untrained__equal_for_equal_seeds_and_outside_randomness_untouched(
    video_folder, image_kind
):
    frames = random_frames(4)
    for folder in (video_folder, image_kind[0]):
        loaded = load_encoder(folder)
        before = torch.get_rng_state()
        nets = [loaded.untrained(seed) for seed in (3, 3, 4)]
        assert torch.equal(torch.get_rng_state(), before)
        one, same, other = (net.encode(frames)[0] for net in nets)
        assert torch.equal(one, same)
        assert not torch.allclose(one, other, atol=1e-3)
        assert not torch.allclose(one, loaded.network.encode(frames)[0], atol=1e-3)
        assert nets[0].levels == loaded.network.levels and nets[0].size == loaded.network.size
        assert not nets[0].training and not any(p.requires_grad for p in nets[0].parameters())
        kinds = {net.backbone.config._attn_implementation for net in (nets[0], loaded.network)}
        assert kinds == {"sdpa"}


def test_loaded_encoders__travel_to_other_processes(video_folder, image_kind):
    frames = random_frames(4)
    for folder in (video_folder, image_kind[0]):
        loaded = load_encoder(folder)
        other = pickle.loads(pickle.dumps(loaded))
        assert torch.equal(other.network.encode(frames)[0], loaded.network.encode(frames)[0])
        one, same = (each.untrained(1).encode(frames)[0] for each in (loaded, other))
        assert torch.equal(one, same)


def test_load_model__takes_folders_and_files_alike(video_folder, hierarchy):
    loaded = load_model(video_folder)
    frames = random_frames(4)
    direct = load_encoder(str(video_folder)).network.encode(frames)[0]
    assert torch.equal(loaded.network.encode(frames)[0], direct)
    with pytest.raises(InputError, match=r"there is no checkpoint at none\.ckpt"):
        load_model("none.ckpt")


# Files


def test_weights__in_several_shards_or_half_precision(video_folder, tmp_path):
    frames = random_frames(4)
    whole = load_encoder(video_folder).network.encode(frames)[0]
    model = transformers.VJEPA2Model.from_pretrained(video_folder)
    sharded = load_encoder(save(model, tmp_path / "sharded", max_shard_size="30KB"))
    assert len(sharded.config["weights"]) > 2
    assert torch.equal(sharded.network.encode(frames)[0], whole)
    shards = [tmp_path / "sharded" / name for name in sharded.config["weights"]]
    joined = b"".join(path.read_bytes() for path in shards)
    assert sharded.sha256 == hashlib.sha256(joined).hexdigest()
    half = load_encoder(save(model.to(torch.bfloat16), tmp_path / "half")).network
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    shards[1].unlink()
    with pytest.raises(
        InputError, match=r"index\.json lists model-0.* must hold all that it lists"
    ):
        load_encoder(tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../x"}}'
    )
    with pytest.raises(InputError, match=r"lists \.\./x but the folder"):
        load_encoder(tmp_path / "sharded")


@pytest.mark.parametrize("kind", ["VJEPA2ForVideoClassification", "ViTForImageClassification"])
def test_weights__heads_of_a_task_are_left_out(kind, video_config, tmp_path):
    if kind.startswith("VJEPA"):
        model = transformers.VJEPA2ForVideoClassification(video_config)
        bare = model.vjepa2
    else:
        config = transformers.ViTConfig(**SMALL, intermediate_size=48, image_size=SIZE)
        model = transformers.ViTForImageClassification(config)
        bare = model.vit
    loaded = load_encoder(save(model, tmp_path / "task"))
    for name, weight in bare.state_dict().items():
        assert torch.equal(loaded.network.backbone.state_dict()[name], weight)


def test_weights__an_encoder_without_its_predictor_predicts_nothing(copied):
    def drop(weights):
        for name in [name for name in weights if name.startswith("predictor.")]:
            del weights[name]

    loaded = load_encoder(edit_weights(copied, drop))
    assert loaded.network.levels[0].horizons == ()
    frames = random_frames(4)
    tokens = loaded.network.encode(frames)
    assert loaded.network.predict(tokens, frames)[0].predicted == {}
    with pytest.raises(InputError, match="has no predictor; leave out horizons"):
        load_encoder(copied, horizons=(1,))


def test_weights__that_do_not_fit(copied):
    layer = "encoder.layer.0.mlp.fc1.weight"
    edit_weights(copied, lambda weights: weights.pop(layer))
    with pytest.raises(InputError, match=rf"they lack {layer} \(1 in all\)"):
        load_encoder(copied)
    edit_weights(copied, lambda weights: weights.update({layer: torch.zeros(48, DIM)}))
    load_encoder(copied)
    edit_weights(copied, lambda weights: weights.update({"adapter.weight": torch.zeros(2)}))
    with pytest.raises(InputError, match=r"hold beyond what the architecture has adapter\.weight"):
        load_encoder(copied)
    edit_weights(copied, lambda weights: weights.update({layer: torch.zeros(47, DIM)}))
    with pytest.raises(InputError, match=r"do not fit config\.json"):
        load_encoder(copied)


def test_weights__one_part_of_the_predictor_missing_is_an_error(copied):
    edit_weights(copied, lambda weights: weights.pop("predictor.proj.weight"))
    with pytest.raises(InputError, match=r"they lack predictor\.proj\.weight"):
        load_encoder(copied)


def test_weights__missing_pickled_or_broken(copied):
    (copied / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"cannot be read or do not fit config\.json"):
        load_encoder(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors: weights are read from safe"):
        load_encoder(copied)
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin may run code when read: convert it"):
        load_encoder(copied)


def test_config__what_is_wrong_with_it(copied, tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*: a folder must hold config\.json"):
        load_model(tmp_path)
    cases: list[tuple[dict, str]] = [
        ({"model_type": "llama"}, "model_type 'llama', which cannot be evaluated here; supported"),
        ({"model_type": None}, "model_type None"),
        ({"quantization_config": {}}, "is quantised"),
        # Whether the configuration or the network finds it depends on the version.
        ({"hidden_size": "wide"}, r"config\.json (of copied is not valid: .*hidden_size|\()"),
        ({"num_attention_heads": 7}, "do not fit config.json .*not a multiple"),
        ({"in_chans": 1}, "takes images of 1 channels"),
        ({"patch_size": [8, 4]}, "patches must be square"),
        ({"crop_size": 36}, "frames of 36 pixels cannot be cut into patches of 8"),
    ]
    original = (copied / "config.json").read_text()
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            load_encoder(edit_config(copied, **changes))
        (copied / "config.json").write_text(original)
    for text, message in [("{", "cannot be read as JSON"), ("[1]", "must hold a JSON object")]:
        (copied / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_encoder(copied)


def test_config__cannot_choose_code(copied):
    (copied / "evil.py").write_text(f"open({str(copied / 'owned')!r}, 'w')")
    edit_config(
        copied,
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        _attn_implementation="someone/kernel",
        attn_implementation="someone/kernel",
        architectures=["Evil"],
        dtype="float16",
    )
    loaded = load_encoder(copied)
    assert loaded.network.backbone.config._attn_implementation == "sdpa"
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert not (copied / "owned").exists()


def test_preprocessor__decides_scale_and_size(image_kind, tmp_path):
    folder = Path(shutil.copytree(image_kind[0], tmp_path / "own"))
    settings = {
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
        "size": {"shortest_edge": 48},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.25, 2.0],
        "rescale_factor": 0.01,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_encoder(folder)
    assert loaded.clip.size == 16
    frames = random_frames(1, 16)
    scaled = loaded.network.scale(frames)[0, 0]
    raw = frames[0, 0].double()
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 2.0)]):
        expected = ((raw[channel] * 0.01 - mean) / std).float()
        assert torch.allclose(scaled[channel], expected, atol=1e-5)
    settings |= {"do_center_crop": False, "do_normalize": False, "do_rescale": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_encoder(folder)
    assert loaded.clip.size == 48
    assert torch.equal(loaded.network.scale(frames), frames.float())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_mean": [0.5]}, "must be three numbers"),
        ({"image_std": [1, "x", 1]}, "must be three numbers"),
        ({"image_std": [1, 0, 1]}, "must be positive"),
    ],
)
def test_preprocessor__values_that_cannot_be_used(copied, wrong, message):
    (copied / "video_preprocessor_config.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=message):
        load_encoder(copied)


def test_load_encoder__settings_that_suit_no_image_encoder(image_kind):
    for settings in ({"window": 8}, {"horizons": (1,)}):
        with pytest.raises(
            InputError, match=r"encodes single images .* leave out window and horiz"
        ):
            load_encoder(image_kind[0], **settings)
    with pytest.raises(InputError, match="clips need frames and a rate"):
        load_encoder(image_kind[0], num_frames=0)


# The Hub


def test_hub__fetches_data_and_weights_only(video_folder, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        return str(shutil.copytree(video_folder, tmp_path / f"commit{len(asked)}"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = load_model("hf://org/some-model.v2")
    assert loaded.config["source"] == "hf://org/some-model.v2@commit1"
    load_model(Path("hf://org/name@refs/pr/1"))  # a Path has one slash less
    assert [each[:2] for each in asked] == [("org/some-model.v2", None), ("org/name", "refs/pr/1")]
    assert all(pattern.endswith((".json", ".md", ".safetensors")) for pattern in asked[0][2])


def test_hub__what_went_wrong(monkeypatch):
    import huggingface_hub

    def fail(*args, **more):
        raise OSError("Connection refused\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError) as caught:
        load_model("hf://org/name")
    assert "hf://org/name cannot be fetched (OSError: Connection refused); check" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    for address in ("hf://name", "hf://a/b/c", "hf://org/name@", "hf:"):
        with pytest.raises(InputError, match="is no address such as hf://"):
            load_model(address)


def test_without_transformers__the_error_says_what_to_install(video_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"need transformers.*pip install worldmodel\[encoders\]"):
        load_encoder(video_folder)


def test_loading__leaves_the_library_as_talkative_as_it_was(video_folder, capfd):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_encoder(video_folder).untrained(0)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_image_encoder__drops_what_stands_before_the_patches():
    class Constant(torch.nn.Module):
        def forward(self, pixel_values):
            values = torch.arange(7.0)[:, None].expand(len(pixel_values), 7, 1)
            return SimpleNamespace(last_hidden_state=values)

    level = AdapterLevel(grid=(2, 2), span=1, horizons=(), dim=1)
    plain = PixelScale(factor=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    (tokens,) = ImageEncoder(Constant(), level, 4, plain).encode(random_frames(2, 4))
    assert tokens[1, 1, :, 0].tolist() == [3.0, 4.0, 5.0, 6.0]
