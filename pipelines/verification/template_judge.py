"""A chat template as a syntax tree, judged by an allow-list.

A template is a program that sees every prompt. What honest ones need is small: loops over
messages, tests of roles and of control marks, string methods, JSON. Everything else is refused:
attribute traversal, includes, calls of unknown names, conditions on words or dates, addresses and
invisible characters in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.verification.findings import quoted, words
from pipelines.verification.template_taint import Taint, literals
from pipelines.verification.template_text import judge_words
from pipelines.verification.template_triggers import judge_triggers

MAX_TEMPLATE_CHARACTERS = 200_000
MAX_REPEAT = 1_000

_NODES = frozenset({
    *("Template", "Output", "TemplateData", "Const", "Name", "NSRef", "Assign", "AssignBlock"),
    *("If", "For", "Macro", "Call", "CallBlock", "CondExpr", "Filter", "FilterBlock", "Test"),
    *("Getattr", "Getitem", "Slice", "Compare", "Operand", "And", "Or", "Not", "Add", "Sub"),
    *("Mul", "Div", "FloorDiv", "Mod", "Neg", "Pos", "Concat", "List", "Tuple", "Dict", "Pair"),
    *("Keyword", "With", "Break", "Continue", "Scope", "ExtensionAttribute"),
})  # fmt: skip
_FILTERS = words(
    "abs batch capitalize count d default dictsort e escape first float groupby indent int items "
    "join last length list lower map max min reject rejectattr replace reverse round safe select "
    "selectattr slice sort string sum title tojson trim truncate unique upper wordcount"
)
_TESTS = words(
    "boolean defined divisibleby eq equalto even false float ge greaterthan gt in integer iterable "
    "le lessthan lower lt mapping ne none number odd sameas sequence string true undefined "
    "upper"
)
_FUNCTIONS = frozenset(
    {"raise_exception", "range", "namespace", "dict", "strftime_now", "loop", "caller"}
)
_METHODS = words(
    "append capitalize count endswith find get index items join keys lower lstrip partition pop "
    "removeprefix removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith "
    "strip title upper values cycle isdigit isalpha isalnum isspace isupper islower"
)
_CLOCK = "strftime_now"
# Names by which Python objects lead to the interpreter, even where they stand in a string.
_INTERNALS = re.compile(
    r"__(class|bases?|mro|subclasses|init|globals|builtins|import|dict|getattribute|getattr|code|"
    r"self|func|closure|module|loader|spec|reduce|reduce_ex|new|call|wrapped|doc)__|\bgi_frame\b"
)
# Attributes by which generators, frames and functions lead on.
_FRAMES = words(
    "gi_frame gi_code gi_yieldfrom cr_frame cr_code ag_frame f_globals f_locals f_back f_builtins "
    "func_globals func_code tb_frame mro"
)
_SHADOWED = words(
    "raise_exception range namespace strftime_now dict caller loop messages tools documents "
    "bos_token eos_token"
)


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which transformers adds to mark assistant text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """The block as a call that returns its body unchanged."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("render_body")
        block = nodes.CallBlock(call, [], [], body)
        block.set_lineno(line)
        return block

    def render_body(self, caller: Any) -> Any:
        """What the block renders to: its body."""
        return caller()


