"""What watches a run, and what it leaves on the disk."""

from worldmodel.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from worldmodel.callbacks.levels import LevelMonitor
from worldmodel.callbacks.pictures import Pictures
from worldmodel.callbacks.preflight import Preflight
from worldmodel.callbacks.processes import ThreadsPerProcess
from worldmodel.callbacks.progress import RunProgressBar
from worldmodel.callbacks.record import RunRecord
from worldmodel.callbacks.rerun_record import RerunRecord
from worldmodel.callbacks.spikes import SpikeWatch
from worldmodel.callbacks.stopping import EndTogether, StopOnSignal, is_lost_peer
from worldmodel.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "EndTogether",
    "LastCheckpoint",
    "LevelMonitor",
    "Pictures",
    "Preflight",
    "RerunRecord",
    "RunProgressBar",
    "RunRecord",
    "SpikeWatch",
    "StopOnSignal",
    "ThreadsPerProcess",
    "Throughput",
    "is_lost_peer",
]
