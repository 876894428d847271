"""What people write in scripts and projects reaches worker processes and another process, or is named before."""

from __future__ import annotations

import sys

import pytest

from tests.remote.conftest import Project

# Each: what stands in the script, with a node `f`; its input; what comes out of it.
KINDS = {
    "a cached helper": (
        """
        @functools.cache
        def load(): return {"w": 5}
        @node("y")
        def f(x): return load()["w"] + x
        """,
        "6",
    ),
    "a recursive cached helper": (
        """
        @functools.lru_cache(maxsize=7)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @node("y")
        def f(x): return fib(10 * x), fib.cache_info().maxsize, fib.__name__
        """,
        "(55, 7, 'fib')",
    ),
    "a module with an unused cached helper": (
        """
        import helpers
        @node("y")
        def f(x): return helpers.plain(x)
        """,
        "2",
    ),
    "cached methods and properties": (
        """
        class Text:
            def __init__(self, x): self.x = x
            @functools.cached_property
            def doubled(self): return 2 * self.x
            @functools.lru_cache
            def plus(self, y): return self.x + y
        @node("y")
        def f(x): return Text(x).doubled, Text(x).plus(5)
        """,
        "(2, 6)",
    ),
    "a dataclass with slots": (
        """
        @dataclasses.dataclass(slots=True)
        class Doc:
            x: int
            __private: int = 3
            def private(self): return self.__private
        @node("y")
        def f(x): return Doc(x)
        def show(y): return type(y) is Doc, y, hasattr(y, "__dict__"), y.private()
        """,
        "(True, Doc(x=1, _Doc__private=3), False, 3)",
    ),
    "a class with slots and a subclass without": (
        """
        class Base:
            __slots__ = "a"
        class Sub(Base):
            pass
        @node("y")
        def f(x):
            made = Sub()
            made.a = x
            made.b = 2
            return made
        def show(y): return type(y) is Sub, y.a, vars(y)
        """,
        "(True, 1, {'b': 2})",
    ),
    "single dispatch": (
        """
        @functools.singledispatch
        def kind(x): return "other"
        @kind.register
        def _(x: int): return "int"
        kind(1)
        @node("y")
        def f(x): return kind(x), kind("a")
        """,
        "('int', 'other')",
    ),
    "weak dictionaries": (
        """
        class Thing: pass
        thing = Thing()
        by_name = weakref.WeakValueDictionary(a=thing)
        sizes = weakref.WeakKeyDictionary({thing: 3})
        @node("y")
        def f(x): return by_name["a"] is thing, sizes[thing] + x
        """,
        "(True, 4)",
    ),
    "functions made by exec": (
        """
        names = {}
        exec("def made(x): return helper(x)\\ndef helper(x): return x + 5", names)
        f = Node(names["made"], "y")
        """,
        "6",
    ),
    "a result that refers to itself": (
        """
        @node("y")
        def f(x):
            inner = [x]
            inner.append(inner)
            return {"inner": inner}
        def show(y): return y["inner"][1] is y["inner"]
        """,
        "True",
    ),
    "pickle inside of a node, of the script": (
        """
        @dataclasses.dataclass
        class Doc: x: int
        def helper(x): return x + 1
        @node("y")
        def f(x):
            doc, function = pickle.loads(pickle.dumps((Doc(x), helper)))
            return type(doc) is Doc, function is helper, doc.x
        """,
        "(True, True, 1)",
    ),
    "pickle inside of a node, of a module": (
        """
        from helpers import Box, through_pickle
        f = node("y")(through_pickle)
        def show(y): return type(y) is Box, y.x
        """,
        "(True, 1)",
    ),
    "named tuples with methods": (
        """
        class Point(typing.NamedTuple):
            x: int
            y: int = 3
            def total(self): return self.x + self.y
        @node("y")
        def f(x): return Point(x).total(), Point(x)
        def show(y): return type(y[1]) is Point, y
        """,
        "(True, (4, Point(x=1, y=3)))",
    ),
    "enums whose members have attributes, aliases and combinations": (
        """
        class Planet(enum.Enum):
            EARTH = 3, "blue"
            TERRA = 3, "blue"
            def __init__(self, number, colour): self.colour = colour
        class Access(enum.Flag):
            READ = 1
            WRITE = 2
            NONE = 0
            BOTH = 3
        @node("y")
        def f(x): return Planet.EARTH.colour, Planet["TERRA"], Access.BOTH, Access["NONE"].value
        def show(y): return y[0], y[1] is Planet.EARTH, y[2] is Access.BOTH, y[3]
        """,
        "('blue', True, True, 0)",
    ),
    "classes inside of classes and functions": (
        """
        class Outer:
            @dataclasses.dataclass
            class Inner:
                x: int
        def make():
            @dataclasses.dataclass
            class Local:
                x: int
            return Local
        Local = make()
        @node("y")
        def f(x):
            inner = pickle.loads(pickle.dumps(Outer.Inner(x)))
            return repr(inner), repr(Local(x)), type(inner) is Outer.Inner
        """,
        "('Outer.Inner(x=1)', 'make.<locals>.Local(x=1)', True)",
    ),
    "classes that register themselves": (
        """
        class Metric:
            known = []
            def __init_subclass__(cls, *, name, **options):
                super().__init_subclass__(**options)
                if name in Metric.known: raise ValueError(name)
                Metric.known.append(name)
        class Length(Metric, name="length"): pass
        class Kind(type):
            known = {}
            def __new__(kind, name, *facts):
                if name in kind.known: raise ValueError(name)
                return kind.known.setdefault(name, super().__new__(kind, name, *facts))
        class Thing(metaclass=Kind): pass
        @node("y")
        def f(x): return Length.known, list(Kind.known), Kind.known["Thing"] is Thing
        """,
        "(['length'], ['Thing'], True)",
    ),
    "classes that their metaclass registers outside of itself": (
        """
        REGISTERED, NAMED = [], {}
        class Listing(type):
            def __new__(kind, *facts, tag): return super().__new__(kind, *facts)
            def __init__(cls, name, bases, namespace, *, tag):
                super().__init__(name, bases, namespace)
                REGISTERED.append(cls)
        class Part(metaclass=Listing, tag="a"): pass
        class Wheel(Part, tag="b"): pass
        class Strict(abc.ABCMeta):
            @classmethod
            def __prepare__(kind, name, bases):
                if name in NAMED: raise ValueError(f"{name} is already registered")
                return {}
            def __new__(kind, name, *facts):
                made = super().__new__(kind, name, *facts)
                NAMED[name] = made
                return made
        class Shape(metaclass=Strict):
            @abc.abstractmethod
            def area(self): ...
        class Square(Shape):
            def area(self): return 4
        T = typing.TypeVar("T")
        class Store(typing.Generic[T]):
            def __init_subclass__(cls, **options):
                super().__init_subclass__(**options)
                REGISTERED.append(cls)
        class Numbers(Store[int]): pass
        class Listed(enum.EnumMeta):
            def __init__(cls, *facts, **options):
                super().__init__(*facts, **options)
                REGISTERED.append(cls)
        class Colour(enum.Enum, metaclass=Listed): RED = 1
        @node("y")
        def f(x):
            are_listed = REGISTERED == [Part, Wheel, Numbers, Colour] and NAMED == {"Shape": Shape, "Square": Square}
            return are_listed, Square().area(), isinstance(Square(), Shape), [Wheel(), Square(), Numbers(), Colour.RED]
        def show(y):
            are_own = list(map(type, y[3])) == [Wheel, Square, Numbers, Colour]
            return *y[:3], are_own, len(REGISTERED), len(NAMED)
        """,
        "(True, 4, True, True, 4, 2)",
    ),
    "names for types": (
        """
        UserId = typing.NewType("UserId", int)
        Parameters = typing.ParamSpec("Parameters")
        if sys.version_info >= (3, 12):
            exec("type Tree = dict[str, Tree] | int; type Pair[T] = tuple[T, T]")
        else:
            Tree, Pair = dict, tuple
        def plain(function: typing.Callable[Parameters, int]) -> typing.Callable[Parameters, int]: return function
        @node("y")
        def f(x: UserId, tree: Tree = 1, pair: Pair = (1, 1)) -> UserId:
            return UserId(x), UserId.__name__, plain(abs)(-1), "Tree" in str(getattr(Tree, "__value__", "Tree"))
        """,
        "(1, 'UserId', 1, True)",
    ),
    "weak references and layouts": (
        """
        class Tree:
            def __init__(self, parent=None):
                self.parent = parent and weakref.ref(parent)
                self.children = []
            def size(self): return 5
        root = Tree()
        dead = weakref.ref(Tree())
        size = weakref.WeakMethod(root.size)
        layout = struct.Struct("<h")
        @node("y")
        def f(x):
            tree = Tree()
            tree.children.append(Tree(tree))
            return root and size()(), dead(), layout.pack(x), tree
        def show(y): return y[:3], y[3].children[0].parent() is y[3]
        """,
        "((5, None, b'\\x01\\x00'), True)",
    ),
    "sentinels, and defaults that nobody overrides": (
        """
        import helpers
        UNSET = object()
        class Named:
            def __init__(self, name): self.name = name
        NAMED = Named("NAMED")
        @node("y")
        def f(x, unset=UNSET, named=NAMED, absent=helpers.ABSENT):
            are_themselves = unset is UNSET, named is NAMED, absent is helpers.ABSENT
            return *are_themselves, UNSET, [helpers.ABSENT, dataclasses.MISSING]
        def show(y): return *y[:3], y[3] is UNSET, y[4][0] is helpers.ABSENT, y[4][1] is dataclasses.MISSING
        """,
        "(True, True, True, True, True, True)",
    ),
    "sentinels with slots, and singletons that are pickled as a name": (
        """
        import helpers
        class Slotted:
            __slots__ = ("name", "__about")
            def __init__(self, name): self.name, self.__about = name, "nothing"
            def about(self): return self.__about
        class Single:
            def __init__(self, facts): self.facts = [facts, self]
            def __reduce__(self): return "SINGLE"
        class Word(str):
            def __reduce_ex__(self, protocol): return "Words.WORD"
        class Words: WORD = Word("word")
        SLOTTED, SINGLE = Slotted("SLOTTED"), Single({"a": 1})
        own = lambda: [SLOTTED, SINGLE, Words.WORD, helpers.SLOTTED, helpers.SINGLE]
        are_own = lambda found: all(map(operator.is_, found, own()))
        @node("y")
        def f(x, slotted=SLOTTED, single=SINGLE, word=Words.WORD, other=helpers.SLOTTED, another=helpers.SINGLE):
            are_themselves = are_own([slotted, single, word, other, another]) and SINGLE.facts[1] is SINGLE
            return are_themselves, SLOTTED.about(), SINGLE.facts[0], Words.WORD + "s", own()
        def show(y): return *y[:4], are_own(y[4])
        """,
        "(True, 'nothing', {'a': 1}, 'words', True)",
    ),
    "a pipeline with a cache that a node runs": (
        """
        inner = Pipeline([Node(lambda a: a + 1, "b")], cache=MemoryCache(max_items=3))
        @node("y")
        def f(x): return inner.run({"a": x})["b"], inner.map({"a": [x, 1]}, map_over="a")["b"]
        """,
        "(2, [2, 2])",
    ),
    "an unused lock in a package that is imported from": (
        """
        @node("y")
        def f(x):
            from locked.inner import go
            return go(x)
        """,
        "2",
    ),
}

