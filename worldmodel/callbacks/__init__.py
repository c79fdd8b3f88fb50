"""What watches a run, and what it leaves on the disk."""

from worldmodel.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from worldmodel.callbacks.levels import LevelMonitor
from worldmodel.callbacks.processes import ThreadsPerProcess
from worldmodel.callbacks.progress import RunProgressBar

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "LastCheckpoint",
    "LevelMonitor",
    "RunProgressBar",
    "ThreadsPerProcess",
]
