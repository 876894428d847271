"""Scripts with cached helpers whose results a run could tell from those of another one, by what they show."""

EFFECTS = {
    "a class attribute": """
class Settings:
    path = None

@functools.cache
def load():
    Settings.path = 1
    return []

def use(x):
    load()
    return Settings.path
""",
    "a private table of a class": """
class Models:
    _loaded = {}

@functools.cache
def load():
    Models._loaded['a'] = 1
    return []

def use(x):
    load()
    return Models._loaded['a']
""",
    "a singleton": """
class Settings:
    only = None
    def __new__(cls):
        cls.only = cls.only or object.__new__(cls)
        return cls.only

@functools.cache
def load():
    return Settings()

def use(x):
    return load() is Settings()
""",
    "an attribute of a function": """
def count():
    pass
count.calls = 0

@functools.cache
def load():
    setattr(count, 'calls', count.calls + 1)
    return []

def use(x):
    load()
    return count.calls
""",
    "what is set up": """
@functools.cache
def load():
    import warnings
    warnings.simplefilter('error', BytesWarning)
    return True

def use(x):
    import warnings
    load()
    return warnings.filters[0][2] is BytesWarning
""",
    "the current folder": """
@functools.cache
def load():
    os.chdir('/')
    return True

def use(x):
    load()
    return os.getcwd()
""",
    "a function": """
def relu(x):
    return x

NAMES = ((relu, 'relu'),)

@functools.cache
def load():
    return [relu]

def use(x):
    return dict(NAMES)[load()[0]]
""",
    "a cached function": """
@functools.cache
def inner():
    return []

@functools.cache
def load():
    return inner

def use(x):
    return load() is inner
""",
    "another function that has to be called": """
@functools.cache
def client():
    return set()

@functools.cache
def ensure(name):
    assert name not in client()
    client().add(name)

def use(x):
    ensure('a')
    return len(client())
""",
    "another function that begins anew": """
@functools.cache
def opened(key):
    assert key not in client('u')
    client('u').add(key)
    return [key]

@functools.cache
def client(url):
    return set()

def use(x):
    return len(opened(frozenset([x])))
""",
    "functions that call each other": """
@functools.cache
def a(n):
    return f(n)

def f(n):
    return [b(n - 1)] if n else []

@functools.cache
def b(n):
    return f(n)

def use(x):
    return a(1)[0] is b(0)
""",
    "a named tuple in a private tuple": """
import typing
class Point(typing.NamedTuple):
    x: int

class Types:
    _kinds = (Point,)

@functools.cache
def load():
    return [Types._kinds[0](1)]

def use(x):
    return isinstance(load()[0], Point)
""",
    "an enum with a list": """
import enum
class Kind(enum.Enum):
    A = 1
    def __init__(self, value):
        self.list = []

@functools.cache
def load():
    return Kind.A.list

def use(x):
    return load() is Kind.A.list
""",
    "a singleton of a metaclass": """
class Meta(type):
    __instances__ = {}
    def __call__(cls):
        return cls.__instances__.setdefault(cls, super().__call__())

class Client(metaclass=Meta):
    def __init__(self):
        self.uses = 0

@functools.cache
def client():
    return Client()

def use(x):
    client().uses += 1
    return Client().uses, client() is Client()
""",
    "a name with underscores of a function": """
def find():
    return find.__found__[0]
find.__found__ = [1]

@functools.cache
def load():
    find.__found__[0] += 1
    return [find()]

def use(x):
    load()
    return find()
""",
}
"""The function `use` returns the same in each run if the cache of each helper begins empty."""
