"""A small V-JEPA 2 and a small DINOv2 with random weights, as evaluation meets them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from square_world import FPS, FRAMES, SIZE, WINDOW, block

from worldmodel.evaluation.footage import find_samples, read_samples
from worldmodel.evaluation.network import CHUNK, Network, levels_of, run_chunk
from worldmodel.evaluation.surprise import contrast_wins, score_blocks
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.huggingface import load_encoder

transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
# Weights large enough that a change anywhere can be seen in single precision.
WIDE = {"initializer_range": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    config = transformers.VJEPA2Config(
        **SMALL,
        **WIDE,
        crop_size=SIZE,
        frames_per_clip=FRAMES,
        mlp_ratio=2.0,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_num_mask_tokens=2,
        pred_zero_init_mask_tokens=False,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hf") / "vjepa"
    transformers.VJEPA2Model(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def video(folder) -> LoadedModel:
    return load_encoder(folder, num_frames=FRAMES, fps=FPS)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> LoadedModel:
    config = transformers.Dinov2Config(**SMALL, **WIDE, mlp_ratio=2, image_size=SIZE)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hf") / "dino"
    transformers.Dinov2Model(config).save_pretrained(path)
    return load_encoder(path, num_frames=FRAMES, fps=FPS)


def read_clips(squares: Path, model: LoadedModel, count: int) -> list[torch.Tensor]:
    refs = find_samples(squares, "val", "clips")[:count]
    samples = read_samples(refs, model.clip, blocks=False)
    return [sample.frames for sample in samples]


def test_encoders__are_networks_like_ours(video, image):
    for model, span, horizons in ((video, 2, (1, 2, 4)), (image, 1, ())):
        assert isinstance(model.network, Network)
        (level,) = levels_of(model.network)
        assert (level.span, level.horizons, level.num_tokens) == (span, horizons, 4)


def test_run_chunk__gives_tokens_states_and_predictions(squares, video, image):
    clips = read_clips(squares, video, 3)
    tokens, context, predicted = run_chunk(video.network, clips, CPU)
    assert tokens[0].shape == (3, FRAMES // 2, 4, 24) and torch.equal(context[0], tokens[0])
    assert {h: tuple(values.shape) for h, values in predicted[0].items()} == dict.fromkeys(
        (1, 2, 4), (3, FRAMES // 2, 4, 24)
    )
    tokens, context, predicted = run_chunk(image.network, clips, CPU)
    assert tokens[0].shape == context[0].shape == (3, FRAMES, 4, 24) and predicted == [{}]


def test_run_chunk__does_not_depend_on_how_many_clips_there_are(squares, video, image):
    for model in (video, image):
        clips = read_clips(squares, model, CHUNK)
        many = run_chunk(model.network, clips, CPU)
        few = run_chunk(model.network, clips[:3], CPU)
        assert torch.equal(many[0][0][:3], few[0][0])
        for horizon, values in few[2][0].items():
            assert torch.equal(many[2][0][horizon][:3], values)


def test_surprise__of_four_clips_at_every_horizon(video):
    blocks = [block(seed) for seed in range(2)]
    scores = score_blocks(video.network, blocks, CPU)
    for horizon in (1, 2, 4):
        curve = scores.curves[0, horizon]
        assert curve.shape == (2, 4, FRAMES // 2 - horizon) and np.isfinite(curve).all()
        assert (curve > 0).all()
    # Horizon 1: entry τ is the surprise at step τ + 1, which ends with frame 2 τ + 3. What clips
    # show the same of so far surprises the same; of the rest the random network sees something.
    curve = scores.curves[0, 1]
    before = (WINDOW[0] - 3) // 2 + 1
    assert np.array_equal(curve[:, 0, :before], curve[:, 2, :before])
    assert np.array_equal(curve[:, 1, :before], curve[:, 3, :before])
    assert not np.allclose(curve[:, 0, -1], curve[:, 2, -1], rtol=1e-6)


def test_surprise__cancels_where_the_window_is_shorter_than_what_is_hidden(folder):
    blocks = [block(seed) for seed in range(2)]
    for window, tied in ((4, True), (FRAMES, False)):
        network = load_encoder(folder, num_frames=FRAMES, window=window, horizons=(1,)).network
        curve = score_blocks(network, blocks, CPU).curves[0, 1]
        wins = contrast_wins(curve.mean(2))
        assert ((wins == 0.5).all()) == tied


def test_surprise__is_none_where_nothing_is_predicted(image):
    scores = score_blocks(image.network, [block(0)], CPU)
    assert [key for key in scores.curves if isinstance(key, tuple)] == []


def test_untrained__are_scored_like_the_model(folder, video):
    loaded = load_model(folder)
    one, same = (loaded.untrained(1) for _ in range(2))
    blocks = [replace(block(0), key="one")]
    curves = [score_blocks(net, blocks, CPU).curves[0, 1] for net in (one, same, video.network)]
    assert np.array_equal(curves[0], curves[1]) and not np.allclose(curves[0], curves[2])
