"""Every error that Weighbridge raises on purpose.

    WeighbridgeError
    ├── Refused                      exit 1: a rule said no
    │   ├── DigestMismatch           bytes are not the bytes that were recorded
    │   ├── CodeDiffers              installed code is not the code the registry names
    │   ├── UnusableSource           a source whose files cannot be taken in as they are
    │   │   ├── LinkInSource         a file that is a symbolic link in the publisher's repository
    │   │   └── BadShardIndex        a shard index that names what does not lie beside it
    │   ├── AddressCollision         two contents with one md5, which DVC could not tell apart
    │   ├── SmokeTestFailed          weights that load wrongly or answer with nonsense
    │   ├── NotVerified              weights without a passing verification
    │   ├── NotJudged                a path or an option by which no verdict can be given
    │   ├── MalformedFile            a file that breaks the rules of its format
    │   ├── DatasetRefused           training data failed its checks
    │   ├── TemplateNotTrainable     a chat template that cannot show which text is the answer
    │   ├── TrainingRefused          a training whose result must not be used
    │   ├── AdapterForOtherBase      an adapter that was trained on other weights
    │   ├── AdapterWithoutBase       an adapter whose base nobody has named
    │   ├── UnusableEvidence         evaluation results that cannot carry a decision
    │   ├── SuiteRefused             a table of questions that cannot become a suite
    │   ├── StageRefused             a stage of the release graph that said no
    │   ├── PromotionRefused         a release that its evidence does not support
    │   │   ├── NoCandidatePassed
    │   │   ├── VerdictMissing
    │   │   ├── VerdictNotPassing
    │   │   ├── VerdictForOtherDigest
    │   │   ├── VerdictStale
    │   │   ├── EvidenceTooOld
    │   │   ├── ShadowInsufficient
    │   │   ├── WaiverExpired
    │   │   ├── BaselineMoved
    │   │   └── ApprovalsMissing
    │   ├── SignatureRefused         a signature that is missing or wrong
    │   └── BatchRefused             a batch job that must not go on
    │       ├── OutputOfAnotherJob   an output location that holds another job
    │       ├── OutputNotEmpty       an output location that holds something else
    │       ├── CorpusUnreadable     a table whose rows cannot all be read
    │       ├── TooManyErrors        more error rows than the job's limit
    │       ├── JobCancelled         a job that somebody cancelled
    │       ├── LimitReached         a job that has spent what it may, or is known to
    │       ├── ModelStillReleased   outputs of a revoked model with nothing better to rerun them
    │       ├── DestinationRefused   a place where documents of this classification may not go
    │       ├── EgressLogBroken      a log of what left that does not hold together
    │       ├── ShadowImpossible     a job that a candidate cannot be compared on
    │       ├── ExpectationsFailed   rows that are not what their expectations say
    │       ├── NotRedacted          rows that policy wants redacted before they go where asked
    │       └── OutputDamaged        committed rows that are not what was planned or recorded
    ├── Misuse                       exit 2: the request cannot be understood
    │   ├── ConfigError              a file or a value that does not fit its schema
    │   ├── BadReference             a model reference that has no known form
    │   ├── BadName                  a name that DVC or GTO would trip over
    │   ├── NotARegistry             a folder without a registry in it
    │   ├── UnknownName              a name that models.yaml does not hold
    │   ├── NameTaken                a name that models.yaml gives to something else
    │   ├── EmptyCorpus              a corpus without a document in it
    │   ├── DuplicateIds             documents that share an id
    │   └── WrongKindOfPath          a file where a folder should be, or the reverse
    └── Failed                       exit 3: the work could not be done
        ├── CommandFailed            a program that we ran ended with an error
        ├── StageFailed              a stage of the release graph that could not be run
        ├── SourceNotFound           a reference that points at nothing
        ├── SourceClosed             a source that does not let this machine in
        ├── SourceUnreachable        a source that does not answer, or only with failures
        ├── SourceChanged            a reference whose bytes are not what was resolved
        ├── WrongAnswer              a server that answers with something else than was asked for
        ├── TransferCutOff           a file that did not come whole
        ├── Busy                     another process holds what this one needs
        ├── ServerUnreachable        a Prefect server that does not answer
        ├── RestartedTooOften        a flow run that crashes every time
        ├── NoVerdict                evidence outside a registry that cannot carry a decision
        ├── NothingEvaluated         a nightly evaluation in which all failed
        ├── RemoteFailed             a DVC remote that cannot be used
        │   ├── BucketMissing
        │   ├── KeysRefused
        │   └── RemoteUnreachable
        ├── StoreFailed              an output location that cannot be read or written
        ├── SandboxUnavailable       a kernel that does not confine untrusted programs
        ├── JobNotFinished           a batch job that has no manifest yet
        ├── EngineDied               an engine that ended with requests in it
        ├── EngineKeepsDying         an engine that was started again often enough
        └── NoSpaceLeft              a disk that is full

A class owns its message: the fact first, then the remedy. `exit_code` is the only mapping from
errors to exit codes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path


class WeighbridgeError(Exception):
    """Base of all errors that are raised on purpose; `str()` is one clear line or a short list."""

    code = 3


class Refused(WeighbridgeError):
    """A rule said no. The message states the fact and the remedy."""

    code = 1


class Misuse(WeighbridgeError):
    """The request cannot be understood."""

    code = 2


class Failed(WeighbridgeError):
    """The work could not be done; the same command may be run again."""

    code = 3


class DigestMismatch(Refused):
    """Bytes that are not the bytes that were recorded."""

    def __init__(self, path: Path | str, expected: str, actual: str) -> None:
        super().__init__(
            f"{path}: expected {expected}, found {actual}. The bytes changed after they were "
            "recorded: restore them (`weighbridge pull`), or ingest them again under a new name."
        )
        self.expected, self.actual = expected, actual


class CodeDiffers(Refused):
    """Installed code or environment that is not what the registry's code file names."""

    def __init__(self, stage: str, code_file: Path, fact: str) -> None:
        super().__init__(
            f"{code_file}: {fact} for stage {stage}. Install the version that the registry names, "
            "or accept the installed one with `weighbridge doctor --accept` (this makes the "
            "stages that rest on it stale)."
        )


