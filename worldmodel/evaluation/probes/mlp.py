"""A small network as a probe, beside the linear one."""

import numpy as np
import torch
from torch import Tensor, nn


class MlpProbe:
    """One hidden layer of GELUs on standardised features: what a linear probe leaves unread.

    Args:
        train: features `(n, F)` and targets `(n, K)`.
        val: rows on which the pass is chosen at which training stops being useful.
        hidden: width of the hidden layer.
        passes: passes over the training rows.
        seed: of weights and order.
    """

    def __init__(
        self,
        train: tuple[Tensor, np.ndarray],
        val: tuple[Tensor, np.ndarray],
        hidden: int = 128,
        passes: int = 12,
        seed: int = 0,
    ) -> None:
        features, targets = train[0].float(), torch.from_numpy(train[1]).float()
        self.mean, self.scale = features.mean(0), features.std(0) + 1e-6
        self.target_mean, self.target_scale = targets.mean(0), targets.std() + 1e-6
        generator = torch.Generator().manual_seed(seed)
        self.network = _mlp(features.shape[1], hidden, targets.shape[1], generator)
        wanted = (targets - self.target_mean) / self.target_scale
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=2e-3, weight_decay=0.05)
        best, chosen = float("inf"), self.network.state_dict()
        for _ in range(passes):
            for rows in torch.randperm(len(features), generator=generator).split(256):
                standard = (features[rows] - self.mean) / self.scale
                loss = nn.functional.mse_loss(self.network(standard), wanted[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            error = float(np.mean((self(val[0]) - val[1]) ** 2))
            if error < best:
                best = error
                chosen = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(chosen)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> np.ndarray:
        """Predict float64 `(n, K)` from `(n, F)`."""
        standard = (features.float() - self.mean) / self.scale
        return (self.network(standard) * self.target_scale + self.target_mean).double().numpy()


def _mlp(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    layers = [
        nn.utils.skip_init(nn.Linear, *size) for size in ((inputs, hidden), (hidden, outputs))
    ]
    for layer in layers:
        # Weights come from the probe's own generator; the global one stays as it is.
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1])
