"""Whether merged weights say what base and adapter say together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.progress import report


def largest_difference(
    base: Path, adapter: Path, merged: Path, sequences: Sequence[Sequence[int]]
) -> float:
    """Largest difference of a token's log-probability between base + adapter and merged weights.

    Both run through transformers (the first with PEFT) in float32 on the CPU, so what differs is
    the rounding of the merged tensors to their file's type. Each of `sequences` is one row of
    token ids; the first token of a row has no probability. In nats, rounded to 6 decimals.
    """
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(_load(base), str(adapter))
    adapted = _log_probabilities(model, sequences, "compare: base + adapter")
    del model
    plain = _log_probabilities(_load(merged), sequences, "compare: merged weights")
    differences = [(a - b).abs().max() for a, b in zip(adapted, plain, strict=True)]
    return round(float(torch.stack(differences).max()), 6)


def _load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
    ).eval()


def _log_probabilities(model: Any, sequences: Sequence[Sequence[int]], what: str) -> list[Any]:
    """One tensor a sequence, of shape (len(ids) - 1,): log p(ids[i] | ids[:i])."""
    import torch

    found = []
    for number, ids in enumerate(sequences, start=1):
        row = torch.tensor([list(ids)])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0, :-1].float()
        found.append(torch.log_softmax(logits, -1).gather(-1, row[0, 1:, None])[:, 0])
        report(number, len(sequences), "rows", what)
    return found