class UnusableSource(Refused):
    """A source whose files cannot be taken in as they are."""

    def __init__(self, reference: str, fact: str, remedy: str) -> None:
        super().__init__(f"{reference}: {fact}. {remedy}")


class LinkInSource(UnusableSource):
    """A file that is a symbolic link in its repository: what came is the name of another file."""

    def __init__(self, reference: str, path: str, target: str) -> None:
        super().__init__(
            reference,
            f"{path} is a symbolic link to {target!r}",
            "Links are refused, as they can lead anywhere: take a revision in which the file "
            "itself lies there, or leave this one out with --exclude.",
        )


class BadShardIndex(UnusableSource):
    """A shard index that names a file outside its folder, or one that is not there."""

    def __init__(self, reference: str, index: str, tensor: str, fact: str) -> None:
        super().__init__(
            reference,
            f"{index}: the entry {tensor} {fact}",
            "Take index and shards from one revision of the publisher's repository, all of them.",
        )


class AddressCollision(Refused):
    """Two different contents with one md5: DVC's address could mean either."""

    def __init__(self, md5: str, there: str, new: str) -> None:
        super().__init__(
            f"md5 {md5} is the address of sha256 {there} here and would be that of sha256 {new}. "
            "Somebody made one of the two to be taken for the other: find out who published it, "
            "and do not use either until you know."
        )


