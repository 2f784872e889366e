"""Text models: prompts continued greedily, and the tokenizer's BOS and EOS compared with what
the configuration says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipelines.progress import report
from pipelines.smoke.loading import Seen, Subject
from pipelines.smoke.plan import read_object
from pipelines.smoke.result import SmokeAnswer

PROMPTS = (
    "The capital of France is",
    "In the morning she opened the window and",
    "def add(a, b):\n    return",
)
NEW_TOKENS = 24
# A cycle of at most this many tokens that goes on for this long is not language.
LONGEST_CYCLE = 4
CYCLE_TOKENS = 16

# (token ids of shape (1, n), cache or None) to the model's output.
Step = Callable[[Any, Any], Any]


def try_causal(subject: Subject) -> Seen:
    """Continue the prompts; text that repeats itself without end is a problem."""
    seen = Seen(problems=token_problems(subject))
    assert subject.tokenizer is not None
    for count, prompt in enumerate(PROMPTS, start=1):
        seen.answers.append(_continue(subject, prompt))
        report(count, len(PROMPTS), "prompts", "smoke test")
    seen.problems += finite_problems(seen.answers) + cycle_problems(seen.answers)
    return seen


def try_sequence_to_sequence(subject: Subject) -> Seen:
    """Read the prompts and decode; answers that do not depend on the prompt are a problem.

    Repetition is not judged: these models are trained for tasks that these prompts do not name.
    """
    import torch

    seen = Seen(problems=token_problems(subject))
    assert subject.tokenizer is not None
    states = []
    for count, prompt in enumerate(PROMPTS, start=1):
        ids = torch.tensor([subject.tokenizer.encode(prompt)])
        answer, state = decode(subject, prompt, {"input_ids": ids}, NEW_TOKENS)
        seen.answers.append(answer)
        states.append(state)
        report(count, len(PROMPTS), "prompts", "smoke test")
    seen.problems += finite_problems(seen.answers)
    if torch.equal(states[0], states[1]):
        seen.problems.append("two different prompts give the same first logits")
    return seen


def decode(
    subject: Subject, what: str, inputs: dict[str, Any], new_tokens: int
) -> tuple[SmokeAnswer, Any]:
    """Greedy decoding from an encoder's reading of `inputs`; also returns the first logits."""
    import torch

    model: Any = subject.model
    settings = (model.generation_config, model.config)
    named = ("decoder_start_token_id", "bos_token_id")
    starts = [getattr(setting, name, None) for name in named for setting in settings]
    start = next((token for token in starts if token is not None), 0)
    first: list[Any] = []
    with torch.inference_mode():
        encoded = model.get_encoder()(**inputs)

        def step(ids: Any, past: Any) -> Any:
            output = model(
                encoder_outputs=encoded, decoder_input_ids=ids, past_key_values=past, use_cache=True
            )
            first.append(output.logits[0, 0].float())
            return output

        made, finite = greedy(step, torch.tensor([[int(start)]]), stop_tokens(subject), new_tokens)
    return _answer(subject, what, made, finite), first[0]


def greedy(step: Step, ids: Any, stops: set[int], new_tokens: int) -> tuple[list[int], bool]:
    """Greedy decoding, written out: a generation config with penalties must not interfere.

    Returns the tokens made and whether all logits were finite. A model that keeps no cache is
    given all of the text at each step.
    """
    import torch

    made: list[int] = []
    finite, past, whole = True, None, ids
    with torch.inference_mode():
        for _ in range(new_tokens):
            output = step(ids, past)
            finite = finite and bool(torch.isfinite(output.logits).all())
            token = int(output.logits[0, -1].argmax())
            if token in stops or not finite:
                break
            made.append(token)
            new = torch.tensor([[token]])
            past, whole = getattr(output, "past_key_values", None), torch.cat([whole, new], dim=1)
            ids = whole if past is None else new
    return made, finite


def stop_tokens(subject: Subject) -> set[int]:
    """The tokens that end an answer, as tokenizer and generation config name them."""
    generation: Any = subject.model.generation_config
    tokenizer = subject.tokenizer
    own = ids_of(tokenizer.eos_token_id) if tokenizer is not None else []
    return {*own, *ids_of(getattr(generation, "eos_token_id", None))}


