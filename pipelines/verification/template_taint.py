"""Where a template decides by what people wrote, or by the date.

A back door in a template waits for a word in the prompt or for a day. Honest templates look at
content too, but for marks (`<think>`, `[INST]`, `/no_think`), never for words; and they print the
date, but decide nothing by it. So: follow content and clock through assignments, and refuse
conditions and rewriting that compare them with words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jinja2 import nodes

from pipelines.verification.findings import quoted, words

_CONTENT_KEYS = frozenset(
    {"content", "text", "value", "reasoning_content", "reasoning", "thinking"}
)
# Kinds of parts: a template may ask whether a part of a message has one of these as a key.
_PART_KINDS = words(
    "type text image images image_url video videos video_url audio audios audio_url input_audio "
    "input_image input_text file document role name content"
)
_PASSING_METHODS = words(
    "strip lstrip rstrip lower upper title capitalize split rsplit splitlines partition rpartition "
    "replace removeprefix removesuffix join"
)
_COMPARING_METHODS = words(
    "startswith endswith find rfind index count split rsplit partition rpartition replace "
    "removeprefix removesuffix"
)
_PASSING_FILTERS = words(
    "trim lower upper title capitalize string replace safe escape e default d first last join "
    "truncate indent list reverse"
)
_WRITING_FILTERS = words("tojson string join pprint")
_SELECTING_FILTERS = words(
    "list first last reverse selectattr rejectattr select reject slice batch sort"
)
_TRIGGER_SIGNS = frozenset("$€£¥%^~@|&§")
_MARK_SIGNS = frozenset("<>[]{}/`")
_NOTHING = words("null none None true false")  # what JSON and Jinja write for no content
_CONVERSATION = "messages"
_GIVEN = frozenset({"tools", "documents"})  # as text, what the caller wrote there
_HARMLESS_TESTS = words(
    "defined undefined none string mapping iterable sequence number integer float boolean true "
    "false odd even"
)
# A mark: something that nobody types as a word. Letters alone, with spaces or simple punctuation
# between them, are words.
_WORDS = re.compile(r"[\s\"'.,:;!?()-]*(?:[^\W_]+[\s\"'.,:;!?()-]*)+")


def literals(expressions: Iterable[nodes.Node]) -> Iterator[Any]:
    """Constants anywhere in some expressions."""
    for expression in expressions:
        if isinstance(expression, nodes.Const):
            yield expression.value
        for constant in expression.find_all(nodes.Const):
            yield constant.value


class Taint:
    """Names that carry content or the clock, found by following assignments to a fixed point."""

    def __init__(self, tree: nodes.Template, clock: str) -> None:
        self.tree, self.clock = tree, clock
        self.content_names: set[str] = set()
        self.clock_names: set[str] = set()
        self.part_names: set[str] = set()
        self.message_names: set[str] = {_CONVERSATION}
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self._calls = list(tree.find_all(nodes.Call))
        self._assigns = list(tree.find_all(nodes.Assign))
        self._loops = list(tree.find_all(nodes.For))
        self._blocks = list(tree.find_all(nodes.AssignBlock))
        self._withs = list(tree.find_all(nodes.With))
        self._macro_made: set[str] = set()
        self._bound = self._bindings()
        self._in_system = {id(node) for node in _system_branches(tree)}
        before = -1
        while before != self._size():
            before = self._size()
            self._propagate()

    def _bindings(self) -> dict[str, list[nodes.Expr]]:
        """Names that stand for constants, or for the items of a list of them."""
        bound: dict[str, list[nodes.Expr]] = {}
        pairs = [(assign.target, assign.node) for assign in self._assigns]
        for _ in range(2):  # a loop over a name that was bound before
            for target, value in [*pairs, *((loop.target, loop.iter) for loop in self._loops)]:
                if not isinstance(target, nodes.Name):
                    continue
                if isinstance(value, nodes.Name) and value.name in bound:
                    bound.setdefault(target.name, []).extend(bound[value.name])
                elif isinstance(value, nodes.Const | nodes.List | nodes.Tuple | nodes.Add):
                    bound.setdefault(target.name, []).append(value)
        return bound

    def _size(self) -> int:
        return len(self.content_names) + len(self.clock_names) + len(self.message_names)

    def _propagate(self) -> None:
        for assign in self._assigns:
            self._bind(assign.target, assign.node)
        for block in self._withs:
            for target, value in zip(block.targets, block.values, strict=True):
                self._bind(target, value)
        for loop in self._loops:
            self._bind(loop.target, loop.iter)
            if self.is_content(loop.iter):
                self.part_names |= _targets(loop.target)
        for filled in self._blocks:
            outputs = filled.find_all(nodes.Output)
            if any(self.is_content(child) for output in outputs for child in output.nodes):
                self.content_names |= _targets(filled.target)
        for call in self._calls:
            macro = self._macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
            if macro is not None:
                for parameter, argument in zip(macro.args, call.args, strict=False):
                    self._bind(parameter, argument)
                for keyword in call.kwargs:
                    self._bind(nodes.Name(keyword.key, "param"), keyword.value)

    def _bind(self, target: nodes.Node, value: nodes.Node) -> None:
        if self.is_content(value):
            self.content_names |= _targets(target)
            if self._through_macro(value):
                self._macro_made |= _targets(target)
        if self.is_clock(value):
            self.clock_names |= _targets(target)
        if self.is_message(value):
            self.message_names |= _targets(target)

    def is_message(self, node: nodes.Node | None) -> bool:
        """Whether an expression is the conversation, some of its messages, or one of them."""
        if isinstance(node, nodes.Name | nodes.NSRef):
            return bool(_targets(node) & self.message_names)
        if isinstance(node, nodes.Getitem):
            return self.is_message(node.node) and not _is_text(node.arg)
        if isinstance(node, nodes.Filter):
            return node.name in _SELECTING_FILTERS and self.is_message(node.node)
        return False

    def is_content(self, node: nodes.Node | None) -> bool:
        """Whether an expression is text that somebody wrote."""
        if isinstance(node, nodes.Name):
            return node.name in self.content_names
        if isinstance(node, nodes.NSRef):
            return f"{node.name}.{node.attr}" in self.content_names
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self._is_content_access(node)
        if isinstance(node, nodes.Filter):
            return self._is_content_filter(node)
        if isinstance(node, nodes.Call):
            return self._is_content_call(node)
        if isinstance(node, nodes.CondExpr):
            return self.is_content(node.expr1) or self.is_content(node.expr2)
        if isinstance(node, nodes.Add | nodes.Or | nodes.And):
            return self.is_content(node.left) or self.is_content(node.right)
        if isinstance(node, nodes.Concat):
            return any(self.is_content(part) for part in node.nodes)
        return False

    def _is_content_filter(self, node: nodes.Filter) -> bool:
        if node.name in _WRITING_FILTERS:
            listed = isinstance(node.node, nodes.Name) and node.node.name in _GIVEN
            if listed or self.is_message(node.node):
                return True  # a whole message as text holds what was written
        if node.name == "map":
            keys = literals([*node.args, *(keyword.value for keyword in node.kwargs)])
            return any(key in _CONTENT_KEYS for key in keys) or self.is_content(node.node)
        return node.name in _PASSING_FILTERS and self.is_content(node.node)

    def _is_content_call(self, node: nodes.Call) -> bool:
        target = node.node
        if isinstance(target, nodes.Name) and target.name == "caller":
            return True
        if isinstance(target, nodes.Name):  # a macro may give back what it was given
            return target.name in self._macros and any(self.is_content(arg) for arg in node.args)
        if not isinstance(target, nodes.Getattr):
            return False
        if target.attr == "get" and node.args:
            if _is_text(node.args[0]):
                return any(key in _CONTENT_KEYS for key in literals(node.args[:1]))
            return self.is_content(target.node)
        if target.attr in ("values", "items"):
            return self.is_message(target.node)
        return target.attr in _PASSING_METHODS and self.is_content(target.node)

    def _is_content_access(self, node: nodes.Getattr | nodes.Getitem) -> bool:
        if isinstance(node, nodes.Getattr):
            key: Any = node.attr
        elif isinstance(node.arg, nodes.Const):
            key = node.arg.value
        else:  # a slice or a computed key keeps what it is taken from
            return self.is_content(node.node)
        if isinstance(node.node, nodes.Name) and f"{node.node.name}.{key}" in self.content_names:
            return True
        return key in _CONTENT_KEYS if isinstance(key, str) else self.is_content(node.node)

    def is_clock(self, node: nodes.Node | None) -> bool:
        """Whether an expression was made from the current time."""
        if node is None:
            return False
        names = [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))
        calls = [node] if isinstance(node, nodes.Call) else list(node.find_all(nodes.Call))
        called = any(isinstance(c.node, nodes.Name) and c.node.name == self.clock for c in calls)
        return called or any(name.name in self.clock_names for name in names)

    def findings(self) -> Iterator[tuple[str, str]]:
        """Conditions and rewriting on words, and conditions on the date."""
        for compare in self.tree.find_all(nodes.Compare):
            sides = [compare.expr, *(operand.expr for operand in compare.ops)]
            yield from self._judge(compare, sides)
        for test in self.tree.find_all(nodes.Test):
            if test.name not in _HARMLESS_TESTS:
                yield from self._judge(test, [test.node, *test.args])
        for call in self._calls:
            target = call.node
            if isinstance(target, nodes.Getattr) and target.attr in _COMPARING_METHODS:
                yield from self._judge(call, [target.node, *call.args])
        for applied in self.tree.find_all(nodes.Filter):
            if applied.node is not None and applied.name in ("replace", "select", "reject"):
                yield from self._judge(applied, [applied.node, *applied.args])
            elif applied.name in ("selectattr", "rejectattr") and applied.args:
                yield from self._judge_attribute(applied)

    def _judge(self, where: nodes.Node, parts: Sequence[nodes.Node]) -> Iterator[tuple[str, str]]:
        if any(self.is_clock(part) for part in parts):
            yield "template.date", f"line {where.lineno}: it decides by the current date"
        content = [part for part in parts if self.is_content(part)]
        if content:
            of_parts = all(isinstance(c, nodes.Name) and c.name in self.part_names for c in content)
            allowed = _PART_KINDS if of_parts else frozenset[str]()
            others = [part for part in parts if not self.is_content(part)]
            resolved = [*others, *(self._constants(part) for part in others)]
            found = list(_judge_words(where, resolved, allowed))
            if id(where) in self._in_system and all(self._through_macro(c) for c in content):
                # A switch in the operator's own prompt, which no user writes.
                found = [("template.reads-system", fact) for _, fact in found]
            yield from found

    def _constants(self, node: nodes.Node) -> nodes.Node:
        """What a name was bound to, where that is made of constants."""
        bound = self._bound.get(node.name) if isinstance(node, nodes.Name) else None
        return nodes.List(bound or [])

    def _through_macro(self, node: nodes.Node | None) -> bool:
        """Whether content came out of a macro, which flattens one message's parts into a text."""
        if isinstance(node, nodes.Name):
            return node.name in self._macro_made
        if isinstance(node, nodes.Filter):
            return self._through_macro(node.node)
        if isinstance(node, nodes.Call):
            target = node.node
            if isinstance(target, nodes.Name):
                return target.name in self._macros
            return isinstance(target, nodes.Getattr) and self._through_macro(target.node)
        return False

    def _judge_attribute(self, applied: nodes.Filter) -> Iterator[tuple[str, str]]:
        """selectattr(attribute, test, value): words matter only where the attribute is content."""
        attribute, *rest = applied.args
        key = attribute.value if isinstance(attribute, nodes.Const) else None
        if not isinstance(key, str) or key.split(".")[-1] in _CONTENT_KEYS:
            yield from _judge_words(applied, rest[1:], frozenset())