class SmokeTestFailed(Refused):
    """Weights that do not load, or whose first answers show that something is broken."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        super().__init__(
            f"{name} failed its smoke test: {'; '.join(problems)}. Nothing was registered. Take "
            "another revision, format or conversion of this model."
        )
        self.problems = tuple(problems)


class NotVerified(Refused):
    """Weights that have no passing verification must not be loaded."""

    def __init__(self, name: str, reasons: Sequence[str]) -> None:
        listed = "; ".join(reasons) if reasons else "there is no verification record"
        listed = listed.removesuffix(".")
        super().__init__(
            f"{name} is not verified: {listed}. Mend what the findings name and run "
            f"`weighbridge onboard {name}` again."
        )


class NotJudged(Refused):
    """What `weighbridge verify` was given cannot be judged, and what was not judged did not pass.

    The message is that of the error behind it, which states the fact and the remedy.
    """

    def __init__(self, target: str, error: Exception) -> None:
        fact = str(error)
        if isinstance(error, OSError):
            fact = f"{error.filename or target}: {error.strerror}. Make it readable for this user."
        super().__init__(fact)
        self.target, self.fact = target, fact


class MalformedFile(Refused):
    """A file that breaks the rules of its format; `rule` is the id that a finding carries."""

    def __init__(self, path: Path | str, rule: str, fact: str) -> None:
        super().__init__(
            f"{path}: {fact} ({rule}). Fetch it again from its publisher; a program that accepts "
            "such a file may read it differently from another."
        )
        self.path, self.rule, self.fact = path, rule, fact


class DatasetRefused(Refused):
    """Training data that failed its checks; names the failing rows."""

    def __init__(self, dataset: Path, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{dataset}: {'; '.join(reasons)}. Correct or remove these rows and run again."
        )
        self.reasons = tuple(reasons)


class TemplateNotTrainable(Refused):
    """A chat template that cannot show which part of a conversation is the answer."""

    def __init__(self, model: Path | str, fact: str) -> None:
        super().__init__(
            f"{model}: {fact}. Give the recipe a `training_template`: the model's own template "
            "with {% generation %} and {% endgeneration %} around the answer and its end token, "
            "and no other change."
        )
        self.fact = fact


class TrainingRefused(Refused):
    """A training whose result must not be used."""

    def __init__(self, name: str, fact: str, remedy: str) -> None:
        super().__init__(f"{name}: {fact}. {remedy}")
        self.fact, self.remedy = fact, remedy


class AdapterForOtherBase(Refused):
    """An adapter that was trained on other weights, or does not say on which."""

    def __init__(self, adapter: Path, base_digest: str, stated: str) -> None:
        super().__init__(
            f"{adapter}: trained on {stated or 'weights that it does not name'}, and the base here "
            f"is sha256:{base_digest}. Use the base that it was trained on, or train it again."
        )


class AdapterWithoutBase(Refused):
    """An adapter whose base is not pinned, or cannot be told from what the adapter calls it."""

    def __init__(self, reference: str, stated: str, candidates: Sequence[str] = ()) -> None:
        says, remedy = "does not say what its base is", "Ask its publisher which it is, and add it"
        if stated:
            says = f"calls its base {stated!r}"
            remedy = f"Add that model (`weighbridge add hf://{stated}@REVISION --name BASE`)"
            if stated.startswith("sha256:"):
                remedy = "Find the model with this weight digest (`weighbridge show`)"
            elif stated.count("/") != 1 or stated.startswith((".", "/", "~")):
                says += ", which is a path on the machine that trained it"
                remedy = "Ask its publisher which model that was, and add it"
        if candidates:
            remedy = f"{', '.join(candidates)} of the registry are all of that name: choose one"
        super().__init__(
            f"{reference}: an adapter, which is of use with its base only; it {says}. {remedy}, "
            "then add the adapter with `weighbridge add REFERENCE --name NAME --base BASE`."
        )
        self.stated, self.candidates = stated, tuple(candidates)


class UnusableEvidence(Refused):
    """Evaluation results that cannot carry a decision."""

    code = 3

    def __init__(self, subject: str, fact: str, remedy: str) -> None:
        super().__init__(f"{subject}: {fact}. {remedy}")


class SuiteRefused(Refused):
    """A table of questions that cannot become a suite; names the lines."""

    def __init__(self, table: Path, facts: Sequence[str], listed: int = 10) -> None:
        more = len(facts) - listed
        said = "; ".join(facts[:listed]) + (f"; and {more} more" if more > 0 else "")
        super().__init__(f"{table}: {said}. Correct the table, and make the suite again.")
        self.facts = tuple(facts)


class StageRefused(Refused):
    """A stage of the release graph that said no; carries the stage's own message."""

    def __init__(self, instance: str, message: str) -> None:
        super().__init__(f"{instance}: {message}")
        self.instance, self.reason = instance, message


