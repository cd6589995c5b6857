"""Whether two expressions are the same by algebra, such as ``2*(x+1)`` and ``2x+2``.

An expression is cut into known tokens and built from its syntax tree, never evaluated as code. Algebra may take for ever,
so it is done in a process of its own: this file, as a script that knows nothing of rayworks.
"""

import ast
import json
import math
import operator
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

LONGEST = 300
_MEMORY_BYTES = 1 << 30
_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "exp")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_TOKEN = re.compile(rf"\d+\.?\d*|\.\d+|{'|'.join(_FUNCTIONS)}|pi|[a-zA-Z]|\*\*|[-+*/^()]")


def readable(text: str) -> bool:
    """Whether the text is an expression of numbers, letters, ``+ - * / ^``, brackets and a few functions."""
    return _python(text) is not None


def equal(first: str, second: str, seconds: float = 5.0) -> bool:
    """Whether both are the same; False also where one is not readable, or ``seconds`` of CPU do not suffice.

    Raises:
        ModuleNotFoundError: sympy is not installed.
    """
    both = [_python(text) for text in (first, second)]
    if both[0] is None or both[1] is None or both[0] == both[1]:
        return both[0] is not None and both[0] == both[1]
    plain = [_plain(text) for text in (first, second)]
    if plain[0] is not None and plain[1] is not None:
        return plain[0] == plain[1]
    if find_spec("sympy") is None:
        raise ModuleNotFoundError("task.verifier symbolic: needs the sympy package; pip install rayworks[reasoning]")
    command = [sys.executable, __file__, str(math.ceil(seconds))]
    try:
        done = subprocess.run(
            command, input=json.dumps(both), capture_output=True, text=True, timeout=4 * seconds + 2, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip() == "True"


def _python(text: str) -> str | None:
    """The expression as Python writes it, every multiplication written out; None where it holds anything else."""
    if not text or len(text) > LONGEST or re.search(r"[\d.]\s+[\d.]", text):
        return None
    squeezed = re.sub(r"\s+", "", text)
    tokens = _TOKEN.findall(squeezed)
    if "".join(tokens) != squeezed or re.search(rf"(?:{'|'.join(_FUNCTIONS)})(?!\()", squeezed):
        return None
    written: list[str] = []
    for token in tokens:
        before = written[-1] if written else "("
        if (token[0].isalnum() or token[0] in ".(") and before not in _FUNCTIONS and before[-1] not in "+-*/(":
            written.append("*")
        written.append("**" if token == "^" else token)
    try:
        ast.parse("".join(written), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return "".join(written)


def _plain(text: str) -> Fraction | None:
    try:
        return Fraction(re.sub(r"\s", "", text))
    except (ValueError, ZeroDivisionError):
        return None


def _build(node: ast.AST) -> Any:
    import sympy

    match node:
        case ast.Expression(body):
            return _build(body)
        case ast.Constant(int() | float() as value):
            return sympy.Rational(str(value))
        case ast.Name(name):
            return sympy.pi if name == "pi" else sympy.Symbol(name)
        case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
            return -_build(operand) if isinstance(sign, ast.USub) else _build(operand)
        case ast.BinOp(left, kind, right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](_build(left), _build(right))
        case ast.Call(ast.Name(name), [argument], []) if name in _FUNCTIONS:
            return getattr(sympy, name)(_build(argument))
    raise ValueError(ast.dump(node))


def _main() -> None:
    import sympy

    processor = math.ceil(time.process_time()) + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    first, second = (_build(ast.parse(text, mode="eval")) for text in json.load(sys.stdin))
    print(sympy.simplify(first - second) == 0)


if __name__ == "__main__":
    _main()
