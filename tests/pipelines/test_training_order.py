"""Every row is seen equally often, in an order that the seed alone decides."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipe import DatasetRules, Recipe
from pipelines.training_order import order_rows


def recipe(steps: int, batch_size: int, accumulation: int = 1, seed: int = 0) -> Recipe:
    return Recipe(
        checks=DatasetRules(allowed_licences=("MIT",)),
        steps=steps,
        batch_size=batch_size,
        gradient_accumulation=accumulation,
        learning_rate=1e-3,
        max_length=64,
        seed=seed,
    )


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    steps=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
)
def test_every_place_is_filled_and_no_row_is_seen_twice_more_than_another(
    lengths: list[int], steps: int, batch_size: int, accumulation: int
) -> None:
    order = order_rows(lengths, recipe(steps, batch_size, accumulation))
    assert len(order) == steps * batch_size * accumulation
    seen = Counter(order)
    counts = [seen[row] for row in range(len(lengths))]
    assert max(counts) - min(counts) <= 1


def test_the_seed_decides_the_order() -> None:
    lengths = [10 + row % 7 for row in range(100)]
    assert order_rows(lengths, recipe(20, 4)) == order_rows(lengths, recipe(20, 4))
    assert order_rows(lengths, recipe(20, 4)) != order_rows(lengths, recipe(20, 4, seed=1))


def test_rows_of_a_batch_are_of_like_length() -> None:
    lengths = [20 + 37 * row % 180 for row in range(800)]
    order = order_rows(lengths, recipe(100, 8))
    batches = [[lengths[row] for row in order[i : i + 8]] for i in range(0, 800, 8)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    means = [sum(batch) / 8 for batch in batches]
    assert means[:16] != sorted(means[:16])  # short batches do not come first