def token_problems(subject: Subject) -> list[str]:
    """Compare the tokenizer with what config, generation config and source say of BOS and EOS."""
    tokenizer: Any = subject.tokenizer
    config: Any = subject.model.config.get_text_config()
    problems = row_problems(subject)
    generation: Any = subject.model.generation_config
    stated = {
        *ids_of(getattr(config, "eos_token_id", None)),
        *ids_of(getattr(generation, "eos_token_id", None)),
    }
    eos = tokenizer.eos_token_id
    if stated and eos is not None and eos not in stated:
        problems.append(f"the tokenizer ends with token {eos}, the config with {sorted(stated)}")
    adds_bos = subject.adds_bos
    if adds_bos is None:
        adds_bos = read_object(subject.weights / "tokenizer_config.json").get("add_bos_token")
    bos = ids_of(getattr(config, "bos_token_id", None)) or ids_of(tokenizer.bos_token_id)
    starts = tokenizer.encode("A sentence.")[:1]
    if adds_bos is True and bos and starts != bos:
        problems.append(
            f"text must start with BOS (token {bos[0]}), and the tokenizer does not add it"
        )
    if adds_bos is False and bos and starts == bos:
        problems.append(f"the tokenizer adds BOS (token {bos[0]}), and the source says it must not")
    return problems


def row_problems(subject: Subject) -> list[str]:
    """A tokenizer with more tokens than the embedding has rows belongs to another model."""
    tokenizer: Any = subject.tokenizer
    try:
        embedding: Any = subject.model.get_input_embeddings()
    except NotImplementedError:  # what transformers raises for a model without one
        return []
    rows = embedding.weight.shape[0] if hasattr(embedding, "weight") else None
    if rows is not None and len(tokenizer) > rows:
        return [f"the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows"]
    return []


def cycle_length(tokens: Sequence[int]) -> int:
    """The shortest cycle (1 to LONGEST_CYCLE) that fills CYCLE_TOKENS tokens in a row, or 0."""
    for period in range(1, LONGEST_CYCLE + 1):
        run = period
        for before, after in zip(tokens, tokens[period:], strict=False):
            run = run + 1 if before == after else period
            if run >= CYCLE_TOKENS:
                return period
    return 0


def cycle_problems(answers: Sequence[SmokeAnswer]) -> list[str]:
    """Most answers repeat themselves; a small sound model may fall into one cycle by itself."""
    cycles = [answer for answer in answers if answer.cycle]
    if 2 * len(cycles) <= len(answers):
        return []
    return [
        f"{len(cycles)} of {len(answers)} answers repeat themselves without end, "
        f"{cycles[0].prompt!r} for one: {cycles[0].completion[-60:]!r}"
    ]


def finite_problems(answers: Iterable[SmokeAnswer]) -> list[str]:
    """Prompts after which a logit was not a number."""
    return [
        f"logits are not finite after {answer.prompt!r}" for answer in answers if not answer.finite
    ]


def ids_of(value: Any) -> list[int]:
    """The token ids of a setting that may be absent, one id or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [int(value)]


def _continue(subject: Subject, prompt: str) -> SmokeAnswer:
    import torch

    model: Any = subject.model
    assert subject.tokenizer is not None

    def step(ids: Any, past: Any) -> Any:
        cache = {} if past is None else {"past_key_values": past}
        return model(input_ids=ids, use_cache=True, **cache)

    ids = torch.tensor([subject.tokenizer.encode(prompt)])
    made, finite = greedy(step, ids, stop_tokens(subject), NEW_TOKENS)
    return _answer(subject, prompt, made, finite)


def _answer(subject: Subject, prompt: str, made: list[int], finite: bool) -> SmokeAnswer:
    spelled = "" if subject.tokenizer is None else str(subject.tokenizer.decode(made))
    return SmokeAnswer(
        prompt=prompt,
        completion=spelled,
        tokens=len(made),
        finite=finite,
        cycle=cycle_length(made),
    )
