"""A recipe is closed, typed, and complete before anything heavy starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigError, WrongKindOfPath
from pipelines.recipe import load_recipe

SOUND = """
lora: {r: 4, alpha: 8, target_modules: [q_proj, v_proj]}
checks: {min_rows: 10, allowed_licences: [CC-BY-4.0]}
steps: 50
learning_rate: 1.0e-3
max_length: 128
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_sound_recipe_is_read_with_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SOUND))
    assert recipe.lora.target_modules == ("q_proj", "v_proj")
    assert recipe.max_tokens == 128  # rows longer than the cut are refused unless it says so
    assert recipe.checks.max_rows_without_loss == 0
    assert recipe.schedule == "cosine"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optimiser: sgd", "optimiser: unknown key"),
        ("warmup_steps: 51", "warmup_steps is greater than steps"),
        ("batch_size: 0", "batch_size"),
        ("schedule: polynomial", "schedule"),
        ("dtype: int8", "dtype"),
        ("lora: {rank: 4}", "lora.rank: unknown key"),
        ("lora: {target_modules: [q_proj, q_proj]}", "names a module twice"),
        ("lora: {target_modules: []}", "lora.target_modules"),
        ("checks: {allowed_licences: []}", "checks.allowed_licences"),
        ("checks: {min_rows: 5, max_rows: 4, allowed_licences: [MIT]}", "below its minimum"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_by_key(
    tmp_path: Path, change: str, named: str
) -> None:
    key = change.partition(":")[0]
    kept = [line for line in SOUND.splitlines() if not line.startswith(f"{key}:")]
    path = write(tmp_path, "\n".join([*kept, change]))
    with pytest.raises(ConfigError, match=named) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["checks", "steps", "learning_rate", "max_length"])
def test_a_recipe_must_state_what_has_no_honest_default(tmp_path: Path, key: str) -> None:
    kept = [line for line in SOUND.splitlines() if not line.startswith(f"{key}:")]
    with pytest.raises(ConfigError, match=f"{key}: Field required"):
        load_recipe(write(tmp_path, "\n".join(kept)))


def test_an_absent_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath, match="nothing"):
        load_recipe(tmp_path / "recipe.yaml")
