"""The forms that people fill: what the schema that Prefect draws them from has to hold."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.deploy import PREFECT_FILE
from flows.parameters import DocumentsForm, Fields, JobForm, ModelForm, QuestionForm, UseForm
from pipelines.errors import BadName
from pipelines.models_file import DeclaredUse, load_yaml

ENTRYPOINTS = [deployment["entrypoint"] for deployment in load_yaml(PREFECT_FILE)["deployments"]]


def load(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def objects(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "form", schema
    yield from schema["definitions"].items()


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_every_field_of_a_form_has_title_description_and_place(entrypoint: str) -> None:
    flow = load(entrypoint)
    schema = parameter_schema(flow.fn).model_dump()
    assert flow.description
    for where, part in objects(schema):
        fields = part.get("properties", {})
        assert [field["position"] for field in fields.values()] == list(range(len(fields)))
        for name, field in fields.items():
            assert field.get("description"), f"{where}.{name}"
            # Where title and name are one word, Prefect drops the title and shows the name.
            assert field.get("title", name)[0].isupper() or "$ref" in field, f"{where}.{name}"


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_optional_field_shows_its_default(entrypoint: str) -> None:
    schema = parameter_schema(load(entrypoint).fn).model_dump()
    for where, part in objects(schema):
        for name, field in part.get("properties", {}).items():
            if name not in part.get("required", []):
                assert "default" in field, f"{where}.{name}"


def test_entrypoints_are_dotted_paths() -> None:
    assert all(":" not in entrypoint and "/" not in entrypoint for entrypoint in ENTRYPOINTS)


def test_classification_is_a_choice_that_nobody_makes_for_the_analyst() -> None:
    schema = DocumentsForm.model_json_schema()
    assert schema["properties"]["classification"]["enum"][0] == "public"
    assert "classification" in schema["required"]


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        DocumentsForm.model_validate(
            {"path": "/data", "classification": "public", "folder": "/data"}
        )


def test_relative_folder_is_refused() -> None:
    with pytest.raises(ValidationError, match="path"):
        DocumentsForm(path="data", classification="public")


def test_schema_that_is_not_one_is_refused_in_the_form() -> None:
    with pytest.raises(ValidationError, match="not JSON"):
        Fields(json_schema="{")
    with pytest.raises(ValidationError, match='"type": "object"'):
        Fields(json_schema='["a"]')


def test_question_takes_each_kind_of_answer() -> None:
    kinds = [{"labels": ["a", "b"]}, {"json_schema": '{"type": "object"}'}, {}]
    made = [QuestionForm.model_validate({"prompt": "?", "answer": kind}) for kind in kinds]
    assert [type(form.answer).__name__ for form in made] == ["OneLabel", "Fields", "FreeText"]


def test_model_is_a_release_and_its_stage() -> None:
    with pytest.raises(ValidationError, match="model"):
        JobForm(model="smollm2")


def test_name_that_dvc_cannot_carry_is_refused_in_the_form() -> None:
    with pytest.raises(BadName, match="llama-3-1"):
        ModelForm(name="llama-3.1")


def test_use_of_the_form_is_the_use_of_models_yaml() -> None:
    assert UseForm().declared() == DeclaredUse()
    assert set(UseForm.model_fields) == set(DeclaredUse.model_fields)
