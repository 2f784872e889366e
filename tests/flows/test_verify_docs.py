"""docs/verify.md: its policy table and its example waiver are what the code reads."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.models_file import parse_config
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.waivers import NEVER_WAIVED, WaiverFile

TEXT = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()


def test_the_policy_table_names_every_key() -> None:
    section = TEXT.split("## The policy")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z_.]+)`", section, re.MULTILINE))
    fields = VerificationPolicy.model_fields
    nested = type(VerificationPolicy().advisories).model_fields
    assert listed == {*fields, *(f"advisories.{key}" for key in nested)} - {"advisories"}


def test_the_example_waiver_is_one() -> None:
    import yaml

    example = re.search(r"```yaml\n(waivers:.*?)```", TEXT, re.DOTALL)
    assert example is not None
    text = example[1].replace("9f3a…", "9f" * 32)
    assert parse_config(Path("docs/verify.md"), WaiverFile, yaml.safe_load(text)).waivers


def test_the_rules_that_are_never_waived_are_all_there() -> None:
    section = TEXT.split("Never waived:")[1].split("\n## ")[0]
    named = {rule.removesuffix("*") for rule in re.findall(r"`([a-z]+\.[a-z*]+)`", section)}
    assert named == set(NEVER_WAIVED) - {"waiver."}
