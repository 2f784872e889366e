"""The smoke test at the door: does the model load, and do its first answers make sense?

It catches what formats and digests cannot: missing tensors that a loader fills with random
numbers, a tokenizer that lost its BOS token on a conversion, NaN weights, an eye or an ear that is
not connected. It says nothing of quality. Chat templates are not rendered here: they are the
publisher's code, and verification comes later. No code from the model's folder is ever run.
"""

from pipelines.smoke.result import SmokeAnswer, SmokeResult

__all__ = ["SmokeAnswer", "SmokeResult"]