class PromotionRefused(Refused):
    """A release that its evidence does not support."""


class NoCandidatePassed(PromotionRefused):
    """None of the candidates may enter the release line."""

    def __init__(self, line: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"nothing was promoted to {line}: {'; '.join(reasons)}. What is in production stays. "
            "Add a better candidate, or more items where the gate cannot tell."
        )


class VerdictMissing(PromotionRefused):
    """No gate has decided about this model."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has no verdict. Add a gate for it to models.yaml and run the stage "
            f"gate@{name} (`weighbridge stage gate {name}`, or the release flow)."
        )


class VerdictNotPassing(PromotionRefused):
    """The gate decided, and not in favour."""

    def __init__(self, name: str, outcome: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"the verdict about {name} is {outcome!r}: {'; '.join(reasons)}. "
            "Only a passing verdict is promoted; a better candidate or more items can change it."
        )


class VerdictForOtherDigest(PromotionRefused):
    """A verdict about other weights than those to be promoted."""

    def __init__(self, name: str, verdict_digest: str, weight_digest: str) -> None:
        super().__init__(
            f"the verdict about {name} is for weights {verdict_digest}, but {name} is "
            f"{weight_digest}. Run the stages evaluate and gate for the weights that are there."
        )


class VerdictStale(PromotionRefused):
    """Something that the verdict rests on changed after it was given."""

    def __init__(self, name: str, changed: Sequence[str]) -> None:
        super().__init__(
            f"the verdict about {name} is out of date: DVC reports changes in "
            f"{', '.join(changed)}. Run `weighbridge stage gate {name}` (or the release flow) "
            "and promote again."
        )
        self.changed = tuple(changed)


class EvidenceTooOld(PromotionRefused):
    """Evidence older than the policy admits, or of unknown age."""

    def __init__(self, name: str, fact: str) -> None:
        super().__init__(
            f"evidence about {name} is too old: {fact}. Run the evaluations again with "
            "`weighbridge evaluate --again`."
        )


class ShadowInsufficient(PromotionRefused):
    """A shadow run that the policy asks for and that is missing, about others, or not enough."""

    def __init__(self, name: str, facts: Sequence[str]) -> None:
        super().__init__(
            f"{name}: {'; '.join(facts)}. Run `weighbridge batch shadow JOB --candidate {name} "
            "--publish` on a finished job of the production release, or keep what is in production."
        )


class WaiverExpired(PromotionRefused):
    """A verification that rests on a waiver whose last day is over."""

    def __init__(self, name: str, ended: Sequence[str]) -> None:
        super().__init__(
            f"the verification of {name} rests on waivers that have ended: {'; '.join(ended)}. "
            "Mend what they waived, or have them decided again under policy/waivers; then verify, "
            "evaluate and gate again."
        )


class BaselineMoved(PromotionRefused):
    """Production is no longer what the candidate was compared with."""

    def __init__(self, name: str, pinned: str, production: str) -> None:
        super().__init__(
            f"{name} was compared with {pinned}, but production is {production}. Pin the gate's "
            "baseline in models.yaml to what is in production, and gate again."
        )


class ApprovalsMissing(PromotionRefused):
    """Fewer valid approvals than the policy asks for."""

    def __init__(self, name: str, required: int, valid: Sequence[str]) -> None:
        have = ", ".join(valid) if valid else "none"
        super().__init__(
            f"{name} needs {required} approvals, valid: {have}. Sign the weight digest with "
            "`ssh-keygen -Y sign -n weighbridge` and commit the signature (docs/promote.md)."
        )


class SignatureRefused(Refused):
    """A signature that is missing where required, or wrong."""

    def __init__(self, subject: Path | str, fact: str) -> None:
        super().__init__(
            f"{subject}: {fact}. Sign it again with the registry's key, or restore the signed "
            "bytes."
        )
        self.fact = fact


class BatchRefused(Refused):
    """A batch job that must not go on."""


class OutputOfAnotherJob(BatchRefused):
    """An output location that holds another job; says in what it differs."""

    def __init__(self, location: str, differing: Sequence[str]) -> None:
        super().__init__(
            f"{location}: holds a job with another {', another '.join(differing)}. A job that "
            "would give other results is a new one: name an empty output location."
        )
        self.differing = tuple(differing)


class OutputNotEmpty(BatchRefused):
    """An output location that holds something that no job wrote."""

    def __init__(self, location: str, found: str) -> None:
        super().__init__(
            f"{location}: holds {found!r} and no job.json. Name an empty output location."
        )


class CorpusUnreadable(BatchRefused):
    """A table of documents whose rows cannot all be read: nobody knows how many would be lost."""

    def __init__(self, name: str, fact: str) -> None:
        super().__init__(
            f"{name}: {fact}. Its rows cannot all be accounted for: mend the file, or move it out "
            "of the corpus."
        )


class TooManyErrors(BatchRefused):
    """More error rows than the job's limit; what is done stays done."""

    def __init__(self, job: str, errors: Mapping[str, int], rows: int, example: str) -> None:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(errors.items()))
        example = f" (for example: {example})" if example else ""
        super().__init__(
            f"{job}: {sum(errors.values())} of {rows} rows are errors: {listed}{example}. Mend "
            "what they name, or raise limits.max_error_rate and run the job again to accept them."
        )
        self.errors = dict(errors)


