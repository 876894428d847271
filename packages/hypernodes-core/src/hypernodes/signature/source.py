"""The text of functions, as far as it matters: the source of the code that runs, normalised.

Comments, formatting, docstrings, annotations, the function's own name and its place in the file do not matter. A file
may have been edited after it was imported, and a notebook's cell run again: so what stands in the source is compiled,
and counts only when it gives the very code object that runs. Otherwise, and where there is no source, the bytecode
speaks for itself.
"""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import linecache
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from types import CodeType
from typing import Any

from hypernodes.locks import reset_after_fork
from hypernodes.signature.nested_code import with_nested_code
from hypernodes.signature.per_code import remembered_per_code

# In CPython 3.11 parsing in two threads at a time fails now and then ("AST constructor recursion depth mismatch").
_parsing = reset_after_fork(threading.Lock())
_KEPT_FILES = 64
_HAS_DOCSTRING = 0x4000000  # a flag of code objects since Python 3.13
_FUTURE_FLAGS = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_files: OrderedDict[str, _File] = OrderedDict()


@remembered_per_code
def text_of(code: CodeType, module_globals: dict[str, Any]) -> bytes:
    """Return what identifies the code of a function by itself, without what it refers to.

    Args:
        code: The code object that runs.
        module_globals: The globals of the function; their loader may know the source (a module in an archive).
    """
    with _parsing:
        text = _from_source(code, module_globals)
    if text is None:
        return b"bytecode:" + b"%d.%d:" % sys.version_info[:2] + canonical_bytecode(code)
    return text


# --- source ------------------------------------------------------------------------------------------------------


class _File:
    """One version of a source file: its top-level statements, each compiled when a function in it is asked for."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.statements = ast.parse(source).body
        # The compiler treats attributes of what the file imports at its top level in another way than others.
        self._imports = [part for statement in self.statements for part in _imports_in(statement)]
        self._compiled: dict[tuple[int, int], list[CodeType]] = {}
        self._names_in: dict[int, frozenset[str]] = {}

    def find(self, code: CodeType, file_name: str) -> _Function | None:
        """Return the definition that the running code was compiled from; None if it is not, or not surely, here."""
        likely = [i for i, statement in enumerate(self.statements) if _first_line(statement) <= code.co_firstlineno]
        order = [*likely[-1:], *(i for i in range(len(self.statements)) if not likely or i != likely[-1])]
        for is_same in (_is_identical, _is_alike):
            for index in order[:1] if is_same is _is_identical else order:
                statement = self.statements[index]
                if is_same is _is_alike and code.co_name != "<lambda>" and code.co_name not in self._names(index):
                    continue
                for candidate in self._codes(index, code.co_flags & _FUTURE_FLAGS, file_name):
                    if candidate.co_qualname == code.co_qualname and is_same(candidate, code):
                        return _definition(statement, candidate)
        return None

    def _names(self, index: int) -> frozenset[str]:
        found = self._names_in.get(index)
        if found is None:
            found = frozenset(getattr(part, "name", "") for part in ast.walk(self.statements[index]))
            self._names_in[index] = found
        return found

    def _codes(self, index: int, flags: int, file_name: str) -> list[CodeType]:
        found = self._compiled.get((index, flags))
        if found is None:
            module = ast.Module([*self._imports, self.statements[index]], [])
            try:
                whole = compile(module, file_name, "exec", flags=flags, dont_inherit=True)
                _, *found = with_nested_code(whole)
            except (SyntaxError, ValueError, RecursionError):
                found = []
            self._compiled[index, flags] = found
        return found


def _from_source(code: CodeType, module_globals: dict[str, Any]) -> bytes | None:
    name = code.co_filename
    for attempt in ("as known", "as it is now"):
        if attempt == "as it is now":
            before = linecache.cache.get(name)
            linecache.checkcache(name)
            if before is not None and linecache.cache.get(name) is before:
                return None  # unchanged, so there is nothing new to look at
        lines = linecache.getlines(name, module_globals)
        file = _file(name, "".join(lines)) if lines else None
        definition = file.find(code, name) if file is not None else None
        if definition is not None:
            return b"source:" + dump(definition)
    return None


def _file(name: str, source: str) -> _File | None:
    file = _files.get(name)
    if file is None or file.source != source:
        try:
            file = _File(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        _files[name] = file
        if len(_files) > _KEPT_FILES:
            _files.popitem(last=False)
    _files.move_to_end(name)
    return file


def _imports_in(part: ast.stmt) -> Iterator[ast.stmt]:
    """Return the imports that a top-level statement makes in its module's namespace."""
    if isinstance(part, (ast.Import, ast.ImportFrom)):
        if getattr(part, "module", None) != "__future__":
            yield part
        return
    if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for inner in ast.iter_child_nodes(part):
        if isinstance(inner, ast.stmt):
            yield from _imports_in(inner)
        elif isinstance(inner, (ast.ExceptHandler, ast.match_case)):
            for statement in inner.body:
                yield from _imports_in(statement)


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _is_identical(left: CodeType, right: CodeType) -> bool:
    return left == right and left.co_linetable == right.co_linetable


def _is_alike(left: CodeType, right: CodeType) -> bool:
    """Whether two code objects do the same, wherever in the file they stand."""
    return (
        left.co_code == right.co_code
        and left.co_names == right.co_names
        and left.co_varnames == right.co_varnames
        and left.co_freevars == right.co_freevars
        and left.co_cellvars == right.co_cellvars
        and left.co_flags == right.co_flags
        and left.co_argcount == right.co_argcount
        and left.co_posonlyargcount == right.co_posonlyargcount
        and left.co_kwonlyargcount == right.co_kwonlyargcount
        and left.co_exceptiontable == right.co_exceptiontable
        and len(left.co_consts) == len(right.co_consts)
        and all(map(_is_same_constant, left.co_consts, right.co_consts))
    )


