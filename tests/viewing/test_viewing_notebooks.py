"""Notebooks import and never define; what is stored in them can be read on a code host."""

import ast
import base64
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_500_000
# A path of the machine that ran it.
OWN_PATH = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|opt)/")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def code_cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_cells_define_nothing(notebook: Path) -> None:
    for cell in code_cells(notebook):
        source = re.sub(r"^%.*$", "", "".join(cell["source"]), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), source


def test_outputs_are_stored_without_errors_and_without_paths_of_a_machine(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert len(cells) >= 4
    assert any(cell["outputs"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        assert not OWN_PATH.search("".join(output.get("text", "")))
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                assert not OWN_PATH.search("".join(content))


def test_pictures_are_pngs_and_small(notebook: Path) -> None:
    assert notebook.stat().st_size < MAX_BYTES
    pictures = [
        output["data"]["image/png"]
        for cell in code_cells(notebook)
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
    assert all(base64.b64decode(each).startswith(b"\x89PNG") for each in pictures)