class JobCancelled(BatchRefused):
    """A job that somebody cancelled; what is done stays done."""

    def __init__(self, location: str) -> None:
        super().__init__(
            f"{location}: this job was cancelled. What is done is kept; "
            f"`weighbridge batch resume {location}` goes on with the rest."
        )


class LimitReached(BatchRefused):
    """A job that has spent what it may, or is known to need more; what is done stays done."""

    def __init__(self, job: str, limit: str, value: object, fact: str) -> None:
        super().__init__(
            f"{job}: {fact}, and limits.{limit} is {value}. What is done is kept: raise "
            f"limits.{limit} in the job file and resume the job, or leave it as it is."
        )
        self.limit = limit


class ModelStillReleased(BatchRefused):
    """A revoked model that the release still names, so that a rerun would change nothing."""

    def __init__(self, location: str, model: str, digest: str) -> None:
        super().__init__(
            f"{location}: {model} still is {digest}. Promote other weights to it first "
            "(`weighbridge promote`), then rerun: nothing was changed."
        )


class DestinationRefused(BatchRefused):
    """A place where documents of this classification may not go; nothing was sent."""

    def __init__(
        self, classification: str, place: str, destination: str | None, allowed: Sequence[str]
    ) -> None:
        known = f"which is {destination}" if destination else "which no destination covers"
        super().__init__(
            f"{place}, {known}: {classification} documents may go to "
            f"{', '.join(allowed) or 'no destination'}. Name another output, or have who owns "
            "policy/destinations.yaml allow it."
        )


class EgressLogBroken(BatchRefused):
    """A log of what left this machine that somebody changed or cut."""

    def __init__(self, path: Path, line: int, fact: str) -> None:
        super().__init__(
            f"{path}, line {line}: {fact}. The log proves nothing from this line on: restore it "
            "from a copy, or move it away and say why in its place."
        )


class ShadowImpossible(BatchRefused):
    """A production job that a candidate cannot be compared on."""

    def __init__(self, what: str, fact: str) -> None:
        super().__init__(
            f"{what}: {fact}. Compare on a job whose documents are as they were and were answered."
        )


