"""Where documents may go: the policy, redaction, and the log of what left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_engine import SCRIPT, Script

from pipelines.batch.destinations import (
    DestinationPolicy,
    EgressRules,
    Place,
    decide,
    default_destinations,
    load_destinations,
)
from pipelines.batch.egress import append, read_log, redactor, sending_store
from pipelines.batch.finished import finished_job
from pipelines.batch.job import BatchJob
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.redaction import Redactor
from pipelines.batch.rows import Row
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.errors import ConfigError, DestinationRefused, EgressLogBroken

ENDPOINT = "https://s3.example.com"
ALL = ("public", "internal", "confidential", "restricted")
HERE = ("here",)
NOWHERE: tuple[str, ...] = ()


def make_policy(**changes: object) -> DestinationPolicy:
    here = {"places": ["engine", "folder"]}
    bucket = {"places": ["s3://results/weighbridge"], "endpoint": ENDPOINT}
    base = {
        "destinations": {"here": here, "bucket": bucket},
        "allow": {**dict.fromkeys(ALL, HERE), "public": ["here", "bucket"]},
    }
    return DestinationPolicy.model_validate({**base, **changes})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", ENDPOINT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.parametrize(
    ("address", "endpoint", "name"),
    [
        ("s3://results/weighbridge/job", ENDPOINT, "bucket"),
        ("s3://results/weighbridge", ENDPOINT + "/", "bucket"),
        ("s3://results/weighbridge-other", ENDPOINT, None),
        ("s3://results", ENDPOINT, None),
        ("s3://results/weighbridge/job", "https://elsewhere.example.com", None),
        ("folder", "", "here"),
    ],
)
def test_a_place_has_the_destination_that_covers_whole_parts_of_it(
    address: str, endpoint: str, name: str | None
) -> None:
    assert make_policy().named(Place(address, endpoint)) == name


def test_the_closest_destination_counts() -> None:
    near = {"places": ["s3://results/weighbridge/secret"]}
    everywhere = {"places": ["s3://", "engine", "folder"]}
    policy = make_policy(
        destinations={"here": everywhere, "near": near}, allow=dict.fromkeys(ALL, HERE)
    )
    assert policy.named(Place("s3://results/weighbridge/secret/job", ENDPOINT)) == "near"
    with pytest.raises(DestinationRefused, match="which is near: public documents may go to here"):
        policy.check("public", Place("s3://results/weighbridge/secret/job", ENDPOINT))


@pytest.mark.parametrize("classification", ["confidential", "restricted"])
def test_by_default_confidential_documents_stay_here(
    classification: str, make_job: Callable[..., BatchJob], environment: None
) -> None:
    policy = default_destinations()
    assert decide(policy, make_job(classification=classification)).destination == "this-machine"
    with pytest.raises(DestinationRefused, match="may go to this-machine"):
        decide(policy, make_job(classification=classification, output="s3://any/where"))


def test_a_policy_says_where_each_classification_may_go(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    path = tmp_path / "policy" / "destinations.yaml"
    shipped = default_destinations().model_dump(mode="json")
    for change, words in [
        ({"allow": {"public": []}}, "allow has no line for confidential, internal, restricted"),
        (
            {"allow": {**dict.fromkeys(ALL, NOWHERE), "public": ["mars"]}},
            "no destination is called mars",
        ),
        ({"patterns": {"number": "("}}, "no regular expression"),
        ({"patterns": {"number": "x*"}}, "matches the empty text"),
        ({"patterns": {"email": "x"}}, "a built-in rule has that name"),
        (
            {"redact": [{"destination": "buckets", "classifications": ["public"], "rules": ["z"]}]},
            "no redaction rule is called z",
        ),
    ]:
        path.write_text(json.dumps({**shipped, **change}))
        with pytest.raises(ConfigError, match=words) as caught:
            load_destinations(tmp_path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ada.lovelace+x@example.co.uk now", "write to [email] now"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [iban], thanks"),
        ("IBAN GB82 WEST 1234 5698 7654 33", "IBAN GB82 WEST 1234 5698 7654 33"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("order 4111 1111 1111 1112", "order 4111 1111 1111 1112"),
        ("call +49 (30) 901820 or 030 90182099", "call [phone] or [phone]"),
        ("on 01.02.2024 at 12:34:56", "on 01.02.2024 at 12:34:56"),
        ("from 192.168.1.20 and fe80::1, not 1.2.3", "from [ip] and [ip], not 1.2.3"),
        ("std::vector a :: b 999.1.1.1", "std::vector a :: b 999.1.1.1"),
        ("key AKIAABCDEFGHIJKLMNOP", "key [secret]"),
        ("staff E-123456", "staff [staff]"),
    ],
)
def test_redaction_replaces_what_its_rules_find_and_no_more(text: str, expected: str) -> None:
    rules = ("email", "iban", "card", "phone", "ip", "secret", "staff")
    counts: Counter[str] = Counter()
    assert Redactor(rules, {"staff": r"E-\d{6}"}).text(text, counts) == expected
    assert counts.total() == expected.count("[")


def test_a_redacted_row_keeps_its_keys_and_counts_once() -> None:
    row = Row(
        row=0,
        document_id="d",
        document_sha256="",
        chunk=0,
        output='{"email":"a@b.example","n":[1,{"who":"c@d.example"}]}',
        raw_text='{"email":"a@b.example","n":[1,{"who":"c@d.example"}]}',
    )
    counts: Counter[str] = Counter()
    hidden = Redactor(["email"], {}).row(row, counts)
    assert json.loads(hidden.output or "") == {"email": "[email]", "n": [1, {"who": "[email]"}]}
    assert "@" not in hidden.raw_text
    assert counts == {"email": 2}
    assert Redactor([], {}).row(row, counts) is row


def test_what_stays_here_is_not_logged(make_job: Callable[..., BatchJob], tmp_path: Path) -> None:
    log = tmp_path / "egress.jsonl"
    store = sending_store(make_job(), EgressRules(log=log))
    assert store.create("shards/a", b"1")
    assert read_log(log) == []


def test_every_object_that_leaves_is_checked_and_logged(
    make_job: Callable[..., BatchJob],
    s3_output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "egress.jsonl"
    job = make_job(output=s3_output, classification="internal")
    store = sending_store(job, EgressRules(log=log), "job-1")
    assert store.create("shards/a", b"1")
    store.replace("run.json", b"22")
    first, second = read_log(log)
    assert (first.object, first.size_bytes, first.destination) == ("shards/a", 1, "buckets")
    assert (second.object, second.job_id) == ("run.json", "job-1")
    narrow = default_destinations().model_copy(
        update={"allow": dict.fromkeys(ALL, ("this-machine",))}
    )
    with pytest.raises(DestinationRefused):
        sending_store(job, EgressRules(policy=narrow, log=log))
    # The environment changed between plan and send.
    store = sending_store(job, EgressRules(log=log), "job-1")
    monkeypatch.setattr("pipelines.batch.egress.decide", lambda _, job: decide(narrow, job))
    with pytest.raises(DestinationRefused):
        store.create("shards/b", b"3")
    assert not store.exists("shards/b")
    assert len(read_log(log)) == 2


def test_redaction_is_asked_for_by_destination_and_classification(
    make_job: Callable[..., BatchJob], environment: None
) -> None:
    asked = {"destination": "bucket", "classifications": ["public"], "rules": ["email"]}
    rules = EgressRules(policy=make_policy(redact=[asked]))
    away = make_job(classification="public", output="s3://results/weighbridge/a")
    assert redactor(away, rules).text("a@b.example", Counter()) == "[email]"
    assert redactor(make_job(classification="public"), rules).text("a@b.example", Counter()) == (
        "a@b.example"
    )


def _line(name: str) -> dict[str, object]:
    return {
        "at": "2026-01-01T00:00:00+00:00",
        **dict.fromkeys(("user", "host", "job_id", "job", "classification", "place"), "x"),
        **dict.fromkeys(("destination", "sha256", "policy_sha256"), "x"),
        "object": name,
        "size_bytes": 1,
        "redacted": {},
    }


def test_a_half_line_of_a_killed_writer_is_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "egress.jsonl"
    append(log, _line("a" * 100_000))
    with log.open("ab") as file:
        file.write(b'{"half": ')
    append(log, _line("b"))
    assert [line.object[0] for line in read_log(log)] == ["a", "b"]


def test_a_changed_or_missing_line_of_the_log_shows(tmp_path: Path) -> None:
    log = tmp_path / "egress.jsonl"
    for name in "abc":
        append(log, _line(name))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[2])
    with pytest.raises(EgressLogBroken, match="line 2"):
        read_log(log)
    log.write_bytes(lines[0].replace(b'"a"', b'"z"') + lines[1])
    with pytest.raises(EgressLogBroken, match="line 2"):
        read_log(log)
    log.write_bytes(b"{}\n")
    with pytest.raises(EgressLogBroken, match="line 1"):
        read_log(log)


def test_a_job_elsewhere_is_redacted_and_every_object_of_it_is_logged(
    make_job: Callable[..., BatchJob],
    tiny_model: ModelOnDisk,
    s3_output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    script = Script(answers={n: (f"ask person{n}@example.com",) for n in range(40)})
    monkeypatch.setenv(SCRIPT, script.model_dump_json())
    everywhere = {"places": ["engine", "folder", "s3://"]}
    asked = {"destination": "here", "classifications": ["internal"], "rules": ["email"]}
    policy = make_policy(
        destinations={"here": everywhere}, allow=dict.fromkeys(ALL, HERE), redact=[asked]
    )
    rules = EgressRules(policy=policy, log=tmp_path / "egress.jsonl")
    job = make_job(output=s3_output, output_schema=None)
    manifest = run_batch(job, tiny_model, worker_module="scripted_engine", egress=rules)
    assert manifest.redacted == ("email",)
    assert status(s3_output).spent.worker_s > 0  # also of a finished job
    done = finished_job(s3_output)
    assert {row["raw_text"] for row in done.rows()} == {"ask [email]"}
    sent = {line.object: line for line in read_log(rules.log)}
    assert set(done.store.names()) <= set(sent)
    assert sum(line.redacted.get("email", 0) for line in sent.values()) == 40
    assert {line.sha256 for line in sent.values()} >= {entry.sha256 for entry in manifest.shards}
    narrow = default_destinations().model_copy(update={"allow": dict.fromkeys(ALL, NOWHERE)})
    with pytest.raises(DestinationRefused, match="engine, which is this-machine"):
        run_batch(job, tiny_model, egress=EgressRules(policy=narrow, log=rules.log))
