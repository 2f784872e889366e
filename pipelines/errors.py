"""Every error that Weighbridge raises on purpose.

    WeighbridgeError
    ├── Refused                      exit 1: a rule said no
    │   ├── DigestMismatch           bytes are not the bytes that were recorded
    │   ├── CodeDiffers              installed code is not the code the registry names
    │   ├── NotVerified              weights without a passing verification
    │   ├── DatasetRefused           training data failed its checks
    │   ├── UnusableEvidence         evaluation results that cannot carry a decision
    │   ├── PromotionRefused         a release that its evidence does not support
    │   │   ├── VerdictMissing
    │   │   ├── VerdictNotPassing
    │   │   ├── VerdictForOtherDigest
    │   │   ├── VerdictStale
    │   │   ├── EvidenceTooOld
    │   │   ├── BaselineMoved
    │   │   └── ApprovalsMissing
    │   └── SignatureRefused         a signature that is missing or wrong
    ├── Misuse                       exit 2: the request cannot be understood
    │   ├── ConfigError              a file or a value that does not fit its schema
    │   ├── BadReference             a model reference that has no known form
    │   ├── BadName                  a name that DVC or GTO would trip over
    │   ├── NotARegistry             a folder without a registry in it
    │   ├── UnknownName              a name that models.yaml does not hold
    │   └── WrongKindOfPath          a file where a folder should be, or the reverse
    └── Failed                       exit 3: the work could not be done
        ├── CommandFailed            a program that we ran ended with an error
        ├── SourceNotFound           a reference that points at nothing
        ├── SourceChanged            a reference whose bytes are not what was resolved
        ├── Busy                     another process holds what this one needs
        └── NoSpaceLeft              a disk that is full

A class owns its message: the fact first, then the remedy. `exit_code` is the only mapping from
errors to exit codes.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
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


class NotVerified(Refused):
    """Weights that have no passing verification must not be loaded."""

    def __init__(self, name: str, reasons: Sequence[str]) -> None:
        listed = "; ".join(reasons) if reasons else "there is no verification record"
        super().__init__(
            f"{name} is not verified: {listed}. Mend what the findings name and run "
            f"`weighbridge onboard {name}` again."
        )


class DatasetRefused(Refused):
    """Training data that failed its checks; names the failing rows."""

    def __init__(self, dataset: Path, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{dataset}: {'; '.join(reasons)}. Correct or remove these rows and run again."
        )
        self.reasons = tuple(reasons)


class UnusableEvidence(Refused):
    """Evaluation results that cannot carry a decision."""

    code = 3

    def __init__(self, subject: str, fact: str, remedy: str) -> None:
        super().__init__(f"{subject}: {fact}. {remedy}")


class PromotionRefused(Refused):
    """A release that its evidence does not support."""


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


class ConfigError(Misuse):
    """A configuration file or value that does not fit its schema."""

    def __init__(self, path: Path | str, fact: str, remedy: str) -> None:
        super().__init__(f"{path}: {fact}. {remedy}")


class BadReference(Misuse):
    """A model reference that has no known form."""

    def __init__(self, reference: str, fact: str) -> None:
        super().__init__(
            f"{reference!r} is not a model reference: {fact}. Known forms: "
            "pypi://distribution==version, file:///folder, hf://organisation/name@revision."
        )


class BadName(Misuse):
    """A name that DVC's foreach or GTO's tags would trip over."""

    def __init__(self, name: str) -> None:
        proposal = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
        super().__init__(
            f"{name!r} cannot name a model: names match [a-z0-9][a-z0-9-]*[a-z0-9]. "
            f"Try {proposal.strip('-') or 'my-model'!r}."
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


class WrongKindOfPath(Misuse):
    """A file where a folder should be, or the reverse, or nothing at all."""

    def __init__(self, path: Path, wanted: str) -> None:
        found = "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"
        super().__init__(f"{path}: {wanted} is needed here, and there is {found}. Check the path.")


class CommandFailed(Failed):
    """A program that we ran ended with an error; the end of what it printed is shown."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"`{' '.join(argv)}` ended with {returncode}:\n{tail}")
        self.returncode, self.output = returncode, output


class SourceNotFound(Failed):
    """A reference that points at nothing."""

    def __init__(self, reference: str, fact: str) -> None:
        super().__init__(
            f"{reference}: {fact}. Check the spelling and the version, and that this machine "
            "reaches the source."
        )


class SourceChanged(Failed):
    """A reference whose bytes are not those it was resolved to."""

    def __init__(self, reference: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{reference}: resolved to {expected}, but the source now gives {actual}. Nothing was "
            "registered. If the new bytes are wanted, add them under a new name."
        )


class Busy(Failed):
    """Another process holds what this one needs."""

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what} is in use by {holder}. Wait for it to end, then run again.")


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
