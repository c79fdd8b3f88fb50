"""The hierarchical JEPA: a list of levels, each slower and more abstract than the one below."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig, FrameEncoder, StepEncoder
from worldmodel.models.predictor import Predictor
from worldmodel.models.transformer import KeysValues


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """One level of the hierarchy: how slow it is, how wide, and how far it predicts."""

    horizons: tuple[int, ...]
    """Steps predicted ahead, in the level's own steps; strictly increasing, at least 1."""
    stride: int = 2
    """Steps of the level below per step of this one; 1 for level 0, whose steps are frames."""
    pool: int = 2
    """Rows and columns of tokens of the level below merged into one; not used by level 0."""
    dim: int = 128
    """Width of a token."""
    width: int = 128
    """Width of the predictor's context state."""
    depth: int = 3
    """Layers of the predictor."""
    num_heads: int = 4
    """Attention heads of the predictor."""
    mlp_ratio: float = 2.0
    """Hidden width of its feed-forward networks, in widths of the state."""
    residual: bool = True
    """Whether the change from the present tokens is predicted, or the tokens themselves."""
    weight: float = 1.0
    """Weight of this level in the objective."""

    def __post_init__(self) -> None:
        if self.stride < 1 or self.pool < 1:
            raise InputError(
                f"a level's stride and pool must be at least 1, got {self.stride} and {self.pool}"
            )
        for name, value in (
            ("dim", self.dim),
            ("width", self.width),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
        ):
            if value < 1:
                raise InputError(f"a level's {name} must be at least 1, got {value}")
        if self.width % (2 * self.num_heads):
            raise InputError(
                "a level's width must be a multiple of twice its num_heads, here "
                f"{2 * self.num_heads}, got {self.width}"
            )
        if not (self.mlp_ratio > 0 and self.weight >= 0):
            raise InputError(
                "a level's mlp_ratio must be above 0 and its weight at least 0, got "
                f"{self.mlp_ratio} and {self.weight}"
            )
        increasing = all(a < b for a, b in pairwise(self.horizons))
        if not self.horizons or self.horizons[0] < 1 or not increasing:
            raise InputError(
                "a level's horizons must be strictly increasing steps of at least 1, "
                f"got {list(self.horizons)}"
            )


@dataclass(frozen=True)
class LevelPrediction:
    """What a level believes and expects, at every one of its steps τ.

    Attributes:
        context: `(B, T_l, N_l, W_l)`, the belief after the steps up to τ, hidden objects included.
        predicted: per horizon h `(B, T_l, N_l, D_l)`; entry τ is the prediction for step τ + h. The
            last h entries look beyond the clip's end.
    """

    context: Tensor
    predicted: dict[int, Tensor]


