"""Files of an encoder in the format of Hugging Face: found, fetched, read as data and hashed.

A folder holds `config.json`, weights as safetensors, and perhaps the configuration of its
preprocessor. Nothing else is fetched or read: no code, no pickles.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worldmodel.errors import InputError

ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
"""`hf://org/name` or `hf://org/name@revision`; a Path has made one slash of two."""
PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PROBES = "probes.safetensors"
"""What an evaluation fitted on a model of ours, beside its weights; no model needs it."""
REPORT_NAME = "report.json"
"""What an evaluation measured, in a report's folder or beside an export's weights."""


def import_extra(name: str) -> Any:
    """A module of the extra `encoders`.

    Raises:
        InputError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"other people's encoders need {name}, which cannot be imported "
            f"({first_line(error)}); pip install worldmodel[encoders]"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def find_folder(source: str | Path) -> tuple[Path, str]:
    """The folder of an encoder, fetched from the Hub where it lies there, and its name.

    Raises:
        InputError: no such folder, or it cannot be fetched.
    """
    if str(source).startswith("hf:"):
        return fetch(str(source))
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"there is no checkpoint at {folder}: a folder must hold config.json and "
            f"{WEIGHTS}, as Hugging Face writes them; for a model of `worldmodel fit` give a file "
            "such as last.ckpt"
        )
    return folder, folder.resolve().name


def fetch(address: str) -> tuple[Path, str]:
    """Download an encoder's files from the Hub, or find them in its cache.

    Args:
        address: `hf://org/name`, or `hf://org/name@revision`.

    Returns:
        The folder, and the address with the commit that was fetched.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address} is no address such as hf://facebook/vjepa2-vitl-fpc64-256")
    hub = import_extra("huggingface_hub")
    wanted = ["config.json", "README.md", *PREPROCESSORS]
    wanted += [WEIGHTS, WEIGHTS_INDEX, PROBES, "model-*-of-*.safetensors"]
    try:
        folder = Path(
            hub.snapshot_download(match["name"], revision=match["revision"], allow_patterns=wanted)
        )
    except Exception as error:  # its own kinds, the network's and the disk's
        raise InputError(
            f"hf://{match['name']} cannot be fetched ({type(error).__name__}: "
            f"{first_line(error)}); check name and network, accept its licence on its page where "
            "it asks for that, or give the path of a folder that holds it"
        ) from error
    if not (folder / "config.json").is_file():
        raise InputError(f"hf://{match['name']} has no config.json: it is no transformers model")
    return folder, f"hf://{match['name']}@{folder.name}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def find_weights(folder: Path) -> list[Path]:
    """The safetensors of a folder, by name: one file, or those that its index lists.

    Raises:
        InputError: there are none, or the index lists files that are not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        more = f"; {', '.join(pickled)} may run code when read: convert it" if pickled else ""
        raise InputError(f"{folder} has no {WEIGHTS}: weights are read from safetensors only{more}")
    listed = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing or not names:
        raise InputError(
            f"{folder / WEIGHTS_INDEX} lists {', '.join(missing) or 'no files'} but the folder "
            "must hold all that it lists; fetch it again"
        )
    return [folder / name for name in names]


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 of files one after the other; for a single file what the Hub shows for it."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Settings of the checkpoint's preprocessor, that for video first; empty if it has none."""
    for name in PREPROCESSORS:
        if (folder / name).is_file():
            return read_json(folder / name)
    return {}
