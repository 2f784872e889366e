"""Whether two ways to run weights agree: two engines, or an adapter and its merged weights.

Both are asked the same prompts. Small differences are rounding; a large one means that what was
evaluated is not what will run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evals.evidence import SuiteEvidence, read_suite
from evals.items import ItemResult
from pipelines.canonical import Frozen
from pipelines.errors import UnusableEvidence
from pipelines.models_file import load_yaml, parse_config
from pipelines.parity import largest_difference
from pipelines.records import Finding
from pipelines.subprocesses import run_module, serve

SCORE_TOLERANCE = 1e-6
ADAPTER_PROMPTS = 16  # each is read twice in float32 on the CPU


class ParityBounds(Frozen):
    """policy/parity.yaml: what two runs of the same weights may differ by."""

    max_disagreement: float = Field(
        default=0.02, ge=0, le=1, description="share of items whose score differs"
    )
    max_mean_difference: float = Field(
        default=0.1, ge=0, description="of the answers' log likelihoods, on average, in nats"
    )
    max_adapter_difference: float = Field(
        default=0.25, ge=0, description="of any token's log-probability, in nats"
    )


class EngineParity(Frozen):
    """The same weights and prompts through two engines."""

    engines: tuple[str, str]
    items: int
    disagreeing: tuple[str, ...] = Field(description="'task/item id', sorted")
    mean_difference_nats: float | None = Field(description="None where answers are texts")
    largest_difference_nats: float | None

    @property
    def disagreement(self) -> float:
        """Share of items whose score differs."""
        return len(self.disagreeing) / self.items


class AdapterParity(Frozen):
    """Base + adapter against the merged weights, on prompts of a suite."""

    prompts: int
    largest_difference_nats: float


class ParityReport(Frozen):
    """Comparisons of one set of weights on one suite; a finding for each that is too far off."""

    kind: Literal["parity"] = "parity"
    name: str
    weight_digest: str
    suite: str
    suite_sha256: str
    bounds: ParityBounds
    engines: EngineParity | None
    adapter: AdapterParity | None
    findings: tuple[Finding, ...]


class AdapterRequest(Frozen):
    """What the child compares; `texts` are prompts with their answers."""

    base: str
    adapter: str
    merged: str
    texts: tuple[str, ...]


def load_bounds(path: Path) -> ParityBounds:
    """The bounds in `path`, or the defaults where there is no file; raises ConfigError."""
    return parse_config(path, ParityBounds, load_yaml(path)) if path.is_file() else ParityBounds()


def compare_engines(first: Path, second: Path) -> EngineParity:
    """Compare two evaluation folders of the same weights, suite and prompts, item by item.

    Raises what `read_suite` raises, and UnusableEvidence when weights, suite or prompts differ.
    """
    one, other = read_suite(first), read_suite(second)
    for what, ours, theirs in (
        ("weights", one.record.weight_digest, other.record.weight_digest),
        ("suite", one.record.suite_sha256, other.record.suite_sha256),
        ("chat template", one.record.template_sha256, other.record.template_sha256),
    ):
        if ours != theirs:
            _refuse(one, f"the two evaluations are of different {what} ({ours}, {theirs})")
    ours_by_key, theirs_by_key = _by_prompt(one), _by_prompt(other)
    if set(ours_by_key) != set(theirs_by_key):
        differing = len(set(ours_by_key) ^ set(theirs_by_key))
        _refuse(one, f"{differing} items or prompts are not the same for both engines")
    pairs = [(ours_by_key[key], theirs_by_key[key]) for key in sorted(ours_by_key)]
    differences = [
        abs(a - b)
        for ours_item, theirs_item in pairs
        for a, b in zip(ours_item.outputs, theirs_item.outputs, strict=True)
    ]
    return EngineParity(
        engines=(one.record.engine, other.record.engine),
        items=len(pairs),
        disagreeing=tuple(
            sorted(
                f"{a.task}/{a.item_id}"
                for a, b in pairs
                if abs(a.score - b.score) > SCORE_TOLERANCE
            )
        ),
        mean_difference_nats=_mean(differences),
        largest_difference_nats=round(max(differences), 6) if differences else None,
    )


def compare_adapter(
    base: Path, adapter: Path, merged: Path, items: Sequence[ItemResult]
) -> AdapterParity:
    """Compare in a child on the first prompts of `items`, each with the answer that was given."""
    texts = tuple(item.prompt + item.answer for item in items[:ADAPTER_PROMPTS])
    request = AdapterRequest(base=str(base), adapter=str(adapter), merged=str(merged), texts=texts)
    answered = run_module("evals.parity", request, env={"HF_HUB_OFFLINE": "1"})
    return AdapterParity(prompts=len(texts), largest_difference_nats=answered["difference"])


def judge(
    bounds: ParityBounds, engines: EngineParity | None, adapter: AdapterParity | None
) -> tuple[Finding, ...]:
    """A refusal for each difference above its bound; what is no number is above every bound."""
    found = []
    if engines is not None:
        pair = " and ".join(engines.engines)
        if not engines.disagreement <= bounds.max_disagreement:
            found.append(
                f"{pair} score {len(engines.disagreeing)} of {engines.items} items differently, "
                f"the policy allows a share of {bounds.max_disagreement:g}"
            )
        mean = engines.mean_difference_nats
        if mean is not None and not mean <= bounds.max_mean_difference:
            found.append(
                f"{pair} differ by {mean:g} nats an answer on average, the policy allows "
                f"{bounds.max_mean_difference:g}"
            )
    if adapter is not None and not (
        adapter.largest_difference_nats <= bounds.max_adapter_difference
    ):
        found.append(
            f"base + adapter and merged weights differ by {adapter.largest_difference_nats:g} nats "
            f"on a token, the policy allows {bounds.max_adapter_difference:g}"
        )
    remedy = (
        "Run these weights only on the engine that they were evaluated with, or find the cause."
    )
    return tuple(
        Finding(rule="parity", severity="refusal", file="", fact=fact, remedy=remedy)
        for fact in found
    )


def answer(body: bytes) -> dict[str, Any]:
    """The child: AdapterRequest as JSON, the largest difference in nats."""
    request = AdapterRequest.model_validate_json(body)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.merged, local_files_only=True)
    # The template has written the special tokens into the prompts already.
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in request.texts]
    paths = (Path(request.base), Path(request.adapter), Path(request.merged))
    return {"difference": largest_difference(*paths, [row for row in rows if len(row) > 1])}


def _by_prompt(side: SuiteEvidence) -> dict[tuple[str, int, str, str], ItemResult]:
    return {
        (item.task, item.doc_id, item.doc_hash, item.prompt_hash): item
        for items in side.items.values()
        for item in items
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None


def _refuse(side: SuiteEvidence, fact: str) -> None:
    raise UnusableEvidence(
        f"{side.record.name} on {side.record.suite}",
        fact,
        "Score the same weights on the same suite with both engines.",
    )


if __name__ == "__main__":
    serve(answer)
