"""Waivers: a file with digest, rule, reason, approver and a last day, and what it cannot do."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from tiny_model import write_model

from pipelines.canonical import sha256_bytes
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import ConfigError, WaiverExpired, WrongKindOfPath
from pipelines.models_file import DeclaredUse
from pipelines.records import Finding, VerificationRecord
from pipelines.verification.findings import refusal
from pipelines.verification.passport import write_verification
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.waivers import (
    NEVER_WAIVED,
    WaiverEntry,
    apply_waivers,
    check_expiry,
    expired,
    is_never_waived,
    load_waivers,
)
from pipelines.verify import VerifyConfig, judge_folder

DIGEST = "a" * 64
DAY = date(2026, 11, 22)
TEXT = """\
waivers:
  - digest: {digest}
    rule: {rule}
    reason: {reason}
    approver: Jane Doe, security
    expires: {expires}
"""


def write(path: Path, **fields: str) -> Path:
    defaults = {"digest": DIGEST, "rule": "licence.cap", "reason": "we asked", "expires": str(DAY)}
    path.write_text(TEXT.format(**{**defaults, **fields}))
    return path


def waiver(**fields: object) -> WaiverEntry:
    defaults: dict[str, object] = {
        "digest": DIGEST,
        "rule": "licence.cap",
        "reason": "we asked",
        "approver": "Jane",
        "expires": DAY,
    }
    return WaiverEntry.model_validate({**defaults, **fields})


def severities(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.severity) for finding in findings]


CAP = refusal("licence.cap", "", "too many users", "Ask.")


def test_a_waiver_marks_the_refusal_of_its_digest_and_rule_and_keeps_its_words() -> None:
    found = apply_waivers([CAP], [waiver()], DIGEST, DAY)
    assert severities(found) == [("licence.cap", "waived")]
    note = found[0].waiver
    assert note is not None
    assert (note.reason, note.approver, note.expires) == ("we asked", "Jane", DAY)
    assert found[0].fact == CAP.fact


@pytest.mark.parametrize(
    "other",
    [
        waiver(rule="licence.territory"),
        waiver(file="config.json"),
    ],
)
def test_a_waiver_of_another_rule_or_file_answers_nothing_and_is_noted(other: WaiverEntry) -> None:
    found = apply_waivers([CAP], [other], DIGEST, DAY)
    assert severities(found) == [("licence.cap", "refusal"), ("waiver.unused", "info")]


def test_a_waiver_of_another_digest_is_no_waiver() -> None:
    assert apply_waivers([CAP], [waiver(digest="b" * 64)], DIGEST, DAY) == [CAP]
    assert apply_waivers([CAP], [waiver()], "", DAY) == [CAP]


def test_the_last_day_counts_and_the_day_after_refuses_and_says_so() -> None:
    assert severities(apply_waivers([CAP], [waiver()], DIGEST, DAY))[0][1] == "waived"
    late = apply_waivers([CAP], [waiver()], DIGEST, date(2026, 11, 23))
    assert severities(late) == [("licence.cap", "refusal"), ("waiver.expired", "refusal")]
    assert "Jane ended on 2026-11-22" in late[1].fact
    longer = [waiver(), waiver(expires=date(2027, 1, 1))]
    again = apply_waivers([CAP], longer, DIGEST, date(2026, 11, 23))
    assert severities(again) == [("licence.cap", "waived")]


def test_a_file_narrows_a_waiver_to_that_file() -> None:
    here = refusal("template.date", "a.jinja", "a date", "x")
    there = refusal("template.date", "b.jinja", "a date", "x")
    found = apply_waivers(
        [here, there], [waiver(rule="template.date", file="a.jinja")], DIGEST, DAY
    )
    assert [finding.severity for finding in found] == ["waived", "refusal"]


@pytest.mark.parametrize("rule", [f"{prefix}x" for prefix in NEVER_WAIVED])
def test_wrong_bytes_wrong_signatures_and_malformed_files_are_never_waived(
    rule: str, tmp_path: Path
) -> None:
    assert is_never_waived(rule)
    with pytest.raises(ConfigError, match="cannot be waived"):
        load_waivers(write(tmp_path / "w.yaml", rule=rule))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"digest": "abc"}, "digest"),
        ({"rule": "everything"}, "rule"),
        ({"rule": "licence.*"}, "rule"),
        ({"reason": '"  "'}, "reason"),
        ({"expires": "1799999999"}, "write a day"),
        ({"expires": "2027-01-01T00:00:00Z"}, "write a day"),
        ({"expires": "never"}, "expires"),
        ({"reason": "x\n    forever: true"}, "forever: unknown key"),
    ],
)
def test_a_waiver_with_a_mistake_names_the_key(
    tmp_path: Path, fields: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_waivers(write(tmp_path / "w.yaml", **fields))


def test_a_folder_gives_all_its_waivers_and_passes_nothing_over(tmp_path: Path) -> None:
    assert load_waivers(tmp_path / "absent") == ()
    (tmp_path / "README.md").write_text("# Waivers\n")
    write(tmp_path / "a.yaml")
    write(tmp_path / "b.yaml", rule="template.date")
    assert [entry.rule for entry in load_waivers(tmp_path)] == ["licence.cap", "template.date"]
    (tmp_path / "c.yml").write_text("")
    with pytest.raises(ConfigError, match="passed over"):
        load_waivers(tmp_path)
    with pytest.raises(WrongKindOfPath):
        load_waivers(tmp_path / "absent.yaml")


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """A model that one rule refuses: no licence."""
    folder = write_model(tmp_path / "model")
    (folder / "LICENSE").unlink()
    (folder / "README.md").unlink()
    return folder


def judge(folder: Path, day: date, out: Path | None = None) -> VerificationRecord:
    digest = weight_digest(build_manifest(folder))
    config = VerifyConfig(
        name="model",
        use=DeclaredUse(),
        policy=VerificationPolicy(),
        policy_sha256=sha256_bytes(b""),
        code_digest="",
        waivers=(waiver(digest=digest, rule="licence.absent"),),
        today=day,
    )
    judged = judge_folder(folder, config)
    if out is not None:
        write_verification(judged, out)
    return judged.record


def test_a_waived_refusal_passes_and_stands_in_the_first_lines_of_the_report(
    dated: Path, tmp_path: Path
) -> None:
    record = judge(dated, DAY, tmp_path / "out")
    assert record.passed
    assert not record.licence.allowed
    report = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert "rests on 1 waiver" in report[2]
    assert "licence.absent" in report[4]
    assert "Jane until 2026-11-22: we asked" in report[4]
    assert "by waiver only" in (tmp_path / "out" / "NOTICE").read_text()


def test_a_record_says_when_its_waivers_end(dated: Path) -> None:
    record = judge(dated, DAY)
    check_expiry(record, DAY)
    assert expired(record, date(2026, 11, 23)) == ["licence.absent by Jane, until 2026-11-22"]
    with pytest.raises(WaiverExpired, match="decided again"):
        check_expiry(record, date(2026, 11, 23))


def test_an_expired_waiver_leaves_the_model_refused(dated: Path) -> None:
    record = judge(dated, date(2026, 11, 23))
    assert not record.passed
    assert {"licence.absent", "waiver.expired"} <= {finding.rule for finding in record.findings}
