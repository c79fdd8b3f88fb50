import torch

from worldmodel.callbacks import ThreadsPerProcess


def test_threads__are_shared_among_local_processes(module, monkeypatch, trainer_at):
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for devices in (1, 4, 16):
        trainer = trainer_at(0)
        trainer.num_devices = devices
        ThreadsPerProcess().setup(trainer, module, "fit")
    assert chosen == [2, 1]
