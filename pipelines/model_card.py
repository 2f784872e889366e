"""The model card that Weighbridge writes about what it took in (origin/model_card.md).

Everything in it is read from records, so the same ingest gives the same card. Texts that a
publisher controls stand in code spans, on one line, so that they cannot pass for ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.canonical import Frozen, sha256_bytes
from pipelines.gguf_facts import GgufFacts
from pipelines.records import Derivation, LicenceClaim, ManifestRecord
from pipelines.smoke.result import SmokeResult
from pipelines.verification.safetensors_header import read_safetensors

_MAX_LISTED = 40
_MAX_TEXT = 200
_ERROR_KEYS = ("expansion_", "rounding_", "largest_")


class CardFacts(Frozen):
    """What the card says beyond the manifest."""

    gguf: dict[str, GgufFacts]
    tensors: dict[str, int]
    smoke: SmokeResult
    left_out: tuple[str, ...] = ()
    ollama_template_sha256: str = ""


def tensor_types(model: Path) -> dict[str, int]:
    """Tensor type to number of tensors, over all safetensors files of a folder (headers only).

    Raises MalformedFile for a header that breaks the format's rules.
    """
    found: Counter[str] = Counter()
    for path in sorted(model.rglob("*.safetensors")):
        found.update(tensor.dtype for tensor in read_safetensors(path).tensors)
    return dict(sorted(found.items()))


def model_card(record: ManifestRecord, facts: CardFacts) -> str:
    """The card as Markdown."""
    parts = [
        f"# {record.name}\n\nWritten by Weighbridge at ingest. What the publisher says about this "
        "model, if anything came with it, lies in `publisher/`.",
        _origin(record),
        _made(record.derivation, facts),
        _licences(record.licences),
        _tensors(facts),
        _smoke(facts.smoke),
        _limits(record.derivation),
        _files(record, facts.left_out),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(record: ManifestRecord) -> str:
    lines = [
        "## Origin\n",
        "| | |",
        "|---|---|",
        f"| reference | {_code(record.reference)} |",
        f"| weight digest | `{record.weight_digest}` |",
    ]
    if record.derivation is not None:
        lines += [
            f"| made from | {_code(entry.path)}, sha256 `{entry.sha256}` |"
            for entry in record.derivation.source_files
        ]
    lines.append(f"| ingest code | `{record.code_digest}` |")
    return "\n".join(lines)


def _made(derivation: Derivation | None, facts: CardFacts) -> str:
    if derivation is None:
        return (
            "## How these bytes were made\n\nThey are the publisher's own, as they were fetched: "
            "each file was checked against the digest that the reference pins."
        )
    source = ", ".join(_code(entry.path) for entry in derivation.source_files)
    if derivation.method == "depickle":
        return (
            f"## How these bytes were made\n\nThey were converted from PyTorch pickles: {source}. "
            f"{derivation.settings.get('scanners')} found nothing in them; a confined process read "
            "the tensors and nothing else, and wrote them as safetensors, number for number."
        )
    types = _histogram(facts.gguf[derivation.source_files[0].path].tensors)
    tools = ", ".join(f"{tool} {version}" for tool, version in derivation.tools.items())
    said = derivation.settings
    settings = ", ".join(
        f"{key} {value}" for key, value in said.items() if not key.startswith(_ERROR_KEYS)
    )
    return (
        "## How these bytes were made\n\n"
        f"Dequantised from {source} ({types}): {_bits(facts, derivation)}, so they are **not "
        "bit-equal to the publisher's original weights**. Each block was expanded in float32 and "
        f"rounded to the type below. Settings: {settings}. Tools: {tools}.{_error(derivation)}"
    )


def _error(derivation: Derivation) -> str:
    """How far what was written may be, and is, from what the GGUF file says."""
    said = derivation.settings
    if "largest_absolute_difference" not in said:
        return ""
    kinds = ", ".join(
        f"{key.removeprefix('expansion_')} {value}"
        for key, value in said.items()
        if key.startswith("expansion_")
    )
    return (
        f"\n\nExpansion to float32: {kinds}. Rounding changes a value by at most "
        f"{said['rounding_relative_bound']:.2g} of itself; over all tensors, the largest "
        f"difference that it made is {said['largest_absolute_difference']:.3g}, and relative to "
        f"the value {said['largest_relative_difference']:.3g}."
    )


def _bits(facts: CardFacts, derivation: Derivation) -> str:
    """'it was 4-bit once', from the most frequent tensor type (Q4_1, IQ2_XS, TQ1_0 …)."""
    tensors = facts.gguf[derivation.source_files[0].path].tensors
    kind = max(sorted(tensors), key=lambda name: tensors[name])
    digits = "".join(c for c in kind.partition("_")[0] if c.isdigit())
    if "Q" in kind and digits:
        return f"most of these weights were {digits}-bit once"
    return f"most of these weights were stored as {kind}"


def _licences(claims: Sequence[LicenceClaim]) -> str:
    if not claims:
        return "## Licence claims\n\nNone was found. Verification refuses weights without one."
    lines = [
        "## Licence claims\n",
        "As found; verification decides what they mean. Texts lie in `licences/`.\n",
        "| where | says |",
        "|---|---|",
    ]
    for claim in claims:
        says = _code(claim.identifier) if claim.identifier else f"text `{claim.text_sha256}`"
        lines.append(f"| {_code(claim.source)} | {says} |")
    return "\n".join(lines)


def _tensors(facts: CardFacts) -> str:
    lines = ["## Tensors\n", "| file | types | says of itself |", "|---|---|---|"]
    if facts.tensors:
        lines.append(f"| safetensors | {_histogram(facts.tensors)} | |")
    for name, gguf in facts.gguf.items():
        says = f"architecture {_code(gguf.architecture)}, name {_code(gguf.name)}"
        if gguf.file_type is not None:
            says += f", declared file type {gguf.file_type}"
        lines.append(f"| {_code(name)} | {_histogram(gguf.tensors)} | {says} |")
    return "\n".join([*lines, *_templates(facts)])


def _templates(facts: CardFacts) -> list[str]:
    """Ollama brings a template of its own beside the file's: answers depend on which is used."""
    if not facts.ollama_template_sha256:
        return []
    own = [sha256_bytes(g.chat_template.encode()) for g in facts.gguf.values() if g.chat_template]
    return [
        f"\nOllama renders prompts with a Go template (sha256 `{facts.ollama_template_sha256}`, in "
        "`publisher/ollama/template`), other engines with the jinja template inside the file "
        f"({'sha256 `' + own[0] + '`' if own else 'there is none'}): two texts, so answers of the "
        "two are not comparable as they stand."
    ]


