"""Backends that run a pipeline in another process, on this machine or another one."""

from hypernodes.remote.backend import RemoteBackend

__all__ = ["RemoteBackend"]
