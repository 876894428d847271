"""Files that the client uploads: kept by content, put together to trees."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.blobs import Blobs
    from hypernodes_modal.loopback.ids import Ids

_STANDALONE_PYTHON = re.compile(r"^python-build-standalone\.\d+\.(3\.\d+)")


@dataclass(eq=False)
class Mount:
    """A tree of files.

    Attributes:
        id: Its identifier.
        files: Where each file is in the container, and its content's hash.
        python_version: The version of Python that is in it, for the trees of Modal's own that hold one.
    """

    id: str
    files: list[api_pb2.MountFile] = field(default_factory=list)
    python_version: str | None = None


class Mounts:
    """Takes files and trees of files.

    Args:
        directory: Where to keep the files.
    """

    def __init__(self, ids: Ids, blobs: Blobs, directory: Path) -> None:
        self._ids = ids
        self._blobs = blobs
        self._directory = directory
        self._mounts: dict[str, Mount] = {}
        self._named: dict[str, Mount] = {}

    def get(self, mount_id: str) -> Mount:
        """Return a tree by its identifier.

        Raises:
            GRPCError: There is none.
        """
        try:
            return self._mounts[mount_id]
        except KeyError:
            raise not_found("Mount", mount_id) from None

    def content(self, sha256_hex: str) -> Path:
        """Where a file with some content is kept."""
        return self._directory / sha256_hex

    def put(self, data: bytes) -> str:
        """Keep some content, and return its hash."""
        sha256_hex = hashlib.sha256(data).hexdigest()
        path = self.content(sha256_hex)
        if not path.exists():
            path.write_bytes(data)
        return sha256_hex

    def lay_out(self, files: list[api_pb2.MountFile], root: Path, below: PurePosixPath | None = None) -> None:
        """Copy a tree into a container. Blocks.

        Args:
            files: The files.
            root: The container's root directory.
            below: Directory in the container under which to put them; the root when None.
        """
        for file in files:
            path = PurePosixPath(below or "/", file.filename.lstrip("/"))
            if ".." in path.parts:
                raise ValueError(f"a mounted file leaves its tree: {file.filename}")
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.content(file.sha256_hex), target)
            if file.mode:
                target.chmod((file.mode & 0o777) | 0o600)

    @rpc
    async def mount_batched_check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, caller: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [each for each in request.sha256_hex_hashes if not self.content(each).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @rpc
    async def mount_put_file(
        self, request: api_pb2.MountPutFileRequest, caller: Caller
    ) -> api_pb2.MountPutFileResponse:
        if request.WhichOneof("data_oneof") is None:
            return api_pb2.MountPutFileResponse(exists=self.content(request.sha256_hex).exists())
        data = self._blobs.read(request.data_blob_id) if request.data_blob_id else request.data
        if await asyncio.to_thread(self.put, data) != request.sha256_hex:
            raise GRPCError(Status.INVALID_ARGUMENT, "The content of the file does not have the hash it came with.")
        return api_pb2.MountPutFileResponse(exists=True)

    @rpc
    async def mount_get_or_create(
        self, request: api_pb2.MountGetOrCreateRequest, caller: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        name = request.deployment_name
        mount = self._named.get(name) if name else None
        if mount is None or request.files:
            mount = Mount(self._ids.new("mo"), list(request.files))
            standalone = _STANDALONE_PYTHON.match(name)
            if standalone:
                mount.python_version = standalone.group(1)
            self._mounts[mount.id] = mount
            if name:
                # Modal's own trees are looked up by name. They hold the client and interpreters, which are here anyway.
                self._named[name] = mount
        return api_pb2.MountGetOrCreateResponse(mount_id=mount.id, handle_metadata=api_pb2.MountHandleMetadata())
