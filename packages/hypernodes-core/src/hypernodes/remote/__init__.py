"""The one way out of this process: backends that run a pipeline in another one, near or far."""

from hypernodes.remote.backend import RemoteBackend

__all__ = ["RemoteBackend"]
