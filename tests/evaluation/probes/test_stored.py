"""Stored probes: the report's own, whole, of this model and no other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from worldmodel import WorldModel
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import Footage, find_samples, read_footage
from worldmodel.evaluation.nulls import sightings
from worldmodel.evaluation.probes.depth import depth_cells
from worldmodel.evaluation.probes.depth_metrics import cell_sums, scores_of
from worldmodel.evaluation.probes.objects import Track, track_of
from worldmodel.evaluation.probes.states import step_ends
from worldmodel.evaluation.probes.stored import (
    ABOUT,
    StoredProbes,
    find_probes,
    hashes_of,
    read_about,
    read_probes,
)
from worldmodel.evaluation.scores import mean_absolute_error, r2_score
from worldmodel.evaluation.videos.readouts import Belief, read_video_out
from worldmodel.export import export_model
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.hub_files import PROBES

CPU = torch.device("cpu")
Content = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture
def model(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint)


def content_of(path: Path) -> Content:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()[ABOUT])


def changed(
    path: Path, out: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], Any]
) -> Path:
    """A copy of a file in which something is not as it was."""
    tensors, about = content_of(path)
    edit(tensors, about)
    out.write_bytes(save(tensors, metadata={ABOUT: json.dumps(about)}))
    return out


def asked_rows(belief: Belief, track: Track, part: str, span: int) -> np.ndarray:
    """At which of a belief's steps the report asks."""
    seen = sightings(track.position, track.visible | track.partly, span).seen
    asked = np.isin(belief.frames, step_ends(len(track.position), span))
    return asked & (seen & getattr(track, part))[belief.frames]


def test_they_give_the_reports_numbers_on_the_test_clips(
    squares: Path, probed: Path, model: LoadedModel
) -> None:
    probes = read_probes(probed / PROBES, model)
    report = json.loads((probed / "report.json").read_text())
    said: dict[str, list[np.ndarray]] = {part: [] for part in probes.position}
    true: dict[str, list[np.ndarray]] = {part: [] for part in probes.position}
    sums = np.zeros(())
    for ref in find_samples(squares, "test", "clips"):
        clip: Footage = read_footage(ref, model.clip)
        frames = clip.frames.permute(0, 2, 3, 1).numpy()
        found = read_video_out(model.network, frames, model.clip.num_frames, CPU, probes)
        track = track_of(clip.truth)
        for part, belief in found.beliefs.items():
            place = probes.position[part]
            rows = asked_rows(belief, track, part, model.network.levels[place.level].span)
            said[part].append(belief.places[rows] * place.picture)
            true[part].append(track.position[belief.frames[rows]])
        assert found.depth is not None
        # The squares' slowest level ends a step every second frame: four of them are asked.
        asked = [3, 7, 11, 15]
        metres, hit, _ = depth_cells(clip.truth, asked, found.depth.metres.shape[1:])
        sums = sums + cell_sums(found.depth.metres[asked], metres, hit)
    assert set(said) == {"visible", "hidden"}  # a square is seen whole or not at all
    for part, place in probes.position.items():
        section = report["position"][part]
        guess, truth = np.concatenate(said[part]), np.concatenate(true[part])
        assert len(truth) == section["num_frames"] and place.level == section["level"]
        assert r2_score(guess, truth) == pytest.approx(section["r2"], abs=1e-9)
        assert mean_absolute_error(guess, truth) == pytest.approx(section["mae_px"], abs=1e-9)
        assert (place.r2, place.mae_px) == (section["r2"], section["mae_px"])
        distance = np.linalg.norm(guess - truth, axis=1)
        assert np.median(distance) == pytest.approx(place.half_px, abs=1e-9)
    assert probes.depth is not None and probes.depth.rmse_m == report["depth"]["rmse_m"]
    assert scores_of(sums)["rmse_m"] == pytest.approx(report["depth"]["rmse_m"], abs=1e-9)


def test_the_file_is_small_and_says_what_it_holds(probed: Path, model: LoadedModel) -> None:
    meta = json.loads((probed / "report.json").read_text())["meta"]
    about = read_probes(probed / PROBES, model).about
    assert about["checkpoint_sha256"] == [model.sha256] == [meta["checkpoint_sha256"]]
    assert about["protocol_sha256"] == meta["protocol_sha256"]
    assert about["index_sha256"] == meta["data"]["index_sha256"]
    assert about["num_train_clips"] == meta["data"]["num_train_clips"] == 24
    assert about["clip"] == {"num_frames": 16, "fps": 8.0, "size": 16}
    tensors, stored = content_of(probed / PROBES)
    assert stored["depth"]["unit"] == "m" and stored["position"]["hidden"]["unit"] == "px"
    assert stored["position"]["hidden"]["picture"] == [16, 16]
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert (probed / PROBES).stat().st_size < 8 * numbers + 3000


