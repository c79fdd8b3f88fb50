"""`make lab` opens JupyterLab, and the kernel that it registers can run the notebooks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

pytest.importorskip("jupyterlab")
pytest.importorskip("ipykernel")

PROJECT = Path(__file__).resolve().parents[2]
OPTIONS = "--no-browser --allow-root --ServerApp.port=0 --IdentityProvider.token=known"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    """The address of a server that `make lab` has started, with the interpreter of the tests."""
    installed = tmp_path_factory.mktemp("lab") / "installed"  # newer than what asks for it
    installed.touch()
    command = ["make", "lab", f"PYTHON={sys.executable}", f"INSTALLED={installed}"]
    # What the make that runs the tests was called with is not for this one.
    variables = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    server = subprocess.Popen(
        [*command, f"LAB_ARGS={OPTIONS}"],
        cwd=PROJECT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = ""
        for line in server.stderr:
            said += line
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab", line):
                break
        else:
            pytest.fail(f"no server: {said}")
        address = f"http://127.0.0.1:{found[1]}"
        _wait_for(address)  # which it names before it listens
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            ask(address, "status")
            return
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"nothing answers at {address}")


def ask(lab: str, path: str) -> dict:
    with urlopen(f"{lab}/api/{path}?token=known", timeout=30) as answer:
        return json.load(answer)


def test_lab__shows_the_notebooks(lab: str) -> None:
    names = {each["name"] for each in ask(lab, "contents")["content"]}
    assert {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")} <= names


def test_lab__its_kernel_runs_this_package(lab: str) -> None:
    from jupyter_client.manager import run_kernel

    spec = ask(lab, "kernelspecs")["kernelspecs"]["worldmodel"]["spec"]
    assert spec["display_name"] == "worldmodel"
    assert Path(spec["argv"][0]).samefile(sys.executable)
    with run_kernel(kernel_name="worldmodel") as client:
        answer = client.execute_interactive(
            "import worldmodel; print(worldmodel.__file__)", timeout=60, output_hook=lambda _: None
        )
        assert answer["content"]["status"] == "ok"
