"""How code gets at what is outside itself, read from its bytecode: names, then attributes and constant keys.

The instructions are gone through in order with a model of the stack that holds access paths, constants, and None for
everything else. It need not be exact: a path that some instruction takes in a way not modelled here counts as used in
full, which makes a needless difference at most.
"""

from __future__ import annotations

import builtins
import dis
import re
import sys
from types import CodeType
from typing import Any, NamedTuple

from hypernodes.signature.opcodes import KNOWN
from hypernodes.signature.per_code import remembered_per_code

PathStep = tuple[str, Any]


class AccessPath(NamedTuple):
    """How a function gets at something outside itself.

    Attributes:
        start: "global", "local", "import", "own module" (all that the module of the function holds), "unknowable",
            "subclasses" (of the classes in the module of the function) or "described" (the functions and classes that
            the function gets at, by what people say of them) or "imported" (only for what the import does).
        name: Name of the variable, or of the module with a dot for each level of a relative import; of what is
            unknowable, why it is; of "described", what is read of them.
        steps: What is taken from it, one after the other: ("attribute", name), ("item", key), ("call", argument)
            for a call of a function that looks something up by a name, or ("evaluate", text) for a call of one that
            evaluates code. The argument is a text, a path, or None, and so is the key of an environment variable; the
            text is a path, `CONSTANT`, `COMPUTED` if something outside the function returned it, or None.
    """

    start: str
    name: str
    steps: tuple[PathStep, ...] = ()

    def then(self, kind: str, what: Any) -> AccessPath:
        return AccessPath(self.start, self.name, (*self.steps, (kind, what))[:_LONGEST_PATH])

    @property
    def last(self) -> Any:
        return self.steps[-1][1] if self.steps else self.name


class _Constant(NamedTuple):
    value: Any


class _Derived(NamedTuple):
    """A value that was made of others.

    Attributes:
        variables: The local variables among them.
        is_result: Whether what a call returned is among them, unless that only depends on the arguments.
    """

    variables: frozenset[str]
    is_result: bool


