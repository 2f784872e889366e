"""Licences: from claims and texts to one family, and from a family to a decision about a use."""

from __future__ import annotations

import json
import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from conftest import Rules
from tiny_model import apache_text, edit_json, mit_text, write_json

from pipelines import licence
from pipelines.canonical import sha256_bytes
from pipelines.licence import decide_licence, subjects_of
from pipelines.licence_claims import Subject
from pipelines.licence_facts import licence_facts
from pipelines.licence_terms import objections
from pipelines.licence_text import identify, normalise
from pipelines.models_file import DeclaredUse
from pipelines.records import Ancestor, LicenceClaim, LicenceDecision, ManifestRecord
from pipelines.verification.policy import VerificationPolicy

RESEARCH = DeclaredUse(purpose="research", territories=("US",))
FACTS = licence_facts()


def tag(identifier: str, source: str = "README.md:license") -> LicenceClaim:
    return LicenceClaim(source=source, identifier=identifier)


def text(words: str, source: str = "LICENSE") -> LicenceClaim:
    return LicenceClaim(source=source, text_sha256=sha256_bytes(words.encode()))


def decide(
    *claims: LicenceClaim,
    texts: tuple[str, ...] = (),
    use: DeclaredUse = RESEARCH,
    **policy: object,
) -> tuple[LicenceDecision, set[str]]:
    """The decision about one model, and the rules of its refusals."""
    known = {sha256_bytes(words.encode()): words for words in texts}
    decision, findings = decide_licence(
        [Subject("", claims)], known, use, VerificationPolicy.model_validate(policy)
    )
    refusals = {f.rule.removeprefix("licence.") for f in findings if f.severity == "refusal"}
    assert decision.allowed is not bool(refusals)
    return decision, refusals


def test_the_data_holds_every_family_with_its_source() -> None:
    assert len(FACTS.rows) >= 25
    for row in FACTS.rows.values():
        assert row.family
        assert row.hf
        assert row.src
        assert row.establishes("read")
        if row.read is True:
            assert row.establishes("commercial")
        if row.text_sha256:
            assert row.checked


@pytest.mark.parametrize("spelling", ["apache-2.0", "Apache-2.0", "Apache License, Version 2.0"])
def test_spellings_of_one_licence_are_one_licence(spelling: str) -> None:
    decision, refusals = decide(tag(spelling))
    assert (decision.family, decision.spdx, refusals) == ("Apache-2.0", "Apache-2.0", set())


def test_a_tag_and_its_text_agree() -> None:
    decision, refusals = decide(tag("apache-2.0"), text(apache_text()), texts=(apache_text(),))
    assert decision.family == "Apache-2.0"
    assert refusals == set()
    assert any("NOTICE" in line for line in decision.obligations)


def test_a_text_alone_decides() -> None:
    assert decide(text(mit_text()), texts=(mit_text(),))[0].family == "MIT"


def test_sources_that_disagree_are_refused_and_named() -> None:
    claims = (tag("mit", "METADATA:License"), tag("apache-2.0"))
    assert decide(*claims)[1] == {"contradiction"}
    _, findings = decide_licence([Subject("", claims)], {}, RESEARCH, VerificationPolicy())
    fact = next(f.fact for f in findings if f.rule == "licence.contradiction")
    assert "METADATA:License" in fact
    assert "README.md:license" in fact
    assert decide(tag("mit"), text(apache_text()), texts=(apache_text(),))[1] == {"contradiction"}


@pytest.mark.parametrize(
    ("claims", "rule"),
    [
        ((), "absent"),
        ((tag(""),), "absent"),
        ((tag("License :: OSI Approved", "METADATA:Classifier"),), "absent"),
        ((tag("my-own-licence"),), "unknown"),
        ((tag("Apache Software License", "METADATA:Classifier"),), "unknown"),
        ((tag("openmdw-1.1"),), "unknown"),
        ((tag("other"), tag("qwen", "README.md:license_name")), "other"),
        ((tag("other"), tag("LICENSE", "README.md:license_link")), "other"),
        ((tag("apache-2.0"), tag("qwen", "README.md:license_name")), "contradiction"),
        ((text("words that were never written here"),), "text-missing"),
    ],
)
def test_claims_that_lead_nowhere_are_refused(claims: tuple[LicenceClaim, ...], rule: str) -> None:
    decision, refusals = decide(*claims)
    assert rule in refusals
    assert decision.family == "unknown"


