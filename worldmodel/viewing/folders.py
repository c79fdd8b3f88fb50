"""Where a notebook finds the project and its data, whichever folder it runs in."""

from pathlib import Path

from worldmodel.data.index import INDEX_NAME
from worldmodel.errors import InputError

PHYSICS = Path("data/physics")


def project_folder(start: Path | None = None) -> Path:
    """The clone of the repository that we are in: the nearest folder with `configs/tiny.yaml`.

    Args:
        start: folder to look in, and then above; the current one by default.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "configs" / "tiny.yaml").is_file():
            return folder
    raise InputError(
        f"no configs/tiny.yaml in {start} or above: open it in a clone of the repository, after "
        "`make install` and `make data`"
    )


def find_physics(start: Path | None = None) -> Path:
    """The set `data/physics` of the folder that we are in, or of one above it.

    Args:
        start: folder to look in, and then above; the current one by default.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / PHYSICS / INDEX_NAME).is_file():
            return folder / PHYSICS
    raise InputError(f"no {PHYSICS}/{INDEX_NAME} in {start} or above; `make data` makes the set")
