r"""Whether two answers in LaTeX are the same mathematical value: \frac{1}{2} is 0.5, 2\sqrt{3} is \sqrt{12}.

An answer is translated to a small grammar of numbers, single-letter variables and known functions and built from its
syntax tree, never evaluated as code. The comparison itself can take for ever, so it runs in a process of its own:
this file, as a script that knows nothing of rayworks.
"""

import ast
import json
import math
import operator
import re
import resource
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

_LONGEST = 500
_MEMORY = 1 << 30
_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "exp", "binomial", "factorial")
_CONSTANTS = {"pi": "pi", "oo": "oo", "i": "I", "e": "E"}
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[,!;: ]|\\(?:text|mathrm|mbox|textbf)\{[^{}]*\}"
    r"|\^\{?\\circ\}?|\\degree|\\?[%$]|\\[()\[\]]|\s+"
)
_RENAMED = [
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:cdot|times|ast)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\infty", "oo"),
    (r"\\ln(?![a-zA-Z])", r"\\log"),
    (r"\\[{}]", lambda match: "(" if match[0] == r"\{" else ")"),
    (r"[−–]", "-"),
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt(\d)", r"\\sqrt{\1}"),
    (r"(?<![\d.)])(\d+)\\frac\{(\d+)\}\{(\d+)\}", r"(\1+(\2)/(\3))"),
]
_BRACED = [
    (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\binom\{([^{}]*)\}\{([^{}]*)\}", r"binomial(\1,\2)"),
    (r"\\sqrt\[([^\[\]{}]*)\]\{([^{}]*)\}", r"((\2)^(1/(\1)))"),
    (r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\^\{([^{}]*)\}", r"^(\1)"),
]
_TOKEN = re.compile(rf"\d+\.?\d*|\.\d+|{'|'.join(_FUNCTIONS)}|pi|oo|[a-zA-Z]|\*\*|[-+*/^(),]")


def equal(first: str, second: str, seconds: float = 5.0) -> bool:
    """Whether both are the same value; False also if one is not understood or ``seconds`` of CPU do not suffice.

    Raises:
        ModuleNotFoundError: ``sympy`` is not installed.
    """
    if find_spec("sympy") is None:
        raise ModuleNotFoundError("symbolic equality: needs the sympy package; pip install rayworks[difficulty]")
    translated = [translate(text) for text in (first, second)]
    if translated[0] is None or translated[1] is None:
        return False
    plain = [_plain(text) for text in translated]
    if translated[0] == translated[1] or None not in plain:
        return translated[0] == translated[1] or plain[0] == plain[1]
    try:
        done = subprocess.run(
            [sys.executable, __file__, str(math.ceil(seconds))],
            input=json.dumps(translated),
            capture_output=True,
            text=True,
            timeout=4 * seconds + 2,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip() == "True"


def translate(latex: str) -> str | None:
    """The answer in the grammar above, with every multiplication written out; None where it does not fit, as two
    numbers side by side.

    Of an equation only the right side is kept: ``x=5`` is 5.
    """
    text = latex.rstrip(" .$").rpartition("=")[2]
    if not text or len(text) > _LONGEST or re.search(r"\d\s+\d", text):
        return None
    text = _DROPPED.sub("", text)
    for pattern, replacement in _RENAMED:
        text = re.sub(pattern, replacement, text)  # type: ignore[call-overload] # text and functions of a match, mixed
    before = None
    while before != text:
        before = text
        for pattern, braced in _BRACED:
            text = re.sub(pattern, braced, text)
    text = re.sub(r"(\d+)!", r"factorial(\1)", text).replace("\\", "")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        return None
    written: list[str] = []
    for token in tokens:
        starts_value = token[0].isalnum() or token[0] in ".("
        ends_value = written and written[-1] not in _FUNCTIONS and (written[-1] == ")" or written[-1][-1].isalnum())
        if starts_value and ends_value:
            written.append("*")
        written.append("**" if token == "^" else token)
    result = "".join(written)
    try:
        ast.parse(result, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return result


def _plain(translated: str | None) -> Fraction | None:
    """The value of a single integer, decimal or fraction, which needs no process to compare."""
    try:
        return Fraction((translated or "").replace("(", "").replace(")", ""))
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
            return getattr(sympy, _CONSTANTS[name]) if name in _CONSTANTS else sympy.Symbol(name)
        case ast.UnaryOp(ast.USub(), operand):
            return -_build(operand)
        case ast.UnaryOp(ast.UAdd(), operand):
            return _build(operand)
        case ast.BinOp(left, kind, right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](_build(left), _build(right))
        case ast.Call(ast.Name(name), arguments, []) if name in _FUNCTIONS:
            return getattr(sympy, name)(*map(_build, arguments))
        case ast.Tuple(elements):
            return tuple(map(_build, elements))
    raise ValueError(ast.dump(node))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, tuple) or isinstance(second, tuple):
        both = isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second)
        return both and all(_same(left, right) for left, right in zip(first, second, strict=True))
    return bool(first == second or (first - second).equals(0))


def _main() -> None:
    processor = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    first, second = (_build(ast.parse(text, mode="eval")) for text in json.load(sys.stdin))
    print(_same(first, second))


if __name__ == "__main__":
    _main()
