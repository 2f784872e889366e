"""The model card of a tuned model (origin/model_card.md), read from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.records import LicenceClaim, ManifestRecord, TrainingRecord

_SHOWN_LOSSES = 12


def training_card(record: TrainingRecord, manifest: ManifestRecord, base: ManifestRecord) -> str:
    """The card as Markdown: what it was made from, how, with which losses, under which terms."""
    parts = [
        f"# {record.name}\n\nWritten by Weighbridge after training.",
        _made_from(record, manifest),
        _recipe(record),
        _losses(record.losses),
        _checks(record),
        _licences(record, manifest, base),
        _limits(record),
    ]
    return "\n\n".join(parts) + "\n"


def _made_from(record: TrainingRecord, manifest: ManifestRecord) -> str:
    lines = [
        "## Made from\n",
        "| | |",
        "|---|---|",
        f"| weight digest | `{record.weight_digest}` |",
        f"| base | {record.base}, `{record.base_digest}` |",
        f"| adapter | `{record.adapter_digest}` (under `adapter/`, bound to the base's digest) |",
        f"| data set | {record.dataset}, `{record.dataset_sha256}`, {record.rows} rows |",
        f"| recipe | `{record.recipe_sha256}` |",
        f"| training code | `{record.code_digest}` |",
        f"| chat template | `{record.template_sha256}`, the base's own |",
    ]
    lines += [
        f"| further back | {_code(a.name)} ({a.relation}), `{a.weight_digest}` |"
        for a in manifest.pedigree[1:]
    ]
    return "\n".join(lines)


def _recipe(record: TrainingRecord) -> str:
    lines = [
        "## How\n",
        "A LoRA adapter, trained on the answers (and the tokens that end them) and merged into "
        "the base in float32. Configuration, tokenizer and chat template are the base's bytes.\n",
        "| setting | value |",
        "|---|---|",
    ]
    for key, value in sorted(record.settings.items()):
        lines.append(f"| {key} | {_code(str(value))} |")
    tools = ", ".join(f"{tool} {version}" for tool, version in sorted(record.tools.items()))
    return "\n".join(lines) + f"\n\nTools: {tools}."


def _losses(losses: Sequence[float]) -> str:
    """First and last loss and a dozen between, evenly spaced; all of them are in training.json."""
    count = len(losses)
    chosen = sorted({round(i * (count - 1) / (_SHOWN_LOSSES - 1)) for i in range(_SHOWN_LOSSES)})
    steps = " | ".join(str(index + 1) for index in chosen)
    values = " | ".join(f"{losses[index]:.3f}" for index in chosen)
    rule = "|---" * (len(chosen) + 1) + "|"
    return (
        "## Training loss\n\nNats per answer token, on the rows of that step alone.\n\n"
        f"| step | {steps} |\n{rule}\n| loss | {values} |"
    )


def _checks(record: TrainingRecord) -> str:
    return (
        "## Checks\n\n"
        f"- The data passed its checks (`data_checks/`, `{record.data_checks_sha256}`). Rows "
        f"whose answer lies beyond the length limit, without effect: {record.rows_without_loss}.\n"
        "- On the first rows, the merged weights and base + adapter differ by at most "
        f"{record.parity_max_logprob_difference:g} nats in the log-probability of any token."
    )


def _licences(record: TrainingRecord, manifest: ManifestRecord, base: ManifestRecord) -> str:
    lines = [
        "## Licences\n",
        "A tuned model inherits the obligations of all that it was made from; the strictest one "
        "along the line wins. Claims as found at ingest; verification decides what they mean and "
        "writes the NOTICE to pass on. Texts lie in `licences/`.\n",
        "| inherited from | where | says |",
        "|---|---|---|",
    ]
    further = [(ancestor.name, ancestor.licences) for ancestor in manifest.pedigree[1:]]
    for name, claims in [(record.base, base.licences), *further]:
        lines += [f"| {_code(name)} | {_code(c.source)} | {_says(c)} |" for c in claims]
        if not claims:
            lines.append(f"| {_code(name)} | | no claim was found |")
    allowed = str(record.settings.get("checks.allowed_licences", "")).replace(",", ", ")
    return "\n".join(lines) + (
        f"\n\nEvery row of the data carries one of: {allowed}. Terms that ask for attribution are "
        f"in the card of the data set {record.dataset}."
    )


def _says(claim: LicenceClaim) -> str:
    return _code(claim.identifier) if claim.identifier else f"text `{claim.text_sha256}`"


def _limits(record: TrainingRecord) -> str:
    return (
        "## Limits\n\n"
        "- Nothing here says that the model is good: its evaluations and its verdict do.\n"
        f"{_again(record)}\n"
        "- Whether rows of an evaluation suite are in the training data is not checked here."
    )


def _again(record: TrainingRecord) -> str:
    if record.settings.get("device") != "cpu":
        return "- Trained on an accelerator: the same inputs need not give these bytes again."
    return (
        "- The same inputs give these bytes again on the same machine with "
        f"{record.settings.get('threads')} threads; other hardware may round differently."
    )


def _code(text: str) -> str:
    """A foreign text as one code span on one line."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "`" + flat.replace("`", "'").replace("|", "\\|") + "`" if flat else "(empty)"