def _is_same_constant(left: Any, right: Any) -> bool:
    if isinstance(left, CodeType) and isinstance(right, CodeType):
        return _is_alike(left, right)
    return type(left) is type(right) and _constant(left) == _constant(right)


def _definition(statement: ast.stmt, code: CodeType) -> _Function | None:
    """Return the part of a statement that a code object was compiled from."""
    if code.co_name != "<lambda>":
        found = [
            part
            for part in ast.walk(statement)
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))
            and part.name == code.co_name
            and _first_line(part) == code.co_firstlineno
        ]
        return found[0] if len(found) == 1 else None
    spans = [span for span in code.co_positions() if None not in span and span[2:] != (0, 0)]
    if not spans:
        return None
    start = min((line, column) for line, _, column, _ in spans)
    end = max((line, column) for _, line, _, column in spans)
    around = [
        part
        for part in ast.walk(statement)
        if isinstance(part, ast.Lambda)
        and (part.body.lineno, part.body.col_offset) <= start
        and end <= (part.body.end_lineno or 0, part.body.end_col_offset or 0)
    ]
    # Of lambdas inside one another, the innermost that is around all of it; `ast.walk` goes from the outside in.
    return around[-1] if around else None


# --- normalised source -------------------------------------------------------------------------------------------

_IMMATERIAL = {
    "arg": ("annotation", "type_comment"),
    "FunctionDef": ("returns", "type_comment", "type_params"),
    "AsyncFunctionDef": ("returns", "type_comment", "type_params"),
    "Constant": ("kind",),
    "Assign": ("type_comment",),
    "For": ("type_comment",),
    "With": ("type_comment",),
    "AsyncFor": ("type_comment",),
    "AsyncWith": ("type_comment",),
}


def dump(definition: _Function) -> bytes:
    """Return a function's definition as text that depends on nothing but what it does when it is called."""
    pieces: list[str] = []
    # What decorators did is seen in the object they made, and defaults are known as values.
    arguments: ast.arguments = definition.args
    _write(arguments, pieces.append, ("defaults", "kw_defaults"), is_in_class=False)
    _write(definition, pieces.append, ("name", "decorator_list", "args"), is_in_class=False)
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _write(part: Any, write: Any, left_out: tuple[str, ...], is_in_class: bool) -> None:
    if isinstance(part, list):
        write("[")
        for item in part:
            _write(item, write, (), is_in_class)
            write(",")
        write("]")
    elif isinstance(part, ast.AnnAssign) and part.value is not None and not is_in_class:
        # The annotation of a local variable is not even evaluated.
        _write(ast.Assign([part.target], part.value), write, (), is_in_class)
    elif isinstance(part, ast.AnnAssign) and not is_in_class:
        write("AnnAssign(")
        _write(part.target, write, (), is_in_class)
        write(")")
    elif isinstance(part, ast.AST):
        kind = type(part).__name__
        write(kind)
        write("(")
        # Decorators read annotations and docstrings (of functions that dispatch, validate, describe tools).
        is_described = bool(getattr(part, "decorator_list", ())) and "decorator_list" not in left_out
        immaterial = (*(() if is_described else _IMMATERIAL.get(kind, ())), *left_out, "ctx")
        is_scope = kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef")
        for name in part._fields:
            if name in immaterial:
                continue
            value: Any = getattr(part, name, None)
            if is_scope and name == "body" and not is_described:
                value = _without_docstring(value)
            write(name)
            write("=")
            if is_described and name == "args":
                write(ast.dump(value))
                continue
            _write(value, write, (), kind == "ClassDef" or (is_in_class and not is_scope and kind != "Lambda"))
            write(",")
        write(")")
    else:
        write(type(part).__name__)
        write(repr(part))


def _without_docstring(body: list[Any]) -> list[Any]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:] or [ast.Pass()]
    return body


# --- bytecode ----------------------------------------------------------------------------------------------------


def canonical_bytecode(code: CodeType) -> bytes:
    """Return what code does, as bytes, without what only says where it stands: padding and offsets."""
    position: dict[int, int] = {}
    steps: list[tuple[str, Any]] = []
    for instruction in dis.get_instructions(code):
        position[instruction.offset] = len(steps)
        if instruction.opname in ("NOP", "EXTENDED_ARG", "CACHE"):
            continue
        is_jump = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
        if is_jump:
            steps.append((instruction.opname, instruction.argval))
        elif instruction.opcode in dis.hasconst:
            steps.append((instruction.opname, _constant(instruction.argval)))
        else:
            steps.append((instruction.opname, (instruction.arg, instruction.argrepr)))
    size = len(steps)
    pieces = [
        f"{name} {position.get(value, size) if isinstance(value, int) else value}".encode("utf-8", "surrogatepass")
        for name, value in steps
    ]
    handlers = [
        (position.get(h.start, size), position.get(h.end, size), position.get(h.target, size), h.depth, h.lasti)
        for h in dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    ]
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return repr((shape, names, handlers)).encode("utf-8", "surrogatepass") + b"\n".join(pieces)


def _constant(value: Any) -> str:
    """Return a constant of code as text that tells apart what `==` does not (1, 1.0 and True; 0.0 and -0.0)."""
    if isinstance(value, CodeType):
        return f"code({value.co_name}:{canonical_bytecode(value).decode('utf-8', 'surrogatepass')})"
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    return f"{type(value).__name__} {value!r}"
