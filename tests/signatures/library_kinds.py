"""More kinds of values: libraries for data, type by type; see `value_kinds`."""

from __future__ import annotations

from tests.signatures.value_kinds import kind


def _numpy(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    kind(f"numpy: {name}", "import numpy as np\n" + setup, same, *map(str, different), needs="numpy", needless=needless)


_numpy(
    "number",
    ("np.float64(1)", "np.array([1.])[0]"),
    "np.float64(2)",
    "1.0",
    "np.float32(1)",
    "np.int64(1)",
    "np.array(1.)",
)
_numpy(
    "dtype of an array",
    "np.array([1, 2], 'i4')",
    "np.array([1, 2], 'i8')",
    "np.array([1, 2], 'u4')",
    "np.array([1, 2], 'f4')",
    "np.array([1, 2], '>i4')",
    "[1, 2]",
)
_numpy(
    "shape", ("np.zeros((2, 3))", "np.zeros(6).reshape(2, 3)"), "np.zeros((3, 2))", "np.zeros(6)", "np.zeros((2, 3, 1))"
)
_numpy("empty shapes", "np.zeros((0, 2))", "np.zeros((2, 0))", "np.zeros(0)", "np.zeros((0, 3))")
_numpy("views", ("np.arange(10)[::2]", "np.arange(0, 10, 2)"), "np.arange(10)[1::2]", "np.arange(10)[::-2]")
_numpy(
    "broadcast",
    ("np.broadcast_to(np.arange(2), (2, 2))", "np.array([[0, 1], [0, 1]])"),
    "np.broadcast_to(np.arange(2)[:, None], (2, 2))",
)
_numpy(
    "one element in a large array",
    "make(0)",
    "make(1)",
    setup="def make(v):\n    a = np.zeros(2_000_000)\n    a[1_234_567] = v\n    return a",
)
_numpy(
    "texts",
    ("np.array(['a', 'bc'])", "np.array(['a', 'bc'], 'U2')"),
    "np.array(['a', 'bd'])",
    "np.array(['a', 'bc'], 'U3')",
    "np.array([b'a', b'bc'])",
    "np.array(['a', 'bc'], object)",
)
_numpy(
    "objects",
    "np.array([1, 'a', None], object)",
    "np.array([1, 'b', None], object)",
    "np.array([1., 'a', None], object)",
    "np.array([[1], [2, 3]], object)",
    "np.array([[1], [2, 4]], object)",
)
_numpy(
    "times",
    "np.array(['2020'], 'M8[D]')",
    "np.array(['2021'], 'M8[D]')",
    "np.array(['2020'], 'M8[ns]')",
    "np.array([1], 'm8[D]')",
    "np.array([1], 'm8[h]')",
    "np.array(['NaT'], 'M8[D]')",
)
_numpy(
    "records",
    "np.array([(1, 2)], [('a', 'i4'), ('b', 'i4')])",
    "np.array([(1, 2)], [('b', 'i4'), ('a', 'i4')])",
    "np.array([(1, 3)], [('a', 'i4'), ('b', 'i4')])",
    "np.array([(1, 2)], [('a', 'i4'), ('b', 'f4')])",
    "np.rec.array([(1, 2)], [('a', 'i4'), ('b', 'i4')])",
)
_numpy(
    "padding of records",
    ("make(0)", "make(1)"),
    "np.zeros(1, 'i4')",
    setup="t = np.dtype([('a', 'i1'), ('b', 'i8')], align=True)\ndef make(k):\n    raw = np.full(16, k, 'u1')\n    a = raw.view(t)\n    a['a'], a['b'] = 1, 2\n    return a",
)
_numpy(
    "masked array",
    "np.ma.array([1, 2], mask=[0, 1])",
    "np.ma.array([1, 2], mask=[1, 0])",
    "np.ma.array([3, 2], mask=[0, 1])",
    "np.ma.array([1, 2])",
    "np.array([1, 2])",
    "np.ma.array([1, 2], mask=[0, 1], fill_value=7)",
)
_numpy("matrix", "np.asmatrix([[1]])", "np.asmatrix([[2]])", "np.array([[1]])")
_numpy(
    "dtypes",
    "np.dtype('i4')",
    "np.dtype('i8')",
    "np.dtype('>i4')",
    "np.dtype([('a', 'i4')])",
    "np.dtype([('b', 'i4')])",
    "np.int32",
)
_numpy(
    "generators",
    "np.random.default_rng(1)",
    "np.random.default_rng(2)",
    "after(1)",
    "np.random.Generator(np.random.MT19937(1))",
    "np.random.SeedSequence(1)",
    setup="def after(n):\n    g = np.random.default_rng(1)\n    g.random(n)\n    return g",
)
_numpy(
    "polynomial",
    "np.polynomial.Polynomial([1, 2])",
    "np.polynomial.Polynomial([1, 3])",
    "np.polynomial.Polynomial([1, 2], domain=[0, 1])",
    "np.polynomial.Chebyshev([1, 2])",
)
_numpy("vectorized function", "np.vectorize(f)", "np.vectorize(g)", setup="def f(x): return x\ndef g(x): return -x")
_numpy("minus zero and signs of nan", "np.array([0.])", "np.array([-0.])", "np.array([np.nan])", "np.array([np.inf])")
_numpy("zero dimensions", "np.array(1)", "np.array(2)", "np.array([1])", "1", "np.int64(1)")
_numpy(
    "in containers",
    "{'a': np.zeros(2), 'b': [np.ones(1)]}",
    "{'a': np.zeros(2), 'b': [np.zeros(1)]}",
    "{'a': np.zeros(3), 'b': [np.ones(1)]}",
)


def _pandas(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import pandas as pd, numpy as np\n" + setup
    kind(f"pandas: {name}", setup, same, *map(str, different), needs="pandas", needless=needless)


_pandas(
    "values",
    ("pd.DataFrame({'a': [1, 2]})", "pd.DataFrame([[1], [2]], columns=['a'])"),
    "pd.DataFrame({'a': [2, 1]})",
    "pd.DataFrame({'b': [1, 2]})",
    "pd.DataFrame({'a': [1., 2.]})",
    "pd.DataFrame({'a': ['1', '2']})",
    "pd.Series([1, 2], name='a')",
)
_pandas(
    "index",
    "pd.DataFrame({'a': [1, 2]}, index=[0, 1])",
    "pd.DataFrame({'a': [1, 2]}, index=[1, 0])",
    "pd.DataFrame({'a': [1, 2]}, index=['x', 'y'])",
    "pd.DataFrame({'a': [1, 2]}, index=pd.Index([0, 1], name='i'))",
)
_pandas(
    "names of columns",
    "pd.DataFrame([[1, 2]], columns=['a', 'b'])",
    "pd.DataFrame([[1, 2]], columns=['b', 'a'])",
    "pd.DataFrame([[1, 2]], columns=pd.Index(['a', 'b'], name='c'))",
    "pd.DataFrame([[1, 2]], columns=['a', 'a'])",
    "pd.DataFrame([[1, 2]], columns=[0, 1])",
)
_pandas(
    "blocks",
    ("built()", "pd.DataFrame({'a': [1, 2], 'b': [1., 2.], 'c': [3, 4]})"),
    "built()[['a', 'c', 'b']]",
    setup="def built():\n    f = pd.DataFrame({'a': [1, 2], 'b': [1., 2.]})\n    f['c'] = [3, 4]\n    return f",
)
_pandas(
    "nullable types",
    "pd.Series([1, None], dtype='Int64')",
    "pd.Series([1, 2], dtype='Int64')",
    "pd.Series([1, None])",
    "pd.Series([1, None], dtype='Int32')",
    "pd.Series([True, None], dtype='boolean')",
)
_pandas(
    "text types",
    "pd.Series(['a', None], dtype='string')",
    "pd.Series(['b', None], dtype='string')",
    "pd.Series(['a', None], dtype=object)",
)
_pandas(
    "kinds of nothing",
    "pd.Series([None], dtype=object)",
    "pd.Series([np.nan], dtype=object)",
    "pd.Series([pd.NA], dtype=object)",
    "pd.Series([pd.NaT], dtype=object)",
)
_pandas(
    "categories",
    "pd.Series(pd.Categorical(['a', 'b']))",
    "pd.Series(pd.Categorical(['a', 'b'], ['b', 'a']))",
    "pd.Series(pd.Categorical(['a', 'b'], ordered=True))",
    "pd.Series(pd.Categorical(['a', 'b'], ['a', 'b', 'c']))",
    "pd.Series(['a', 'b'])",
)
_pandas(
    "times",
    "pd.Series(pd.to_datetime(['2020-01-01']))",
    "pd.Series(pd.to_datetime(['2020-01-02']))",
    "pd.Series(pd.to_datetime(['2020-01-01'], utc=True))",
    "pd.Series(pd.to_datetime(['2020-01-01']).astype('M8[s]'))",
    "pd.Series(pd.to_timedelta(['1D']))",
    "pd.Series(pd.PeriodIndex(['2020'], freq='Y'))",
)
_pandas(
    "indexes",
    "pd.RangeIndex(3)",
    "pd.RangeIndex(4)",
    "pd.Index([0, 1, 3])",
    "pd.Index([0., 1., 2.])",
    "pd.Index(['0', '1', '2'])",
    "pd.RangeIndex(3, name='a')",
)
_pandas(
    "frequency",
    "pd.date_range('2020', periods=3, freq='D')",
    "pd.date_range('2020', periods=4, freq='D')",
    "pd.date_range('2020', periods=3, freq='h')",
    "pd.DatetimeIndex(['2020-01-01', '2020-01-02', '2020-01-03'])",
)
_pandas(
    "several levels",
    "pd.MultiIndex.from_tuples([(1, 'a'), (2, 'b')])",
    "pd.MultiIndex.from_tuples([(2, 'b'), (1, 'a')])",
    "pd.MultiIndex.from_tuples([(1, 'a'), (2, 'b')], names=['x', 'y'])",
)
_pandas(
    "intervals",
    "pd.Interval(0, 1)",
    "pd.Interval(0, 2)",
    "pd.Interval(0, 1, closed='left')",
    "pd.IntervalIndex.from_breaks([0, 1])",
)
_pandas(
    "scalars",
    "pd.Timedelta('1D')",
    "pd.Timedelta('2D')",
    "pd.Period('2020')",
    "pd.Period('2021')",
    "pd.NaT",
    "pd.NA",
    "pd.offsets.Day(1)",
    "pd.offsets.Day(2)",
    "pd.offsets.Hour(1)",
)
_pandas(
    "attrs",
    "make({'u': 1})",
    "make({'u': 2})",
    "make({})",
    setup="def make(k):\n    f = pd.DataFrame({'a': [1]})\n    f.attrs = k\n    return f",
)
_pandas(
    "sparse values",
    "pd.Series(pd.arrays.SparseArray([0, 1]))",
    "pd.Series(pd.arrays.SparseArray([0, 2]))",
    "pd.Series([0, 1])",
    "pd.Series(pd.arrays.SparseArray([0, 1], fill_value=1))",
)
_pandas(
    "cells that hold lists",
    "pd.DataFrame({'a': [[1], [2]]})",
    "pd.DataFrame({'a': [[1], [3]]})",
    "pd.DataFrame({'a': [(1,), (2,)]})",
)
_pandas("groups", "pd.DataFrame({'a': [1]}).groupby('a')", "pd.DataFrame({'a': [2]}).groupby('a')")
_pandas("flags", "pd.DataFrame({'a': [1]})", "pd.DataFrame({'a': [1]}).set_flags(allows_duplicate_labels=False)")


def _polars(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import polars as pl\n" + setup
    kind(f"polars: {name}", setup, same, *map(str, different), needs="polars", needless=needless)


_polars(
    "values",
    ("pl.DataFrame({'a': [1, 2]})", "pl.concat([pl.DataFrame({'a': [1]}), pl.DataFrame({'a': [2]})])"),
    "pl.DataFrame({'a': [2, 1]})",
    "pl.DataFrame({'b': [1, 2]})",
    "pl.DataFrame({'a': [1., 2.]})",
    "pl.DataFrame({'a': ['1', '2']})",
    "pl.Series('a', [1, 2])",
)
_polars(
    "columns", "pl.DataFrame({'a': [1], 'b': [2]})", "pl.DataFrame({'b': [2], 'a': [1]})", "pl.DataFrame({'a': [1]})"
)
_polars(
    "types",
    "pl.Series([1], dtype=pl.Int64)",
    "pl.Series([1], dtype=pl.Int32)",
    "pl.Series([1], dtype=pl.UInt64)",
    "pl.Series([None], dtype=pl.Int64)",
    "pl.Series('n', [1], dtype=pl.Int64)",
)
_polars(
    "nulls", "pl.Series([1., None])", "pl.Series([1., float('nan')])", "pl.Series([1., 0.])", "pl.Series([None, 1.])"
)
_polars(
    "times",
    "pl.Series([1]).cast(pl.Datetime('ns'))",
    "pl.Series([1]).cast(pl.Datetime('us'))",
    "pl.Series([1]).cast(pl.Datetime('ns', 'UTC'))",
    "pl.Series([1]).cast(pl.Duration('ns'))",
    "pl.Series([1]).cast(pl.Date)",
)
_polars(
    "nested",
    "pl.Series([[1], [2]])",
    "pl.Series([[1, 2]])",
    "pl.Series([[1], [3]])",
    "pl.Series([{'a': 1}])",
    "pl.Series([{'b': 1}])",
    "pl.Series([{'a': 2}])",
)
_polars(
    "categories",
    "pl.Series(['a', 'b'], dtype=pl.Categorical)",
    "pl.Series(['b', 'a'], dtype=pl.Categorical)",
    "pl.Series(['a', 'b'])",
)
_polars("expressions", "pl.col('a') + 1", "pl.col('a') + 2", "pl.col('b') + 1", "pl.col('a') - 1")
_polars(
    "lazy frames",
    "pl.LazyFrame({'a': [1]}).filter(pl.col('a') > 1)",
    "pl.LazyFrame({'a': [2]}).filter(pl.col('a') > 1)",
    "pl.LazyFrame({'a': [1]}).filter(pl.col('a') > 2)",
    needless="a plan may read files, whose content is not known",
)
_polars("schemas", "pl.Schema({'a': pl.Int64})", "pl.Schema({'a': pl.Int32})", "pl.Schema({'b': pl.Int64})")


def _arrow(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import pyarrow as pa\n" + setup
    kind(f"arrow: {name}", setup, same, *map(str, different), needs="pyarrow", needless=needless)


_arrow(
    "values",
    ("pa.array([1, 2])", "pa.array([0, 1, 2])[1:]"),
    "pa.array([2, 1])",
    "pa.array([1, None])",
    "pa.array([1, 2], pa.int32())",
    "pa.array([1., 2.])",
    "pa.array(['1', '2'])",
)
_arrow(
    "what is under a null",
    (
        "pa.array([1, None])",
        "pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b'\\x01'), pa.py_buffer(bytes([1] + [0] * 7 + [9] * 8))])",
    ),
    "pa.array([1, 9])",
)
_arrow("chunks", ("pa.chunked_array([[1, 2]])", "pa.chunked_array([[1], [2]])"), "pa.chunked_array([[1, 3]])")
_arrow(
    "tables",
    "pa.table({'a': [1], 'b': [2]})",
    "pa.table({'b': [2], 'a': [1]})",
    "pa.table({'a': [1], 'b': [3]})",
    "pa.table({'a': [1]})",
)
_arrow(
    "schemas",
    "pa.schema([('a', pa.int64())])",
    "pa.schema([('b', pa.int64())])",
    "pa.schema([('a', pa.int32())])",
    "pa.schema([pa.field('a', pa.int64(), nullable=False)])",
    "pa.schema([('a', pa.int64())], metadata={'k': 'v'})",
)
_arrow(
    "types",
    "pa.timestamp('ns')",
    "pa.timestamp('us')",
    "pa.timestamp('ns', 'UTC')",
    "pa.list_(pa.int8())",
    "pa.list_(pa.int16())",
    "pa.decimal128(5, 2)",
    "pa.decimal128(5, 3)",
)
_arrow("batches", "pa.record_batch({'a': [1]})", "pa.record_batch({'a': [2]})", "pa.record_batch({'b': [1]})")
_arrow(
    "texts",
    "pa.array(['a', 'b'])",
    "pa.array(['ab', ''])",
    "pa.array(['a', 'b'], pa.large_string())",
    "pa.array([b'a', b'b'])",
    "pa.array(['a', 'b']).dictionary_encode()",
)
_arrow("scalars", "pa.scalar(1)", "pa.scalar(2)", "pa.scalar(1, pa.int32())", "pa.scalar(None, pa.int64())")
_arrow("bytes", ("pa.py_buffer(b'ab')", "pa.py_buffer(b'xab')[1:]"), "pa.py_buffer(b'ac')")


def _scipy(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import numpy as np\nfrom scipy import interpolate, sparse, spatial, stats\n" + setup
    kind(f"scipy: {name}", setup, same, *map(str, different), needs="numpy scipy", needless=needless)


_scipy(
    "formats of sparse matrices",
    "sparse.csr_matrix(np.eye(2))",
    "sparse.csc_matrix(np.eye(2))",
    "sparse.coo_matrix(np.eye(2))",
    "sparse.csr_array(np.eye(2))",
    "sparse.csr_matrix(np.eye(3))",
    "sparse.csr_matrix(2 * np.eye(2))",
    "np.eye(2)",
)
_scipy(
    "other sparse matrices",
    "sparse.lil_matrix(np.eye(2))",
    "sparse.lil_matrix(2 * np.eye(2))",
    "sparse.dok_matrix(np.eye(2))",
    "sparse.dok_matrix(2 * np.eye(2))",
    "sparse.dia_matrix(np.eye(2))",
    "sparse.bsr_matrix(np.eye(2))",
)
_scipy(
    "type of a sparse matrix",
    "sparse.csr_matrix(np.eye(2))",
    "sparse.csr_matrix(np.eye(2), dtype='f4')",
    "sparse.csr_matrix(np.eye(2), dtype='i8')",
)
_scipy("frozen distributions", "stats.norm(0, 1)", "stats.norm(0, 2)", "stats.expon(0, 1)", "stats.norm(loc=1)")
_scipy(
    "interpolators",
    "interpolate.interp1d([0, 1], [0, 1])",
    "interpolate.interp1d([0, 1], [0, 2])",
    "interpolate.CubicSpline([0, 1, 2], [0, 1, 0])",
    "interpolate.CubicSpline([0, 1, 2], [0, 2, 0])",
)
_scipy(
    "rotations",
    "spatial.transform.Rotation.from_euler('z', 1)",
    "spatial.transform.Rotation.from_euler('z', 2)",
    "spatial.transform.Rotation.from_euler('x', 1)",
)
_scipy(
    "trees",
    "spatial.KDTree([[0, 0], [1, 1]])",
    "spatial.KDTree([[0, 0], [1, 2]])",
    "spatial.KDTree([[0, 0], [1, 1]], leafsize=3)",
)
_scipy(
    "kernel densities",
    "stats.gaussian_kde([1., 2., 4.])",
    "stats.gaussian_kde([1., 2., 5.])",
    "stats.gaussian_kde([1., 2., 4.], 0.5)",
)


def _sklearn(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = (
        "import numpy as np\nfrom sklearn import cluster, decomposition, ensemble, linear_model, neighbors, pipeline, preprocessing, svm, tree\n"
        "X, Y = np.arange(12.).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])\n" + setup
    )
    kind(f"scikit-learn: {name}", setup, same, *map(str, different), needs="sklearn", needless=needless)


_sklearn(
    "parameters",
    ("linear_model.Ridge()", "linear_model.Ridge(alpha=1.0)"),
    "linear_model.Ridge(alpha=2.0)",
    "linear_model.Lasso()",
    "linear_model.Ridge(fit_intercept=False)",
)
_sklearn(
    "fitted",
    "linear_model.LinearRegression().fit(X, Y)",
    "linear_model.LinearRegression().fit(X, -Y)",
    "linear_model.LinearRegression()",
    "linear_model.LinearRegression().fit(2 * X, Y)",
)
_sklearn(
    "steps",
    "pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC())",
    "pipeline.make_pipeline(preprocessing.MinMaxScaler(), svm.SVC())",
    "pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=2))",
)
_sklearn(
    "trees",
    "tree.DecisionTreeClassifier(random_state=0).fit(X, Y)",
    "tree.DecisionTreeClassifier(random_state=0).fit(X, 1 - Y)",
    "tree.DecisionTreeClassifier(random_state=0, max_depth=1).fit(X, Y)",
)
_sklearn(
    "neighbours",
    "neighbors.KNeighborsClassifier(2).fit(X, Y)",
    "neighbors.KNeighborsClassifier(3).fit(X, Y)",
    "neighbors.KNeighborsClassifier(2).fit(X, 1 - Y)",
)
_sklearn(
    "scalers",
    "preprocessing.StandardScaler().fit(X)",
    "preprocessing.StandardScaler().fit(3 * X)",
    "preprocessing.StandardScaler(with_mean=False).fit(X)",
)
_sklearn(
    "clusters",
    "cluster.KMeans(2, random_state=0, n_init=1).fit(X)",
    "cluster.KMeans(2, random_state=0, n_init=1).fit(2 * X)",
    "cluster.KMeans(3, random_state=0, n_init=1).fit(X)",
)
_sklearn(
    "encoders",
    "preprocessing.OneHotEncoder().fit([['a'], ['b']])",
    "preprocessing.OneHotEncoder().fit([['a'], ['c']])",
    "preprocessing.LabelEncoder().fit(['a', 'b'])",
)


def _torch(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import torch\nfrom torch import nn\n" + setup
    kind(f"torch: {name}", setup, same, *map(str, different), needs="torch", needless=needless)


_torch(
    "values",
    ("torch.arange(4.)", "torch.tensor([0., 1., 2., 3.])"),
    "torch.arange(5.)",
    "torch.arange(4)",
    "torch.arange(4., dtype=torch.float64)",
    "torch.arange(4.).reshape(2, 2)",
    "torch.arange(4.).bfloat16()",
    "torch.arange(4.).half()",
)
_torch("views", ("torch.arange(4.)[::2]", "torch.tensor([0., 2.])"), "torch.arange(4.)[1::2]")
_torch(
    "strides",
    ("torch.arange(6.).reshape(3, 2).T.contiguous()", "torch.arange(6.).reshape(3, 2).T"),
    "torch.arange(6.).reshape(2, 3)",
)
_torch(
    "gradients",
    "torch.ones(1)",
    "torch.ones(1, requires_grad=True)",
    "nn.Parameter(torch.ones(1))",
    "nn.Parameter(torch.ones(1), requires_grad=False)",
)
_torch(
    "sparse",
    "torch.eye(2).to_sparse()",
    "(2 * torch.eye(2)).to_sparse()",
    "torch.eye(2)",
    "torch.eye(2).to_sparse_csr()",
)
_torch("complex", "torch.ones(2, dtype=torch.complex64)", "torch.ones(2, dtype=torch.complex64) * 1j", "torch.ones(2)")
_torch(
    "conjugates",
    ("(torch.ones(2, dtype=torch.complex64) * 1j).conj()", "torch.ones(2, dtype=torch.complex64) * -1j"),
    "torch.ones(2, dtype=torch.complex64) * 1j",
)
_torch(
    "layers",
    "make(0)",
    "make(1)",
    "nn.Linear(2, 3)",
    setup="def make(seed, kind=nn.Linear):\n    torch.manual_seed(seed)\n    return kind(2, 2)",
)
_torch("training and evaluation", "nn.Dropout(0.5).train()", "nn.Dropout(0.5).eval()", "nn.Dropout(0.6)")
_torch(
    "buffers",
    "make(0.)",
    "make(1.)",
    setup="def make(v):\n    n = nn.BatchNorm1d(2)\n    n.running_mean += v\n    return n",
)
_torch("states", "nn.ReLU().state_dict()", "nn.BatchNorm1d(1).state_dict()", "nn.BatchNorm1d(2).state_dict()")
_torch(
    "optimizers",
    "make(0.1)",
    "make(0.2)",
    "make(0.1, torch.optim.Adam)",
    setup="def make(r, kind=torch.optim.SGD): return kind([nn.Parameter(torch.ones(1))], lr=r)",
)
_torch(
    "dtypes and devices",
    "torch.float32",
    "torch.float64",
    "torch.device('cpu')",
    "torch.device('cuda')",
    "torch.Size([1])",
    "torch.Size([2])",
)
_torch("random states", "torch.Generator().manual_seed(1)", "torch.Generator().manual_seed(2)")
_torch("data sets", "torch.utils.data.TensorDataset(torch.ones(1))", "torch.utils.data.TensorDataset(torch.zeros(1))")


def _pydantic(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "from pydantic import *\nfrom typing import *\n" + setup
    kind(f"pydantic: {name}", setup, same, *map(str, different), needs="pydantic", needless=needless)


_pydantic(
    "fields",
    ("M(a=1)", "M(a='1', b=[])"),
    "M(a=2)",
    "M(a=1, b=[1])",
    "N(a=1)",
    setup="class M(BaseModel):\n    a: int\n    b: list[int] = []\n    model_config = ConfigDict()\nclass N(BaseModel):\n    a: int\n    b: list[int] = []",
    needless="which fields were set can be seen (`model_fields_set`, `exclude_unset`)",
)
_pydantic("which fields were set", "M(a=1)", "M()", setup="class M(BaseModel):\n    a: int = 1")
_pydantic(
    "extra values",
    "M(a=1, x=1)",
    "M(a=1, x=2)",
    "M(a=1)",
    setup="class M(BaseModel):\n    model_config = ConfigDict(extra='allow')\n    a: int",
)
_pydantic(
    "private attributes",
    "make(1)",
    "make(2)",
    setup="class M(BaseModel):\n    _p: int = PrivateAttr(0)\ndef make(p):\n    m = M()\n    m._p = p\n    return m",
)
_pydantic(
    "nested", "M(n={'a': 1})", "M(n={'a': 2})", setup="class N(BaseModel):\n    a: int\nclass M(BaseModel):\n    n: N"
)
_pydantic(
    "validators",
    "M(a=1)",
    "N(a=1)",
    setup="class M(BaseModel):\n    a: int\n    @field_validator('a')\n    @classmethod\n    def check(cls, v): return v\nclass N(BaseModel):\n    a: int\n    @field_validator('a')\n    @classmethod\n    def check(cls, v): return v + 0\nN.__name__ = N.__qualname__ = 'M'",
)
_pydantic(
    "constraints",
    "M",
    "N",
    setup="class M(BaseModel):\n    a: int = Field(gt=0)\nclass N(BaseModel):\n    a: int = Field(gt=1)\nN.__name__ = N.__qualname__ = 'M'",
)
_pydantic("secrets", "SecretStr('a')", "SecretStr('b')", "'a'", "SecretBytes(b'a')")
_pydantic(
    "addresses", "TypeAdapter(AnyUrl).validate_python('http://a')", "TypeAdapter(AnyUrl).validate_python('http://b')"
)
_pydantic("root models", "M([1])", "M([2])", setup="class M(RootModel[list[int]]): pass")
_pydantic(
    "data classes", "D(1)", "D(2)", setup="from pydantic.dataclasses import dataclass\n@dataclass\nclass D:\n    a: int"
)


def _attrs(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = "import attr, attrs\nfrom attrs import define, field, frozen\n" + setup
    kind(f"attrs: {name}", setup, same, *map(str, different), needs="attrs", needless=needless)


_attrs(
    "fields",
    ("C(1)", "C(a=1, b=[])"),
    "C(2)",
    "C(1, [1])",
    "D(1)",
    setup="@define\nclass C:\n    a: int\n    b: list = field(factory=list)\n@define\nclass D:\n    a: int\n    b: list = field(factory=list)",
)
_attrs("without slots", ("C(1)", "C(1)"), "C(2)", setup="@define(slots=False)\nclass C:\n    a: int")
_attrs(
    "fields that are not compared",
    "C(1, 2)",
    "C(1, 3)",
    setup="@define\nclass C:\n    a: int\n    b: int = field(eq=False)",
)
_attrs(
    "converters",
    "C(1)",
    "D(1)",
    setup="@define\nclass C:\n    a = field(converter=lambda v: v)\n@define\nclass D:\n    a = field(converter=lambda v: -v)\nD.__name__ = D.__qualname__ = 'C'",
)
_attrs(
    "metadata",
    "C(1)",
    "D(1)",
    setup="@define\nclass C:\n    a = field(metadata={'u': 1})\n@define\nclass D:\n    a = field(metadata={'u': 2})\nD.__name__ = D.__qualname__ = 'C'",
)
_attrs("frozen", "C(1)", "C(2)", "C([1])", setup="@frozen\nclass C:\n    a: object")


def _sqlalchemy(name: str, *expressions: str | tuple[str, ...], setup: str = "", needless: str = "") -> None:
    same, *different = expressions
    setup = (
        "import sqlalchemy as sa\nfrom sqlalchemy import orm\n"
        "def table(*columns, name='t'): return sa.Table(name, sa.MetaData(), *columns)\n"
        "t = table(sa.Column('a', sa.Integer), sa.Column('b', sa.String))\n" + setup
    )
    kind(f"SQLAlchemy: {name}", setup, same, *map(str, different), needs="sqlalchemy", needless=needless)


_sqlalchemy(
    "bound values",
    "sa.select(t).where(t.c.a == 1)",
    "sa.select(t).where(t.c.a == 2)",
    "sa.select(t).where(t.c.b == 1)",
    "sa.select(t).where(t.c.a > 1)",
    "sa.select(t)",
    "sa.select(t).where(t.c.a == sa.bindparam('x'))",
    "sa.select(t).where(t.c.a == sa.bindparam('y'))",
    "sa.select(t).where(t.c.a == 1, t.c.b == '1')",
    "sa.select(t).where(sa.or_(t.c.a == 1, t.c.b == '1'))",
)
_sqlalchemy(
    "aliases",
    "sa.select(x).where(x.c.a == y.c.b)",
    "sa.select(x).where(y.c.a == x.c.b)",
    "sa.select(y).where(x.c.a == y.c.b)",
    setup="x, y = t.alias('x'), t.alias('y')",
)
_sqlalchemy(
    "texts",
    "sa.text('select 1')",
    "sa.text('select 2')",
    "sa.text('select :a').bindparams(a=1)",
    "sa.text('select :a').bindparams(a=2)",
)
_sqlalchemy(
    "tables",
    "table(sa.Column('a', sa.Integer))",
    "table(sa.Column('a', sa.String))",
    "table(sa.Column('b', sa.Integer))",
    "table(sa.Column('a', sa.Integer), name='u')",
    "table(sa.Column('a', sa.Integer, nullable=False))",
)
_sqlalchemy(
    "order and limits",
    "sa.select(t).order_by(t.c.a).limit(1)",
    "sa.select(t).order_by(t.c.b).limit(1)",
    "sa.select(t).order_by(t.c.a).limit(2)",
)
_sqlalchemy(
    "addresses", "sa.make_url('sqlite:///a')", "sa.make_url('sqlite:///b')", "sa.make_url('postgresql://u@h/a')"
)
_sqlalchemy(
    "types",
    "sa.String(5)",
    "sa.String(6)",
    "sa.Numeric(5, 2)",
    "sa.Numeric(5, 3)",
    "sa.Enum('a', 'b', name='e')",
    "sa.Enum('a', 'c', name='e')",
)
_sqlalchemy(
    "mapped objects",
    "make(1)",
    "make(2)",
    setup="class Base(orm.DeclarativeBase): pass\nclass U(Base):\n    __tablename__ = 'u'\n    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)\nU.__annotations__\ndef make(i): return U(id=i)",
    needless="a mapped class refers to its mapper and to all classes of its registry",
)
_sqlalchemy(
    "rows",
    "rows(1)",
    "rows(2)",
    setup="def rows(v):\n    with sa.create_engine('sqlite://').connect() as c:\n        return c.execute(sa.text(f'select {v} as a')).all()",
)
_sqlalchemy(
    "engines",
    "sa.create_engine('sqlite://')",
    "sa.create_engine('sqlite:///a')",
    needless="an engine holds locks and connections",
)

# --- what libraries hold of the user's own -----------------------------------------------------------------------

_NANS = "import struct\nother_nan = struct.unpack('d', struct.pack('Q', 0xFFF8000000000001))[0]\n"
kind(
    "arrow: which nan it is",
    f"import pyarrow as pa\n{_NANS}",
    ("pa.array([1.0, float('nan')])", "pa.array([1.0, other_nan])"),
    "pa.array([1.0, None])",
    needs="pyarrow",
)
kind(
    "arrow: which nan it is, in lists",
    f"import pyarrow as pa\n{_NANS}",
    ("pa.array([[float('nan')], []])", "pa.array([[other_nan], []])"),
    "pa.array([[float('nan'), float('nan')], []])",
    needs="pyarrow",
)
kind(
    "polars: which nan it is",
    f"import polars as pl\n{_NANS}",
    ("pl.Series([1.0, float('nan'), None])", "pl.Series([1.0, other_nan, None])"),
    "pl.Series([1.0, None, None])",
    needs="polars",
)
kind(
    "arrow: type of one's own",
    """
    import pyarrow as pa
    class Unit(pa.ExtensionType):
        def __init__(self, name):
            self.name = name
            super().__init__(pa.int8(), 'unit')
        def __arrow_ext_serialize__(self): return b''
        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized): return cls('')
    def make(name): return pa.ExtensionArray.from_storage(Unit(name), pa.array([1], pa.int8()))
    """,
    ("make('m')",),
    "make('km')",
    needs="pyarrow",
)
kind(
    "polars: column of a subclass",
    """
    import polars as pl
    class Column(pl.Series): pass
    def make(unit):
        column = Column('a', [1])
        column.unit = unit
        return column
    """,
    ("make('m')",),
    "make('km')",
    needs="polars",
)
kind(
    "polars: expression that calls a function",
    "import polars as pl\ndef f(x): return x + 1",
    ("pl.col('a').map_elements(f, return_dtype=pl.Int64)",),
    needs="polars",
    needless="it may hold no more of the function than where to find it",
)
kind(
    "pandas: array of one's own",
    """
    import decimal
    from pandas.tests.extension.decimal import DecimalArray
    class Prices(DecimalArray): pass
    def make(digits, value=1): return Prices([decimal.Decimal(value)], context=decimal.Context(prec=digits))
    """,
    ("make(3)",),
    "make(4)",
    "make(3, 2)",
    needs="pandas",
)
kind(
    "numpy: random state of a subclass",
    """
    import numpy as np
    class State(np.random.RandomState): pass
    def make(name):
        state = State(0)
        state.name = name
        return state
    """,
    ("make('a')",),
    "make('b')",
    needs="numpy",
)
kind(
    "sympy: undefined function",
    "import sympy\nx = sympy.Symbol('x')\nclass Own(sympy.Function): pass",
    ("sympy.Function('f')(x)",),
    "sympy.Function('g')(x)",
    "sympy.Function('f')(2 * x)",
    "Own(x)",
    needs="sympy",
)
kind(
    "pyrsistent: record",
    "import pyrsistent\nclass Record(pyrsistent.PRecord):\n    a = pyrsistent.field()",
    ("Record(a=1)",),
    "Record(a=2)",
    needs="pyrsistent",
)
kind(
    "sympy: function of a class of one's own",
    "import sympy\nx = sympy.Symbol('x')\nclass Own(sympy.Function):\n    is_real = True",
    ("Own(x)",),
    "Own(2 * x)",
    needs="sympy",
)