_Item = AccessPath | _Constant | _Derived | None
_RESULT = _Derived(frozenset(), is_result=True)
COMPUTED = "computed"
CONSTANT = "constant"
_LONGEST_PATH = 12
_OWN_MODULE = AccessPath("own module", "")
_GLOBALS = AccessPath("globals", "")  # what `globals()` returns
_LOADED_MODULES = AccessPath("global", "sys", (("attribute", "modules"),))
_UNKNOWN_MODULE = AccessPath(
    "unknowable",
    "it takes a module from sys.modules by a name that is only known when it runs, so a change in that module would "
    "not be seen: import it by its name, or pass what is needed of it as an input",
)
_CALLERS_VARIABLES = AccessPath(
    "unknowable",
    "it reads the variables of whatever calls it, so a change in what it finds there would not be seen: pass what it "
    "needs as arguments",
)
_LOOK_UPS = frozenset(
    {"import_module", "__import__", "getenv", "getenvb", "resolve_name", "locate", "run_module", "run_path"}
    | {"spec_from_file_location", "SourceFileLoader"}
)
_READS_ITEM = frozenset({"get", "pop", "setdefault"})
_SUBCLASSES = AccessPath("subclasses", "")
# What code may read of a function or class besides calling it, and functions of Python's own that read it.
DESCRIPTIONS = frozenset(
    {"__doc__", "__name__", "__qualname__", "__annotations__", "__code__", "__subclasses__", "co_firstlineno"}
)
SOURCE = "source"
_EVALUATES_PARAMETER = "evaluates a parameter"
_DISASSEMBLED = ("__code__", "co_firstlineno")
READERS = {
    "getdoc": ("__doc__",),
    "get_annotations": ("__annotations__",),
    "get_type_hints": ("__annotations__",),
    "getfullargspec": ("__annotations__",),
    "signature": ("__annotations__",),
    "render_doc": ("__doc__", "__annotations__", "__name__"),
    **dict.fromkeys(("getsource", "getsourcelines", "getcomments", "findsource"), (SOURCE, "co_firstlineno")),
    **dict.fromkeys(("code_info", "get_instructions", "Bytecode", "dis"), _DISASSEMBLED),
}
_EVALUATORS = frozenset({"eval", "exec", "compile"})
# What returns a text that depends on nothing but the arguments.
_MAKES_TEXT = frozenset(
    {"capitalize", "decode", "dedent", "encode", "findall", "format", "format_map", "group", "indent", "int"}
    | {"join", "len", "list", "loads", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace"}
    | {"repr", "rpartition", "rsplit", "rstrip", "split", "splitlines", "str", "strip", "sub", "title", "type", "upper"}
)
_READS_FILES = frozenset({"open", "read", "read_text", "read_bytes", "readlines", "get_data", "urlopen"})
_CLIMBS = frozenset({"f_back", "stack", "trace", "getouterframes", "getinnerframes"})
_HOMES = tuple(
    AccessPath("import", "os", (("attribute", "environ"), ("item", name))) for name in ("HOME", "USERPROFILE")
)
_ENVIRONMENT = AccessPath("import", "os", (("attribute", "environ"),))
_VARIABLE_IN_TEXT = re.compile(r"\$(?:(\w+)|\{([^}]*)\})|%([^%]+)%")
# Methods that take expressions in which `@name` stands for a variable of the caller (pandas).
_EVALUATES_NAMES = frozenset({"query", "eval"})
_NAME_IN_EXPRESSION = re.compile(r"@(\w+)")
_IGNORED = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME", "KW_NAMES", "MAKE_CELL"})
_LOADS_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_LOADS_LOCAL = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_CLASSDEREF"})
_STORES_LOCAL = frozenset({"STORE_FAST", "STORE_DEREF", "STORE_FAST_MAYBE_NULL"})
_TAKES_TWO = frozenset({"BINARY_OP", "COMPARE_OP", "IS_OP", "CONTAINS_OP"})
_BUILDS = frozenset({"BUILD_LIST", "BUILD_TUPLE", "BUILD_SET", "BUILD_STRING", "BUILD_SLICE"})
_NAMESPACE_ATTRIBUTES = frozenset({"f_globals", "__globals__"})
_PASSES_ON = frozenset({"FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "GET_ITER", "CONVERT_VALUE"})


@remembered_per_code
def access_paths(code: CodeType) -> tuple[tuple[AccessPath, str], ...]:
    """Return every access path of some code and the code nested in it, with what its start is called in labels."""
    reader = _Reader({*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]})
    reader.read(code)
    reader.finish()
    starts = {*code.co_freevars, *code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}
    paths = {path for path in reader.resolved() if path.start != "local" or path.name in starts}
    labels = {"unknowable": "", "own module": " → its module", "subclasses": " → subclasses"}
    return tuple((path, labels.get(path.start, f" → {path.start} {path.name!r}")) for path in sorted(paths, key=repr))


@remembered_per_code
def evaluates_parameter(code: CodeType) -> bool:
    """Return whether some code evaluates a text that it is given."""
    return any(path.start == "described" and path.name == _EVALUATES_PARAMETER for path, _ in access_paths(code))


@remembered_per_code
def reads_files(code: CodeType) -> bool:
    """Return whether some code, or code nested in it, seems to read files."""
    nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return not _READS_FILES.isdisjoint(code.co_names) or any(map(reads_files, nested))


@remembered_per_code
def descriptions_read(code: CodeType) -> frozenset[str]:
    """Return which of `DESCRIPTIONS` some code reads of functions or classes that are only known when it runs."""
    return frozenset(path.name for path, _ in access_paths(code) if path.start == "described")


def _unknown_instruction(name: str) -> AccessPath:
    """Return the path of an instruction of a later Python, which may load anything by a name that is not seen."""
    version = ".".join(map(str, sys.version_info[:2]))
    reason = (
        f"it has the instruction {name} of Python {version}, which this version of hypernodes-core cannot read: "
        "update it, or mark the node @node(cache=False)"
    )
    return AccessPath("unknowable", reason)


class _Reader:
    """Goes through instructions and collects the paths in use."""

    def __init__(self, parameters: set[str]) -> None:
        self.used: set[AccessPath] = set()
        self.aliases: dict[str, set[AccessPath]] = {}
        self._parameters = parameters
        self._loaded: set[str] = set()  # names of local variables
        self._made_of: dict[str, set[_Derived]] = {}  # by local variable
        self._evaluated: list[tuple[AccessPath, _Item]] = []
        self._names: set[str] = set()
        self._expansions = 0  # uses of `expandvars` with a text that is not known
        self._is_climbing = False
        self._shows_locals = False

    def read(self, code: CodeType) -> None:
        stack: list[_Item] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname not in KNOWN:
                self._use(_unknown_instruction(instruction.opname))
            elif instruction.opname not in _IGNORED:
                self._step(instruction, stack)
        self._use(*stack)
        self._names.update(code.co_names)
        if not {"eval", "exec"}.isdisjoint(code.co_names):
            self._read_strings(code)
        if not _EVALUATES_NAMES.isdisjoint(code.co_names):
            for constant in code.co_consts:
                if isinstance(constant, str):
                    self._use(*[AccessPath("global", name) for name in _NAME_IN_EXPRESSION.findall(constant)])
        for name in code.co_names:
            for what in READERS.get(name, ()):
                self._use(AccessPath("described", what))

    def finish(self) -> None:
        """Decide what could only be decided when everything had been read."""
        names = self._names
        if not {"f_globals", "f_locals"}.isdisjoint(names) and (self._is_climbing or not _CLIMBS.isdisjoint(names)):
            self._use(_CALLERS_VARIABLES)
        if self._shows_locals or not {"eval", "exec", "query", "f_locals"}.isdisjoint(names):
            for sources in self.aliases.values():  # they may be looked up by name
                self._use(*sources)
        if "expanduser" in names:
            self._use(*_HOMES)
        if self._expansions > 0:
            self._use(_ENVIRONMENT)
        for name, sources in self.aliases.items():
            if name not in self._loaded:
                self._use(*[AccessPath("imported", path.name) for path in sources if path.start == "import"])
        for called, text in self._evaluated:
            self._use(called.then("evaluate", self._known_text(text)))

    def _known_text(self, text: _Item) -> AccessPath | str | None:
        if isinstance(text, AccessPath) and text.start == "global":
            return text
        if isinstance(text, _Constant):
            return CONSTANT
        if not _READS_FILES.isdisjoint(self._names):
            return COMPUTED  # as far as can be seen: values also go ways that are not modelled
        if not isinstance(text, (AccessPath, _Derived)):
            return None
        waiting = [text] if isinstance(text, _Derived) else [_Derived(frozenset({text.name}), False)]
        seen: set[str] = set()
        while waiting:
            part = waiting.pop()
            if part.is_result:
                return COMPUTED
            for name in part.variables - seen:
                seen.add(name)
                waiting += self._made_of.get(name, ())
        if seen & self._parameters:
            self._use(AccessPath("described", _EVALUATES_PARAMETER))
        if isinstance(text, AccessPath):
            sources = {path for path in self.aliases.get(text.name, ()) if path.start == "global"}
            if len(sources) == 1 and text.name not in self._made_of and not text.steps:
                return sources.pop()
        return None

    def resolved(self) -> set[AccessPath]:
        """Return the paths in use, with local variables replaced by what they were assigned."""
        found: set[AccessPath] = set()
        waiting = list(self.used)
        seen = set(waiting)
        while waiting:
            path = _normalised(waiting.pop())
            found.add(path)
            for source in self.aliases.get(path.name, ()) if path.start == "local" else ():
                longer = AccessPath(source.start, source.name, (*source.steps, *path.steps)[:_LONGEST_PATH])
                if longer not in seen:
                    seen.add(longer)
                    waiting.append(longer)
        return found

    def _use(self, *items: _Item) -> None:
        self.used.update(item for item in items if isinstance(item, AccessPath))

    def _step(self, instruction: dis.Instruction, stack: list[_Item]) -> None:
        operation, value, count = instruction.opname, instruction.argval, instruction.arg or 0

        def pop() -> _Item:
            return stack.pop() if stack else None

        if operation in _LOADS_GLOBAL:
            self._expansions += value == "expandvars"
            stack.append(AccessPath("global", value))
        elif operation == "LOAD_FROM_DICT_OR_GLOBALS":
            pop()
            stack.append(AccessPath("global", value))
        elif operation in _LOADS_LOCAL:
            self._loaded.add(value)
            self._expansions += value == "expandvars"
            stack.append(AccessPath("local", value))
        elif operation == "LOAD_FROM_DICT_OR_DEREF":
            pop()
            self._loaded.add(value)
            stack.append(AccessPath("local", value))
        elif operation == "LOAD_FAST_LOAD_FAST":
            self._loaded.update(value)
            stack += [AccessPath("local", value[0]), AccessPath("local", value[1])]
        elif operation in _STORES_LOCAL:
            self._store(value, pop())
        elif operation == "STORE_FAST_LOAD_FAST":
            self._store(value[0], pop())
            self._loaded.add(value[1])
            stack.append(AccessPath("local", value[1]))
        elif operation == "STORE_FAST_STORE_FAST":
            self._store(value[0], pop())
            self._store(value[1], pop())
        elif operation == "STORE_NAME":
            item = pop()
            if value != "__module__":
                self._use(item)  # an attribute of a class
        elif operation in ("LOAD_ATTR", "LOAD_METHOD"):
            item = pop()
            if isinstance(item, AccessPath):
                stack.append(item.then("attribute", value))
                self._expansions += value == "expandvars"
                if value == "home" and item.last == "Path":
                    self._use(*_HOMES)
            else:
                stack.append(item if isinstance(item, _Derived) else None)
            if value in _NAMESPACE_ATTRIBUTES:
                self._use(_OWN_MODULE)
            if value == "__subclasses__":
                self._use(_SUBCLASSES)
            if value in DESCRIPTIONS:
                self._describe(item, value)
        elif operation == "LOAD_CONST":
            if isinstance(value, CodeType):
                self.read(value)
            stack.append(_Constant(value))
        elif operation == "BINARY_SUBSCR":
            key, item = pop(), pop()
            stack.append(self._item(item, key))
        elif operation in ("CALL", "CALL_KW"):
            if operation == "CALL_KW":
                pop()
            arguments = [pop() for _ in range(count)][::-1]
            stack.append(self._call(pop(), arguments))
        elif operation == "IMPORT_NAME":
            wanted, level = pop(), pop()
            stack.append(self._import(value, level, wanted))
        elif operation == "IMPORT_FROM":
            module = stack[-1] if stack else None
            stack.append(module.then("attribute", value) if isinstance(module, AccessPath) else None)
        elif operation == "COPY":
            stack.append(stack[-count] if count <= len(stack) else None)
        elif operation == "SWAP":
            if count <= len(stack):
                stack[-1], stack[-count] = stack[-count], stack[-1]
        elif operation == "POP_TOP":
            item = pop()
            if isinstance(item, AccessPath) and item.start != "import":  # that is an import for its effects
                self._use(item)
        elif operation in _TAKES_TWO:
            right, left = pop(), pop()
            if operation == "CONTAINS_OP" and right == _LOADED_MODULES:
                right = None  # whether something has been imported
            elif operation == "CONTAINS_OP" and _is_environment(right):
                right = _variable_of(right, left)
            self._use(left, right)
            stack.append(_made_of(left, right))
        elif operation in _BUILDS:
            parts = [pop() for _ in range(count)]
            self._use(*parts)
            stack.append(_made_of(*parts))
        elif operation in _PASSES_ON:
            parts = [pop() for _ in range(1 + (operation == "FORMAT_WITH_SPEC" or count & 4 == 4))]
            self._use(*parts)
            stack.append(_made_of(*parts))
        elif operation == "FOR_ITER":
            stack.append(_made_of(stack[-1] if stack else None))
        else:
            self._other(instruction, stack)

    def _other(self, instruction: dis.Instruction, stack: list[_Item]) -> None:
        """An instruction that is not modelled: whatever it may take is used."""
        try:
            effect = dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        except ValueError:
            effect = 0
        if effect > 0:
            is_part = instruction.opname.startswith(("UNPACK_", "MATCH_"))
            stack += [_made_of(stack[-1]) if is_part and stack else None] * effect
            return
        taken = stack[effect - 1 :]
        self._use(*taken)
        if instruction.opname.startswith(
            ("POP_", "STORE_", "DELETE_", "RETURN_", "END_", "LIST_", "DICT_", "SET_", "MAP_")
        ):
            del stack[len(stack) + effect if -effect <= len(stack) else 0 :]
        else:
            del stack[len(stack) + effect - 1 if 1 - effect <= len(stack) else 0 :]
            stack.append(_RESULT if instruction.opname == "CALL_FUNCTION_EX" else _made_of(*taken))

    def _store(self, name: str, item: _Item) -> None:
        if isinstance(item, AccessPath):
            self.aliases.setdefault(name, set()).add(item)
        made_of = _made_of(item)
        if made_of is not None and (made_of.is_result or made_of.variables - {name}):
            self._made_of.setdefault(name, set()).add(made_of)

    def _item(self, item: _Item, key: _Item) -> _Item:
        if not isinstance(item, AccessPath):
            self._use(key)
            return _made_of(item, key)
        if isinstance(key, _Constant) and isinstance(key.value, (str, int)):
            return item.then("item", key.value)
        if item == _LOADED_MODULES:
            return _OWN_MODULE if key == AccessPath("global", "__name__") else _UNKNOWN_MODULE
        if _is_environment(item):
            self._use(key)
            return _variable_of(item, key)
        self._use(item, key)
        return _made_of(item, key)

    def _call(self, called: _Item, arguments: list[_Item]) -> _Item:
        if not isinstance(called, AccessPath):
            self._use(*arguments)
            return _made_of(called, *arguments)
        first = arguments[0] if arguments else None
        constant = first.value if isinstance(first, _Constant) and isinstance(first.value, str) else None
        if called == AccessPath("global", "getattr") and len(arguments) > 1:
            self._use(*arguments[2:])
            name = arguments[1]
            if isinstance(first, AccessPath) and isinstance(name, _Constant) and isinstance(name.value, str):
                if name.value in DESCRIPTIONS:
                    self._describe(first, name.value)
                return first.then("attribute", name.value)
            self._use(first, name)
            return None
        if called == AccessPath("global", "hasattr") and len(arguments) == 2 and isinstance(first, AccessPath):
            name = arguments[1]
            if isinstance(name, _Constant) and isinstance(name.value, str):
                self._use(first.then("attribute", name.value))
                return None
        if called == AccessPath("global", "globals"):
            return _GLOBALS
        if called == AccessPath("global", "vars") and isinstance(first, AccessPath):
            self._use(called)
            return first.then("attribute", "__dict__")
        if called.start == "global" and called.name in ("locals", "vars") and not arguments:
            self._shows_locals = True
        if called.last in _EVALUATORS and arguments:
            self._use(*arguments)
            self._evaluated.append((called, first))
            return first if called.last == "compile" else _RESULT
        if called.last == "_getframe" and arguments and first != _Constant(0):
            self._is_climbing = True
        if called.last == "expandvars" and constant is not None:
            self._expansions -= 1
            for names in _VARIABLE_IN_TEXT.findall(constant):
                self._use(_ENVIRONMENT.then("item", "".join(names)))
        if called.last in _READS_ITEM and arguments:
            holder = AccessPath(called.start, called.name, called.steps[:-1])
            if _is_environment(holder) or (
                called.last == "get" and (constant is not None or holder == _LOADED_MODULES)
            ):
                self._use(*arguments[1:])
                return self._item(holder, first)
        if called.last in _LOOK_UPS and arguments:
            self._use(*arguments[1:])
            has_package = len(arguments) > 1 and constant is not None and constant.startswith(".")
            known = None if has_package else constant if constant is not None else first
            return called.then("call", known if isinstance(known, (str, AccessPath)) else None)
        self._use(called, *arguments)
        is_known = called.last in (_MAKES_TEXT if called.steps else _MAKES_TEXT & vars(builtins).keys())
        return _made_of(called, *arguments) if is_known else _RESULT

    def _describe(self, item: _Item, name: str) -> None:
        """Take note that what is said of something is read; what has a name may be anything, e.g. a class."""
        if name in ("__doc__", "__annotations__", "__subclasses__") or (
            isinstance(item, AccessPath) and item.last != "__class__"
        ):
            self._use(AccessPath("described", name))

    def _import(self, name: str, level: _Item, wanted: _Item) -> AccessPath:
        dots = "." * (level.value if isinstance(level, _Constant) and isinstance(level.value, int) else 0)
        takes_from_it = isinstance(wanted, _Constant) and bool(wanted.value)
        # `import a.b` gives a, from which b is then taken; `from a.b import c` gives a.b
        if not takes_from_it and "." in name:
            self.used.add(AccessPath("import", dots + name, (("attribute", "__name__"),)))
        return AccessPath("import", dots + name if takes_from_it or dots else name.partition(".")[0])

    def _read_strings(self, code: CodeType) -> None:
        """Code in a string that is evaluated as it stands."""
        for constant in code.co_consts:
            if isinstance(constant, str) and constant.strip():
                try:
                    self.read(compile(constant, "<string>", "exec", dont_inherit=True))
                except (SyntaxError, ValueError, RecursionError):
                    continue


def _made_of(*items: _Item) -> _Derived | None:
    """Return of what is made of some values whether they were returned by calls, or are local variables."""
    variables: set[str] = set()
    is_result = False
    for item in items:
        if isinstance(item, _Derived):
            variables |= item.variables
            is_result |= item.is_result
        elif isinstance(item, AccessPath) and item.start == "local":
            variables.add(item.name)
    return _Derived(frozenset(variables), is_result) if variables or is_result else None


def _is_environment(item: _Item) -> bool:
    return isinstance(item, AccessPath) and item.last in ("environ", "environb")


def _variable_of(environment: _Item, name: _Item) -> AccessPath:
    """Return the path of an environment variable; its name may be known by a path, or not at all."""
    assert isinstance(environment, AccessPath)
    known = name.value if isinstance(name, _Constant) else name
    return environment.then("item", known if isinstance(known, (str, AccessPath)) else None)


def _normalised(path: AccessPath) -> AccessPath:
    """Return a path with look-ups in namespaces replaced by the names that are looked up."""
    start, name, steps = path
    if start == "globals":
        if steps and steps[0][0] == "item" and isinstance(steps[0][1], str):
            return _normalised(AccessPath("global", steps[0][1], steps[1:]))
        return _OWN_MODULE
    if path[:2] == _LOADED_MODULES[:2] and steps[:1] == _LOADED_MODULES.steps:
        if len(steps) > 1 and steps[1][0] == "item" and isinstance(steps[1][1], str):
            return AccessPath("import", steps[1][1], steps[2:])
        return path
    if start == "global" and name == "__builtins__" and steps and isinstance(steps[0][1], str):
        return AccessPath("import", "builtins", (("attribute", steps[0][1]), *steps[1:]))
    for position, step in enumerate(steps[:-1]):
        if step == ("attribute", "__dict__") and steps[position + 1][0] == "item":
            key = steps[position + 1][1]
            return _normalised(AccessPath(start, name, (*steps[:position], ("attribute", key), *steps[position + 2 :])))
    return path