class ExpectationsFailed(BatchRefused):
    """Rows of a finished job that are not what their expectations say; nothing was published."""

    def __init__(self, location: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{location}: {'; '.join(reasons)}. Nothing was published: mend the job and run it "
            "under another output, or correct the expectations."
        )


class NotRedacted(BatchRefused):
    """Rows that policy wants redacted on the way, and that were written without."""

    def __init__(self, location: str, destination: str, rules: Sequence[str]) -> None:
        super().__init__(
            f"{location}: policy/destinations.yaml wants {', '.join(rules)} redacted in what goes "
            f"to {destination}, and these rows were written without. Run the job with an output "
            f"in {destination}, then publish that."
        )


class OutputDamaged(BatchRefused):
    """Committed rows that are not what was planned or recorded."""

    def __init__(self, location: str, name: str, fact: str) -> None:
        super().__init__(
            f"{location}: {name}: {fact}. Restore it from a copy, or run the job into an empty "
            "output location."
        )


class ConfigError(Misuse):
    """A configuration file or value that does not fit its schema."""

    def __init__(self, path: Path | str, fact: str, remedy: str) -> None:
        super().__init__(f"{path}: {fact}. {remedy}")


class BadReference(Misuse):
    """A model reference that has no known form."""

    def __init__(self, reference: str, fact: str) -> None:
        super().__init__(
            f"{reference!r} is not a model reference: {fact}. Known forms: "
            "pypi://distribution==version, file:///folder, hf://organisation/name@revision, "
            "s3://bucket/prefix, ollama://host/namespace/name:tag, ollama:///name:tag."
        )


class BadName(Misuse):
    """A name that DVC's foreach or GTO's tags would trip over."""

    def __init__(self, name: str) -> None:
        proposal = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
        proposal = proposal.strip("-")
        super().__init__(
            f"{name!r} cannot name a model: names match [a-z0-9][a-z0-9-]*[a-z0-9]. "
            f"Try {proposal if len(proposal) > 1 else 'my-model'!r}."
        )


class NotARegistry(Misuse):
    """A folder without a registry in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: not a Weighbridge registry (no .dvc folder with a models.yaml beside it). "
            "Make one with `weighbridge init DIR`, or name one with --registry."
        )


class UnknownName(Misuse):
    """A name that the file asked does not hold."""

    def __init__(self, where: Path | str, kind: str, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(sorted(known)) if known else "none"
        super().__init__(f"{where}: no {kind} named {name!r}. There are: {listed}.")


class NameTaken(Misuse):
    """A name that models.yaml already gives to something else."""

    def __init__(self, where: Path | str, kind: str, name: str, fact: str) -> None:
        super().__init__(
            f"{where}: {kind} {name!r} is there already, with {fact}. A name stays with what it "
            "was given to: choose another, or edit the file by hand if the entry itself is wrong."
        )


class EmptyCorpus(Misuse):
    """A corpus without a document in it."""

    def __init__(self, path: Path | str, ignored: Mapping[str, int]) -> None:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items()))
        super().__init__(
            f"{path}: no document in it (passed over: {listed or 'nothing'}). Documents are "
            ".txt, .md, .html, .pdf and .docx files, or the rows of tables: name their kind with "
            "corpus.kind (jsonl, csv, parquet, openai)."
        )


class DuplicateIds(Misuse):
    """Documents that share an id, so that their rows could not be told apart."""

    def __init__(self, path: Path | str, ids: Sequence[str]) -> None:
        super().__init__(
            f"{path}: several documents have the id {', '.join(map(repr, ids))}. Give each its "
            "own, or name another column with corpus.id_column."
        )
        self.ids = tuple(ids)


class WrongKindOfPath(Misuse):
    """A file where a folder should be, or the reverse, or nothing at all."""

    def __init__(self, path: Path, wanted: str) -> None:
        found = "a file" if path.exists() else "nothing"
        if path.is_dir():
            found = "a folder with files in it" if any(path.iterdir()) else "an empty folder"
        super().__init__(f"{path}: {wanted} is needed here, and there is {found}. Check the path.")


class CommandFailed(Failed):
    """A program that we ran ended with an error; the end of what it printed is shown."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"`{' '.join(argv)}` ended with {returncode}:\n{tail}")
        self.returncode, self.output = returncode, output


