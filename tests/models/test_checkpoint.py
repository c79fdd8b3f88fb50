from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.models.checkpoint import load_model, model_to_begin_with, read_checkpoint


@pytest.fixture
def checkpoint(hierarchy, encoder_config, level_configs, tmp_path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "state_dict": {f"hierarchy.{k}": v for k, v in hierarchy.state_dict().items()},
            "global_step": 12,
            "worldmodel": {
                "version": "0.0.1",
                "encoder": asdict(encoder_config),
                "levels": [asdict(level) for level in level_configs],
                "clip": {"num_frames": 12, "fps": 8.0, "size": 32},
            },
        },
        path,
    )
    return path


def test_load_model__gives_back_the_same_network(checkpoint, hierarchy, clip):
    loaded = load_model(checkpoint)
    for a, b in zip(hierarchy.encode(clip.frames), loaded.network.encode(clip.frames), strict=True):
        assert torch.equal(a, b)
    assert loaded.global_step == 12 and len(loaded.sha256) == 64
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_untrained__fresh_networks_that_do_not_copy(checkpoint, clip):
    loaded = load_model(checkpoint)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (loaded.untrained(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    tokens = [network.encode(clip.frames)[0] for network in (one, same, other)]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    predicted = one.predict(one.encode(clip.frames))[0].predicted[1]
    assert not torch.allclose(predicted, tokens[0])


def test_read_checkpoint__what_is_wrong_with_the_file(tmp_path, checkpoint):
    with pytest.raises(InputError, match=r"no checkpoint at .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"bad\.ckpt cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "bad.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut\.ckpt cannot be read"):
        read_checkpoint(tmp_path / "cut.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of `worldmodel fit`"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_read_checkpoint__runs_no_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path(tmp_path / "owned").touch, ())

    torch.save({"worldmodel": Harmful()}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil\.ckpt"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


def test_load_model__does_not_fit_its_own_description(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["worldmodel"]["levels"][0]["width"] = 32
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=r"version 0\.0\.1 and does not fit"):
        load_model(tmp_path / "odd.ckpt")


def test_load_model__a_run_is_its_last_checkpoint(checkpoint, tmp_path):
    version = tmp_path / "runs" / "version_0"
    (version / "checkpoints").mkdir(parents=True)
    (version / "config.yaml").write_text("seed_everything: 0\n")
    for folder in (version, version.parent):  # cut before its first checkpoint
        with pytest.raises(
            InputError, match="is a run without a checkpoint, cut before its first: fit"
        ):
            load_model(folder)
    last = version / "checkpoints" / "last.ckpt"
    last.write_bytes(checkpoint.read_bytes())
    for folder in (version, version.parent):
        loaded = load_model(folder)
        assert loaded.file == last and loaded.global_step == 12
    other = version.parent / "version_1" / "checkpoints"
    other.mkdir(parents=True)
    (other / "last.ckpt").write_bytes(checkpoint.read_bytes())
    with pytest.raises(InputError, match="several runs: give version_0 or version_1 of it"):
        load_model(version.parent)


def test_load_model__an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="is empty: give a file such as"):
        load_model(tmp_path)


def test_model_to_begin_with__draws_no_random_number(checkpoint, encoder_config, level_configs):
    """So that what a training draws afterwards is the same with and without."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model = model_to_begin_with(checkpoint, encoder_config, level_configs, top_down=False)
    assert torch.equal(torch.rand(3), expected)
    assert model.global_step == torch.load(checkpoint, weights_only=True)["global_step"]


def test_model_to_begin_with__another_share_of_the_loss_is_no_other_network(
    checkpoint, encoder_config, level_configs
):
    heavier = [replace(level_configs[0], weight=2.0), *level_configs[1:]]
    assert model_to_begin_with(checkpoint, encoder_config, heavier, top_down=False)
    with pytest.raises(InputError, match="there are 2 levels here and 3 there"):
        model_to_begin_with(checkpoint, encoder_config, level_configs[:2], top_down=False)
    farther = [replace(level_configs[0], horizons=(1, 4)), *level_configs[1:]]
    with pytest.raises(InputError, match=r"levels\.0\.horizons is \(1, 4\) here and \(1, 2\)"):
        model_to_begin_with(checkpoint, encoder_config, farther, top_down=False)
