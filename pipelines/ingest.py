"""The stage `ingest`: weights from outside, brought in whole and with their identity proved."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pipelines.canonical import Frozen, canonical_json, write_bytes, write_record
from pipelines.digest import FileEntry, build_manifest, weight_digest
from pipelines.errors import NoSpaceLeft, SmokeTestFailed, UnusableSource, is_disk_full
from pipelines.gguf_facts import GgufFacts
from pipelines.ingest_child import Done, Work, examine
from pipelines.model_card import CardFacts, model_card, tensor_types
from pipelines.models_file import ModelEntry
from pipelines.records import Ancestor, Derivation, LicenceClaim, ManifestRecord
from pipelines.references import parse_reference
from pipelines.sources.dispatch import fetch
from pipelines.sources.intake import Fetched

_ASK_FOR_ANOTHER = "Ingest it as-is, or take a file that this version of transformers reads."


class IngestConfig(Frozen):
    """One model from outside; `cache` keeps downloads for the next try."""

    name: str
    entry: ModelEntry
    code_digest: str
    cache: Path
    smoke_limit_bytes: int = 8 * 1024**3


def ingest(config: IngestConfig, weights_out: Path, origin_out: Path) -> ManifestRecord:
    """Fetch, check, convert where asked, and smoke-test one model.

    `weights_out` (new) receives weights, configuration and tokenizer and nothing else;
    `origin_out` (new) receives manifest.json, model_card.md, smoke.json, licence texts under
    licences/, the publisher's own papers under publisher/, and gguf.json for GGUF files. On any
    error both may be half-filled, and the caller drops them; what was downloaded stays in the
    cache.

    Raises SourceNotFound, SourceChanged, UnusableSource, WrongKindOfPath or CommandFailed for the
    source, SmokeTestFailed for the weights, and NoSpaceLeft.
    """
    config.cache.mkdir(parents=True, exist_ok=True)
    origin_out.mkdir()
    dequantise = config.entry.convert == "dequantise"
    with no_space_named(weights_out.parent):
        with _place(config, weights_out, dequantise=dequantise) as model:
            fetched = _fetch(config, model, origin_out, dequantise=dequantise)
            done = examine(
                Work(
                    model=model,
                    dequantise_to=weights_out if dequantise else None,
                    dtype=config.entry.dtype,
                    smoke_limit_bytes=config.smoke_limit_bytes,
                )
            )
        if done.problem:
            raise UnusableSource(config.entry.reference, done.problem, _ASK_FOR_ANOTHER)
        if done.smoke.outcome == "failed":
            raise SmokeTestFailed(config.name, done.smoke.problems)
        files = build_manifest(weights_out) if dequantise else fetched.files
        record = _record(config, files, fetched, done)
        _write(record, weights_out, origin_out, fetched, done)
    return record


@contextmanager
def no_space_named(folder: Path) -> Iterator[None]:
    """Turn the operating system's word for a full disk into NoSpaceLeft."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpaceLeft(error.filename or folder) from error
        raise


@contextmanager
def _place(config: IngestConfig, weights_out: Path, *, dequantise: bool) -> Iterator[Path]:
    """Where fetched files go: the output itself, or a scratch folder when they are converted."""
    scratch = tempfile.TemporaryDirectory(prefix=".source-", dir=config.cache)
    with scratch if dequantise else nullcontext() as folder:
        place = Path(folder, "model") if folder else weights_out
        place.mkdir()
        yield place


def _fetch(config: IngestConfig, model: Path, origin: Path, *, dequantise: bool) -> Fetched:
    reference = parse_reference(config.entry.reference)
    fetched = fetch(reference, config.cache, model, origin)
    ggufs = [entry.path for entry in fetched.files if entry.path.lower().endswith(".gguf")]
    if dequantise and len(ggufs) != 1:
        listed = ", ".join(ggufs) or "none"
        raise UnusableSource(
            str(reference),
            f"dequantising needs exactly one GGUF file, and there are: {listed}",
            "Ingest it as-is, or take a source that holds the one file.",
        )
    return fetched


def _record(
    config: IngestConfig, files: tuple[FileEntry, ...], fetched: Fetched, done: Done
) -> ManifestRecord:
    licences = (*fetched.licences, *_gguf_claims(done.gguf))
    derivation: Derivation | None = None
    pedigree: tuple[Ancestor, ...] = ()
    if done.conversion is not None:
        sources = tuple(e for e in fetched.files if e.path in done.gguf)
        derivation = Derivation(
            method="dequantise-gguf",
            source_files=sources,
            settings=done.conversion.settings,
            tools=done.conversion.tools,
        )
        pedigree = (
            Ancestor(
                name=sources[0].path,
                weight_digest=weight_digest(sources),
                relation="dequantised-from",
                licences=licences,
            ),
        )
    return ManifestRecord(
        name=config.name,
        weight_digest=weight_digest(files),
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        reference=config.entry.reference,
        code_digest=config.code_digest,
        derivation=derivation,
        pedigree=pedigree,
        licences=licences,
    )


def _gguf_claims(facts: dict[str, GgufFacts]) -> tuple[LicenceClaim, ...]:
    claims = {
        LicenceClaim(source=f"gguf:{key}", identifier=value): None
        for fact in facts.values()
        for key, value in (
            ("general.license", fact.licence),
            ("general.license.name", fact.licence_name),
            ("general.license.link", fact.licence_link),
        )
        if value
    }
    return tuple(claims)


def _write(
    record: ManifestRecord, weights: Path, origin: Path, fetched: Fetched, done: Done
) -> None:
    smoke = done.smoke.model_copy(update={"weight_digest": record.weight_digest})
    write_record(origin / "smoke.json", smoke)
    if done.gguf:
        write_bytes(
            origin / "gguf.json",
            canonical_json({k: v.model_dump() for k, v in done.gguf.items()}) + b"\n",
        )
    facts = CardFacts(
        gguf=done.gguf,
        tensors=tensor_types(record.reference, weights),
        smoke=smoke,
        left_out=fetched.left_out,
    )
    write_bytes(origin / "model_card.md", model_card(record, facts).encode())
    write_record(origin / "manifest.json", record)
