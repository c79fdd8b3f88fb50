"""Over which tokens a regularizer takes its statistics.

A regularizer looks at clouds of tokens and pushes their distribution away from a point. *Which*
clouds is a choice of its own, the scope; any regularizer goes with any scope. All tokens of the
batch alone can be met by what never changes within a clip (colours, the camera), and then copying
is perfect prediction and nothing about change is learned. Tokens minus their clip's temporal mean
are forced to vary in time, and prediction picks from that what varies predictably. A cloud for
each step, or for each token position, asks every moment or every place for the whole variety: none
can be poor in it because others are rich.

A scope gives groups of rows `(G, R, D)`; the penalty is the mean over groups. It may be taken on a
share of the rows: a few places (a time step and a token position, drawn by a seed), the same ones
in every clip, so that N ranks with B clips each still take what one rank with N * B clips takes.

Fewer rows make the penalty noisier and greater. Greater, because SIGReg and VICReg square
statistics of R rows, and the expected square holds their own variance, which falls with 1 / R. At
independent rows of a standard normal SIGReg's sum over points is sum_k w_k (1 - w_k^2) / R instead
of 0, ||C - I||_F^2 / D about (D + 1) / R, and VICReg's covariance term about (D - 1) / R; tokens of
one clip are alike, which counts as fewer rows. Noisier, with a standard deviation that falls with
1 / sqrt(R) away from the optimum, and with 1 / R, like the bias, at it.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.losses.draws import seeded_generator
from worldmodel.losses.ranks import num_places


def whole_batch(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "1 batch places dim"]:
    """Scope `batch`: one group, of every token of every step of every clip."""
    return rearrange(tokens, "b t n d -> 1 b (t n) d")


def within_clip(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "1 batch places dim"]:
    """Scope `within_clip`: one group, of tokens minus their clip's temporal mean at their place."""
    return whole_batch(tokens - tokens.mean(dim=1, keepdim=True))


def per_step(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "time batch tokens dim"]:
    """Scope `per_step`: a group for each time step, of the tokens of that step of every clip."""
    return rearrange(tokens, "b t n d -> t b n d")


def per_token(
    tokens: Float[Tensor, "batch time tokens dim"],
) -> Float[Tensor, "tokens batch time dim"]:
    """Scope `per_token`: a group for each token position, of every step of every clip."""
    return rearrange(tokens, "b t n d -> n b t d")


SCOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "batch": whole_batch,
    "within_clip": within_clip,
    "per_step": per_step,
    "per_token": per_token,
}
"""By the names of their weights; each gives `(G, B, P, D)`, a group's P places in every clip."""


def rows_of(
    tokens: Float[Tensor, "batch time tokens dim"], scope: str, max_rows: int, seed: int
) -> Float[Tensor, "groups rows dim"]:
    """The groups of rows that a regularizer sees.

    Args:
        tokens: of this rank.
        scope: a key of `SCOPES`.
        max_rows: rows of a group over all ranks, rounded down to whole places but at least one
            place of each clip; 0 takes all.
        seed: draws the places of each group; the same on every rank.

    Raises:
        InputError: a group has fewer than two rows over all ranks.
    """
    places = SCOPES[scope](tokens)
    clips = num_places(tokens.shape[0])  # as many on every rank, whatever could not be read
    if max_rows:
        places = draw_places(places, max(1, max_rows // clips), seed)
    if clips * places.shape[2] < 2:
        raise InputError(
            f"the scope {scope} needs at least 2 rows in a group to see a distribution, got 1 (one "
            f"clip, one place); raise data.batch_size or set weights.{scope} to 0"
        )
    return places.flatten(1, 2)


def draw_places(
    places: Float[Tensor, "groups batch places dim"], keep: int, seed: int
) -> Float[Tensor, "groups batch kept dim"]:
    """`keep` places of each group, without replacement, the same ones in every clip."""
    if keep >= places.shape[2]:
        return places
    # Drawn on the CPU: every rank and every kind of device then takes the same places.
    generator = seeded_generator(seed, torch.device("cpu"))
    order = torch.rand(
        len(places), places.shape[2], generator=generator, device=generator.device
    ).argsort(dim=1)
    chosen = order[:, :keep].sort(dim=1).values.to(places.device, non_blocking=True)
    return places.take_along_dim(chosen[:, None, :, None], dim=2)
