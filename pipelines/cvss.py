"""CVSS 3.x base scores from their vectors (FIRST, CVSS v3.1 specification, 7.1 and 7.4)."""

from __future__ import annotations

import math

_IMPACT = {"H": 0.56, "L": 0.22, "N": 0.0}
_WEIGHTS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": _IMPACT,
    "I": _IMPACT,
    "A": _IMPACT,
}
_PRIVILEGES = {
    "U": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"N": 0.85, "L": 0.68, "H": 0.5},
}


def base_score(vector: str) -> float | None:
    """The base score, 0 to 10, of a vector like 'CVSS:3.1/AV:N/…'; None when it is not one."""
    head, _, rest = vector.partition("/")
    if head not in ("CVSS:3.0", "CVSS:3.1"):
        return None
    metrics = dict(pair for part in rest.split("/") if len(pair := part.split(":", 1)) == 2)
    try:
        weight = {name: scale[metrics[name]] for name, scale in _WEIGHTS.items()}
        scope = metrics["S"]
        privileges = _PRIVILEGES[scope][metrics["PR"]]
    except KeyError:
        return None
    subscore = 1 - (1 - weight["C"]) * (1 - weight["I"]) * (1 - weight["A"])
    changed = scope == "C"
    impact = 6.42 * subscore
    if changed:
        impact = 7.52 * (subscore - 0.029) - 3.25 * (subscore - 0.02) ** 15
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * weight["AV"] * weight["AC"] * privileges * weight["UI"]
    return _round_up(min((1.08 if changed else 1) * (impact + exploitability), 10))


def _round_up(value: float) -> float:
    """The smallest number with one decimal that is not below `value`, as appendix A defines it."""
    hundred_thousandths = round(value * 100_000)
    if hundred_thousandths % 10_000 == 0:
        return hundred_thousandths / 100_000
    return (math.floor(hundred_thousandths / 10_000) + 1) / 10