class StageFailed(Failed):
    """A stage of the release graph that could not be run; carries the stage's own message."""

    def __init__(self, instance: str, message: str) -> None:
        super().__init__(f"{instance}: {message}")
        self.instance, self.reason = instance, message


class SourceNotFound(Failed):
    """A reference that points at nothing."""

    def __init__(self, reference: str, fact: str, remedy: str = "") -> None:
        remedy = remedy or (
            "Check the spelling and the version, and that this machine reaches the source."
        )
        super().__init__(f"{reference}: {fact}. {remedy}")


class SourceClosed(Failed):
    """A source that does not let this machine in: keys or a token are absent, wrong or weak."""

    def __init__(self, reference: str, fact: str, remedy: str) -> None:
        super().__init__(f"{reference}: {fact}. {remedy}")


class SourceUnreachable(Failed):
    """A source that does not answer, or answers with failures for longer than is worth waiting."""

    def __init__(self, reference: str, fact: str, remedy: str = "") -> None:
        remedy = remedy or (
            "Check the address and that this machine reaches it, then run the same command again: "
            "what was fetched is kept."
        )
        super().__init__(f"{reference}: {fact}. {remedy}")


class SourceChanged(Failed):
    """A reference whose bytes are not those it was resolved to."""

    def __init__(self, reference: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{reference}: resolved to {expected}, but the source now gives {actual}. Nothing was "
            "registered. If the new bytes are wanted, add the reference again (under a new name "
            "where the old bytes were ingested); if not, mend the source."
        )


class WrongAnswer(Failed):
    """A server that answers with something else than was asked for; nothing of it was taken."""

    def __init__(self, asked: str, server: str, fact: str) -> None:
        super().__init__(
            f"{asked}: {server} {fact}. A mirror or proxy is not faithful, or the file was "
            "damaged there: mend it or go around it, then run the same command again; what was "
            "fetched is kept."
        )


class TransferCutOff(Failed):
    """A file that did not come whole."""

    def __init__(self, file: str, came_bytes: int, size_bytes: int, fact: str = "") -> None:
        said = f" ({fact})" if fact else ""
        super().__init__(
            f"{file}: {came_bytes} of {size_bytes} bytes came, then the source broke off{said}. "
            "Run the same command again: what came is kept, and only the rest is fetched."
        )


class Busy(Failed):
    """Another process holds what this one needs."""

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what} is in use by {holder}. Wait for it to end, then run again.")


class ServerUnreachable(Failed):
    """A Prefect server that ended or does not answer; the end of its log is shown."""

    def __init__(self, url: str, fact: str, log: Path) -> None:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        tail = "\n".join(text.strip().splitlines()[-10:])
        super().__init__(
            f"the Prefect server at {url}: {fact}. See {log} and start it again. It ends:\n{tail}"
        )


class RestartedTooOften(Failed):
    """A flow run that has been started again and again without coming to an end."""

    def __init__(self, name: str, starts: int) -> None:
        super().__init__(
            f"the flow run {name} was started {starts} times and always crashed. Read the end of "
            "its log (a full disk or too little memory is the usual cause), then start a new run: "
            "finished stages are kept."
        )


class NoVerdict(Failed):
    """Folders of results that cannot carry a decision: neither a pass nor a block."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no verdict: {why}")


class NothingEvaluated(Failed):
    """A nightly evaluation in which every stage that was due failed."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__(
            f"nothing was evaluated, all {len(failures)} that were due failed or were left out: "
            f"{'; '.join(failures)}. Mend the first cause and run the flow again."
        )


class RemoteFailed(Failed):
    """A DVC remote that cannot be used; nothing was made or changed."""


