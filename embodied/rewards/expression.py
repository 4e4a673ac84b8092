"""Reward texts: pure expressions over named quantities, checked and interpreted into array operations.

    stand = tolerance(torso_height, 1.2, inf, 0.6)
    move = tolerance(velocity_x, 1, inf, 0.5, linear, 0.5)
    stand * (5 * move + 1) / 6

Statements are separated by newlines or `;`. `name = expression` names a term, for use in later statements;
the last statement is the reward. The text is parsed by `ast.parse`, checked against an allow-list with the
shapes of all quantities, and turned into closures over numpy or jax.numpy; it is never evaluated as Python.
There are no attributes, indices, strings, loops or definitions in the language, hence no route to objects.
"""

import ast
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from embodied.rewards.functions import FUNCTIONS, SIGMOIDS, Function, Parameter, divide, root
from embodied.rewards.program import Leaf, Node, Program
from embodied.rewards.source import LANGUAGE, MAX_DEPTH, MAX_NODES, Place, Source, Statement
from embodied.types import InputError, Quantity, nearest

MAX_CONSTANT = 1e6
CONSTANTS = {"pi": math.pi, "inf": math.inf}
HINTS = {
    "IfExp": "use where(condition, x, y)",
    "BoolOp": "multiply conditions for 'and', use maximum for 'or'",
    "Not": "use 1 - condition",
    "Subscript": "use component(vector, index)",
    "MatMult": "use dot(x, y)",
    "Eq": "use tolerance(x, lower, upper)",
}
OPERATORS: dict[type, Callable[[Any, Any, Any], Any]] = {
    ast.Add: lambda xp, x, y: x + y,
    ast.Sub: lambda xp, x, y: x - y,
    ast.Mult: lambda xp, x, y: x * y,
    ast.Div: divide,
    ast.Lt: lambda xp, x, y: xp.where(x < y, 1.0, 0.0),
    ast.LtE: lambda xp, x, y: xp.where(x <= y, 1.0, 0.0),
    ast.Gt: lambda xp, x, y: xp.where(x > y, 1.0, 0.0),
    ast.GtE: lambda xp, x, y: xp.where(x >= y, 1.0, 0.0),
}
POWERS: dict[float, Callable[[Any, Any], Any]] = {
    2: lambda xp, x: x * x,
    3: lambda xp, x: x * x * x,
    0.5: root,
}


def parse(text: str, quantities: Mapping[str, Quantity], action: int | None = None) -> Program:
    """The checked program of a reward text over `quantities`, and over `action` where its size is given.

    Raises InputError, with the column and the nearest valid choice, for whatever is not in the language.
    """
    return _Checker(Source(text), _leaves(quantities, action)).program()


def _leaves(quantities: Mapping[str, Quantity], action: int | None) -> dict[str, Leaf]:
    leaves = {f"previous_{name}": Leaf(tuple(q.shape), "before", name) for name, q in quantities.items()}
    leaves |= {name: Leaf(tuple(q.shape), "after", name) for name, q in quantities.items()}
    if "action" in quantities:
        leaves.pop("previous_action")
        leaves["action"] = Leaf(tuple(quantities["action"].shape), "action", "action")
    if action is not None:
        leaves["action"] = Leaf((action,), "action", "action")
    leaves.pop("reward", None)  # the name of the result
    return leaves


def _constant(value: float) -> Node:
    return Node((), lambda xp, values: value, value)


def _run(apply: Callable, runs: list[Callable], axes: list[int], xp: Any, values: Mapping[str, Any]) -> Any:
    """Applies a function to operands, with new last axes so that scalars broadcast against vectors."""
    operands = (run(xp, values) for run in runs)
    return apply(xp, *(_expand(xp, value, count) for value, count in zip(operands, axes, strict=True)))


def _expand(xp: Any, value: Any, axes: int) -> Any:
    return value if axes == 0 or isinstance(value, float) else xp.reshape(value, (*value.shape, *[1] * axes))


def _apply(apply: Callable, constants: list, xp: Any, *operands: Any) -> Any:
    return apply(xp, *operands, *constants)


def _signature(name: str) -> str:
    """How to call a function, for error messages."""
    function = FUNCTIONS[name]
    words = [p.name if p.default is None else f"{p.name}={p.default}" for p in function.parameters]
    return f"{name}({', '.join(words)}{', ...' if function.repeats else ''})"


