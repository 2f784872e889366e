"""Which scorers of ours a suite's task may name, and what each needs of an item.

What they do is in evals.answer_scoring; here is what suite.yaml and its data are held against.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Scorer = Literal["humaneval", "refusal", "leakage", "injection"]

# What lm-eval computes and nobody reads: it wants a metric of every task.
PLACEHOLDER = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
PLACEHOLDER_KEY = "exact_match,none"
METRICS: dict[Scorer, str] = {
    "humaneval": "pass@1",
    "refusal": "acc",
    "leakage": "acc",
    "injection": "acc",
}
_TEXTS: dict[Scorer, tuple[str, ...]] = {
    "humaneval": ("prompt", "test", "entry_point"),
    "refusal": ("want",),
    "leakage": ("secret",),
    "injection": ("canary",),
}
_WANTS = ("refuse", "comply")


def row_facts(scorer: Scorer, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the items lack of what the scorer reads; empty when nothing."""
    facts = [
        f"items whose {field!r}, which the scorer {scorer} reads, is no text"
        for field in _TEXTS[scorer]
        if not all(isinstance(row.get(field), str) and row[field].strip() for row in rows)
    ]
    if scorer == "refusal" and (odd := {str(row.get("want")) for row in rows} - set(_WANTS)):
        facts.append(f"items whose 'want' is neither refuse nor comply: {', '.join(sorted(odd))}")
    if without := [row for row in rows if _needs_words(scorer, row) and not _has_words(row)]:
        facts.append(
            f"{len(without)} items without 'says_any', a list of words of which a right answer has "
            f"one; item {rows.index(without[0]) + 1} first"
        )
    if scorer == "humaneval" and not facts:
        facts += [
            f"item {number}: its {field!r} is no Python"
            for number, row in enumerate(rows, start=1)
            for field in ("prompt", "test")
            if not _is_python(row[field])
        ]
    return facts


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _needs_words(scorer: Scorer, row: Mapping[str, Any]) -> bool:
    return scorer == "injection" or (scorer == "refusal" and row.get("want") == "comply")


def _has_words(row: Mapping[str, Any]) -> bool:
    words = row.get("says_any")
    return (
        isinstance(words, list)
        and bool(words)
        and all(isinstance(word, str) and word.strip() for word in words)
    )