class BucketMissing(RemoteFailed):
    """A bucket that is not there."""

    def __init__(self, url: str, endpoint: str) -> None:
        super().__init__(
            f"{url}: there is no such bucket{_at(endpoint)}. Make it (`aws s3 mb`), or correct the "
            "name of the remote; buckets are never made for you."
        )


class KeysRefused(RemoteFailed):
    """Credentials that are absent, wrong, expired or without the permission that is needed."""

    def __init__(self, url: str, endpoint: str, fact: str) -> None:
        super().__init__(
            f"{url}: access was refused{_at(endpoint)}: {fact}. Give keys that may list, read, "
            "write and delete there: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile "
            "in AWS_PROFILE."
        )


class RemoteUnreachable(RemoteFailed):
    """An endpoint that does not answer, or not as S3 does."""

    def __init__(self, url: str, endpoint: str, fact: str) -> None:
        super().__init__(
            f"{url}: no use can be made of the store{_at(endpoint)}: {fact}. Check the endpoint "
            "(--endpoint, or AWS_ENDPOINT_URL) and that this machine reaches it, then run again."
        )


def _at(endpoint: str) -> str:
    return f" at {endpoint}" if endpoint else ""


class StoreFailed(Failed):
    """An output location that cannot be read or written."""

    def __init__(self, location: str, name: str, fact: str) -> None:
        super().__init__(
            f"{location}: {name or 'the location'}: {fact}. Check that it exists and that this "
            "process may write there, then run the job again: what was committed is kept."
        )


class JobNotFinished(Failed):
    """A batch job that has no manifest yet, so its rows are not to be relied on."""

    def __init__(self, location: str, fact: str) -> None:
        super().__init__(f"{location}: {fact}. Run the job (again) until it has a manifest.")


class SandboxUnavailable(Failed):
    """A kernel, or a container around us, that does not let programs be confined."""

    def __init__(self, fact: str) -> None:
        super().__init__(
            f"programs that a model wrote cannot be confined on this machine: {fact}. Nothing was "
            "run. Allow unprivileged user namespaces and seccomp (Linux 5.12 or later; sysctl "
            "user.max_user_namespaces > 0; on Ubuntu kernel.apparmor_restrict_unprivileged_userns"
            "=0; in a container a seccomp profile that admits unshare and mount), or evaluate "
            "suites with `scorer: humaneval` on a machine that does."
        )
        self.fact = fact


class EngineDied(Failed):
    """An engine that ended with requests in it; the run starts another and finds out why."""

    def __init__(self, engine: str, requests: int, how: str) -> None:
        super().__init__(
            f"{engine}: ended with {requests} requests in it: {how}\nRun the job again; with "
            "engine.restarts above 0 the document that ends it becomes an error row."
        )


class EngineKeepsDying(Failed):
    """An engine that was started again as often as the job allows."""

    def __init__(self, job: str, restarts: int, rows: Sequence[int], how: str) -> None:
        found = f"rows {', '.join(map(str, rows))}" if rows else "no row"
        super().__init__(
            f"{job}: the engine died {restarts + 1} times, and {found} could be made out as the "
            f"cause. The last time: {how}\nWhat is answered is kept. Give the engine more memory, "
            "or raise engine.restarts, and run the job again."
        )


class NoSpaceLeft(Failed):
    """A disk that is full."""

    def __init__(self, path: Path | str, needed_bytes: int | None = None) -> None:
        need = f"; about {needed_bytes / 1e9:.1f} GB are needed" if needed_bytes else ""
        super().__init__(
            f"{path}: no space left on this disk{need}. Free some, then run the same command "
            "again: what was finished is kept."
        )


def exit_code(error: BaseException) -> int:
    """0 done or passed, 1 refused, 2 usage, 3 failed, 130 interrupted."""
    if isinstance(error, WeighbridgeError):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 3


def is_disk_full(error: BaseException) -> bool:
    """Whether an operating-system error says that a disk or quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