def _smoke(smoke: SmokeResult) -> str:
    if smoke.outcome == "not run":
        return f"## Smoke test\n\nNot run: {_code(smoke.reason)}."
    lines = [
        f"## Smoke test\n\n{smoke.outcome.capitalize()}, tried as {smoke.tested or 'causal'}: it "
        "loads whole, its numbers are finite, and what its kind is tried for (docs/families.md) "
        "holds.\n"
    ]
    lines += [f"- {_code(seen)}" for seen in smoke.observations]
    if smoke.answers:
        lines += ["\nGreedy decoding:\n", "| input | output |", "|---|---|"]
        lines += [f"| {_code(a.prompt)} | {_code(a.completion)} |" for a in smoke.answers]
    return "\n".join(lines)


def _limits(derivation: Derivation | None) -> str:
    limits = [
        "The reference says where the bytes came from, not that the publisher's account was its "
        "own on that day.",
        "The smoke test says nothing of quality, and no check shows that a back door from "
        "training is absent.",
    ]
    if derivation is not None:
        limits.append(
            "Scores measured on these weights hold for the quantised original only as far as "
            "engines agree on its blocks, and do not hold for the unquantised one."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _files(record: ManifestRecord, left_out: Sequence[str]) -> str:
    lines = ["## Files\n", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {_code(f.path)} | {f.size_bytes} | `{f.sha256}` |" for f in record.files]
    if left_out:
        shown = ", ".join(_code(name) for name in left_out[:_MAX_LISTED])
        more = len(left_out) - _MAX_LISTED
        rest = f" and {more} more" if more > 0 else ""
        lines.append(f"\nIn the source and left out: {shown}{rest}.")
    return "\n".join(lines)


def _histogram(tensors: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in tensors.items()) or "none"


def _code(text: str) -> str:
    """A foreign text as one code span that ends where it should, also within a table."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    shown = flat[:_MAX_TEXT] + ("…" if len(flat) > _MAX_TEXT else "")
    return "`" + shown.replace("`", "'").replace("|", "\\|") + "`" if shown else "(empty)"
