"""A Modal control plane on this machine: unmodified code that uses `modal` runs against it, without an account."""

from __future__ import annotations

from hypernodes_modal.loopback.modal_loopback import ModalLoopback
from hypernodes_modal.loopback.observations import CallRecord, ContainerRecord, InputRecord, RpcRecord

__all__ = ["CallRecord", "ContainerRecord", "InputRecord", "ModalLoopback", "RpcRecord"]
