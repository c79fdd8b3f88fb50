import pytest
import torch

from worldmodel.errors import InputError
from worldmodel.losses.regularizers import SIGReg, VICReg
from worldmodel.losses.scopes import SCOPES, draw_places, rows_of

ALL = 0


def tokens_that_say_where_they_are(batch: int, time: int, tokens: int) -> torch.Tensor:
    """Each token is its own (clip, step, position)."""
    axes = [torch.arange(float(size)) for size in (batch, time, tokens)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def test_batch__one_group_of_every_token():
    tokens = tokens_that_say_where_they_are(2, 3, 4)
    rows = rows_of(tokens, "batch", ALL, seed=0)
    assert rows.shape == (1, 24, 3)
    assert {tuple(row) for row in rows[0].tolist()} == {
        (b, t, n) for b in range(2) for t in range(3) for n in range(4)
    }


def test_within_clip__does_not_see_what_never_changes():
    tokens = torch.randn(3, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    constant = torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    plain = rows_of(tokens, "within_clip", ALL, seed=0)
    torch.testing.assert_close(rows_of(tokens + constant, "within_clip", ALL, seed=0), plain)
    assert plain.shape == (1, 30, 4)
    assert rows_of(constant.expand(3, 5, 2, 4), "within_clip", ALL, seed=0).abs().max() < 1e-6
    # By hand: clip 1, step 2, position 1 is row 15.
    by_hand = tokens[1, 2, 1] - (sum(tokens[1, t, 1] for t in range(5)) / 5)
    torch.testing.assert_close(plain[0, 1 * 10 + 2 * 2 + 1], by_hand)


def test_per_step__a_group_holds_one_step_of_every_clip():
    rows = rows_of(tokens_that_say_where_they_are(2, 3, 4), "per_step", ALL, seed=0)
    assert rows.shape == (3, 8, 3)
    for step, group in enumerate(rows):
        assert {tuple(row) for row in group.tolist()} == {
            (b, step, n) for b in range(2) for n in range(4)
        }


def test_per_token__a_group_holds_one_position_of_every_clip():
    rows = rows_of(tokens_that_say_where_they_are(2, 3, 4), "per_token", ALL, seed=0)
    assert rows.shape == (4, 6, 3)
    for position, group in enumerate(rows):
        assert {tuple(row) for row in group.tolist()} == {
            (b, t, position) for b in range(2) for t in range(3)
        }


@pytest.mark.parametrize("regularizer", [SIGReg(num_directions=8), VICReg()])
@pytest.mark.parametrize("scope", SCOPES)
def test_penalty__is_the_mean_over_groups(regularizer, scope):
    tokens = torch.randn(
        3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    rows = rows_of(tokens, scope, ALL, seed=0)
    alone = [float(regularizer(group[None], seed=3)) for group in rows]
    assert float(regularizer(rows, seed=3)) == pytest.approx(sum(alone) / len(alone), rel=1e-12)


@pytest.mark.parametrize("scope", ["per_step", "per_token"])
def test_finer_scopes__see_what_the_whole_batch_hides(scope):
    # Half of the steps (or positions) show nothing; the others show so much that all is well on
    # the whole.
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(64, 16, 16, 4, generator=generator)
    silent = torch.ones(16)
    silent[::2] = 0.0
    tokens = tokens * 2**0.5
    tokens = tokens * (silent[:, None, None] if scope == "per_step" else silent[:, None])
    covariance = VICReg(variance=1.0, covariance=0.0)
    assert covariance(rows_of(tokens, "batch", ALL, seed=0), seed=0) < 0.01
    # A silent group's standard deviation is sqrt(1e-4), so it costs 0.99; the others cost nothing.
    assert float(covariance(rows_of(tokens, scope, ALL, seed=0), seed=0)) == pytest.approx(
        0.99 / 2, abs=1e-3
    )


@pytest.mark.parametrize("scope", ["batch", "per_step", "per_token"])
def test_places__are_the_same_in_every_clip_and_never_twice(scope):
    tokens = tokens_that_say_where_they_are(3, 8, 8)
    rows = rows_of(tokens, scope, max_rows=17, seed=5)  # 17 rows of 3 clips: 5 places
    assert rows.shape == (len(SCOPES[scope](tokens)), 15, 3)
    for group in rows.tolist():
        by_clip = [{(t, n) for b, t, n in group if b == clip} for clip in range(3)]
        assert by_clip[0] == by_clip[1] == by_clip[2]
        assert len(by_clip[0]) == 5


def test_places__depend_on_the_seed_and_the_group():
    tokens = tokens_that_say_where_they_are(2, 8, 8)
    first = rows_of(tokens, "per_step", max_rows=8, seed=5)
    assert torch.equal(first, rows_of(tokens, "per_step", max_rows=8, seed=5))
    assert not torch.equal(first, rows_of(tokens, "per_step", max_rows=8, seed=6))
    positions = {tuple(sorted({row[2] for row in group})) for group in first.tolist()}
    assert len(positions) > 1


def test_places__each_is_as_likely_as_any_other():
    tokens = tokens_that_say_where_they_are(1, 4, 5)
    counts = torch.zeros(4, 5)
    for seed in range(2000):
        for _, step, position in rows_of(tokens, "batch", max_rows=6, seed=seed)[0].int().tolist():
            counts[step, position] += 1
    # 600 of 2000 each, with a standard deviation of sqrt(2000 * 0.3 * 0.7) = 20.
    assert (counts - 600).abs().max() < 5 * 20.5


def test_places__of_the_clips_temporal_mean_are_chosen_after_it_was_taken():
    tokens = torch.randn(2, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    whole = {tuple(row) for row in rows_of(tokens, "within_clip", ALL, seed=1)[0].tolist()}
    part = {tuple(row) for row in rows_of(tokens, "within_clip", 10, seed=1)[0].tolist()}
    assert len(part) == 10 and part < whole


def test_places__at_least_one_of_each_clip_and_at_most_all():
    tokens = torch.randn(4, 3, 2, 5)
    assert rows_of(tokens, "batch", max_rows=2, seed=0).shape == (1, 4, 5)
    assert torch.equal(
        rows_of(tokens, "batch", max_rows=1000, seed=0), rows_of(tokens, "batch", ALL, seed=0)
    )


def test_places__gradient_reaches_those_drawn_and_no_others():
    places = torch.randn(2, 3, 7, 4, requires_grad=True)
    draw_places(places, keep=2, seed=3).sum().backward()
    touched = places.grad.sum(-1) != 0
    assert touched.sum(-1).eq(2).all()
    assert set(places.grad.unique().tolist()) == {0.0, 1.0}


def test_scope__one_row_is_no_distribution():
    with pytest.raises(InputError, match=r"the scope per_step needs at least 2 rows.*batch_size"):
        rows_of(torch.zeros(1, 6, 1, 4), "per_step", ALL, seed=0)
    assert rows_of(torch.zeros(2, 6, 1, 4), "per_step", ALL, seed=0).shape == (6, 2, 4)


def penalties_of_normal_rows(regularizer, num_rows: int, repeats: int) -> torch.Tensor:
    """Penalties of `repeats` draws of rows that are exactly what the regularizer wants."""
    generator = torch.Generator().manual_seed(num_rows)
    draws = torch.randn(repeats, num_rows, 8, generator=generator, dtype=torch.float64)
    return torch.stack([regularizer(rows[None], seed=seed) for seed, rows in enumerate(draws)])


@pytest.mark.parametrize("num_rows", [32, 128])
def test_subsample__bias_of_vicregs_covariance_is_dimensions_over_rows(num_rows):
    found = penalties_of_normal_rows(VICReg(variance=0.0, covariance=1.0), num_rows, 400)
    # Off the diagonal E C_ij^2 = (R - 1) / R^2 for independent normal dimensions.
    expected = 7 * (num_rows - 1) / num_rows**2
    assert float(found.mean()) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("num_rows", [32, 128])
def test_subsample__bias_of_sigreg_falls_with_the_number_of_rows(num_rows):
    points = torch.linspace(0.2, 3.0, 8, dtype=torch.float64)
    normal = torch.exp(-points.square() / 2)
    slices = penalties_of_normal_rows(SIGReg(covariance=0.0), num_rows, 400)
    expected = float((normal * (1 - normal.square())).sum()) / num_rows
    assert float(slices.mean()) == pytest.approx(expected, rel=0.06)
    both = penalties_of_normal_rows(SIGReg(covariance=1.0), num_rows, 400)
    # On the diagonal E (C_ii - 1)^2 = (2 R - 1) / R^2.
    distance = (2 * num_rows - 1 + 7 * (num_rows - 1)) / num_rows**2
    assert float((both - slices).mean()) == pytest.approx(distance, rel=0.06)


def test_subsample__noise_falls_with_rows_at_the_optimum_and_with_their_root_away_from_it():
    def spread(scale: float, num_rows: int) -> float:
        generator = torch.Generator().manual_seed(num_rows)
        draws = torch.randn(300, num_rows, 8, generator=generator, dtype=torch.float64)
        regularizer = SIGReg(covariance=1.0)
        return float(torch.stack([regularizer(scale * d[None], seed=0) for d in draws]).std())

    assert spread(1.0, 32) / spread(1.0, 128) == pytest.approx(4, rel=0.25)
    assert spread(2.0, 256) / spread(2.0, 1024) == pytest.approx(2, rel=0.25)
