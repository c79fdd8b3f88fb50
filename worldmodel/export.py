"""Export: a trained model as a folder that needs neither this repository nor anything unpickled.

    config.json         what the model is, how pixels come to it, and how it was trained
    model.safetensors   the hierarchy's weights and nothing else of the checkpoint
    README.md           its model card, as the Hugging Face Hub shows it
    report.json         what it was measured to know, where a report was given
    probes.safetensors  what that report's probes learned to read from it, where they lie beside it

The same checkpoint, report and command give the same bytes.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from worldmodel.errors import InputError, one_line
from worldmodel.evaluation.probes.stored import read_about
from worldmodel.model_card import model_card
from worldmodel.models.checkpoint import (
    CONFIG_NAME,
    FORMAT_VERSION,
    MODEL_TYPE,
    NORMALISATION,
    build_trained,
    check_clip,
    find_export,
    hierarchy_weights,
    is_export,
    last_of_run,
    load_export,
    read_checkpoint,
)
from worldmodel.models.hub_files import (
    PROBES,
    REPORT_NAME,
    WEIGHTS,
    first_line,
    hash_files,
    read_json,
)
from worldmodel.models.pretrained import CARD_NAME

RUN_CONFIG_NAME = "config.yaml"
# Of a path, set, split and file; what stands before is somebody's disk.
PUBLIC_PARTS = 3
# As licences are called on the Hub.
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    report: str | Path | None = None,
    command: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write a checkpoint's model as a folder, whole or not at all.

    Args:
        checkpoint: of `worldmodel fit`, or a run's folder, whose last one is taken. The run's
            `config.yaml` is read where it lies as a run leaves it: beside the checkpoint's folder.
            Or an export, the name of a shipped one or `hf://org/name`, to give it a report, a
            command or a licence later: what it says of itself is kept, but for the licence.
        out: the folder; an export that lies there is replaced.
        report: folder of `worldmodel evaluate` on this checkpoint, or its `report.json`; its probes
            go with it.
        command: the line that trained the model, for its card.
        licence: of the weights, as the Hub calls it (`apache-2.0`).

    Returns:
        The folder.

    Raises:
        InputError: the checkpoint or report cannot be read, they do not belong together, or the
            folder holds something else or cannot be written.
    """
    out = Path(out).resolve()
    export = find_export(checkpoint)
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise InputError(f"a licence is called such as apache-2.0 or cc-by-4.0, got {licence!r}")
    check_replaceable(out)
    if export is not None:
        config, weights = describe_again(export, command)
        report = report or (export if (export / REPORT_NAME).is_file() else None)
    else:
        checkpoint = checkpoint_of(checkpoint)
        content = read_checkpoint(checkpoint)
        weights = hierarchy_weights(content)
        build_trained(content["worldmodel"], weights, str(checkpoint))  # else nobody can load it
        config = describe_export(content, checkpoint, command)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    # One entry: the order of several is not fixed.
    saved = save(weights, metadata={"format": "pt"})
    config["weights_sha256"] = hashlib.sha256(saved).hexdigest()
    files = {CONFIG_NAME: _json_bytes(config), WEIGHTS: saved}
    measured = None
    if report is not None:
        files[REPORT_NAME], measured = read_report(Path(report), config)
        beside = Path(report) / PROBES if Path(report).is_dir() else Path(report).with_name(PROBES)
        if beside.is_file():
            read_about(beside, [config["checkpoint_sha256"], config["weights_sha256"]])
            files[PROBES] = beside.read_bytes()
    num_weights = sum(tensor.numel() for tensor in weights.values())
    files[CARD_NAME] = model_card(config, num_weights, measured, licence).encode()
    try:
        with written_folder(out) as partial:
            for name, written in files.items():
                _write(partial / name, written)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def checkpoint_of(source: str | Path) -> Path:
    """The file of `worldmodel fit` that is meant, the last one of a run's folder.

    Raises:
        InputError: a folder that is no run, or somebody else's encoder.
    """
    if not Path(source).is_dir() and not str(source).startswith("hf:"):
        return Path(source)
    last = None if str(source).startswith("hf:") else last_of_run(Path(source))
    if last is None:
        raise InputError(
            f"{source} holds no model of `worldmodel fit`; give a file such as last.ckpt, a run's "
            "folder or an export"
        )
    return last


def describe_export(
    content: Mapping[str, Any], checkpoint: Path, command: str | None
) -> dict[str, Any]:
    """The content of `config.json`, but for the hash of the weights.

    Args:
        content: of the checkpoint.
        checkpoint: the file.
        command: the line that trained it.

    Raises:
        InputError: the checkpoint does not say enough, or `config.yaml` cannot be read.
    """
    stored = dict(content["worldmodel"])
    clip = check_clip(stored.get("clip") or {}, str(checkpoint))
    run = read_run_config(checkpoint)
    described: dict[str, Any] = {"model_type": MODEL_TYPE, "format_version": FORMAT_VERSION}
    described |= stored
    described["clip"] = {"num_frames": clip.num_frames, "fps": clip.fps, "size": clip.size}
    described["normalisation"] = NORMALISATION
    if began_with := stored.get("began_with"):
        described["began_with"] = began_with | {"source": public_pattern(began_with["source"])}
    described["data"] = dict(stored.get("data") or {}) | {"sets": training_sets(run)}
    described["training"] = {"command": None if command is None else one_line(command)}
    described["training"] |= training_settings(run)
    described["global_step"] = int(content["global_step"])
    described["checkpoint_sha256"] = hash_files([checkpoint])
    return described