KIND = """
{source}
for backend in (workers, elsewhere):
    for _ in range(2):
        found = Pipeline([f], backend=backend, callbacks=[PipelineCallback()]).run({{"x": 1}})["y"]
        print({show})
"""

TOGETHER = 6  # kinds that one script defines one after the other, as a notebook does: starting one takes seconds
GROUPS = [list(KINDS)[first : first + TOGETHER] for first in range(0, len(KINDS), TOGETHER)]


@pytest.mark.parametrize("kinds", GROUPS, ids=lambda kinds: f"{kinds[0]} ... {kinds[-1]}")
def test_what_people_write_is_sent_and_comes_back(project: Project, kinds: list[str]) -> None:
    project.write(
        helpers="""
            import functools, pickle

            ABSENT = object()

            class Slotted:
                __slots__ = ("name",)
                def __init__(self, name): self.name = name

            class Single:
                def __reduce__(self): return "SINGLE"

            SLOTTED, SINGLE = Slotted("SLOTTED"), Single()

            @functools.cache
            def load():
                return 5

            def plain(x):
                return x + 1

            class Box:
                def __init__(self, x):
                    self.x = x

            def through_pickle(x):
                return pickle.loads(pickle.dumps(Box(x)))
        """,
        locked__inner="def go(x):\n    return x + 1\n",
    )
    (project.folder / "locked/__init__.py").write_text("import threading\nUNUSED = threading.Lock()\n")
    script = """
import abc, dataclasses, enum, functools, operator, pickle, struct, sys, typing, weakref
workers = LocalBackend("parallel", max_workers=1).__enter__()
elsewhere.__enter__()
"""
    for kind in kinds:
        lines = [line[8:] for line in KINDS[kind][0].splitlines()]
        show = "show(found)" if any(line.startswith("def show") for line in lines) else "found"
        script += KIND.format(source="\n".join(lines), show=show) + f"print('--- {kind}')\n"
    script += "workers.close()\nelsewhere.close()\n"
    assert project.run(script) == "".join(f"{KINDS[kind][1]}\n" * 4 + f"--- {kind}\n" for kind in kinds)


