"""Folders of samples as lm-eval's --log_samples writes them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


def line(number: int, right: bool, metrics: tuple[str, ...] = ("acc",)) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": {"question": number},
        "target": "0",
        "arguments": {"gen_args_0": {"arg_0": f"Question {number}"}},
        "resps": [[["-1.5", "False"]], [["-2.5", "False"]]],
        "filtered_resps": [["-1.5", "False"], ["-2.5", "False"]],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": f"{number:064x}",
        "prompt_hash": f"{number + 1:064x}",
        "target_hash": f"{number + 2:064x}",
        **dict.fromkeys(metrics, float(right)),
    }


def write(folder: Path, lines: list[dict[str, Any]], task: str = "capitals") -> Path:
    place = folder / "my__model"
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(entry) + "\n" for entry in lines)
    (place / f"samples_{task}_2026-11-22T10-00-00.123456.jsonl").write_text(text)
    return folder


def outcomes(count: int, share: float, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [line(number, chance.random() < share) for number in range(count)]


def flipped(lines: list[dict[str, Any]], numbers: range) -> list[dict[str, Any]]:
    return [
        {**entry, "acc": 1.0 - entry["acc"]} if entry["doc_id"] in numbers else entry
        for entry in lines
    ]