def describe_again(folder: Path, command: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of an export's `config.json`, and its weights.

    Args:
        folder: of the export.
        command: the line that trained it; what it says itself where not given.

    Raises:
        InputError: it is damaged, or of a later version.
    """
    model = load_export(folder)
    config = dict(model.config)
    if command is not None:
        config["training"] = config.get("training", {}) | {"command": one_line(command)}
    return config, model.network.state_dict()


def read_run_config(checkpoint: Path) -> dict[str, Any]:
    """The run's `config.yaml`, which lies beside the folder `checkpoints`; empty if there is none.

    Raises:
        InputError: it cannot be read.
    """
    folder = checkpoint.resolve().parent
    return read_run_folder(folder.parent if folder.name == "checkpoints" else folder)


def read_run_folder(folder: Path) -> dict[str, Any]:
    """The `config.yaml` in a run's folder; empty if there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / RUN_CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        run = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({first_line(error)})") from error
    # Another program's, which happens to lie there, says nothing about this run.
    return run if isinstance(run, dict) and isinstance(run.get("model"), dict) else {}


def training_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's configuration made the weights what they are, paths left out."""
    if not run:
        return {}
    trainer, data = run.get("trainer") or {}, run.get("data") or {}
    settings: dict[str, Any] = {"seed": run.get("seed_everything")}
    for source, names in (
        (trainer, ("max_steps", "precision", "devices", "num_nodes", "gradient_clip_val")),
        (data, ("batch_size", "clips_per_video", "flip", "zoom", "color_jitter")),
    ):
        settings |= {name: source[name] for name in names if name in source}
    method = {
        name: value
        for name, value in run["model"].items()
        if name not in ("encoder", "levels", "init_from")
    }
    return settings | {"method": method}


def training_sets(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Patterns of the shards a run learned from, each with the hash of its set's index.

    The hash is that of `index.json` as it lies there now; None where there is none or the set is
    not on this disk.
    """
    shards = (run.get("data") or {}).get("shards")
    groups = list(shards.values()) if isinstance(shards, dict) else [shards]
    patterns: list[str] = []
    for group in groups:
        patterns += [str(each) for each in (group if isinstance(group, list) else [group]) if each]
    sets = []
    for pattern in patterns:
        index = Path(pattern).parent.parent / "index.json"
        found = "://" not in pattern and index.is_file()
        sets.append(
            {
                "shards": public_pattern(pattern),
                "index_sha256": hash_files([index]) if found else None,
            }
        )
    return sets


def public_pattern(pattern: str) -> str:
    """A pattern of shards without what concerns nobody else: disk, user, password or query."""
    if "://" in pattern:
        return re.sub(r"://[^/@]*@", "://", pattern.split("?")[0])
    return "/".join(Path(pattern).parts[-PUBLIC_PARTS:])


def read_report(path: Path, config: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A report's bytes and content.

    Args:
        path: `report.json` or the folder it lies in.
        config: of the export, with the hashes of checkpoint and weights.

    Raises:
        InputError: there is none, or it is about another model.
    """
    file = path / REPORT_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"there is no {file}; give the folder of `worldmodel evaluate`")
    report = read_json(file)
    meta = report.get("meta")
    measured = meta.get("checkpoint_sha256") if isinstance(meta, dict) else None
    if measured not in (config["checkpoint_sha256"], config["weights_sha256"]):
        raise InputError(
            f"{file} is a report on checkpoint {measured!s:.12}, not on "
            f"{config['checkpoint_sha256']:.12}; evaluate this one"
        )
    return file.read_bytes(), report


def check_replaceable(out: Path) -> None:
    """Refuse a folder that holds anything but an export.

    Raises:
        InputError: it does, or is no folder.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a folder")
    held = sorted(path.name for path in out.iterdir())
    if held and not is_export(out):
        raise InputError(
            f"{out} holds {', '.join(held[:3])} and is no export, so it is not replaced; "
            "give another folder"
        )
    ours = (CONFIG_NAME, WEIGHTS, CARD_NAME, REPORT_NAME, PROBES)
    others = [name for name in held if name not in ours]
    if others:
        raise InputError(
            f"{out} is an export but also holds {', '.join(others[:3])}, which would be lost; "
            "move it away or give another folder"
        )


@contextlib.contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """A folder that takes its name, and the place of the one there, when all of it is written."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.mkdir()
        yield partial
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    finally:
        if replaced.exists() and not out.exists():  # cut short between the two
            replaced.rename(out)
        # Gone after the rename.
        shutil.rmtree(partial, ignore_errors=True)
        if out.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that a power cut after the rename cannot leave it empty."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json_bytes(config: Mapping[str, Any]) -> bytes:
    # YAML knows dates, which JSON does not.
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return f"{text}\n".encode()
