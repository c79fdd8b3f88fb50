"""Depth benchmarks: planted encoders get what they know, constant ones what the mean map gets."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldmodel.data.benchmarks.depth_images import DepthImage, DepthSet
from worldmodel.data.benchmarks.export_depth import export_kitti, export_nyu_mat
from worldmodel.errors import InputError
from worldmodel.evaluation.benchmarks.depth_benchmarks import (
    evaluate_depth_benchmark,
    evenly,
    frame_tokens,
    held_out,
    open_depth_set,
    score_depth_set,
)
from worldmodel.evaluation.benchmarks.depth_squares import CELLS, cut_squares
from worldmodel.evaluation.network import Network
from worldmodel.evaluation.probes.depth_metrics import METRICS
from worldmodel.models.checkpoint import ClipSpec, LoadedModel, load_model
from worldmodel.models.hierarchy import LevelPrediction

SIZE, GRID = 16, (2, 2)
CPU = torch.device("cpu")


class Eye(nn.Module):
    """Tokens are the brightness of the 4 x 4 cells of a token's patch, turned; or a constant."""

    steps_are_local = True

    def __init__(self, sees: bool) -> None:
        super().__init__()
        self.sees = sees
        level = {"grid": GRID, "num_tokens": 4, "horizons": (1,), "dim": 16, "width": 16}
        self.levels = [SimpleNamespace(span=span, **level) for span in (1, 2)]
        generator = torch.Generator().manual_seed(1)
        self.turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]

    def encode(self, frames: Tensor) -> list[Tensor]:
        cells = nn.functional.adaptive_avg_pool2d(frames.float().mean(2) / 255, GRID[0] * CELLS)
        split = cells.unflatten(2, (GRID[0], CELLS)).unflatten(4, (GRID[1], CELLS))
        tokens = split.transpose(3, 4).flatten(4).flatten(2, 3) @ self.turn
        tokens = tokens if self.sees else torch.ones_like(tokens)
        return [tokens, tokens[:, ::2]]

    def predict(self, tokens: Sequence[Tensor]) -> list[LevelPrediction]:
        raise AssertionError("depth of single frames needs no prediction")


class PlantedModel(LoadedModel):
    def untrained(self, seed: int) -> Network:
        return Eye(sees=False)


def planted(sees: bool) -> LoadedModel:
    clip = ClipSpec(num_frames=4, fps=8.0, size=SIZE)
    return PlantedModel(
        network=Eye(sees), clip=clip, config={}, sha256="0" * 64, global_step=7, file=Path("x")
    )