class Level(nn.Module):
    """One rung: an encoder from the level below (or the frame) and a predictor of its own future.

    Attributes:
        grid: rows and columns of tokens per step; `num_tokens` is their product.
        span: frames that one step covers.
        horizons: steps predicted ahead.
        dim: width of a token; `width` that of the context state.
    """

    def __init__(
        self,
        config: LevelConfig,
        encoder: nn.Module,
        grid: tuple[int, int],
        span: int,
        width_above: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.grid, self.span = grid, span
        self.num_tokens = grid[0] * grid[1]
        self.horizons, self.dim, self.width = tuple(config.horizons), config.dim, config.width
        self.predictor = Predictor(
            config.dim,
            self.num_tokens,
            self.horizons,
            config.width,
            config.depth,
            config.num_heads,
            config.mlp_ratio,
            residual=config.residual,
            width_above=width_above,
        )


class Hierarchy(nn.Module):
    """A hierarchical joint-embedding predictive architecture over video.

    After LeCun, "A Path Towards Autonomous Machine Intelligence" (2022), sec. 4.6: level l encodes
    the representations of level l - 1, drops detail, and predicts farther ahead. All levels are
    trained together, each by predicting its own future tokens.

    Args:
        encoder: level 0's frame encoder.
        levels: from the fastest to the slowest; level 0 has stride 1.
        top_down: whether each predictor also reads the context states of the slower level above it,
            those of the last step that had ended.

    Raises:
        InputError: no levels, level 0 not of stride 1, or a grid that `pool` does not divide.
    """

    levels: Sequence[Level]  # an nn.ModuleList, said in a way that type checkers can use
    steps_are_local = True  # each step's tokens depend on its own frames alone

    def __init__(
        self, encoder: EncoderConfig, levels: Sequence[LevelConfig], top_down: bool = False
    ) -> None:
        super().__init__()
        if not levels:
            raise InputError("a hierarchy needs at least one level, got none")
        if levels[0].stride != 1:
            raise InputError(
                f"level 0 sees every frame: its stride must be 1, got {levels[0].stride}"
            )
        self.size, self.top_down = encoder.size, top_down
        grid, span = encoder.grid, 1
        rungs: list[Level] = []
        for number, config in enumerate(levels):
            if number == 0:
                step_encoder: nn.Module = FrameEncoder(encoder, config.dim)
            else:
                if grid[0] % config.pool or grid[1] % config.pool:
                    raise InputError(
                        f"level {number} merges {config.pool} x {config.pool} tokens, but the "
                        f"level below has a grid of {grid[0]} x {grid[1]}; set pool to a divisor"
                    )
                below = levels[number - 1].dim
                step_encoder = StepEncoder(below, grid, config.dim, config.stride, config.pool)
                grid = (grid[0] // config.pool, grid[1] // config.pool)
            span *= config.stride
            has_above = top_down and number + 1 < len(levels)
            width_above = levels[number + 1].width if has_above else None
            rungs.append(Level(config, step_encoder, grid, span, width_above))
        self.levels = nn.ModuleList(rungs)  # type: ignore[assignment]

    @property
    def min_frames(self) -> int:
        """Frames a clip needs so that every level can be compared at its longest horizon.

        From its second step on, where the first change exists that a trivial predictor may go by.
        """
        return max(level.span * (level.horizons[-1] + 2) for level in self.levels)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the backward pass computes layers again instead of having them kept."""
        return any(level.predictor.activation_checkpointing for level in self.levels)

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, FrameEncoder | Predictor):
                module.activation_checkpointing = on

    @staticmethod
    def normalize(frames: Tensor) -> Tensor:
        """uint8 0..255 -> float -1.5..1.5, about unit variance on natural frames."""
        return frames.to(torch.get_default_dtype()).div_(255).sub_(0.5).mul_(3)

    def encode(
        self, frames: Tensor, joint: bool = True
    ) -> list[Float[Tensor, "batch time tokens dim"]]:
        """Tokens of every level.

        Args:
            frames: `(B, T, 3, size, size)`, uint8 or already normalised floats.
            joint: whether the losses of a level also train the levels below it.

        Returns:
            Per level `(B, T // span, N_l, D_l)`; each step depends on its own frames alone.

        Raises:
            InputError: frames of another size than the encoder was built for.
        """
        if frames.shape[-2:] != (self.size, self.size):
            raise InputError(
                f"this model was built for frames of {self.size} x {self.size} pixels, "
                f"got {frames.shape[-2]} x {frames.shape[-1]}; scale them (data.size)"
            )
        pictures = frames if frames.is_floating_point() else self.normalize(frames)
        return self.abstract(self.levels[0].encoder(pictures), joint)

    def abstract(
        self, tokens_0: Float[Tensor, "batch time tokens dim"], joint: bool = True
    ) -> list[Float[Tensor, "batch _time _tokens _dim"]]:
        """Tokens of every level, from those of level 0; what `encode` does after single frames.

        Level 0 is nine tenths of the cost of `encode`: clips that share frames can share its work.

        Args:
            tokens_0: level 0's, of one frame each, such as `encode` gives first.
            joint: whether gradients reach the level below.

        Returns:
            Per level `(B, T // span, N_l, D_l)`; the first are `tokens_0` themselves.
        """
        tokens = [tokens_0]
        for level in self.levels[1:]:
            tokens.append(level.encoder(tokens[-1] if joint else tokens[-1].detach()))
        return tokens

    def predict(
        self,
        tokens: Sequence[Tensor],
        blanks: Sequence[Tensor | None] | None = None,
        joint: bool = True,
    ) -> list[LevelPrediction]:
        """Context states and predicted tokens of every level.

        Args:
            tokens: `encode`'s.
            blanks: per level which tokens are not shown to the predictor (see `Predictor`).
            joint: whether gradients reach the level above, where predictors read its states.
        """
        blanks = blanks or [None] * len(self.levels)
        found: list[LevelPrediction] = []
        for number in reversed(range(len(self.levels))):
            above = self._from_above(number, found[-1].context if found else None, tokens[number])
            if above is not None and not joint:
                above = above.detach()
            predictor = self.levels[number].predictor
            found.append(
                LevelPrediction(*predictor(tokens[number], blank=blanks[number], above=above))
            )
        return found[::-1]

    def predict_level(self, tokens: Tensor, level: int) -> LevelPrediction:
        """What one level predicts from its own tokens alone, at no more than it costs.

        Args:
            tokens: `(B, T, N_l, D_l)`, such as a part of a clip, or its own predictions. Slower
                levels that its predictor reads are abstracted from them.
            level: of the hierarchy.
        """
        above = None
        if self.reads_above(level):
            slower = self.levels[level + 1].encoder(tokens)
            if slower.shape[1]:  # as many steps as have ended
                context = self.predict_level(slower, level + 1).context
                above = self._from_above(level, context, tokens)
        return LevelPrediction(*self.levels[level].predictor(tokens, above=above))

    def predict_on(self, tokens: Tensor, level: int, memory: list[KeysValues]) -> LevelPrediction:
        """What one level predicts at steps that follow those it remembers.

        Only for levels that read nothing from above (`reads_above`).

        Args:
            tokens: the new steps `(B, T, N_l, D_l)`.
            level: of the hierarchy.
            memory: of all steps before, empty at first; lengthened in place.
        """
        return LevelPrediction(*self.levels[level].predictor(tokens, memory))

    def reads_above(self, level: int) -> bool:
        """Whether this level's predictor reads the states of the one above."""
        return self.levels[level].predictor.from_above is not None

    def predict_branches(
        self, tokens: Sequence[Tensor], starts: Sequence[int], levels: Sequence[int] | None = None
    ) -> dict[int, LevelPrediction]:
        """What `predict` gives for clips of which the second half begins like the first half.

        What they share is computed once.

        Args:
            tokens: per level `(2 n, T_l, N_l, D_l)`; clip n + i equals clip i before `starts[l]`.
            starts: per level the first step that may differ, at least 1.
            levels: which to predict; all by default.

        Returns:
            By level.
        """
        wanted = range(len(self.levels)) if levels is None else levels
        needed = range(min(wanted), len(self.levels)) if self.top_down else sorted(wanted)
        found: dict[int, LevelPrediction] = {}
        for number in reversed(needed):
            slower = found[number + 1].context if number + 1 in found else None
            above = self._from_above(number, slower, tokens[number])
            found[number] = self._predict_branch(number, tokens[number], starts[number], above)
        return {number: found[number] for number in wanted}

    def _predict_branch(
        self, number: int, tokens: Tensor, start: int, above: Tensor | None
    ) -> LevelPrediction:
        """One level of `predict_branches`."""
        stems, branches = tokens.chunk(2)
        above_stems, above_branches = (None, None) if above is None else above.chunk(2)
        predictor = self.levels[number].predictor
        # Kept for each token position of each clip: (n N_l, heads, steps, width).
        memory: list[KeysValues] = []
        context, predicted = predictor(stems, memory, above=above_stems)
        memory = [(keys[:, :, :start], values[:, :, :start]) for keys, values in memory]
        if start < stems.shape[1]:
            later = None if above_branches is None else above_branches[:, start:]
            rest, ahead = predictor(branches[:, start:], memory, above=later)
            context = torch.cat([context, torch.cat([context[:, :start], rest], 1)])
            predicted = {
                h: torch.cat([own, torch.cat([own[:, :start], ahead[h]], 1)])
                for h, own in predicted.items()
            }
        else:
            context = torch.cat([context, context])
            predicted = {h: torch.cat([own, own]) for h, own in predicted.items()}
        return LevelPrediction(context, predicted)

    def _from_above(self, number: int, context: Tensor | None, tokens: Tensor) -> Tensor | None:
        """The slower level's states, one for each token of level `number`: `(B, T_l, N_l, W)`.

        Each step gets those of the last slower step that has ended by then, its own end included;
        zeros where none has.
        """
        if context is None or not self.reads_above(number):
            return None
        level, slower = self.levels[number], self.levels[number + 1]
        stride, pool = slower.span // level.span, level.grid[0] // slower.grid[0]
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device) // stride
        padded = torch.cat([torch.zeros_like(context[:, :1]), context], 1)
        rows, columns = slower.grid
        return repeat(
            padded[:, steps],
            "b t (h w) d -> b t (h p w q) d",
            h=rows,
            w=columns,
            p=pool,
            q=pool,
        )

    def reset_heads(self) -> None:
        """Re-initialise all prediction heads at the default scale (see `Predictor.reset_heads`)."""
        for level in self.levels:
            level.predictor.reset_heads()