@pytest.mark.parametrize(
    "use",
    [
        "return guarded.go(x)",
        "from guarded import go\n    return go(x)",
        "import guarded as other\n    return other.go(x)",
        "return guarded.Worker().work(x)",
        "with guarded.GUARD:\n        return x",
        "return TABLE['go'](x)",
    ],
)
def test_a_lock_that_is_used_is_named_before_anything_is_sent(project: Project, use: str) -> None:
    project.write(
        guarded="""
            import threading

            GUARD = threading.Lock()

            def go(x):
                with GUARD:
                    return x + 5

            class Worker:
                def work(self, x):
                    return go(x)
        """
    )
    out = project.run(f"""
import guarded
TABLE = {{"go": guarded.go}}

@node("y")
def f(x):
    {use}

try:
    Pipeline([f], backend=elsewhere).run({{"x": 1}})
except SerializationError as error:
    print(error.path)
print(Pipeline([f]).run({{"x": 1}}))
""")
    path, result = out.splitlines()
    assert path.startswith("pipeline → f → ")
    assert path.endswith("'GUARD'")
    assert result.startswith("{'y': ")


def test_modules_that_were_imported_anew_are_sent_as_they_are_now(project: Project) -> None:
    out = project.run("""
        import importlib, pathlib, sys

        def load(helper):
            pathlib.Path(f"{helper}.py").write_text("def go(x): return x + 1\\n")
            source = f"from hypernodes import node\\nimport {helper}\\n@node('y')\\ndef f(x): return {helper}.go(x)\\n"
            pathlib.Path("steps.py").write_text(source)
            importlib.invalidate_caches()
            return importlib.import_module("steps").f

        for helper in ("first", "second", "third"):
            print(Pipeline([load(helper)], backend=elsewhere).run({"x": 1})["y"])
            for name in (helper, "steps"):
                del sys.modules[name]
    """)
    assert out == "2\n" * 3


