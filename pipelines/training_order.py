"""The order in which rows are trained on, fixed before the first step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipelines.recipe import Recipe

_WINDOW_BATCHES = 16  # rows are grouped by length among this many batches


def order_rows(lengths: Sequence[int], recipe: Recipe) -> list[int]:
    """Indices of rows, one for every place in every batch of the run.

    Rows are shuffled by the recipe's seed, epoch after epoch, until the steps are full. Within
    windows of 16 batches they are grouped by length, and the batches of a window are shuffled: rows
    of a batch are padded to the longest, and in plain random order a third of the work was padding
    (measured on notices of 40 to 400 characters). A resumed run only has to count.
    """
    generator = random.Random(recipe.seed)
    places = recipe.steps * recipe.batch_size * recipe.gradient_accumulation
    drawn: list[int] = []
    while len(drawn) < places:
        epoch = list(range(len(lengths)))
        generator.shuffle(epoch)
        drawn += epoch
    window = recipe.batch_size * _WINDOW_BATCHES
    ordered: list[int] = []
    for start in range(0, places, window):
        group = sorted(drawn[start : min(start + window, places)], key=lambda row: lengths[row])
        size = recipe.batch_size
        batches = [group[first : first + size] for first in range(0, len(group), size)]
        generator.shuffle(batches)
        ordered += [row for batch in batches for row in batch]
    return ordered
