"""Texts in an exported program that torch evaluates as Python, and how to tell that they are what they should be."""

from __future__ import annotations

import ast
import re

# fmt: off
_SIZE_FUNCTIONS = frozenset({
    "Add", "And", "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "CeilToInt", "CleanDiv", "Equality", "Float",
    "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "GreaterThan", "Identity", "Integer", "IntTrueDiv",
    "IsNonOverlappingAndDenseIndicator", "LessThan", "LShift", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne",
    "Not", "One", "NegativeOne", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod", "Rational", "RoundDecimal",
    "RoundToInt", "RShift", "StrictGreaterThan", "StrictLessThan", "Symbol", "ToFloat", "TruncToFloat", "TruncToInt",
    "Unequality", "Where", "Zero", "Half", "Infinity", "NegativeInfinity", "int_oo", "oo", "true", "false",
})
# fmt: on
_SIZE_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.keyword,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.Load,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Tuple,
)  # fmt: skip
_GUARD_NODES = (*_SIZE_NODES, ast.BoolOp, ast.boolop, ast.Subscript, ast.Attribute)
_GUARD_FUNCTIONS = frozenset({"max", "min", "abs", "int", "float"})
_GUARD_ATTRIBUTES = frozenset({"size", "stride", "storage_offset", "dim", "ndim", "shape", "numel"})


def is_size(text: str) -> bool:
    """True for a symbolic size as torch writes them, e.g. "Mul(Integer(2), Symbol('s31', integer=True))".

    torch hands such texts to sympy, which evaluates them as Python.
    """
    nodes = _nodes(text)
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    return bool(nodes) and all(isinstance(n, _SIZE_NODES) and _is_plain(n, called) for n in nodes)


def _nodes(text: str) -> list[ast.AST]:
    """All parts of an expression; none of what is no expression. One line without comments, since sympy joins lines."""
    if "\n" in text or "\r" in text or "#" in text or len(text) > 10_000:
        return []
    try:
        return list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _is_plain(node: ast.AST, called: set[int]) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Name):
        return node.id in _SIZE_FUNCTIONS or (id(node) not in called and bool(re.fullmatch(r"[a-z]{1,3}\d*", node.id)))
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, (str, bytes)) or bool(re.fullmatch(r"[A-Za-z]\w*", str(node.value)))
    return True


def is_guard(text: str) -> bool:
    """True for a condition on sizes as torch writes them, e.g. "L['x'].size()[0] >= 2"; torch executes these."""
    nodes = _nodes(text)
    methods = {id(n.func) for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    keys = {id(n.slice) for n in nodes if isinstance(n, ast.Subscript)}
    return bool(nodes) and all(isinstance(n, _GUARD_NODES) and _is_plain_guard(n, methods, keys) for n in nodes)


def _is_plain_guard(node: ast.AST, methods: set[int], keys: set[int]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _GUARD_ATTRIBUTES and (id(node) in methods or node.attr in ("shape", "ndim"))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or getattr(node.func, "id", "") in _GUARD_FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id == "L" or node.id in _GUARD_FUNCTIONS or bool(re.fullmatch(r"[su]\d+", node.id))
    if isinstance(node, ast.Constant):  # a key is written into the source of a message
        name = isinstance(node.value, str) and id(node) in keys and re.fullmatch(r"[\w .-]*", node.value)
        return bool(name) or isinstance(node.value, (int, float))
    return True