def test_a_pipeline_can_be_pickled_and_copied(project: Project) -> None:
    out = project.run("""
        import copy, multiprocessing, pickle

        @node("y")
        def f(x, k=1):
            return x + k

        flat = Pipeline([f])
        nested = Pipeline([flat.as_node(input_mapping={"xs": "x"}, map_over="xs")], backend=elsewhere)
        for again in (copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))):
            print(again(flat).run({"x": 1}), again(flat).defaults, again(nested).run({"xs": [1, 2]}))
            assert again(Pipeline([f])).effective_backend is Pipeline([f]).effective_backend
            assert again(Pipeline([f], cache=MemoryCache())).run({"x": 1}) == {"y": 2}
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(1) as pool:
                for pipeline in (Pipeline([f]), Pipeline([f], cache=MemoryCache())):
                    print(pool.map(pipeline.run, [{"x": 1}, {"x": 2}]))
    """)
    assert out == "{'y': 2} {'k': 1} {'y': [2, 3]}\n" * 3 + "[{'y': 2}, {'y': 3}]\n" * 2


def test_a_node_may_start_processes_by_the_standard_library_in_a_worker_process(project: Project) -> None:
    out = project.run("""
        @node("y")
        def f(x):
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                return pool.submit(abs, x).result(60)

        if __name__ == "__main__":
            print(Pipeline([f], backend=LocalBackend("parallel", max_workers=1)).run({"x": -1}))
    """)
    assert out == "{'y': 1}\n"