def picture(seed: int, height: int = 24, width: int = 32, measured: float = 1.0) -> DepthImage:
    """Brightness is depth: a smooth surface between 1 and 9 m, some cells not measured."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    a, b, c, d = generator.uniform(-1, 1, 4)
    depth = 5 + 1.3 * np.sin(3 * (a * x + b * y) + 6 * c) + 1.5 * d
    grey = np.rint((depth - 1) / 8 * 255).astype(np.uint8)
    depth = np.where(generator.random(depth.shape) < measured, depth, 0)
    return DepthImage(f"{seed:04d}", np.repeat(grey[..., None], 3, 2), depth.astype(np.float32))


class Pictures(DepthSet):
    """Depth pictures in memory; all of each is scored."""

    name, cap_m, source = "planted", 10.0, "memory"

    def __init__(self, train: list[DepthImage], test: list[DepthImage]) -> None:
        self.images = {"train": train, "test": test}

    def keys(self, split: str) -> list[str]:
        return [f"{split}/{number}" for number in range(len(self.images[split]))]

    def read(self, key: str) -> DepthImage:
        split, number = key.split("/")
        return self.images[split][int(number)]

    def crop(self, height: int, width: int) -> np.ndarray:
        return np.ones((height, width), bool)


TRAIN, TEST = [picture(seed) for seed in range(60)], [picture(seed) for seed in range(100, 112)]


def test_an_encoder_that_shows_depth_gets_it_and_one_that_is_blind_the_mean_map() -> None:
    seeing = score_depth_set(Pictures(TRAIN, TEST), planted(True), CPU, num_untrained=2)
    null = seeing["null"]
    assert seeing["rmse_m"] < 0.1 < 0.5 < null["mean"]["rmse_m"]
    assert seeing["delta1"] > 0.999
    assert seeing["pooled"]["abs_rel"] < 0.02
    for metric in METRICS:
        assert null["untrained"][metric] == pytest.approx(null["mean"][metric], abs=1e-9)
    assert null["untrained"]["num_networks"] == 2
    assert null["untrained"]["std_rmse_m"] == 0
    assert null["pixels"]["rmse_m"] < 0.1
    assert seeing["ci95_rmse_m"][0] <= seeing["rmse_m"] <= seeing["ci95_rmse_m"][1]
    blind = score_depth_set(Pictures(TRAIN, TEST), planted(False), CPU, num_untrained=0)
    assert blind["rmse_m"] == pytest.approx(null["mean"]["rmse_m"], abs=1e-9)
    assert "untrained" not in blind["null"]
    assert (blind["num_train_images"], blind["num_held_out_images"]) == (50, 10)


def test_depth_that_is_measured_at_one_cell_in_eight_is_learned_as_well() -> None:
    train = [picture(seed, 12, 40, 0.12) for seed in range(60)]
    test = [picture(seed, 12, 40, 0.12) for seed in range(100, 108)]
    report = score_depth_set(Pictures(train, test), planted(True), CPU, num_untrained=0)
    assert report["squares_per_image"] == 4
    assert report["rmse_m"] < 0.35 < 0.7 < report["null"]["mean"]["rmse_m"]
    assert report["num_test_cells"] == sum((image.depth_m > 0).sum() for image in test)


def test_a_guess_that_is_off_by_a_factor_is_forgiven_by_alignment_only() -> None:
    test = [DepthImage(i.key, i.rgb, i.depth_m * np.float32(0.5)) for i in TEST]
    report = score_depth_set(Pictures(TRAIN, test), planted(True), CPU, num_untrained=0)
    assert report["abs_rel"] > 0.9
    assert report["median"]["abs_rel"] < 0.02
    assert report["affine_disparity"]["abs_rel"] < 0.02


def test_tokens_of_a_frame_do_not_depend_on_the_frames_packed_with_it() -> None:
    frames = torch.from_numpy(np.stack([image.rgb for image in TEST])).permute(0, 3, 1, 2)
    frames = nn.functional.interpolate(frames.float(), (SIZE, SIZE)).to(torch.uint8)
    network = Eye(True)
    together = frame_tokens(network, frames, 4, CPU)
    assert together.shape == (12, 4, 16)
    assert torch.equal(frame_tokens(network, frames[5:6], 4, CPU)[0], together[5])
    assert torch.equal(network.encode(frames[None])[0][0], together)


def test_a_network_whose_steps_span_frames_sees_the_frame_stand_still() -> None:
    class Slow(Eye):
        steps_are_local = False

        def encode(self, frames: Tensor) -> list[Tensor]:
            assert frames.shape[1] == 6
            assert torch.equal(frames[:, :1].expand_as(frames), frames)
            tokens = super().encode(frames)[0]
            steps = torch.arange(tokens.shape[1])[:, None, None]
            return [tokens + steps]

    frames = cut_squares(picture(1, SIZE, 3 * SIZE).rgb, SIZE)
    found = frame_tokens(Slow(True), frames, 6, CPU)
    assert torch.equal(found, Eye(True).encode(frames[None])[0][0] + 3)


def test_held_out_pictures_are_runs_of_neighbours_and_a_fifth_of_all() -> None:
    held = held_out(795)
    assert held.mean() == pytest.approx(0.2, abs=0.01)
    assert np.count_nonzero(np.diff(held.astype(int)) == 1) == 10
    assert held_out(10).sum() == 2


def test_a_choice_of_pictures_is_even_and_has_none_twice() -> None:
    names = [str(number) for number in range(10)]
    assert evenly(names, 5) == ["1", "3", "5", "7", "9"]
    assert evenly(names, 99) == names
    assert len(set(evenly(names, 7))) == 7


def test_a_report_does_not_depend_on_what_stands_in_parts_that_are_not_scored() -> None:
    class Cropped(Pictures):
        def crop(self, height: int, width: int) -> np.ndarray:
            return np.arange(width)[None].repeat(height, 0) < width // 2

    broken = []
    for image in TEST:
        depth = image.depth_m.copy()
        depth[:, 16:] = 1.0
        broken.append(DepthImage(image.key, image.rgb, depth))
    whole = score_depth_set(Cropped(TRAIN, TEST), planted(True), CPU, num_untrained=0)
    assert score_depth_set(Cropped(TRAIN, broken), planted(True), CPU, num_untrained=0) == whole


def test_training_features_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "worldmodel.evaluation.benchmarks.depth_benchmarks.MAX_FEATURE_BYTES", 1_000_000
    )
    report = score_depth_set(Pictures(TRAIN, TEST), planted(True), CPU, num_untrained=0)
    bytes_each = 2 * 4 * (16 + 3 * 8 * 8) * 4  # squares, tokens, features
    assert report["num_train_available"] == 60
    kept = report["num_train_images"] + report["num_held_out_images"]
    assert kept == min(60, 1_000_000 // bytes_each)


def test_pictures_that_cannot_be_covered_alike_are_named() -> None:
    mixed = [*TRAIN[:20], picture(1, 24, 80)]
    with pytest.raises(InputError, match=r"4 squares cover its 80x24 pixels, but 2 cover"):
        score_depth_set(Pictures(mixed, TEST), planted(True), CPU, num_untrained=0)
    with pytest.raises(InputError, match="at least as wide as high, found 24x32"):
        high = [picture(seed, 32, 24) for seed in range(20)]
        score_depth_set(Pictures(high, TEST), planted(True), CPU, num_untrained=0)


def test_too_few_pictures_and_pictures_without_depth_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least 10 training pictures, .* found 9"):
        score_depth_set(Pictures(TRAIN[:9], TEST), planted(True), CPU, num_untrained=0)
    empty = [picture(seed, measured=0.0) for seed in range(20)]
    with pytest.raises(InputError, match=r"no depth between 0\.001 and 10 m in the training"):
        score_depth_set(Pictures(empty, TEST), planted(True), CPU, num_untrained=0)
    with pytest.raises(InputError, match="no test picture has depth inside the crop"):
        score_depth_set(Pictures(TRAIN, empty), planted(True), CPU, num_untrained=0)
    with pytest.raises(InputError, match="there are nyuv2 and kitti"):
        open_depth_set("scannet", Path("."))
    with pytest.raises(InputError, match="nyuv2 has its own split"):
        open_depth_set("nyuv2", Path("."), {"test": Path("list.txt")})


def test_nyuv2_and_kitti_are_scored_from_disk_with_a_checkpoint(
    tmp_path: Path, checkpoint: Path
) -> None:
    split = {"train": TRAIN[:15], "test": TEST[:3]}
    export_nyu_mat(tmp_path / "nyu", split)
    far = {name: [picture(seed, 12, 40) for seed in range(15)] for name in split}
    export_kitti(tmp_path / "kitti", far, share=0.5)
    model, out = load_model(checkpoint), tmp_path / "out"
    for name, folder in (("nyuv2", "nyu"), ("kitti", "kitti")):
        report = evaluate_depth_benchmark(
            name, tmp_path / folder, model, out, CPU, num_untrained=1, max_test=3
        )
        assert json.loads((out / f"{name}.json").read_text()) == report
        text = (out / f"{name}.md").read_text()
        assert f"{report['null']['mean']['rmse_m']:.3f}" in text
        assert report["num_test_images"] == 3
        assert report["whole_test_split"] is (name == "nyuv2")
        assert ("no benchmark result" in text) is (name == "kitti")
    again = evaluate_depth_benchmark(
        "kitti", tmp_path / "kitti", model, out, CPU, num_untrained=1, max_test=3
    )
    assert again == report
