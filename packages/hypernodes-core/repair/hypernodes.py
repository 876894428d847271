"""Installed beside the package `hypernodes`, which hides it until its `__init__.py` is missing: says what to do then.

PyPI has an older, separate project named `hypernodes`, which is imported under the same name. When it is uninstalled,
pip removes the files of hypernodes-core that had taken the places of its own, or the other way round.
"""

raise ImportError(
    "hypernodes-core is incomplete: files of it are missing. They went with the older, separate project 'hypernodes' "
    "of PyPI, which is imported under the same name and was uninstalled, or an installation was cut short. "
    "Run `pip uninstall hypernodes hypernodes-core`, then install hypernodes-core again as before.",
    name=__name__,
    path=__file__,
)
