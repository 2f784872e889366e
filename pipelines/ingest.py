"""The stage `ingest`: weights from outside, brought in whole and with their identity proved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.adapters import adapter_base
from pipelines.canonical import (
    Frozen,
    canonical_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_record,
)
from pipelines.depickle import PICKLED, CannotDepickle, depickle
from pipelines.digest import FileEntry, build_manifest, weight_digest
from pipelines.errors import NoSpaceLeft, SmokeTestFailed, UnusableSource, is_disk_full
from pipelines.file_lock import exclusive
from pipelines.gguf_facts import GgufFacts, read_facts
from pipelines.ingest_child import Done, Work, load_and_try
from pipelines.model_card import CardFacts, model_card, tensor_types
from pipelines.models_file import ModelEntry
from pipelines.records import Ancestor, Derivation, LicenceClaim, ManifestRecord
from pipelines.references import parse_reference
from pipelines.smoke.plan import plan
from pipelines.smoke.result import not_run
from pipelines.sources.claims import PAPERS_FOLDER
from pipelines.sources.dispatch import Fetched, fetch
from pipelines.sources.intake import Wanted, scratch
from pipelines.store.objects import ObjectStore
from pipelines.verification.findings import listed
from pipelines.verification.policy import PickleScanner

_SAFE_SOURCE = "Take a revision in safetensors or GGUF, or a source whose files the scanners pass."
_AS_IT_IS = (
    "Ingest it as it is (convert: as-is), or take a source with one GGUF file that transformers "
    "reads."
)


class IngestConfig(Frozen):
    """One model from outside; `home` is the machine's, with its store and downloads."""

    name: str
    entry: ModelEntry
    code_digest: str
    home: Path
    smoke_limit_bytes: int = 8 * 1024**3
    pickle_scanners: tuple[PickleScanner, ...] | None = None  # None: the policy refuses pickles


def ingest(config: IngestConfig, weights_out: Path, origin_out: Path) -> ManifestRecord:
    """Fetch, check, convert where asked, and smoke-test one model.

    `weights_out` (new) receives weights, configuration and tokenizer and nothing else;
    `origin_out` (new) receives manifest.json, model_card.md, smoke.json, licence texts under
    licences/, the publisher's own papers under publisher/, and gguf.json for GGUF files. On any
    error both may be half-filled, and the caller drops them; what was fetched stays in the store.
    Files that are kept as they are are links to the store's objects.

    Raises SourceNotFound, SourceChanged, UnusableSource, WrongKindOfPath or CommandFailed for the
    source, MalformedFile and SmokeTestFailed for the weights, AdapterWithoutBase or
    AdapterForOtherBase for an adapter, and NoSpaceLeft.
    """
    _check_pickles(config)
    origin_out.mkdir()
    with no_space_named(weights_out.parent):
        with _place(config, weights_out) as model:
            fetched = fetch(_wanted(config.entry), ObjectStore(config.home), model, origin_out)
            ggufs = _gguf_facts(config, model, fetched)
            tensor_types(model)  # refuses a malformed header before a loader sees it
            base = adapter_base(config.entry, model)
            done = _load(config, model, weights_out, ggufs, base)
        if done.problem:
            raise UnusableSource(config.entry.reference, done.problem, _AS_IT_IS)
        if done.smoke.outcome == "failed":
            raise SmokeTestFailed(config.name, done.smoke.problems)
        files = fetched.files if done.conversion is None else build_manifest(weights_out)
        record = _record(config, files, fetched, ggufs, done)
        if base is not None:
            record = record.model_copy(update={"pedigree": (base,)})
        smoke = done.smoke.model_copy(update={"weight_digest": record.weight_digest})
        facts = CardFacts(
            gguf=ggufs,
            tensors=tensor_types(weights_out),
            smoke=smoke,
            left_out=fetched.left_out,
            ollama_template_sha256=_ollama_template(origin_out),
        )
        _write(record, facts, origin_out)
    return record


def _wanted(entry: ModelEntry) -> Wanted:
    reference = parse_reference(entry.reference)
    return Wanted(
        reference=reference,
        include=entry.include,
        exclude=entry.exclude,
        pickled=entry.convert == "depickle",
    )


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
def _place(config: IngestConfig, weights_out: Path) -> Iterator[Path]:
    """Where fetched files go: the output itself, or a scratch folder when they are converted.

    Held by one process at a time: a second ingest of the same model waits for the first.
    """
    key = sha256_bytes(f"{config.name} {config.entry.model_dump_json()}".encode())
    with exclusive(config.home / "downloads" / "locks" / f"{key}.lock", f"ingest of {config.name}"):
        if config.entry.convert != "as-is":
            with scratch(config.home / "downloads" / "scratch" / key) as folder:
                yield folder
        else:
            weights_out.mkdir()
            yield weights_out


