"""`make lab`: a kernel of this environment is registered, starts, and has the package."""

import os
import site
import subprocess
import venv
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab")
pytest.importorskip("ipykernel")
client = pytest.importorskip("jupyter_client")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that has what this one has: what a kernel's file is written to."""
    folder = tmp_path_factory.mktemp("lab") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "all.pth").write_text("\n".join([str(ROOT), *site.getsitepackages()]))
    return folder


@pytest.fixture(scope="module")
def said(environment: Path) -> str:
    """What the target says, all but that it opens a browser; `-o`: nothing is installed."""
    installed, arguments = f"{environment}/installed", "LAB_ARGS=--version"
    done = subprocess.run(
        ["make", "-C", str(ROOT), "-o", installed, "lab", f"VENV={environment}", arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lab__is_the_one_of_the_environment(said: str) -> None:
    import jupyterlab

    assert jupyterlab.__version__ in said.split()


def test_lab__its_kernel_starts_and_has_the_package(said: str, environment: Path) -> None:
    kernels = environment / "share" / "jupyter" / "kernels"
    specs = client.kernelspec.KernelSpecManager(kernel_dirs=[str(kernels)])
    manager = client.KernelManager(kernel_name="worldmodel", kernel_spec_manager=specs)
    assert manager.kernel_spec.display_name == "worldmodel"
    assert Path(manager.kernel_spec.argv[0]).parent == environment / "bin"
    quiet = os.environ | {"PYTHONPATH": "", "IPYTHONDIR": str(environment)}
    manager.start_kernel(cwd=str(environment), env=quiet)
    kernel = manager.client()
    try:
        kernel.start_channels()
        kernel.wait_for_ready(timeout=60)
        printed: list[str] = []
        reply = kernel.execute_interactive(
            "import worldmodel, sys; print(worldmodel.__file__, sys.prefix)",
            timeout=60,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok"
    assert "".join(printed).split() == [str(ROOT / "worldmodel" / "__init__.py"), str(environment)]
