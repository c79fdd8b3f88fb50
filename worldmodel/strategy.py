"""How several devices share a training: FSDP2 beside Lightning's own strategies."""

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry


class ShardedStrategy(ModelParallelStrategy):
    """`trainer.strategy: fsdp2`: every device has its part of weights, gradients and moments.

    Lightning's strategy for FSDP2 with all devices of all nodes in one data-parallel group. What
    is sharded is the model's own choice (`compute.py`). Checkpoints are single files with whole
    tensors, as those of DDP and of one device, and can be resumed as such.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()


StrategyRegistry.register(
    "fsdp2", ShardedStrategy, description="Fully sharded data parallel, FSDP2"
)
