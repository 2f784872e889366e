"""Which versions an advisory is about, by the rules of the OSV schema."""

from __future__ import annotations

from typing import Any

import pytest
from osv_zip import advisory

from pipelines.cvss import base_score
from pipelines.osv import Match, is_affected, matches, severity


def found(version: str, *advisories: dict[str, Any], package: str = "demo") -> list[Match]:
    return matches(advisories, {package: [version]})


@pytest.mark.parametrize(
    ("events", "affected", "safe"),
    [
        (({"introduced": "0"}, {"fixed": "1.2"}), ["0.1", "1.1.9", "1.2rc1"], ["1.2", "2"]),
        (({"introduced": "1.0"}, {"last_affected": "1.4"}), ["1.0", "1.4"], ["0.9", "1.4.1"]),
        (({"introduced": "2.0"},), ["2.0", "99"], ["1.9"]),
        (
            ({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}),
            ["0.5", "2.0.3"],
            ["1.0", "1.9", "2.1"],
        ),
        (({"fixed": "2.1"}, {"introduced": "2.0"}), ["2.0"], ["1.9", "2.1"]),
        (({"introduced": "0"}, {"limit": "3.0"}), ["2.9"], ["3.0"]),
        (({"introduced": "1.0"}, {"fixed": "1.10"}), ["1.9"], ["1.10"]),
        (({"introduced": "0"}, {"fixed": "1!1.0"}), ["2026.1"], ["1!1.0"]),
    ],
)
def test_ranges_are_evaluated_as_the_schema_says(
    events: tuple[dict[str, str], ...], affected: list[str], safe: list[str]
) -> None:
    one = advisory("GHSA-1", events=events)
    assert all(is_affected(one, "demo", version) for version in affected)
    assert not any(is_affected(one, "demo", version) for version in safe)


def test_listed_versions_count_beside_ranges_and_spellings_of_one_version_are_one() -> None:
    one = advisory("GHSA-1", versions=("1.0",), events=({"introduced": "3.0"},))
    for version in ("1.0", "1.0.0", "v1.0", "1.0+cpu", "3.1"):
        assert is_affected(one, "demo", version)
    assert not is_affected(one, "demo", "2.0")


def test_names_are_compared_as_pep_503_says() -> None:
    one = advisory("GHSA-1", "Demo_Package.Name", versions=("1",))
    assert found("1", one, package="demo-package-name")


def test_other_ecosystems_and_git_ranges_say_nothing_about_a_package() -> None:
    npm = advisory("GHSA-1", versions=("1",))
    npm["affected"][0]["package"]["ecosystem"] = "npm"
    git = advisory("GHSA-2")
    git["affected"][0]["ranges"] = [{"type": "GIT", "events": [{"introduced": "0"}]}]
    assert found("1", npm, git) == []


def test_what_cannot_be_read_counts_as_affected() -> None:
    odd = advisory("GHSA-1", events=({"introduced": "0"}, {"fixed": "not-a-version"}))
    assert is_affected(odd, "demo", "1.0")
    assert is_affected(advisory("GHSA-2", events=({"introduced": "0"},)), "demo", "weird_1")


def test_withdrawn_advisories_are_left_out() -> None:
    assert found("1", advisory("GHSA-1", versions=("1",), withdrawn="2026-01-01T00:00:00Z")) == []


def test_aliases_are_one_fault_also_through_a_third() -> None:
    high = {"database_specific": {"severity": "HIGH"}, "summary": "It runs  code"}
    listed = (
        advisory("GHSA-1", versions=("1",), aliases=["CVE-2026-1"], **high),
        advisory("PYSEC-1", versions=("1",), events=({"introduced": "0"}, {"fixed": "2"})),
        advisory("GHSA-9", versions=("1",)),
        advisory("PYSEC-2", versions=("1",), aliases=["CVE-2026-1", "PYSEC-1"]),
    )
    one, other = found("1", *listed)
    assert one.ids == ("CVE-2026-1", "GHSA-1", "PYSEC-1", "PYSEC-2")
    assert (one.severity, one.fixed_in, one.summary) == ("high", ("2",), "It runs code")
    assert (other.ids, other.severity) == (("GHSA-9",), "unknown")


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:R/S:C/C:L/I:L/A:N", 5.4),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H", 7.5),
        ("CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H", None),
        ("CVSS:3.1/AV:N", None),
        ("", None),
    ],
)
def test_base_scores_are_those_of_the_specification(vector: str, score: float | None) -> None:
    assert base_score(vector) == score


def test_the_worst_that_is_said_is_the_severity() -> None:
    vector = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]
    word = {"database_specific": {"severity": "MODERATE"}}
    assert severity(advisory("a", **word)) == "medium"
    assert severity(advisory("a", severity=vector, **word)) == "critical"
    assert severity(advisory("a", severity=[{"type": "CVSS_V4", "score": "CVSS:4.0/x"}])) == (
        "unknown"
    )