def test_a_text_with_other_words_is_another_licence() -> None:
    more = mit_text() + "\nThe Software shall be used for Good, not Evil.\n"
    assert decide(tag("mit"), text(more), texts=(more,))[1] == {"altered-text"}
    clause = apache_text().replace("no-charge", "no-charge for small companies", 1)
    assert decide(tag("apache-2.0"), text(clause), texts=(clause,))[1] == {"altered-text"}
    strange = "All your base are belong to us."
    assert "unknown-text" in decide(tag("mit"), text(strange), texts=(strange,))[1]


def test_layout_holders_and_addresses_do_not_change_a_text() -> None:
    for words in (apache_text(), mit_text()):
        other = words.replace("\n", "\r\n  ").replace("http://", "https://")
        assert normalise(f"Copyright (c) 2026 Somebody\n\n{other}") == normalise(words)


def test_licence_files_of_installed_packages_are_told_apart() -> None:
    """Real texts: a package that says one of the two names must not ship the other's words."""
    identified = {"Apache-2.0": 0, "MIT": 0}
    for package in distributions():
        said = package.metadata.get("License-Expression", "")
        for file in package.files or ():
            own = file.name == "LICENSE" and file.parent.name in ("licenses", file.parts[0])
            if said in identified and own:
                words = Path(str(file.locate())).read_text(encoding="utf-8", errors="replace")
                found = identify(words, FACTS.by_text, FACTS.by_title)
                assert found is None or not found.exact or found.family == said
                identified[said] += found is not None and found.exact
    assert min(identified.values()) > 15


def test_commercial_use_of_a_licence_that_forbids_it_is_refused() -> None:
    rows = FACTS.rows
    use = DeclaredUse(monthly_users=10, revenue_usd_year=10)
    for family in ("EXAONE 1.1-NC", "Mistral MNPL-0.1", "Cohere / CC-BY-NC-4.0"):
        assert "licence.commercial" in {rule for rule, *_ in objections(rows[family], use)}
    assert not list(objections(rows["EXAONE 1.1-NC"], RESEARCH))


@pytest.mark.parametrize(
    ("identifier", "use", "rules"),
    [
        ("llama3.1", DeclaredUse(monthly_users=1000), set()),
        ("llama3.1", DeclaredUse(monthly_users=700_000_001), {"cap"}),
        ("llama3.1", DeclaredUse(), {"not-declared"}),
        ("llama3.1", DeclaredUse(monthly_users=1, trains_other_models=True), set()),
        ("llama2", DeclaredUse(monthly_users=1, trains_other_models=True), {"training"}),
        ("llama4", DeclaredUse(monthly_users=1, territories=("US",)), set()),
        ("llama4", DeclaredUse(monthly_users=1, territories=("US", "DE")), {"territory"}),
        ("llama4", DeclaredUse(monthly_users=1), {"not-declared"}),
        ("llama3.2", DeclaredUse(monthly_users=1, territories=("US",)), set()),
        ("gemma", DeclaredUse(), set()),
        ("apache-2.0", DeclaredUse(revenue_usd_year=10**12, territories=("DE",)), set()),
        ("mit", DeclaredUse(redistribution=True, trains_other_models=True), set()),
        ("creativeml-openrail-m", DeclaredUse(redistribution=True), {"redistribution"}),
    ],
)
def test_a_use_is_judged_by_the_terms(identifier: str, use: DeclaredUse, rules: set[str]) -> None:
    assert decide(tag(identifier), use=use)[1] == rules


def test_what_is_not_established_allows_nothing_that_depends_on_it() -> None:
    row = FACTS.rows["Apache-2.0"]
    known = row.model_dump(exclude={"territory_excluded", "mau_cap", "outputs"}, exclude_unset=True)
    unsure = type(row).model_validate(known)
    use = DeclaredUse(territories=("US",), trains_other_models=True)
    rules = [rule for rule, *_ in objections(unsure, use)]
    assert rules == ["licence.not-established", "licence.not-established", "licence.training"]


def test_a_policy_blocks_lists_and_wants_texts() -> None:
    assert decide(tag("mit"), blocked_licences=["MIT"])[1] == {"blocked"}
    assert decide(tag("mit"), allowed_licences=["Apache-2.0"])[1] == {"not-allowed"}
    assert decide(tag("mit"), allowed_licences=["MIT"])[1] == set()
    assert decide(tag("mit"), require_licence_text=True)[1] == {"text-absent"}