def make_environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers configures it for chat templates (utils/chat_template_utils.py)."""
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )


def judge_template(text: str) -> list[tuple[str, str]]:
    """What is wrong with a template, as (rule, fact); empty when the allow-list admits it."""
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        return [("template.size", f"it has {len(text)} characters")]
    try:
        return list(dict.fromkeys(_judge(make_environment().parse(text))))
    except TemplateSyntaxError as error:
        return [("template.syntax", f"it does not parse: {error}")]
    except RecursionError:
        return [("template.size", "it nests too deeply")]


def _judge(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    lists = _macro_lists(tree, macros)
    for name in sorted(macros & _SHADOWED):
        yield "template.shadow", f"a macro takes the name {quoted(name)}, which others rely on"
    for node in _walk(tree):
        kind = type(node).__name__
        if kind not in _NODES:
            yield (
                "template.construct",
                f"line {node.lineno}: {kind} has no place in a chat template",
            )
        elif isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            yield "template.filter", f"line {node.lineno}: the filter {quoted(node.name)}"
        elif isinstance(node, nodes.Test) and node.name not in _TESTS:
            yield "template.test", f"line {node.lineno}: the test {quoted(node.name)}"
        elif isinstance(node, nodes.Call):
            yield from _judge_call(node, macros, lists)
        elif isinstance(node, nodes.Getattr | nodes.Getitem):
            yield from _judge_access(node)
        elif isinstance(node, nodes.Name) and node.name.startswith("__"):
            yield "template.attribute", f"line {node.lineno}: the name {quoted(node.name)}"
        elif isinstance(node, nodes.Mul):
            yield from _judge_repeat(node)
        elif isinstance(node, nodes.Const | nodes.TemplateData):
            yield from _judge_text(node)
    taint = Taint(tree, _CLOCK)
    yield from taint.findings()
    yield from judge_triggers(taint)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _macro_lists(tree: nodes.Template, macros: set[str]) -> set[str]:
    """Variables that only ever hold lists of the template's own macros."""

    def holds_macros(value: nodes.Node, target: str) -> bool:
        if isinstance(value, nodes.List):
            return all(isinstance(n, nodes.Name) and n.name in macros for n in value.items)
        if isinstance(value, nodes.Add):
            return holds_macros(value.left, target) and holds_macros(value.right, target)
        return isinstance(value, nodes.Name) and value.name == target

    assigned: dict[str, list[nodes.Node]] = {}
    for node in tree.find_all(nodes.Assign):
        if isinstance(node.target, nodes.Name):
            assigned.setdefault(node.target.name, []).append(node.node)
    bound = {
        name.name
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.With, nodes.AssignBlock))
        for field in ("target", "targets", "args")
        for part in _as_list(getattr(node, field, []))
        for name in [part, *part.find_all(nodes.Name)]
        if isinstance(name, nodes.Name)
    }
    return {
        name
        for name, values in assigned.items()
        if name not in bound and all(holds_macros(value, name) for value in values)
    }


def _as_list(value: nodes.Node | list[nodes.Node]) -> list[nodes.Node]:
    return value if isinstance(value, list) else [value]


def _judge_call(
    node: nodes.Call, macros: set[str], macro_lists: set[str]
) -> Iterator[tuple[str, str]]:
    target = node.node
    if isinstance(target, nodes.Name):
        if target.name not in _FUNCTIONS | macros:
            yield "template.call", f"line {node.lineno}: it calls {quoted(target.name)}"
        elif target.name == "range":
            sizes = [value for value in literals(node.args) if isinstance(value, int)]
            if any(abs(size) > MAX_REPEAT for size in sizes):
                yield "template.work", f"line {node.lineno}: a range of {max(sizes)}"
    elif isinstance(target, nodes.Getattr):
        if target.attr not in _METHODS:
            yield "template.call", f"line {node.lineno}: it calls the method {quoted(target.attr)}"
    elif isinstance(target, nodes.ExtensionAttribute):
        if (target.identifier, target.name) != (GenerationTag.identifier, "render_body"):
            yield "template.call", f"line {node.lineno}: it calls an extension"
    elif not (
        isinstance(target, nodes.Getitem)
        and isinstance(target.node, nodes.Name)
        and target.node.name in macro_lists
    ):
        yield "template.call", f"line {node.lineno}: it calls a computed value"


def _judge_access(node: nodes.Getattr | nodes.Getitem) -> Iterator[tuple[str, str]]:
    names = [node.attr] if isinstance(node, nodes.Getattr) else list(literals([node.arg]))
    for name in names:
        if isinstance(name, str) and (name.startswith("_") or name in _FRAMES):
            yield "template.attribute", f"line {node.lineno}: it reaches for {quoted(name)}"
    computed = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Add | nodes.Concat)
    if computed and any(isinstance(name, str) for name in names):
        yield "template.attribute", f"line {node.lineno}: it puts a name together from parts"


def _judge_repeat(node: nodes.Mul) -> Iterator[tuple[str, str]]:
    for value in literals([node.left, node.right]):
        if isinstance(value, int | float) and abs(value) > MAX_REPEAT:
            yield "template.work", f"line {node.lineno}: it multiplies by {value}"


def _judge_text(node: nodes.Const | nodes.TemplateData) -> Iterator[tuple[str, str]]:
    text = node.data if isinstance(node, nodes.TemplateData) else node.value
    if not isinstance(text, str):
        return
    if _INTERNALS.search(text):
        yield "template.attribute", f"line {node.lineno}: the text {quoted(text)}"
    yield from judge_words(text, node.lineno)
