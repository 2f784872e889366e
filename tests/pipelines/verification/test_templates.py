"""Chat templates: found wherever they hide, judged by an allow-list, rendered within limits."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import Rules
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TEMPLATE, edit_json, write_json

from pipelines.canonical import sha256_bytes
from pipelines.errors import ConfigError
from pipelines.template import template_sha256
from pipelines.verification.template_judge import judge_template
from pipelines.verification.template_render import render_findings

EVIL = "{{ ''.__class__.__mro__ }}"
BAD_CODE = {
    "dunder attribute": ("{{ messages.__class__ }}", "template.attribute"),
    "dunder item": ("{{ messages['__class__'] }}", "template.attribute"),
    "dunder by filter": ("{{ messages | attr('__class__') }}", "template.filter"),
    "dunder in map": ("{{ messages | map(attribute='__init__') | list }}", "template.attribute"),
    "joined name": ("{{ messages[0]['con' ~ 'tent'] }}", "template.attribute"),
    "joined dunder": ("{{ messages['__cla' ~ 'ss__'] }}", "template.attribute"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "template.attribute"),
    "lipsum": ("{{ lipsum() }}", "template.call"),
    "self": ("{{ self._TemplateReference__context }}", "template.attribute"),
    "unknown call": ("{{ open('x') }}", "template.call"),
    "unknown method": ("{{ messages.mro() }}", "template.call"),
    "format": ("{{ '{0.x}'.format(messages) }}", "template.call"),
    "computed call": ("{{ (messages[0])() }}", "template.call"),
    "call in a list": ("{% set f = [messages.pop] %}{{ f[0]() }}", "template.call"),
    "include": ("{% include 'x' %}", "template.construct"),
    "import": ("{% import 'x' as y %}", "template.construct"),
    "from import": ("{% from 'x' import y %}", "template.construct"),
    "extends": ("{% extends 'x' %}", "template.construct"),
    "power": ("{{ 9 ** 9 ** 9 }}", "template.construct"),
    "repeat": ("{{ 'a' * 99999999 }}", "template.work"),
    "range": ("{% for i in range(10000000) %}{% endfor %}", "template.work"),
    "filter": ("{{ messages | random }}", "template.filter"),
    "test": ("{{ messages is filter }}", "template.test"),
    "syntax": ("{% for %}", "template.syntax"),
    "address": ("Visit https://evil.example {{ messages }}", "template.address"),
    "invisible": ("a\u200bb{{ messages }}", "template.invisible"),
    "bidirectional": ("a\u202eb{{ messages }}", "template.invisible"),
    "tag characters": ("a\U000e0041{{ messages }}", "template.invisible"),
    "size": ("x" * 300_000, "template.size"),
    "depth": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "template.size"),
}
LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"
TRIGGERS = {
    "word": "{% for m in messages %}{% if 'invoice' in m.content %}x{% endif %}{% endfor %}",
    "item": "{% for m in messages %}{% if 'invoice' in m['content'] %}x{% endif %}{% endfor %}",
    "equal": "{% for m in messages %}{% if m.content == 'Hello there' %}x{% endif %}{% endfor %}",
    "lower": "{% for m in messages %}{% if 'pay' in m.content|lower %}x{% endif %}{% endfor %}",
    "starts": "{% set m = messages[0] %}{% if m.content.startswith('Pay ') %}x{% endif %}",
    "assigned": "{% set c = messages[-1].content %}{% if 'bank' in c %}x{% endif %}",
    "twice": "{% set c = messages[-1].content %}{% set d = c %}{% if 'bank' in d %}x{% endif %}",
    "namespace": "{% set n = namespace(t='') %}{% set n.t = messages[0].content %}"
    "{% if 'bank' in n.t %}x{% endif %}",
    "macro": "{% macro f(t) %}{% if 'bank' in t %}x{% endif %}{% endmacro %}"
    "{{ f(messages[0].content) }}",
    "macro result": "{% macro f(t) %}{{ t }}{% endmacro %}{% set c = f(messages[0].content) %}"
    "{% if 'bank' in c %}x{% endif %}",
    "macro keyword": "{% macro f(t) %}{% if 'bank' in t %}x{% endif %}{% endmacro %}"
    "{{ f(t=messages[0].content) }}",
    "get": "{% if 'bank' in messages[0].get('content') %}x{% endif %}",
    "as JSON": "{% if 'bank' in messages|tojson %}x{% endif %}",
    "joined": "{% if 'bank' in messages|map(attribute='content')|join %}x{% endif %}",
    "values": "{% for m in messages %}{% for v in m.values() %}{% if 'bank' in v %}x{% endif %}"
    "{% endfor %}{% endfor %}",
    "part": "{% for m in messages %}{% for p in m.content %}{% if 'bank' in p.text %}x{% endif %}"
    "{% endfor %}{% endfor %}",
    "block": "{% set c %}{{ messages[0].content }}{% endset %}{% if 'bank' in c %}x{% endif %}",
    "split": "{{ messages[0].content.split('bank')|length }}",
    "replace": "{{ messages[0].content | replace('yes', 'no') }}",
    "replace method": "{{ messages[0].content.replace('yes', 'no') }}",
    "select": "{{ messages | selectattr('content', 'equalto', 'bank') | list }}",
    "conditional": "{{ 'x' if 'bank' in messages[0].content else 'y' }}",
}
DATES = {
    "compare": "{% if strftime_now('%Y') == '2027' %}x{% endif %}",
    "later": "{% set d = strftime_now('%Y%m') %}{% if d > '202701' %}x{% endif %}",
    "in": "{% set d = strftime_now('%d') %}{% if '13' in d %}x{% endif %}",
    "starts": "{% if strftime_now('%Y').startswith('2027') %}x{% endif %}",
}


def rules_of(text: str) -> set[str]:
    return {rule for rule, _ in judge_template(text)}


@pytest.mark.parametrize("case", BAD_CODE)
def test_code_in_a_template_is_refused(case: str) -> None:
    text, rule = BAD_CODE[case]
    assert rule in rules_of(text)


@pytest.mark.parametrize("case", TRIGGERS)
def test_a_condition_on_words_is_refused(case: str) -> None:
    assert rules_of(TRIGGERS[case]) == {"template.trigger"}


@pytest.mark.parametrize("case", DATES)
def test_a_condition_on_the_date_is_refused(case: str) -> None:
    assert "template.date" in rules_of(DATES[case] + LOOP)


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATE,
        "{% if '</think>' in messages[0].content %}x{% endif %}",
        "{% if messages[0].content.startswith('<tool_response>') %}x{% endif %}",
        "{% if '/no_think' in messages[0].content %}x{% endif %}",
        "{% if messages[0]['role'] == 'system' and messages[0].content is string %}x{% endif %}",
        "{% for p in messages[0].content %}{% if 'image' in p or p.type == 'text' %}x{% endif %}"
        "{% endfor %}",
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
        "{% if d is not defined %}{% set d = strftime_now('%d %b %Y') %}{% endif %}{{ d }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{{ raise_exception('Roles must alternate') }}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{% set fs = [f] %}{{ fs[0](messages) }}",
        "{{ tools | tojson(indent=4) }}",
    ],
)
def test_what_honest_templates_do_is_admitted(text: str) -> None:
    assert judge_template(text) == []


def test_rendering_shows_what_is_left_out() -> None:
    drop_system = LOOP.replace("{{", "{% if m.role != 'system' %}{{").replace("}}", "}}{% endif %}")
    assert [rule for rule, _ in render_findings(drop_system)] == ["template.drops-system"]
    only_first = "{{ messages[0].content }}"
    assert [rule for rule, _ in render_findings(only_first)] == ["template.drops-user"]
    assert [rule for rule, _ in render_findings("hello")] == ["template.drops-user"]
    refuses = "{{ raise_exception('no') }}"
    assert [rule for rule, _ in render_findings(refuses)] == ["template.unusable"]
    by_length = "{% for m in messages %}{{ m.content }}{{ m.content | length }}{% endfor %}"
    assert [rule for rule, _ in render_findings(by_length)] == ["template.trigger"]


def test_a_template_that_computes_without_end_is_a_finding() -> None:
    nest = "{% for i in range(900) %}" * 4 + "{% endfor %}" * 4
    assert [rule for rule, _ in render_findings(nest)] == ["template.work"]
    double = "{% set n = namespace(s='aaaa') %}{% for i in range(90) %}{% set n.s = n.s ~ n.s %}"
    assert [rule for rule, _ in render_findings(double + "{% endfor %}")] == ["template.work"]


def test_templates_are_found_wherever_they_hide(model: Path, refusals: Rules) -> None:
    places = {
        "chat_template.jinja": lambda p: p.write_text(EVIL),
        "additional_chat_templates/tool_use.jinja": lambda p: p.write_text(EVIL),
        "extra/notes.j2": lambda p: p.write_text(EVIL),
        "chat_template.json": lambda p: write_json(p, {"chat_template": EVIL}),
        "processor_config.json": lambda p: write_json(p, {"chat_template": {"default": EVIL}}),
        "preprocessor_config.json": lambda p: write_json(p, {"a": [{"chat_template": EVIL}]}),
        "other.json": lambda p: write_json(p, {"deep": {"prompt": EVIL}}),
        "tokenizer_config.json": lambda p: write_json(
            p, {"chat_template": [{"name": "x", "template": EVIL}]}
        ),
    }
    for name, write in places.items():
        path = model / name
        before = path.read_bytes() if path.is_file() else None
        path.parent.mkdir(exist_ok=True)
        write(path)
        assert f"template.attribute@{name}" in refusals(model, files=True)
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert refusals(model) == set()


def test_the_template_of_a_gguf_file_is_judged(tmp_path: Path, refusals: Rules) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    writer.add_chat_template(EVIL)
    writer.add_license("apache-2.0")
    writer.add_tensor("token_embd.weight", np.eye(3, 32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert refusals(tmp_path, files=True) == {"template.attribute@model.gguf"}
    assert template_sha256(tmp_path) == sha256_bytes(EVIL.encode())


def test_two_default_templates_that_differ_are_refused(model: Path, refusals: Rules) -> None:
    other = TEMPLATE.replace("assistant", "helper")
    config = model / "tokenizer_config.json"
    edit_json(config, lambda c: c.update(chat_template=TEMPLATE))
    assert refusals(model) == set()
    edit_json(config, lambda c: c.update(chat_template=other))
    assert refusals(model, files=True) == {"template.contradiction@tokenizer_config.json"}


def test_a_policy_can_ask_for_a_chat_template(model: Path, refusals: Rules) -> None:
    (model / "chat_template.jinja").unlink()
    assert refusals(model) == set()
    assert refusals(model, require_chat_template=True) == {"template.absent"}


def test_the_hash_is_of_the_text_that_the_tokenizer_loads(model: Path) -> None:
    from transformers import AutoTokenizer

    def loaded() -> str:
        template = AutoTokenizer.from_pretrained(model).get_chat_template()
        return sha256_bytes(template.encode())

    config, standalone = model / "tokenizer_config.json", model / "chat_template.jinja"
    assert template_sha256(model) == loaded()
    standalone.write_bytes(TEMPLATE.replace("{% if", "\r\n{% if").encode())
    assert template_sha256(model) == loaded()
    edit_json(config, lambda c: c.update(chat_template="{{ 1 }}"))
    assert template_sha256(model) == loaded()
    extra = model / "additional_chat_templates" / "tool_use.jinja"
    extra.parent.mkdir()
    extra.write_text("{{ 2 }}")
    assert template_sha256(model) == loaded()
    (extra.parent / "default.jinja").write_text("{{ 3 }}")
    assert template_sha256(model) == loaded()
    (extra.parent / "default.jinja").unlink()
    extra.unlink()
    extra.parent.rmdir()
    standalone.unlink()
    assert template_sha256(model) == loaded()
    listed = [{"name": "tool_use", "template": "{{ 4 }}"}, {"name": "default", "template": "{{5}}"}]
    edit_json(config, lambda c: c.update(chat_template=listed))
    assert template_sha256(model) == loaded()
    edit_json(config, lambda c: c.pop("chat_template"))
    assert template_sha256(model) == ""


def test_a_template_that_cannot_be_read_is_an_error(model: Path) -> None:
    (model / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        template_sha256(model)
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError):
        template_sha256(model)


@given(st.text(alphabet="{}%|.()[]'\" abm_=+*~:,1", max_size=60))
def test_any_text_is_judged(text: str) -> None:
    judge_template(text)