def manifest(own: tuple[LicenceClaim, ...], *ancestors: tuple[LicenceClaim, ...]) -> ManifestRecord:
    return ManifestRecord(
        name="tuned",
        weight_digest="0" * 64,
        files=(),
        reference="tuning:x",
        code_digest="",
        pedigree=tuple(
            Ancestor(name=f"a{i}", weight_digest="1" * 64, relation="merged-from", licences=claims)
            for i, claims in enumerate(ancestors)
        ),
        licences=own,
    )


def test_the_strictest_licence_of_the_pedigree_wins_and_an_unknown_one_blocks() -> None:
    def judge(record: ManifestRecord, use: DeclaredUse) -> LicenceDecision:
        return decide_licence(subjects_of(record), {}, use, VerificationPolicy())[0]

    few, many = DeclaredUse(monthly_users=9), DeclaredUse(monthly_users=10**9)
    record = manifest((tag("apache-2.0"),), (tag("llama3.1"),))
    assert judge(record, few).allowed
    assert judge(record, few).family == "Llama 3.1"
    assert not judge(record, many).allowed
    assert judge(manifest((), (tag("apache-2.0"),)), many).allowed
    assert not judge(manifest((tag("apache-2.0"),), ()), many).allowed
    assert judge(manifest((tag("apache-2.0"),), ()), many).family == "unknown"
    assert not judge(manifest(()), many).allowed


def test_an_ancestors_text_may_lie_with_the_ancestor() -> None:
    record = manifest((), (tag("apache-2.0"), text("kept elsewhere")))
    decision, findings = decide_licence(subjects_of(record), {}, RESEARCH, VerificationPolicy())
    assert decision.allowed
    assert {f.rule for f in findings} == {"licence.text-elsewhere"}


