"""Classification: planted encoders get what they know, constant ones chance; broken videos too."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldmodel.data.benchmarks.export_labelled import LabelledClip, export_kinetics, export_list
from worldmodel.data.benchmarks.labelled import LabelledVideo
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.attentive import AttentiveConfig
from worldmodel.evaluation.benchmarks.class_scores import class_scores
from worldmodel.evaluation.benchmarks.classification import (
    VideoFeatures,
    average_steps,
    check_classes,
    clip_features,
    evaluate_classification,
    evenly_by_class,
    fit_classifiers,
    held_out,
    pooled,
)
from worldmodel.evaluation.network import Network
from worldmodel.models.checkpoint import ClipSpec, LoadedModel, load_model
from worldmodel.models.hierarchy import LevelPrediction

CPU = torch.device("cpu")
SIZE, FRAMES, FPS = 16, 8, 8.0
CONFIG = AttentiveConfig(
    self_attention_blocks=0,
    max_width=16,
    num_epochs=15,
    batch_size=8,
    learning_rates=(1e-2, 1e-4),
    weight_decays=(0.01,),
)
QUICK = AttentiveConfig(max_width=8, num_epochs=1, learning_rates=(1e-3,), weight_decays=(0.01,))


class Eye(nn.Module):
    """One token per step: how bright it is, in 8 soft bins; or a constant."""

    steps_are_local = True

    def __init__(self, sees: bool) -> None:
        super().__init__()
        self.sees = sees
        shape = {"grid": (1, 1), "num_tokens": 1, "horizons": (1,), "dim": 8, "width": 2}
        self.levels = [SimpleNamespace(span=span, **shape) for span in (1, 2)]

    def encode(self, frames: Tensor) -> list[Tensor]:
        grey = frames.float().mean((2, 3, 4)) / 255
        tokens = torch.exp(-((grey[..., None, None] - torch.linspace(0, 1, 8)) ** 2) * 50)
        tokens = tokens if self.sees else torch.zeros_like(tokens)
        return [tokens, tokens[:, ::2]]

    def predict(self, tokens: Sequence[Tensor]) -> list[LevelPrediction]:
        return [LevelPrediction(level[..., :2], {1: level}) for level in tokens]


class PlantedModel(LoadedModel):
    def untrained(self, seed: int) -> Network:
        return Eye(sees=False)


def planted(sees: bool) -> LoadedModel:
    clip = ClipSpec(num_frames=FRAMES, fps=FPS, size=SIZE)
    return PlantedModel(
        network=Eye(sees), clip=clip, config={}, sha256="0" * 64, global_step=7, file=Path("x")
    )


def clips(count: int, prefix: str) -> list[LabelledClip]:
    """Grey clips of 3 classes, bright, darker and dark."""
    generator = np.random.default_rng(len(prefix) + count)
    found = []
    for number in range(count):
        grey = 60 + 70 * (number % 3) + generator.integers(-15, 15)
        frames = np.full((FRAMES, SIZE, SIZE, 3), grey, np.uint8)
        found.append(LabelledClip(f"{prefix}{number:03d}", frames, FPS, f"class {number % 3}"))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("list")
    export_list(folder, {"train": clips(60, "t"), "validation": clips(31, "val")})
    return folder


def test_an_encoder_that_shows_the_class_gets_it_and_one_that_is_blind_chance(
    root: Path, tmp_path: Path
) -> None:
    report = evaluate_classification("list", root, planted(True), tmp_path, CPU, attentive=CONFIG)
    for probe in ("attentive", "linear"):
        assert report[probe]["top1"] == 1
        assert report[probe]["balanced_accuracy"] == 1
        assert report["null"]["untrained"][probe]["top1"] < 0.4
    assert report["attentive"]["learning_rate"] == 1e-2
    # 20 of each class in training, and ties are broken by lot.
    assert report["null"]["majority"]["top1"] == pytest.approx(1 / 3)
    assert report["num_train"] + report["num_held_out"] == 60
    assert report["num_held_out"] == 12
    assert (report["num_validation"], report["whole_validation_split"]) == (31, True)
    assert json.loads((tmp_path / "list.json").read_text()) == report
    text = (tmp_path / "list.md").read_text()
    assert "majority class" in text
    assert "| model, attentive" in text
    blind = evaluate_classification(
        "list", root, planted(False), tmp_path, CPU, attentive=QUICK, num_untrained=0
    )
    assert blind["linear"]["top1"] == pytest.approx(1 / 3, abs=0.02)
    assert "untrained" not in blind["null"]


def test_a_checkpoint_is_scored_and_again_to_the_bit(
    tmp_path: Path, root: Path, checkpoint: Path
) -> None:
    model = load_model(checkpoint)
    settings = {"attentive": QUICK, "num_clips": 2, "max_train": 21, "max_validation": 9}
    report = evaluate_classification("list", root, model, tmp_path, CPU, **settings)
    assert report["num_train"] + report["num_held_out"] == 21
    assert (report["num_validation"], report["whole_validation_split"]) == (9, False)
    assert "no benchmark result" in (tmp_path / "list.md").read_text()
    # Clips of the checkpoint have 16 frames, the videos 8.
    assert report["num_held_still"] == 30
    again = evaluate_classification("list", root, model, tmp_path, CPU, num_workers=1, **settings)
    assert again == report


def test_broken_videos_are_skipped_and_named_and_too_many_refused(tmp_path: Path) -> None:
    export_kinetics(
        tmp_path / "k", {"train": clips(12, "t"), "validation": clips(6, "v")}, with_csv=False
    )
    for split in ("train", "val"):
        path = min((tmp_path / "k" / split / "class 1").iterdir())
        path.write_bytes(path.read_bytes()[:200])
    report = evaluate_classification(
        "kinetics",
        tmp_path / "k",
        planted(True),
        tmp_path,
        CPU,
        attentive=QUICK,
        max_skipped_share=0.3,
    )
    for split in ("train", "validation"):
        named = report["skipped"][split]["named"]
        assert report["skipped"][split]["num_videos"] == len(named) == 1
        assert "cannot be decoded" in next(iter(named.values()))
    assert (report["num_train"] + report["num_held_out"], report["num_validation"]) == (11, 5)
    with pytest.raises(InputError, match=r"more than 1\.00% of the 12 videos of kinetics train"):
        evaluate_classification(
            "kinetics", tmp_path / "k", planted(True), tmp_path, CPU, attentive=QUICK
        )


def test_features_in_memory_are_enough_and_only_attention_reads_the_order_of_steps() -> None:
    rising = torch.linspace(-1, 1, 8)

    def features(count: int) -> VideoFeatures:
        labels = np.arange(count) % 2
        steps = torch.stack([rising if label else rising.flip(0) for label in labels])
        return VideoFeatures((steps[:, :, None, None].repeat(1, 1, 2, 8).half(),), labels)

    train, unseen = features(100), features(40)
    held = held_out([str(number) for number in range(100)], train.labels)
    fitted = fit_classifiers(train, held, 2, CONFIG, 0, CPU)
    scores = fitted.scores(unseen.levels)
    assert class_scores(scores["attentive"], unseen.labels)["top1"] == 1
    assert class_scores(scores["linear"], unseen.labels)["top1"] == pytest.approx(0.5)
    assert fitted.chosen["attentive"]["held_out_top1"] == 1
    with pytest.raises(ValueError, match=r"levels of \[100\] videos, but 40 labels"):
        VideoFeatures(train.levels, unseen.labels)


def test_features_are_tokens_and_context_states_of_every_level() -> None:
    network = Eye(True)
    frames = [torch.full((FRAMES, 3, SIZE, SIZE), 40 * n, dtype=torch.uint8) for n in range(3)]
    found = clip_features(network, frames, CPU)
    tokens = network.encode(torch.stack(frames))
    assert [tuple(level.shape) for level in found] == [(3, 8, 1, 10), (3, 4, 1, 10)]
    assert torch.equal(found[0][..., :8], tokens[0].half())
    assert torch.equal(found[1][..., 8:], tokens[1][..., :2].half())
    assert torch.equal(clip_features(network, frames[1:2], CPU)[0][0], found[0][1])


def test_a_level_that_predicts_nothing_gives_its_tokens_alone() -> None:
    network = Eye(True)
    for level in network.levels:
        level.horizons = ()
    frames = [torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)]
    assert [tuple(level.shape) for level in clip_features(network, frames, CPU)] == [
        (1, 8, 1, 8),
        (1, 4, 1, 8),
    ]


def test_steps_are_averaged_in_the_shortest_runs_that_fit() -> None:
    level = torch.arange(10.0)[None, :, None, None]
    assert average_steps(level, 10).flatten().tolist() == list(range(10))
    assert average_steps(level, 4).flatten().tolist() == [1, 4, 7, 9]
    assert pooled([level, level[:, :3]]).tolist() == [[4.5, 1.0]]


def test_a_fifth_of_each_class_is_held_out_whatever_the_order() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    keys = [f"v{number}" for number in range(len(labels))]
    held = held_out(keys, labels)
    assert [int(held[labels == label].sum()) for label in range(4)] == [10, 2, 1, 0]
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = held_out([keys[row] for row in order], labels[order])
    assert np.array_equal(shuffled, held[order])


def test_a_choice_of_videos_keeps_the_shares_of_classes() -> None:
    videos = [LabelledVideo(f"v{n:03d}", Path("x"), int(n >= 80)) for n in range(100)]
    kept = evenly_by_class(videos, 25)
    assert [sum(video.label == label for video in kept) for label in (0, 1)] == [20, 5]
    assert kept == sorted(kept, key=lambda video: video.key)
    assert set(kept) < set(evenly_by_class(videos, 50))
    assert evenly_by_class(videos, 1000) == videos


def test_too_few_videos_for_a_probe_are_refused(root: Path, tmp_path: Path) -> None:
    for labels in ([1, 1, 1], [0, 1, 2]):
        with pytest.raises(InputError, match="at least two classes, and two of one class"):
            check_classes("x", np.array(labels))
    check_classes("x", np.array([0, 1, 1]))
    with pytest.raises(InputError, match="at least 1 clip per video"):
        evaluate_classification("list", root, planted(True), tmp_path, CPU, num_clips=0)
