"""The values of lm-eval's metrics, one number a document, in a form whose mean is the metric.

The gate compares means of paired items. Most metrics are such means. Perplexities are not: lm-eval
logs a log likelihood (and a number of words or bytes), and aggregates with an exponential. Their
logarithm is a mean, so it is what is judged: a margin of 0.02 on it is 2 % of perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import UnusableEvidence

# lm-eval says the direction in results_*.json; where that file is not at hand, these are known, and
# any other metric is refused: a guess would let a worse candidate pass.
HIGHER_IS_BETTER = {
    "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "em", "f1", "mcc",
    "bleu", "chrf", "rouge1", "rouge2", "rougeL", "pass@1", "mrr",
}  # fmt: skip
LOWER_IS_BETTER = {
    "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter",
    "wer",
}  # fmt: skip
LOG = "log "  # before the name of a metric whose logarithm is judged
_NATS = {"word_perplexity": 1.0, "byte_perplexity": 1.0, "bits_per_byte": math.log(2)}
_BY_ITEM = "Name a metric in the policy that is scored by item."
_CHECK = "Check the weights for NaN, and evaluate again."


def direction(about: str, metric: str, stated: Mapping[str, Any]) -> bool:
    """Whether more of a metric is better: lm-eval's own word, else what is known of its name."""
    said = stated.get(metric)
    if isinstance(said, bool):
        return said
    if metric in HIGHER_IS_BETTER or metric in LOWER_IS_BETTER:
        return metric in HIGHER_IS_BETTER
    fact = f"whether more {metric} is better is not known"
    raise UnusableEvidence(about, fact, "Keep lm-eval's results_*.json beside the samples.")


def item_scores(about: str, metric: str, values: Mapping[int, Any]) -> tuple[str, dict[int, float]]:
    """The metric as it is judged and, for each document id, the number whose mean it is.

    Perplexities that were logged as log likelihoods become their logarithm in nats per word, byte
    or token; bits_per_byte stays what it is. Raises UnusableEvidence for a value that is no finite
    number of one document.
    """
    if metric in _NATS and any(isinstance(value, list) for value in values.values()):
        return _weighted(about, metric, values)
    scores = {doc: _number(about, doc, metric, value) for doc, value in values.items()}
    if metric == "perplexity" and any(score <= 0 for score in scores.values()):
        # lm-eval logs the log likelihood under this name: more of it is better, not less.
        if positive := [doc for doc, score in scores.items() if score > 0]:
            fact = "its perplexity is positive, and others' are log likelihoods"
            raise UnusableEvidence(f"{about}, document {positive[0]}", fact, _BY_ITEM)
        return f"{LOG}{metric}", {doc: -score for doc, score in scores.items()}
    return metric, scores


def _weighted(about: str, metric: str, values: Mapping[int, Any]) -> tuple[str, dict[int, float]]:
    """-Σ(log likelihood)/Σ(words) as a mean over documents; the words are the data's own."""
    pairs = {doc: _pair(about, doc, metric, value) for doc, value in values.items()}
    words = math.fsum(count for _, count in pairs.values())
    scale = len(pairs) / (words * _NATS[metric])
    name = metric if metric == "bits_per_byte" else f"{LOG}{metric}"
    return name, {doc: -likelihood * scale for doc, (likelihood, _) in pairs.items()}


def _pair(about: str, doc: int, metric: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        fact = f"its {metric} is {value!r}, and not a log likelihood with a number of words"
        raise UnusableEvidence(f"{about}, document {doc}", fact, _BY_ITEM)
    likelihood, count = (_number(about, doc, metric, part) for part in value)
    if count <= 0:
        fact = f"its {metric} counts {count:g} words or bytes"
        raise UnusableEvidence(f"{about}, document {doc}", fact, "Leave empty documents out.")
    return likelihood, count


def _number(about: str, doc: int, metric: str, value: Any) -> float:
    subject = f"{about}, document {doc}"
    if not isinstance(value, (bool, int, float)):
        fact = f"its {metric} is {value!r}, which is no number for one document"
        raise UnusableEvidence(subject, fact, _BY_ITEM)
    if not math.isfinite(value):
        raise UnusableEvidence(subject, f"its {metric} is {value}, not a finite number", _CHECK)
    return float(value)


def check_answers(about: str, doc: int, answers: Any) -> None:
    """Refuse a document with a log likelihood that is NaN or infinite.

    lm-eval logs them as text, ["nan", "False"]; a generated text "nan" is an answer like others.
    """
    if not _finite(answers):
        fact = "a log likelihood behind it is not a finite number"
        raise UnusableEvidence(f"{about}, document {doc}", fact, _CHECK)


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return True
    if len(value) == 2 and str(value[1]) in ("True", "False") and isinstance(value[0], str):
        return value[0].strip().lower() not in ("nan", "inf", "-inf")
    return all(_finite(inner) for inner in value)
