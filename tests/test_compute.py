"""Compiled parts compute what they compute otherwise, each layer's shape compiled once.

With the compiler's first half (`aot_eager`): what it makes of the code is traced and run, and no
kernels are written, which takes minutes; the slow test of `test_training.py` has them too.
"""

import copy
import dataclasses
from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn

from worldmodel.blanks import BlankConfig
from worldmodel.cli import main
from worldmodel.compute import check_compiler, compile_parts
from worldmodel.errors import InputError
from worldmodel.losses import kernels
from worldmodel.losses.baselines import InfoNCE
from worldmodel.losses.prediction import CombinedPrediction, SquaredError
from worldmodel.task import WorldModelTask


@pytest.fixture
def traced(monkeypatch):
    """How often each function is traced."""
    times = Counter()
    real = torch.compile

    def backend(graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    def traced(function, **options):
        def counting(graph, inputs):
            times[getattr(function, "__name__", type(function).__name__)] += 1
            return backend(graph, inputs)

        return real(function, backend=counting, **options)

    def compile_module(self, **options):
        self._compiled_call_impl = real(self._call_impl, backend=backend, **options)

    # Checks of shapes at run time are no part of what is compiled, and cannot be.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(nn.Module, "compile", compile_module)
    kernels.compiled.cache_clear()
    torch._dynamo.reset()
    yield times
    kernels.compiled.cache_clear()
    torch._dynamo.reset()


def test_compiled__same_losses_and_gradients(traced, encoder_config, level_configs, clip):
    level_configs = [dataclasses.replace(each, depth=2) for each in level_configs]
    loss = CombinedPrediction([SquaredError(), InfoNCE(max_negatives=16)], [1.0, 0.1])
    task = WorldModelTask(
        level_configs,
        encoder_config,
        prediction_loss=loss,
        top_down=True,
        blanks=BlankConfig(share=0.5),
    )
    task.hierarchy.reset_heads()  # those of a new network are zero, and so most gradients
    twin = copy.deepcopy(task)
    compile_parts(twin.hierarchy, (twin.prediction_loss, twin.regularizers))
    assert task.state_dict().keys() == twin.state_dict().keys()
    found = []
    for each in (task, twin):
        losses, _ = each.objective(clip)
        each.total(losses).backward()
        found.append((losses, {name: p.grad for name, p in each.named_parameters()}))
    (plain, gradients), (compiled, compiled_gradients) = found
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-6)
    # Every layer of a level is of one shape. A slower level has another.
    for name in ("run_layer", "read_in", "read_out", "mean_squared_error", "mean_contrast"):
        assert traced[name] == len(level_configs), (name, traced)
    # Both scopes have the same.
    assert traced["_mean_turns"] == traced["_turns_gradient"] == len(level_configs)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_compiler__is_looked_for_before_the_run(kind, monkeypatch, tmp_path):
    device = torch.device(kind)
    there = tmp_path / "my-compiler"
    there.touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"needs a compiler .* set model.compute.compile to false"):
        check_compiler(device)
    monkeypatch.setenv("CXX" if kind == "cpu" else "CC", str(there))
    check_compiler(device)
    (tmp_path / "Python.h").unlink()
    with pytest.raises(InputError, match="headers of Python"):
        check_compiler(device)


def test_fit__says_that_there_is_no_compiler(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda program: None)
    config = Path(__file__).parent / "conf" / "small.yaml"
    args = ["fit", "--config", str(config), "--data.shards", f"{shards}/*.tar"]
    more = ["--trainer.default_root_dir", str(tmp_path), "--model.compute.compile", "true"]
    assert main([*args, *more]) == 2
    assert "torch.compile needs a compiler" in capsys.readouterr().err


def test_not_compiled__unless_asked(traced, encoder_config, level_configs, clip):
    task = WorldModelTask(level_configs, encoder_config)
    losses, _ = task.objective(clip)
    task.total(losses).backward()
    assert not traced
