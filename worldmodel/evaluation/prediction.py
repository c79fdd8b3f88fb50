"""Does the predictor beat the trivial ones? Errors per level and horizon, and their ratios."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worldmodel.evaluation.nulls import DriftFit, DriftInputs

NULLS = ("copy", "running_mean", "ar1")
# Added to both errors of a ratio. Tokens that never change (a collapsed model) are predicted
# without error by everyone; that is no skill, so the ratio is then 1 and not 0.
FLOOR = 1e-12


def ratio(error: float, null: float) -> float:
    """Error divided by a null's error; 1 where both vanish."""
    return (error + FLOOR) / (null + FLOOR)


class PredictionErrors:
    """Squared errors of a model and of three trivial predictors on the same steps.

    Steps τ run from 1, where the first change exists, to the last whose target lies in the clip.

    Args:
        dims: width of each level's tokens.
        horizons: horizons of each level, in its own steps.
        spans: frames per step of each level.
    """

    def __init__(
        self, dims: Sequence[int], horizons: Sequence[Sequence[int]], spans: Sequence[int]
    ) -> None:
        self.dims, self.horizons, self.spans = list(dims), list(horizons), list(spans)
        self.fits = {
            (level, horizon): DriftFit(dim, horizon)
            for level, dim in enumerate(dims)
            for horizon in horizons[level]
        }
        self.sums = {place: dict.fromkeys(("model", *NULLS), 0.0) for place in self.fits}
        self.counts = dict.fromkeys(self.fits, 0)
        self.clips = 0

    def fit(self, tokens: Sequence[Tensor]) -> None:
        """Take in training clips' tokens per level, `(B, T_l, N_l, D_l)`."""
        for number, values in enumerate(tokens):
            inputs = DriftInputs.of(values.double())
            products = inputs.products()
            for (level, _), fit in self.fits.items():
                if level == number:
                    fit.add(inputs, products)

    def blank(self) -> "PredictionErrors":
        """The same predictors with nothing taken in: what a chunk of clips is added to."""
        fresh = PredictionErrors(self.dims, self.horizons, self.spans)
        for place, fit in self.fits.items():
            fresh.fits[place].coefficients = fit.coefficients
        return fresh

    def merge(self, later: "PredictionErrors") -> None:
        """Take in what another has taken in."""
        self.clips += later.clips
        for place, fit in later.fits.items():
            self.fits[place].merge(fit)
            self.counts[place] += later.counts[place]
            for name, value in later.sums[place].items():
                self.sums[place][name] += value

    def solve(self) -> None:
        """Fit the drift predictor to the training clips."""
        for fit in self.fits.values():
            fit.solve()

    def add(self, tokens: Sequence[Tensor], predicted: Sequence[dict[int, Tensor]]) -> None:
        """Take in test clips: tokens per level, and predictions per level and horizon."""
        self.clips += len(tokens[0])
        inputs = [DriftInputs.of(values.double()) for values in tokens]
        found: dict[tuple[int, int], Tensor] = {}
        for (level, horizon), fit in self.fits.items():
            known = inputs[level]
            target = known.tokens[:, 1 + horizon :]
            if not target.shape[1]:
                continue
            kept = slice(1, -horizon)
            guesses = (  # in the order of the sums
                predicted[level][horizon][:, kept].double(),
                known.tokens[:, kept],
                known.mean[:, :-horizon],
                fit.predict(known)[:, :-horizon],
            )
            found[level, horizon] = torch.stack(
                [(guess - target).square().sum() for guess in guesses]
            )
            self.counts[level, horizon] += target.numel()
        if not found:
            return
        # Asked for at once: each answer waits for all that the GPU has been told.
        for place, added in zip(found, torch.stack([*found.values()]).tolist(), strict=True):
            sums = self.sums[place]
            for name, value in zip(("model", *NULLS), added, strict=True):
                sums[name] += value

    def report(self) -> dict[str, dict[str, dict[str, float]]]:
        """`level{l}.h{h}` with the error, its ratios to each null, and to the best of them."""
        section: dict[str, dict[str, dict[str, float]]] = {}
        for (level, horizon), sums in self.sums.items():
            count = self.counts[level, horizon]
            if not count:
                continue
            errors = {name: value / count for name, value in sums.items()}
            entry = {"error": errors["model"]}
            for name in NULLS:
                entry[f"{name}_ratio"] = ratio(errors["model"], errors[name])
            entry["skill_ratio"] = ratio(errors["model"], min(errors[name] for name in NULLS))
            entry["horizon_frames"] = horizon * self.spans[level]
            entry["num_clips"] = self.clips
            section.setdefault(f"level{level}", {})[f"h{horizon}"] = entry
        return section