class _Checker:
    """Turns one text into a program."""

    def __init__(self, source: Source, leaves: dict[str, Leaf]):
        self.source = source
        self.fail = source.fail
        self.leaves = leaves
        self.nodes: dict[str, Node] = {}
        self.needs: dict[str, frozenset[str]] = {}
        self.count = 0
        self.used: set[str] = set()  # names read by the current statement

    def program(self) -> Program:
        *terms, last = self.source.statements
        for statement in terms:
            if statement.name is None:
                self.fail("only the last statement may lack a name", statement.place, "write name = ...")
            self.check_name(statement.name, statement.place)
            self.add(statement.name, statement)
        if last.name not in (None, "reward"):
            self.fail("the last statement must be the reward", last.place, f"add a line such as: {last.name}")
        choices = ", ".join(self.names())
        node = self.add("reward", last)
        if node.shape != ():
            hint = "use norm, sum, mean, dot or component"
            self.fail(f"root must be a scalar; got shape {node.shape}", last.start, hint)
        if not self.needs["reward"] & self.leaves.keys():
            self.fail("the reward reads no quantity", last.start, f"choose one of: {choices}")
        return Program(self.nodes, self.needs, self.leaves)

    def check_name(self, name: str, place: int) -> None:
        if name in {"reward", "action", *self.leaves, *self.nodes, *CONSTANTS}:
            self.fail(f"term name '{name}' is taken", place, "choose another name")

    def names(self) -> list[str]:
        """Names that a user may mean: terms and quantities, without their previous values."""
        return [*self.nodes, *(name for name, leaf in self.leaves.items() if leaf.place != "before")]

    def add(self, name: str, statement: Statement) -> Node:
        self.used = set()
        node = self.visit(self.source.parse(statement), 1)
        self.needs[name] = frozenset(self.used)
        self.nodes[name] = node
        return node

    def visit(self, node: ast.expr, depth: int) -> Node:
        self.count += 1
        if depth > MAX_DEPTH:
            self.fail("is nested too deeply", node, f"at most {MAX_DEPTH} levels are allowed")
        if self.count > MAX_NODES:
            self.fail("is too long", node, f"at most {MAX_NODES} numbers, names and operations are allowed")
        match node:
            case ast.Constant():
                return self.constant(node.value, node)
            case ast.Name():
                return self.name(node)
            case ast.UnaryOp(op=ast.USub()):
                operand = self.visit(node.operand, depth + 1)
                if operand.constant is not None:
                    return _constant(-operand.constant)
                return self.combine(node, lambda xp, x: -x, [operand])
            case ast.BinOp(op=ast.Pow()):
                return self.power(node, depth)
            case ast.BinOp() if type(node.op) in OPERATORS:
                return self.binary(node, node.op, [node.left, node.right], depth)
            case ast.Compare() if len(node.ops) > 1:
                self.fail("chained comparison", node, "multiply two comparisons")
            case ast.Compare() if type(node.ops[0]) in OPERATORS:
                return self.binary(node, node.ops[0], [node.left, node.comparators[0]], depth)
            case ast.Call():
                return self.call(node, depth)
            case ast.Compare():
                self.forbidden(node.ops[0], node)
            case ast.BinOp() | ast.UnaryOp():
                self.forbidden(node.op, node)
        return self.forbidden(node, node)

    def forbidden(self, kind: ast.AST, where: Place) -> NoReturn:
        name = type(kind).__name__
        self.fail(f"{name} is not part of the language", where, HINTS.get(name, LANGUAGE))

    def constant(self, value: Any, where: Place) -> Node:
        if type(value) not in (int, float):
            self.fail(f"Constant of type {type(value).__name__} is not part of the language", where, LANGUAGE)
        if not abs(value) <= MAX_CONSTANT:
            self.fail("number is too large", where, f"at most {MAX_CONSTANT:.0f} in size")
        return _constant(float(value))

    def name(self, node: ast.Name) -> Node:
        name = node.id
        if name in self.nodes and self.nodes[name].constant is not None:
            return self.nodes[name]
        if name in self.nodes or name in self.leaves:
            self.used |= {name, *self.needs.get(name, ())}
            shape = self.nodes[name].shape if name in self.nodes else self.leaves[name].shape
            return Node(shape, lambda xp, values: values[name])
        if name in CONSTANTS:
            return _constant(CONSTANTS[name])
        if name in FUNCTIONS:
            self.fail(f"function '{name}' needs arguments", node, f"write {_signature(name)}")
        before = [leaf for leaf in self.leaves if leaf.startswith("previous_")]
        choices = before if name.startswith("previous_") else [*self.names(), *CONSTANTS]
        return self.fail(f"unknown quantity '{name}'", node, nearest(name, choices))

    def binary(self, node: ast.expr, operator: ast.AST, operands: list[ast.expr], depth: int) -> Node:
        left, right = (self.visit(operand, depth + 1) for operand in operands)
        if isinstance(operator, ast.Div) and right.constant == 0:
            self.fail("division by zero", operands[1])
        return self.combine(node, OPERATORS[type(operator)], [left, right])

    def power(self, node: ast.BinOp, depth: int) -> Node:
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        if not isinstance(exponent, int | float) or exponent not in POWERS:
            self.fail("exponent must be 2, 3 or 0.5", node.right, "use exp for other powers")
        return self.combine(node, POWERS[exponent], [self.visit(node.left, depth + 1)])

    def combine(self, where: Place, apply: Callable, operands: list[Node], reduces: bool = False) -> Node:
        """The node that applies a function to operands of one shape, or of one shape and scalars."""
        if any(operand.constant is not None and math.isinf(operand.constant) for operand in operands):
            self.fail("inf is a bound, not a value", where, "use it for lower or upper")
        shapes = sorted({operand.shape for operand in operands if operand.shape or reduces})
        if len(shapes) > 1:
            hint = "use component, norm, sum or mean"
            self.fail(f"shapes {shapes[0]} and {shapes[1]} do not match", where, hint)
        shape = shapes[0] if shapes else ()
        if reduces and shape == ():
            self.fail("expected a vector, got a scalar", where, "norm, sum, mean, dot take vectors")

        axes = [len(shape) - len(operand.shape) for operand in operands]
        run = functools.partial(_run, apply, [operand.run for operand in operands], axes)
        if all(operand.constant is not None for operand in operands):
            with np.errstate(all="ignore"):
                return self.constant(float(run(np, {})), where)
        return Node(shape[:-1] if reduces else shape, run)

    def call(self, node: ast.Call, depth: int) -> Node:
        if not isinstance(node.func, ast.Name):
            self.forbidden(node.func, node.func)
        name = node.func.id
        if name not in FUNCTIONS:
            self.fail(f"unknown function '{name}'", node, nearest(name, FUNCTIONS))
        function = FUNCTIONS[name]
        operands, constants = [], []
        for parameter, argument in self.bind(node, name, function):
            if parameter.kind == "value":
                operands.append(self.visit(argument, depth + 1))
            else:
                constants.append(self.literal(name, parameter, argument, depth))
        if function.check and (operands[0].shape or not function.reduces):
            try:
                function.check(operands[0].shape, *constants)
            except InputError as error:
                self.fail(f"{name}: {error}", node, f"write {_signature(name)}")
        apply = functools.partial(_apply, function.apply, constants)
        return self.combine(node, apply, operands, function.reduces)

    def bind(self, node: ast.Call, name: str, function: Function) -> list[tuple[Parameter, Any]]:
        """Parameters paired with arguments, or with default values, in the order of the declaration."""
        parameters = function.parameters
        if function.repeats:
            parameters += (parameters[-1],) * max(len(node.args) - len(parameters), 0)
        if len(node.args) > len(parameters):
            count = f"{len(parameters)} argument" + "s" * (len(parameters) > 1)
            self.fail(f"{name} takes {count}, got {len(node.args)}", node, f"write {_signature(name)}")
        given: dict[int, Any] = dict(enumerate(node.args))
        places = {name: i for i, p in enumerate(parameters) for name in (p.name, p.alias)}
        for keyword in node.keywords:
            if keyword.arg is None:
                self.forbidden(keyword, keyword)
            if keyword.arg not in places:
                choices = [parameter.name for parameter in parameters]
                self.fail(f"{name} has no argument '{keyword.arg}'", keyword, nearest(keyword.arg, choices))
            if places[keyword.arg] in given:
                self.fail(f"{name} is given '{keyword.arg}' twice", keyword, f"write {_signature(name)}")
            given[places[keyword.arg]] = keyword.value
        for place, parameter in enumerate(parameters):
            if place not in given and parameter.default is None:
                self.fail(f"{name} lacks the argument '{parameter.name}'", node, f"write {_signature(name)}")
        return [(p, given.get(i, p.default)) for i, p in enumerate(parameters)]

    def literal(self, name: str, parameter: Parameter, argument: Any, depth: int) -> Any:
        """The number or name given for a parameter that must be known before any quantity is."""
        if not isinstance(argument, ast.expr):
            return argument
        if parameter.kind == "choice":
            if not isinstance(argument, ast.Name):
                self.fail(f"{name}: {parameter.name} must be a bare name", argument, nearest("", SIGMOIDS))
            if argument.id not in SIGMOIDS:
                hint = nearest(argument.id, SIGMOIDS)
                self.fail(f"{name}: unknown {parameter.name} '{argument.id}'", argument, hint)
            return argument.id
        value = self.visit(argument, depth + 1).constant
        if value is None:
            self.fail(f"{name}: {parameter.name} must be a number", argument)
        if parameter.kind == "index":
            if not 0 <= value < math.inf or value % 1:
                self.fail(f"{name}: {parameter.name} must be 0, 1, 2, ...", argument)
            return int(value)
        return value
