"""With what code, packages and hardware something was made."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import worldmodel

PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "av",
    "mujoco-core",
    "numba",
    "torchmetrics",
    "matplotlib",
)


def describe_environment() -> dict[str, Any]:
    """`version`, `git_commit`, `packages` and `hardware`."""
    return {
        "version": worldmodel.__version__,
        "git_commit": git_commit(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "hardware": machine(),
    }


def git_commit() -> str:
    """Commit of the source tree this package lies in, or `unknown`."""
    folder = Path(worldmodel.__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def package_version(name: str) -> str:
    """Installed version of a package, or `missing`."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def machine() -> dict[str, Any]:
    """Processor, cores and Python of this machine, and its GPUs where torch can use any."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    found = {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version()}
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {**found, **({"gpus": gpus} if gpus else {})}