def test_an_extension_in_a_checkout_is_not_sent_because_its_metadata_says_that_it_is_one(project: Project) -> None:
    project.write(
        checkout__acme__parts="import threading\nLOCK = threading.Lock()\ndef go(x):\n with LOCK: return x + 1\n",
        checkout__ordinary="def go(x):\n    return x + 10\n",
    )
    metadata = project.folder / "metadata" / "acme-1.0.dist-info"  # as of an editable installation
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\nRequires-Dist: ordinary>=1\n")
    (metadata / "entry_points.txt").write_text("[hypernodes.backends]\nacme = acme.parts:Backend\n")
    script = """
        import os, sys
        sys.path += ["checkout", "metadata"]
        from acme.parts import go
        import ordinary

        @node("y")
        def f(x):
            return go(x), ordinary.go(x)

        elsewhere.env["PYTHONPATH"] += os.pathsep + os.path.abspath("checkout")
        print(Pipeline([f], backend=elsewhere).run({"x": 1}), elsewhere.preflight(Pipeline([f]), {"x": 1}).modules)
    """
    assert project.run(script) == "{'y': (2, 11)} ()\n"
    (metadata / "entry_points.txt").unlink()
    again = project.start(script)
    assert "LOCK" in again.communicate(timeout=240)[1]  # then it is a project of the user's like any other


def test_a_package_that_is_missing_on_the_other_side_is_named_with_the_node_that_uses_it(project: Project) -> None:
    (project.folder / "site-packages/installed").mkdir(parents=True)
    (project.folder / "site-packages/installed/__init__.py").write_text("class Model: pass\n")
    out = project.run("""
        import sys
        sys.path.append("site-packages")
        import installed
        from installed import Model

        @node("a")
        def plain(x):
            return x

        @node("y")
        def make(a):
            return Model()

        @node("z")
        def look(a):
            return installed.Model

        for function in (make, look):
            try:
                Pipeline([plain, function], backend=elsewhere).run({"x": 1})
            except RemoteError as error:
                print(error)
    """)
    for line, name, number in zip(out.splitlines(), ("make", "look"), (20, 24), strict=True):
        assert line == (
            "subprocess could not run the job: there is no module 'installed' on the remote side, which is used by "
            f"'{name}' (script.py:{number}). Install it there as well: {sys.executable} -m pip install installed"
        )
