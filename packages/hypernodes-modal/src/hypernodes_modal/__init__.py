"""HyperNodes on Modal: run whole pipelines in a Modal container, and try that without an account.

`hypernodes_modal.loopback` holds a Modal control plane on this machine, for tests and for trying things out.
"""

from __future__ import annotations
