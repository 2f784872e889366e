"""Log likelihoods of several answers to one prompt, with the prompt read once.

lm-eval reads a prompt again for every answer of several tokens, and scores the whole vocabulary at
every position of it. Here the answers follow their prompt in one row: each sees the prompt and
itself, at the positions that it would have alone, so the numbers are the same up to rounding
(tests/evals/test_engines.py holds them against lm-eval's). The vocabulary is scored only where an
answer is predicted, and in float32: in bfloat16 neighbouring logits near 16 are 1/8 apart, choices
tie, and lm-eval takes the first (84 of 300 items of a three-letter task on a 135M model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Tokens = Sequence[int]
TokenRequest = tuple[Any, Tokens, Tokens]  # lm-eval's (key, context, continuation)
Answer = tuple[float, bool]  # lm-eval's (log likelihood, whether greedy decoding gives it)

# Families whose logits are one linear layer over plain causal attention.
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
HEAD_POSITIONS = 512  # positions whose logits are in memory at once
PROMPT, PADDING = 0, -1  # segments of a row; answers count from 1


@dataclass
class Row:
    """A prompt and the answers that share it, as the model reads them."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    targets: list[tuple[int, list[int], Tokens]] = field(default_factory=list)
    """(index of the request, columns that predict it, its tokens)"""

    def add(self, index: int, continuation: Tokens, context_length: int) -> None:
        """Append an answer; its last token is only ever predicted."""
        start, read = len(self.tokens), len(continuation) - 1
        self.targets.append(
            (index, [context_length - 1, *range(start, start + read)], continuation)
        )
        self.tokens += continuation[:-1]
        self.positions += range(context_length, context_length + read)
        self.segments += [len(self.targets)] * read


def can_pack(model: Any) -> bool:
    """Whether a transformers model takes rows of this kind: a known family, full attention."""
    config = model.config
    return (
        config.model_type in FAMILIES
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or []) <= {"full_attention"}
        and config._attn_implementation == "sdpa"
    )


def pack(requests: Sequence[TokenRequest], max_length: int) -> list[Row]:
    """Rows of at most `max_length` tokens where a prompt leaves room, the longest first."""
    open_rows: dict[tuple[int, ...], Row] = {}
    rows: list[Row] = []
    for index, (_, context, continuation) in enumerate(requests):
        key = tuple(context)
        row = open_rows.get(key)
        if row is None or len(row.tokens) + len(continuation) > max_length:
            size = len(key)
            row = open_rows[key] = Row(list(key), list(range(size)), [PROMPT] * size)
            rows.append(row)
        row.add(index, continuation, len(key))
    return sorted(rows, key=lambda row: (-len(row.tokens), row.targets[0][0]))


def score_rows(model: Any, rows: Sequence[Row]) -> dict[int, Answer]:
    """Answers by the index of their request, from one forward pass over `rows`.

    Tensors are (rows, width); the attention mask is (rows, 1, width, width), true where a column
    is read.
    """
    import torch

    width = max(len(row.tokens) for row in rows)

    def padded(values: list[list[int]], filler: int) -> Any:
        table = [value + [filler] * (width - len(value)) for value in values]
        return torch.tensor(table, device=model.device)

    segments = padded([row.segments for row in rows], PADDING)
    causal = torch.ones(width, width, dtype=torch.bool, device=model.device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    mask = causal & (own | (segments == PROMPT)[:, None, :])
    with torch.inference_mode():
        hidden = model.base_model(
            input_ids=padded([row.tokens for row in rows], 0),
            position_ids=padded([row.positions for row in rows], 0),
            attention_mask=mask[:, None],
            use_cache=False,
        ).last_hidden_state
        return _answers(model.get_output_embeddings(), hidden, rows)


def _answers(head: Any, hidden: Any, rows: Sequence[Row]) -> dict[int, Answer]:
    """Log likelihoods from `hidden` (rows, width, size): each needed position is scored once."""
    places: dict[tuple[int, int], int] = {}
    wanted = [
        (index, [places.setdefault((number, column), len(places)) for column in columns], tokens)
        for number, row in enumerate(rows)
        for index, columns, tokens in row.targets
    ]
    asked: list[list[int]] = [[] for _ in places]
    for _, spots, tokens in wanted:
        for spot, token in zip(spots, tokens, strict=True):
            asked[spot].append(token)
    chosen = hidden[[row for row, _ in places], [column for _, column in places]]
    likelihoods, best = _token_likelihoods(head, chosen, asked)
    return {
        index: (
            sum(likelihoods[spot][token] for spot, token in zip(spots, tokens, strict=True)),
            all(best[spot] == token for spot, token in zip(spots, tokens, strict=True)),
        )
        for index, spots, tokens in wanted
    }


def _token_likelihoods(
    head: Any, hidden: Any, asked: Sequence[Sequence[int]]
) -> tuple[list[dict[int, float]], list[int]]:
    """For each position (count, size): log probability of the tokens asked for; the best token."""
    from torch.nn.functional import linear, log_softmax

    weight = head.weight.float()
    bias = None if head.bias is None else head.bias.float()
    likelihoods: list[dict[int, float]] = []
    best: list[int] = []
    for start in range(0, len(asked), HEAD_POSITIONS):
        logits = linear(hidden[start : start + HEAD_POSITIONS].float(), weight, bias)
        best += logits.argmax(dim=-1).tolist()
        for row, tokens in zip(log_softmax(logits, dim=-1), asked[start:], strict=False):
            likelihoods.append(dict(zip(tokens, row[list(tokens)].tolist(), strict=True)))
    return likelihoods, best