def test_another_models_are_refused_in_one_line(
    probed: Path, model: LoadedModel, tmp_path: Path
) -> None:
    other = replace(model, sha256="ab" * 32)
    with pytest.raises(InputError, match=rf"{PROBES} has probes of checkpoint .*, not of abab"):
        read_probes(probed / PROBES, other)
    # An export knows the checkpoint that it was made from.
    exported = replace(other, config=model.config | {"checkpoint_sha256": model.sha256})
    assert hashes_of(exported) == ["ab" * 32, model.sha256]
    assert read_probes(probed / PROBES, exported).position.keys()
    with pytest.raises(InputError, match=r"there is no .*nothing; `worldmodel evaluate` writes"):
        read_about(tmp_path / "nothing", [model.sha256])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors, about: about.update(format_version=2), "is of format version 2"),
        (lambda tensors, about: about.pop("checkpoint_sha256"), "cannot be read as probes"),
        (lambda tensors, about: about.pop("index_sha256"), "is damaged.*index_sha256"),
        (lambda tensors, about: about["depth"].update(grid=[3, 3]), "is damaged.*the model has"),
        (lambda tensors, about: about["position"]["hidden"].update(level=7), "is damaged"),
        (lambda tensors, about: about["position"].update(gone={}), "is damaged.*gone"),
        (lambda tensors, about: tensors.pop("depth.usual"), "is damaged.*depth.usual"),
        (lambda tensors, about: tensors["depth.mean"].fill_(torch.nan), "is not finite"),
        (
            lambda tensors, about: tensors.update({"position.hidden.weight": torch.zeros(3, 2)}),
            r"position.hidden.weight is torch.float32 \(3, 2\), the model asks for float64",
        ),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(
    probed: Path,
    model: LoadedModel,
    tmp_path: Path,
    edit: Callable[[dict[str, Tensor], dict[str, Any]], Any],
    message: str,
) -> None:
    path = changed(probed / PROBES, tmp_path / "changed", edit)
    with pytest.raises(InputError, match=message) as caught:
        read_probes(path, model)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_or_of_another_kind_is_refused(
    probed: Path, model: LoadedModel, tmp_path: Path
) -> None:
    whole = (probed / PROBES).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4], b"", b"\x80\x04."):
        (tmp_path / "cut").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as probes"):
            read_probes(tmp_path / "cut", model)
    (tmp_path / "cut").write_bytes(save({"weight": torch.ones(2)}))
    with pytest.raises(InputError, match=f"cannot be read as probes .*{ABOUT}"):
        read_probes(tmp_path / "cut", model)


def test_a_file_without_depth_reads_places(
    probed: Path, model: LoadedModel, tmp_path: Path
) -> None:
    path = changed(probed / PROBES, tmp_path / PROBES, lambda _, about: about.pop("depth"))
    probes: StoredProbes = read_probes(path, model)
    assert probes.depth is None and set(probes.position) == {"visible", "hidden"}


def test_they_are_found_beside_the_model(
    probed: Path, checkpoint: Path, model: LoadedModel, tmp_path: Path
) -> None:
    assert find_probes(None, model) is None
    assert find_probes(probed, model) == find_probes(probed / PROBES, model) == probed / PROBES
    run = tmp_path / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "report").mkdir()
    shutil.copy(checkpoint, run / "checkpoints" / "last.ckpt")
    trained = load_model(run / "checkpoints" / "last.ckpt")
    shutil.copy(probed / PROBES, run / "checkpoints" / PROBES)
    assert find_probes(None, trained) == run / "checkpoints" / PROBES
    shutil.copy(probed / PROBES, run / "report" / PROBES)
    assert find_probes(None, trained) == run / "report" / PROBES


def test_an_export_takes_them_along(
    probed: Path, checkpoint: Path, model: LoadedModel, tmp_path: Path
) -> None:
    out = export_model(checkpoint, tmp_path / "out", probed)
    assert (out / PROBES).read_bytes() == (probed / PROBES).read_bytes()
    exported = load_model(out)
    assert exported.sha256 != model.sha256
    path = find_probes(None, exported)
    assert path == out / PROBES and read_probes(path, exported).depth is not None
    # The model itself needs nothing of them, and an export without a report has none.
    (out / PROBES).write_bytes(b"damaged")
    assert len(WorldModel.from_pretrained(out).levels) == 2
    assert not (export_model(checkpoint, out) / PROBES).exists()


def test_an_export_refuses_a_report_with_another_models_probes(
    probed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    shutil.copy(probed / "report.json", report)
    changed(
        probed / PROBES,
        report / PROBES,
        lambda _, about: about.update(checkpoint_sha256=["cd" * 32]),
    )
    with pytest.raises(InputError, match="has probes of checkpoint cdcdcdcdcdcd, not of"):
        export_model(checkpoint, tmp_path / "out", report / "report.json")
    assert not (tmp_path / "out").exists()
