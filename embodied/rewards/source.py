"""The text of a reward: its statements, and errors that say where in the text they are."""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from embodied.types import InputError

MAX_CHARACTERS = 4096  # sufficiently long input can exhaust the stack of Python's own parser
MAX_TERMS = 32
MAX_DEPTH = 24
MAX_NODES = 256

EXAMPLE = "for example: tolerance(height, 1.2, inf, 0.6)"
LANGUAGE = "use numbers, names, + - * / **, < <= > >= and functions"


Place = ast.expr | ast.keyword | int | None  # a part of the current expression, or an offset in the text


class Statement(NamedTuple):
    """One statement; `place` is its offset in the text and `start` that of its expression."""

    name: str | None
    expression: str
    place: int
    start: int


def split(text: str) -> Iterator[Statement]:
    """The non-empty statements of a text; a newline inside brackets does not end one."""
    depth, begin = 0, 0
    for end, character in enumerate([*text, ";"]):
        depth += (character in "([{") - (character in ")]}")
        if character == ";" or (character == "\n" and depth <= 0):
            source = text[begin:end]
            if source.strip():
                place, name = begin + len(source) - len(source.lstrip()), None
                start = place
                if match := re.match(r"([A-Za-z_]\w*)\s*=(?!=)\s*", source.lstrip()):
                    name, start = match[1], place + match.end()
                yield Statement(name, text[start:end].rstrip(), place, start)
            depth, begin = 0, end + 1


class Source:
    """A text within the limits of the language; raises InputError for any other."""

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise InputError(f"reward text: expected text, got {type(text).__name__}; {EXAMPLE}")
        self.text = text
        self.start = 0  # offset of the expression under inspection, to which syntax trees refer
        if len(text) > MAX_CHARACTERS:
            self.fail(f"has {len(text)} characters", hint=f"at most {MAX_CHARACTERS} are allowed")
        for place, character in enumerate(text):
            if character == "#" or not (" " <= character <= "~" or character in "\n\t"):
                self.fail(f"character {character!a} is not allowed", place, "use plain ASCII and no comments")
        self.statements = list(split(text))
        if not self.statements:
            self.fail("is empty", hint=EXAMPLE)
        if len(self.statements) > MAX_TERMS:
            self.fail(f"has {len(self.statements)} terms", hint=f"at most {MAX_TERMS} are allowed")

    def fail(self, what: str, where: Place = None, hint: str = "") -> NoReturn:
        """Raises InputError, with the line and column where one is given."""
        if isinstance(where, ast.AST):
            where = self._offset(where.lineno, where.col_offset)
        if where is not None:
            line, column = self.text.count("\n", 0, where) + 1, where - self.text.rfind("\n", 0, where)
            several = "\n" in self.text.strip()
            what += f" at line {line}, column {column}" if several else f" at column {column}"
        raise InputError(f"reward text: {what}" + (f"; {hint}" if hint else ""))

    def parse(self, statement: Statement) -> ast.expr:
        """The syntax tree of a statement, which is then the current one."""
        self.start = statement.start
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(statement.expression, mode="eval").body
        except SyntaxError as error:
            end = statement.start + len(statement.expression)
            place = self._offset(error.lineno or 1, error.offset - 1) if error.offset else end
            self.fail("syntax error (" + " ".join(error.msg.split()) + ")", min(place, end), LANGUAGE)
        except (ValueError, RecursionError, MemoryError, SystemError):
            self.fail("is nested too deeply", statement.start, f"at most {MAX_DEPTH} levels are allowed")

    def _offset(self, line: int, column: int) -> int:
        """The place in the text of a line (from 1) and column (from 0) of the current expression."""
        lines = self.text[self.start :].split("\n")[: line - 1]
        return self.start + sum(len(text) + 1 for text in lines) + column