def _gguf_facts(config: IngestConfig, model: Path, fetched: Fetched) -> dict[str, GgufFacts]:
    """Facts of every GGUF file; refuses to dequantise when there is not exactly one."""
    names = [entry.path for entry in fetched.files if entry.path.lower().endswith(".gguf")]
    if config.entry.convert == "dequantise" and len(names) != 1:
        raise UnusableSource(
            config.entry.reference,
            f"dequantising needs exactly one GGUF file, and there are: {listed(names) or 'none'}",
            _AS_IT_IS,
        )
    return {name: read_facts(model / name) for name in names}


def _load(
    config: IngestConfig,
    model: Path,
    weights_out: Path,
    ggufs: dict[str, GgufFacts],
    base: Ancestor | None,
) -> Done:
    """Convert and try in a child process; none is started when there is nothing to load."""
    if config.entry.convert == "depickle":
        return _depickle(config, model, weights_out)
    if base is not None:
        return Done(smoke=not_run(f"an adapter; its base is {base.name}"))
    work = _work(config, model, weights_out, ggufs)
    if work.gguf:
        return load_and_try(work)
    planned = plan(model, ggufs, config.smoke_limit_bytes)
    if planned.reason:
        return Done(smoke=not_run(planned.reason))
    return load_and_try(
        work.model_copy(update={"try_gguf": planned.gguf, "adds_bos": planned.adds_bos})
    )


def _depickle(config: IngestConfig, model: Path, weights_out: Path) -> Done:
    """Convert pickles, as the policy admits it, and try what came of them."""
    try:
        conversion = depickle(model, weights_out, config.pickle_scanners or ())
    except CannotDepickle as error:
        raise UnusableSource(config.entry.reference, str(error), _SAFE_SOURCE) from error
    planned = plan(weights_out, {}, config.smoke_limit_bytes)
    smoke = not_run(planned.reason)
    if not planned.reason:
        smoke = load_and_try(_work(config, model, weights_out, {})).smoke
    return Done(conversion=conversion, smoke=smoke)


def _check_pickles(config: IngestConfig) -> None:
    """Refuse before a byte is fetched."""
    if config.entry.convert == "depickle" and config.pickle_scanners is None:
        fact = "models.yaml has it converted from pickles, and the policy refuses them"
        remedy = "Take a revision in safetensors, or set `pickle: depickle` in the policy."
        raise UnusableSource(config.entry.reference, fact, remedy)


def _work(
    config: IngestConfig, model: Path, weights_out: Path, ggufs: dict[str, GgufFacts]
) -> Work:
    convert = config.entry.convert == "dequantise"
    name = next(iter(ggufs)) if convert else ""
    return Work(
        model=model,
        gguf=name,
        out=weights_out,
        dtype=config.entry.dtype,
        context_length=ggufs[name].context_length if convert else None,
        adds_bos=ggufs[name].adds_bos if convert else None,
        smoke_limit_bytes=config.smoke_limit_bytes,
    )


def _record(
    config: IngestConfig,
    files: tuple[FileEntry, ...],
    fetched: Fetched,
    ggufs: dict[str, GgufFacts],
    done: Done,
) -> ManifestRecord:
    licences = (*fetched.licences, *_gguf_claims(ggufs))
    derivation: Derivation | None = None
    pedigree: tuple[Ancestor, ...] = ()
    if done.conversion is not None:
        pickled = config.entry.convert == "depickle"
        sources = tuple(
            entry
            for entry in fetched.files
            if entry.path in ggufs or (pickled and PICKLED.fullmatch(entry.path))
        )
        derivation = Derivation(
            method="depickle" if pickled else "dequantise-gguf",
            source_files=sources,
            settings=done.conversion.settings,
            tools=done.conversion.tools,
        )
        pedigree = (
            Ancestor(
                name=sources[0].path,
                weight_digest=weight_digest(sources),
                relation="depickled-from" if pickled else "dequantised-from",
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


def _ollama_template(origin: Path) -> str:
    path = origin / PAPERS_FOLDER / "ollama" / "template"
    return sha256_file(path) if path.is_file() else ""


def _write(record: ManifestRecord, facts: CardFacts, origin: Path) -> None:
    write_record(origin / "smoke.json", facts.smoke)
    if facts.gguf:
        gguf = {name: fact.model_dump(mode="json") for name, fact in facts.gguf.items()}
        write_bytes(origin / "gguf.json", canonical_json(gguf) + b"\n")
    write_bytes(origin / "model_card.md", model_card(record, facts).encode())
    write_record(origin / "manifest.json", record)