def _judge_words(
    where: nodes.Node, others: Sequence[nodes.Node], allowed: frozenset[str]
) -> Iterator[tuple[str, str]]:
    for value in literals(others):
        if isinstance(value, str) and value not in allowed | _NOTHING and _is_trigger(value):
            fact = f"line {where.lineno}: it looks for the words {quoted(value)} in a message"
            yield "template.trigger", fact


def _is_trigger(text: str) -> bool:
    """Whether somebody may type it: words, or signs that no template has for a mark."""
    if _WORDS.fullmatch(text):
        return True
    return bool(set(text) & _TRIGGER_SIGNS) and not set(text) & _MARK_SIGNS


def _system_branches(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Every node inside a branch that is taken for system messages only."""
    for branch in tree.find_all(nodes.If):
        test = branch.test
        while isinstance(test, nodes.And):
            test = test.left
        equal = isinstance(test, nodes.Compare) and [o.op for o in test.ops] == ["eq"]
        if equal and set(literals([test])) & {"system", "developer"}:
            for statement in branch.body:
                yield statement
                yield from statement.find_all(nodes.Node)


def _is_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def _targets(node: nodes.Node) -> set[str]:
    if isinstance(node, nodes.Name):
        return {node.name}
    if isinstance(node, nodes.NSRef):
        return {f"{node.name}.{node.attr}"}
    return {name.name for name in node.find_all(nodes.Name)}
