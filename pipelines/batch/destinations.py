"""Destinations: where the documents and answers of a job may go, by their classification.

A place is `engine` (the engine on this machine), `folder` (a path of this machine) or an S3
address. The policy gives places names, and says which of them each classification may reach. What
no destination covers is refused, and so is what the policy does not allow: the default is no.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from pipelines.batch.job import BatchJob, Classification, is_s3
from pipelines.batch.layout import local_state
from pipelines.batch.redaction import BUILT_IN_RULES
from pipelines.canonical import Frozen, canonical_json, sha256_bytes
from pipelines.errors import DestinationRefused
from pipelines.models_file import load_yaml, parse_config

ENGINE, FOLDER = "engine", "folder"
LOG = "egress.jsonl"
POLICY_FILE = "policy/destinations.yaml"
DEFAULT_POLICY = Path(__file__).with_name("default_destinations.yaml")

DestinationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
PlaceForm = Annotated[str, Field(pattern=r"^(engine|folder|s3://.*)$")]


class Place(NamedTuple):
    """Somewhere that bytes can go; `endpoint` is the URL of the S3 service, '' elsewhere."""

    address: str
    endpoint: str = ""

    @property
    def leaves(self) -> bool:
        """Whether what goes there leaves this machine."""
        return self.address not in (ENGINE, FOLDER)

    def __str__(self) -> str:
        return f"{self.address} at {self.endpoint}" if self.endpoint else self.address


class Destination(Frozen):
    """Places that the policy treats alike."""

    places: tuple[PlaceForm, ...] = Field(
        min_length=1, description="engine, folder, or s3://bucket/prefix; s3:// is every bucket"
    )
    endpoint: str | None = Field(
        default=None,
        description="URL of the only S3 service that counts; null is whichever boto3 is set to",
    )

    def reach(self, place: Place) -> int:
        """How many characters of the place's address this destination covers; -1 for none."""
        if self.endpoint is not None and place.leaves and not same_url(self.endpoint, place):
            return -1
        return max((len(form) for form in self.places if _covers(form, place.address)), default=-1)


class Redaction(Frozen):
    """What is replaced in answers of these classifications before they go to a destination."""

    destination: DestinationName
    classifications: tuple[Classification, ...] = Field(min_length=1)
    rules: tuple[str, ...] = Field(min_length=1)


class DestinationPolicy(Frozen):
    """policy/destinations.yaml of a registry."""

    destinations: dict[DestinationName, Destination]
    allow: dict[Classification, tuple[DestinationName, ...]]
    redact: tuple[Redaction, ...] = ()
    patterns: dict[DestinationName, str] = Field(
        default={}, description="redaction rules of your own: a name and a regular expression"
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        if missing := sorted(set(get_args(Classification)) - set(self.allow)):
            raise ValueError(f"allow has no line for {', '.join(missing)}: write [] for nowhere")
        named = {name for names in self.allow.values() for name in names}
        named |= {redaction.destination for redaction in self.redact}
        if unknown := sorted(named - set(self.destinations)):
            raise ValueError(f"no destination is called {', '.join(unknown)}")
        rules = {rule for redaction in self.redact for rule in redaction.rules}
        if unknown := sorted(rules - set(BUILT_IN_RULES) - set(self.patterns)):
            known = ", ".join((*BUILT_IN_RULES, *self.patterns))
            raise ValueError(f"no redaction rule is called {', '.join(unknown)}; there are {known}")
        for name, pattern in self.patterns.items():
            _check_pattern(name, pattern)
        return self

    @property
    def digest(self) -> str:
        """sha256 of the policy's canonical JSON: equal policies have equal digests."""
        return sha256_bytes(canonical_json(self.model_dump(mode="json")))

    def named(self, place: Place) -> str | None:
        """The destination that covers a place most closely; None when none does."""
        reach = {name: d.reach(place) for name, d in self.destinations.items()}
        best = max(reach.values(), default=-1)
        return next(name for name, found in reach.items() if found == best) if best >= 0 else None

    def check(self, classification: Classification, place: Place) -> str:
        """The name of the destination that a place belongs to.

        Raises DestinationRefused when none covers it, or when it is not allowed.
        """
        name, allowed = self.named(place), self.allow[classification]
        if name is None or name not in allowed:
            raise DestinationRefused(classification, str(place), name, allowed)
        return name

    def rules(self, classification: Classification, destination: str) -> tuple[str, ...]:
        """Names of the redaction rules for what goes to a destination, in a fixed order."""
        return tuple(
            sorted(
                {
                    rule
                    for redaction in self.redact
                    if redaction.destination == destination
                    and classification in redaction.classifications
                    for rule in redaction.rules
                }
            )
        )


class EgressRules(Frozen):
    """The policy that a job runs under, and where what leaves is logged."""

    policy: DestinationPolicy = Field(default_factory=lambda: default_destinations())
    log: Path = Field(default_factory=lambda: local_state() / LOG)


class Decision(NamedTuple):
    """Where the answers of a job go, as the policy names it, and what is replaced on the way."""

    place: Place
    destination: str
    rules: tuple[str, ...]


def load_destinations(registry: Path) -> DestinationPolicy:
    """A registry's policy; the shipped one where it has none. Raises ConfigError."""
    path = registry / POLICY_FILE
    chosen = path if path.is_file() else DEFAULT_POLICY
    return parse_config(chosen, DestinationPolicy, load_yaml(chosen))


def default_destinations() -> DestinationPolicy:
    """The shipped policy."""
    return load_destinations(DEFAULT_POLICY.parent)


def decide(policy: DestinationPolicy, job: BatchJob) -> Decision:
    """Check every place that a job sends to: the engine and its output.

    Raises DestinationRefused, before anything is read or written.
    """
    policy.check(job.classification, Place(ENGINE))
    place = output_place(job.output)
    destination = policy.check(job.classification, place)
    return Decision(place, destination, policy.rules(job.classification, destination))


def output_place(output: str) -> Place:
    """The place of an output location; for S3 with the endpoint that boto3 would send to."""
    if not is_s3(output):
        return Place(FOLDER)
    import boto3

    client = boto3.session.Session().client("s3", region_name=_region())
    return Place(output, str(client.meta.endpoint_url))


def same_url(endpoint: str, place: Place) -> bool:
    """Whether an endpoint of the policy is the one of a place; a trailing slash does not count."""
    return endpoint.rstrip("/").lower() == place.endpoint.rstrip("/").lower()


def _region() -> str:
    """boto3 wants a region for a client; which one changes nothing for the endpoints we name."""
    import boto3

    return boto3.session.Session().region_name or "us-east-1"


def _covers(form: str, address: str) -> bool:
    """Whether a place of the policy holds an address: whole path parts, so s3://a is not s3://ab."""
    if form in (ENGINE, FOLDER) or address in (ENGINE, FOLDER):
        return form == address
    if form == "s3://":
        return True
    prefix = form.rstrip("/") + "/"
    return (address.rstrip("/") + "/").startswith(prefix)


def _check_pattern(name: str, pattern: str) -> None:
    if name in BUILT_IN_RULES:
        raise ValueError(f"patterns.{name}: a built-in rule has that name; choose another")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"patterns.{name}: no regular expression ({error})") from error
    if compiled.match(""):
        raise ValueError(
            f"patterns.{name}: it matches the empty text, so it would match everywhere"
        )
