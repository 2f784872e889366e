"""Conditions that compare no words and still wait for something: lengths, counts, tables, dates.

`template_taint.py` says what is content and what is the clock; here are the ways around words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jinja2 import nodes

from pipelines.verification.findings import words
from pipelines.verification.template_taint import Taint, literals

Found = Iterator[tuple[str, str]]

_LENGTHS = frozenset({"length", "count"})
_CLOCK_NAMES = words("date_string current_date today date now datetime current_time today_date")
_SHAPES = words("upper lower")  # tests on how something was written
_SHAPE_METHODS = words("isdigit isalpha isalnum isspace isupper islower istitle isnumeric")
_USUAL_LENGTH = 2  # is there anything, is there more than one
_USUAL_COUNT = 3  # of messages: a first one, a pair of them
_BY_SHAPE = "it asks how a message is written"
_BY_DATE = "it decides by the current date"
_BY_TABLE = "it chooses by what a message says"


def judge_triggers(taint: Taint) -> Found:
    """(rule, fact) for conditions on length, count, writing and date, and for tables of them."""
    tree = taint.tree
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        yield from _judge_counts(taint, compare, sides)
        dated = any(isinstance(side, nodes.Name) and side.name in _CLOCK_NAMES for side in sides)
        if dated and any(isinstance(v, str) and v.strip() for v in literals(sides)):
            yield _found("template.date", compare, _BY_DATE)
    for test in tree.find_all(nodes.Test):
        if test.name in _SHAPES and taint.is_content(test.node):
            yield _found("template.trigger", test, _BY_SHAPE)
    for call in tree.find_all(nodes.Call):
        yield from _judge_call(taint, call)
    for item in tree.find_all(nodes.Getitem):
        if taint.is_clock(item.arg):
            yield _found("template.date", item, _BY_DATE)
        elif taint.is_content(item.arg) and not isinstance(item.arg, nodes.Slice):
            yield _found("template.trigger", item, _BY_TABLE)
    for applied in tree.find_all(nodes.Filter):
        if applied.name in ("int", "float") and taint.is_clock(applied.node):
            yield _found("template.date", applied, _BY_DATE)


def _found(rule: str, where: nodes.Node, fact: str) -> tuple[str, str]:
    return rule, f"line {where.lineno}: {fact}"


def _judge_call(taint: Taint, call: nodes.Call) -> Found:
    target = call.node
    if not isinstance(target, nodes.Getattr):
        return
    if target.attr in _SHAPE_METHODS and taint.is_content(target.node):
        yield _found("template.trigger", call, _BY_SHAPE)
    if target.attr == "get" and call.args:
        if taint.is_clock(call.args[0]):
            yield _found("template.date", call, _BY_DATE)
        elif taint.is_content(call.args[0]):
            yield _found("template.trigger", call, _BY_TABLE)


def _judge_counts(taint: Taint, where: nodes.Node, sides: Sequence[nodes.Node]) -> Found:
    """Comparisons of lengths and counts with a number that only a trigger needs."""
    numbers = [side.value for side in sides if isinstance(side, nodes.Const)]
    limit = max((abs(n) for n in numbers if type(n) in (int, float)), default=0)
    for side in sides:
        modulo = isinstance(side, nodes.Mod)
        counted = side.left if isinstance(side, nodes.Mod) else side
        divisor = max((n for n in literals([side]) if type(n) is int), default=0)
        if _is_length(taint, counted) and (limit > _USUAL_LENGTH or modulo):
            yield _found("template.trigger", where, "it decides by a message's length")
        elif _is_count(taint, counted) and (
            divisor > _USUAL_LENGTH if modulo else limit > _USUAL_COUNT
        ):
            yield _found("template.trigger", where, "it decides by the number of messages")


def _is_length(taint: Taint, node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Filter) or node.name not in _LENGTHS:
        return False
    return taint.is_content(node.node)


def _is_count(taint: Taint, node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter) and node.name in _LENGTHS:
        return taint.is_message(node.node)
    if not isinstance(node, nodes.Getattr) or node.attr not in ("index", "index0", "revindex"):
        return False
    return isinstance(node.node, nodes.Name) and node.node.name == "loop"
