"""Models that embed: sentences in, one vector each."""

from __future__ import annotations

from typing import Any

from pipelines.smoke.loading import Seen, Subject
from pipelines.smoke.text import row_problems

SENTENCES = (
    "The capital of France is Paris.",
    "A dog runs through the rain.",
    "Interest rates rose by half a point.",
)
# Vectors that differ by less than this part of their length are one vector.
SMALLEST_DIFFERENCE = 1e-3


def try_vectors(subject: Subject) -> Seen:
    """Each sentence's vector (mean of the last hidden states): finite, not zero, and its own."""
    import torch

    seen = Seen(problems=row_problems(subject))
    vectors = [_vector(subject, sentence) for sentence in SENTENCES]
    if not all(bool(torch.isfinite(vector).all()) for vector in vectors):
        seen.problems.append("the vectors are not finite")
        return seen
    norms = [float(vector.norm()) for vector in vectors]
    if min(norms) == 0:
        seen.problems.append("a vector is zero")
        return seen
    pairs = [(0, 1), (0, 2), (1, 2)]
    nearest = min(float((vectors[a] - vectors[b]).norm()) / norms[a] for a, b in pairs)
    if nearest < SMALLEST_DIFFERENCE:
        seen.problems.append("different sentences give the same vector")
    cosines = [float(vectors[a] @ vectors[b]) / (norms[a] * norms[b]) for a, b in pairs]
    seen.observations.append(
        f"{len(SENTENCES)} sentences give vectors of {len(vectors[0])} numbers, with cosines of "
        f"{', '.join(f'{cosine:.3f}' for cosine in cosines)} between them"
    )
    return seen


def _vector(subject: Subject, sentence: str) -> Any:
    import torch

    model: Any = subject.model
    assert subject.tokenizer is not None
    ids = torch.tensor([subject.tokenizer.encode(sentence)])
    reader = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    with torch.inference_mode():
        output = reader(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-1][0].float().mean(dim=0)