def test_a_bare_folder_states_its_own_licence(model: Path, refusals: Rules) -> None:
    (model / "LICENSE").write_text(mit_text())
    assert refusals(model) == {"licence.contradiction"}
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    assert refusals(model) == set()
    (model / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert refusals(model) == {"licence.card"}
    (model / "README.md").unlink()
    (model / "LICENSE").unlink()
    assert refusals(model) == {"licence.absent"}


def test_a_card_laxer_than_its_base_is_refused(model: Path, refusals: Rules) -> None:
    card = "---\nlicense: apache-2.0\nbase_model: {}\n---\n"
    (model / "README.md").write_text(card.format("meta-llama/Llama-3.1-8B"))
    assert refusals(model, files=True) == {"licence.base@README.md"}
    (model / "README.md").write_text(card.format("somebody/tiny"))
    assert refusals(model) == set()
    edit_json(model / "config.json", lambda c: c.update(_name_or_path="google/gemma-2-2b"))
    assert refusals(model, files=True) == {"licence.base@config.json"}
    write_json(model / "config.json", json.loads((model / "config.json").read_text()))


FACTS_AS_HANDED_OVER = Path(__file__).parents[2] / "data" / "licences" / "facts.json"
FACTS_SHA256 = "551786b55c54a7875de1da2664f7091b01e265d0ea346e21606517bfce611f3c"
# What was read later than the facts, each named in the row's `checked`.
READ_LATER = {
    ("Llama 3", "read"),
    ("Llama 3.2", "read"),
    ("Llama 3.2", "eu_exclusion"),
    ("Llama 3.3", "read"),
}


def test_every_fact_that_was_handed_over_is_carried_with_its_source() -> None:
    data = FACTS_AS_HANDED_OVER.read_bytes()
    assert sha256_bytes(data) == FACTS_SHA256
    carried = json.loads(Path(licence.__file__).with_name("licences.json").read_bytes())
    rows = {row["family"]: row for row in carried["rows"]}
    for fact in json.loads(data)["rows"]:
        row = rows[fact["family"]]
        changed = {key for key, value in fact.items() if row.get(key, "absent") != value}
        assert {(fact["family"], key) for key in changed} <= READ_LATER
        if changed:
            assert "read" in row["checked"]


def test_every_source_names_a_day_or_a_commit() -> None:
    for row in FACTS.rows.values():
        third_party = not row.read or isinstance(row.read, str)
        assert third_party or re.search(r"20\d\d-\d\d-\d\d|@[0-9a-f]{6,40}", row.source)


def test_a_row_that_says_as_another_is_spelled_out() -> None:
    assert FACTS.rows["Llama 3.2"].attribution == FACTS.rows["Llama 3.1"].attribution
    assert not [row for row in FACTS.rows.values() if row.attribution.startswith("as ")]


@pytest.mark.parametrize(
    ("identifier", "use", "allowed"),
    [
        ("mit OR apache-2.0", DeclaredUse(), "Apache-2.0|MIT"),
        ("Apache-2.0 WITH LLVM-exception", DeclaredUse(), "Apache-2.0"),
        ("MIT AND BSD-3-Clause", DeclaredUse(redistribution=True), "MIT|BSD-3-Clause"),
        ("(MIT OR CC-BY-NC-4.0)", DeclaredUse(), "MIT"),
        ("mit or my-own", DeclaredUse(), "MIT"),
        ("MIT AND my-own", DeclaredUse(), ""),
        ("MIT WITH my-exception", DeclaredUse(), ""),
        ("MIT AND CC-BY-NC-4.0", DeclaredUse(), ""),
        ("MIT OR", DeclaredUse(), ""),
    ],
)
def test_an_expression_is_read_as_spdx_says(
    identifier: str, use: DeclaredUse, allowed: str
) -> None:
    decision, refusals = decide(tag(identifier), use=use)
    assert decision.allowed is bool(allowed)
    if allowed:
        assert set(decision.path[0].families) <= set(allowed.split("|"))
        assert not refusals


def test_the_texts_of_a_dual_licence_agree_with_its_expression() -> None:
    both = (tag("MIT OR Apache-2.0"), text(mit_text(), "LICENSE-MIT"))
    assert decide(*both, texts=(mit_text(),))[1] == set()
    apache = text(apache_text(), "LICENSE-APACHE")
    assert decide(*both, apache, texts=(mit_text(), apache_text()))[1] == set()
    wrong = (tag("MIT OR BSD-2-Clause"), apache)
    assert decide(*wrong, texts=(apache_text(),))[1] == {"contradiction"}
    assert decide(tag("MIT OR ISC"), tag("MIT AND ISC", "METADATA:License"))[1] == {"contradiction"}


BSD = """\
Copyright (c) 2020, Somebody and others
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

* Redistributions of source code must retain the above copyright notice, this
  list of conditions and the following disclaimer.

{two}Redistributions in binary form must reproduce the above copyright notice,
  this list of conditions and the following disclaimer in the documentation
  and/or other materials provided with the distribution.
{three}
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE {holder} BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
THIRD = """
{three}Neither the name of {holder} nor the names of its contributors may be
  used to endorse or promote products derived from this software without
  specific prior written permission.
"""


@pytest.mark.parametrize("holder", ["COPYRIGHT OWNER OR CONTRIBUTORS", "Regents of Somewhere"])
@pytest.mark.parametrize("marks", [("2. ", "3. "), ("* ", "* "), ("(b) ", "(c) ")])
def test_bsd_is_known_whatever_its_holder_and_its_numbering(
    holder: str, marks: tuple[str, str]
) -> None:
    third = THIRD.format(three=marks[1], holder=holder)
    for words, family in ((third, "BSD-3-Clause"), ("", "BSD-2-Clause")):
        whole = BSD.format(two=marks[0], three=words, holder=holder)
        found = identify(whole, FACTS.by_text, FACTS.by_title)
        assert found is not None
        assert (found.family, found.exact) == (family, True)
    assert decide(tag("bsd"), text(whole), texts=(whole,))[0].family == "BSD-2-Clause"
    more = whole + "\nNo use by armies.\n"
    assert decide(tag("bsd-2-clause"), text(more), texts=(more,))[1]


def test_a_page_around_a_text_does_not_hide_it() -> None:
    head = "<!DOCTYPE html><html><head><title>x</title><style>p {}</style></head>"
    page = f"{head}<body><pre>{mit_text()}</pre></body></html>"
    assert normalise(page) == normalise(mit_text())
    lost = "<html><body><h1>404</h1>Not found</body></html>"
    assert "unknown-text" in decide(tag("mit"), text(lost), texts=(lost,))[1]
    assert "unknown-text" in decide(tag("mit"), text(" \n"), texts=(" \n",))[1]


@pytest.mark.parametrize(
    ("identifier", "use", "rules"),
    [
        ("llama3", DeclaredUse(monthly_users=1), set()),
        ("llama3", DeclaredUse(monthly_users=1, trains_other_models=True), {"training"}),
        ("llama3.2", DeclaredUse(monthly_users=1, territories=("DE",)), {"territory"}),
        ("llama3.3", DeclaredUse(monthly_users=1, territories=("US",)), set()),
        ("llama4", DeclaredUse(monthly_users=1, territories=("worldwide",)), {"territory"}),
        ("llama4", DeclaredUse(monthly_users=1, territories=("us", "ch")), set()),
        ("llama2", DeclaredUse(monthly_users=700_000_000), set()),
        ("gemma", DeclaredUse(trains_other_models=True, redistribution=True), set()),
        ("cc-by-nc-4.0", DeclaredUse(), {"not-read", "commercial", "not-established"}),
        ("cc-by-nc-4.0", RESEARCH, {"not-read", "not-established"}),
        ("cc-by-4.0", DeclaredUse(redistribution=True), set()),
        ("cc-by-sa-4.0", DeclaredUse(redistribution=True, trains_other_models=True), set()),
        ("bigscience-openrail-m", DeclaredUse(), set()),
        ("bsd-3-clause", DeclaredUse(territories=("FR",)), set()),
        ("cc0-1.0", DeclaredUse(redistribution=True), set()),
        ("grok2-community", RESEARCH, {"not-read", "not-established"}),
        ("mnpl", DeclaredUse(), {"unknown"}),
    ],
)
def test_more_uses_are_judged_by_the_terms(
    identifier: str, use: DeclaredUse, rules: set[str]
) -> None:
    assert decide(tag(identifier), use=use)[1] == rules


@pytest.mark.parametrize(
    ("family", "use", "rules"),
    [
        ("Qwen licence 2024", DeclaredUse(monthly_users=99_999_999), set()),
        ("Qwen licence 2024", DeclaredUse(monthly_users=100_000_001), {"cap"}),
        (
            "Tongyi Qianwen 2023",
            DeclaredUse(monthly_users=1, trains_other_models=True),
            {"training"},
        ),
        ("DeepSeek LA 1.0", DeclaredUse(trains_other_models=True), set()),
        ("Mistral MNPL-0.1", DeclaredUse(), {"not-read", "commercial", "not-established"}),
        ("Mistral MRL-0.1", DeclaredUse(), {"not-read", "commercial", "not-established"}),
        ("Stability AI Community", DeclaredUse(revenue_usd_year=2_000_000), {"cap"}),
        ("Stability AI Community", DeclaredUse(), {"not-declared"}),
        ("Moonshot modified MIT (Kimi K2)", DeclaredUse(), set()),
        ("NVIDIA Open Model (2025-04-28)", DeclaredUse(redistribution=True), set()),
        ("EXAONE 1.1-NC", DeclaredUse(), {"commercial", "not-established"}),
        (
            "Tencent Hunyuan community (3D 2.0 text)",
            DeclaredUse(monthly_users=1, territories=("GB",)),
            {"territory"},
        ),
    ],
)
def test_families_that_only_a_text_can_name_are_judged_too(
    family: str, use: DeclaredUse, rules: set[str]
) -> None:
    found = {rule.removeprefix("licence.") for rule, *_ in objections(FACTS.rows[family], use)}
    assert found == rules


def test_the_exclusion_of_multimodal_models_leaves_text_models_alone() -> None:
    use = DeclaredUse(monthly_users=1, territories=("DE",))
    for identifier, text_only, allowed in (
        ("llama3.2", True, True),
        ("llama3.2", False, False),
        ("llama4", True, False),  # all of its models are multimodal
    ):
        decision, _ = decide_licence(
            [Subject("", (tag(identifier),))],
            {},
            use,
            VerificationPolicy(),
            text_only=text_only,
        )
        assert decision.allowed is allowed


def test_the_decision_says_what_was_asked_and_what_the_licence_answers() -> None:
    use = DeclaredUse(monthly_users=10**9, territories=("US",))
    decision, _ = decide(tag("llama3.1"), use=use)
    answers = {answer.question: answer for answer in decision.answers}
    assert answers["Monthly users"].declared == "1,000,000,000"
    assert not answers["Monthly users"].allowed
    assert answers["Commercial use"].allowed
    assert answers["Where it is used"].terms == "no territory is excluded"
    assert decision.path[0].claims == ("README.md:license ('llama3.1')",)
    assert "2026" in decision.path[0].sources[0]


def test_a_tag_of_one_licence_over_the_text_of_another_is_a_contradiction(
    model: Path, refusals: Rules
) -> None:
    (model / "LICENSE").write_text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n\nand so on\n")
    assert "licence.contradiction" in refusals(model)
