"""`modal.Volume`: each container has a private copy; commit publishes what it changed, reload takes what others did."""

from __future__ import annotations

import asyncio
import filecmp
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.blobs import VOLUME_BLOCK_BYTES
from hypernodes_modal.loopback.named_objects import NamedObjects
from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.blobs import Blobs
    from hypernodes_modal.loopback.containers import Container
    from hypernodes_modal.loopback.ids import Ids

Snapshot = dict[str, tuple[int, int]]  # relative path: (size in bytes, time of change in ns)


@dataclass(eq=False)
class Volume:
    """A volume.

    Attributes:
        id: Its identifier.
        name: What it is called; empty for an ephemeral one.
        directory: Where its committed files are.
        lock: Held while files are copied.
    """

    id: str
    name: str
    directory: Path
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Volumes:
    """Serves volumes.

    Args:
        directory: Where to keep their files.
    """

    def __init__(self, ids: Ids, blobs: Blobs, directory: Path) -> None:
        self._blobs = blobs
        self._directory = directory
        self._volumes = NamedObjects("Volume", lambda name: self._make(ids.new("vo"), name))
        self._seen: dict[tuple[str, str], Snapshot] = {}

    async def attach(self, container: Container) -> None:
        """Give a container its private copies."""
        for mount in container.function.definition.volume_mounts:
            volume = self._volumes.get(mount.volume_id)
            target = _place(container, mount)
            async with volume.lock:
                await asyncio.to_thread(shutil.copytree, _source(volume, mount), target, symlinks=True)
            self._seen[container.id, volume.id] = await asyncio.to_thread(_snapshot, target)

    def detach(self, container: Container) -> None:
        """Forget about a container that has ended. What it did not commit is lost."""
        for mount in container.function.definition.volume_mounts:
            self._seen.pop((container.id, mount.volume_id), None)

    @rpc
    async def volume_get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        volume = self._volumes.get_or_create(request.deployment_name, request.object_creation_type)
        version = api_pb2.VOLUME_FS_VERSION_V2
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.id,
            version=version,
            metadata=api_pb2.VolumeMetadata(version=version, name=volume.name),
        )

    @rpc
    async def volume_heartbeat(self, request: api_pb2.VolumeHeartbeatRequest, caller: Caller) -> Empty:
        self._volumes.heartbeat(request.volume_id)
        return Empty()

    @rpc
    async def volume_delete(self, request: api_pb2.VolumeDeleteRequest, caller: Caller) -> Empty:
        volume = self._volumes.delete(request.volume_id)
        await asyncio.to_thread(shutil.rmtree, volume.directory)
        return Empty()

    @rpc
    async def volume_commit(self, request: api_pb2.VolumeCommitRequest, caller: Caller) -> api_pb2.VolumeCommitResponse:
        container, volume = caller.inside, self._volumes.get(request.volume_id)
        mount = _mount_of(container, volume)
        if mount.read_only:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Volume {volume.name!r} is mounted read-only.")
        place = _place(container, mount)
        async with volume.lock:
            seen = self._seen.get((container.id, volume.id), {})
            now = await asyncio.to_thread(_publish, place, _source(volume, mount), seen)
            self._seen[container.id, volume.id] = now
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    @rpc
    async def volume_reload(self, request: api_pb2.VolumeReloadRequest, caller: Caller) -> Empty:
        container, volume = caller.inside, self._volumes.get(request.volume_id)
        mount = _mount_of(container, volume)
        place = _place(container, mount)
        async with volume.lock:
            await asyncio.to_thread(_refresh, _source(volume, mount), place)
            self._seen[container.id, volume.id] = await asyncio.to_thread(_snapshot, place)
        return Empty()

    @rpc
    async def volume_list_files2(
        self, request: api_pb2.VolumeListFiles2Request, caller: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        volume = self._volumes.get(request.volume_id)
        start = _inside(volume, request.path)
        if not start.exists():
            raise not_found("Path", request.path, f"It is not in volume {volume.name or volume.id!r}.")
        below = start.rglob("*") if request.recursive else start.iterdir()
        found = [start] if start.is_file() else sorted(below)
        entries = [
            api_pb2.FileEntry(
                path=str(path.relative_to(volume.directory)),
                type=api_pb2.FileEntry.FileType.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FileType.FILE,
                mtime=int(path.stat().st_mtime),
                size=path.stat().st_size,
            )
            for path in found
        ]
        yield api_pb2.VolumeListFiles2Response(entries=entries[: request.max_entries or None])

    @rpc
    async def volume_get_file2(
        self, request: api_pb2.VolumeGetFile2Request, caller: Caller
    ) -> api_pb2.VolumeGetFile2Response:
        volume = self._volumes.get(request.volume_id)
        path = _inside(volume, request.path)
        if not path.is_file():
            raise not_found("File", request.path, f"It is not in volume {volume.name or volume.id!r}.")
        size = path.stat().st_size
        length = min(request.len or size, size - request.start)
        urls = await asyncio.to_thread(self._blobs.share, path, request.start, length)
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=request.start, len=length)

    @rpc
    async def volume_put_files2(
        self, request: api_pb2.VolumePutFiles2Request, caller: Caller
    ) -> api_pb2.VolumePutFiles2Response:
        volume = self._volumes.get(request.volume_id)
        reply = api_pb2.VolumePutFiles2Response()
        answers: list[list[str]] = []
        for file_index, file in enumerate(request.files):
            if request.disallow_overwrite_existing_files and _inside(volume, file.path).exists():
                raise GRPCError(Status.ALREADY_EXISTS, f"{file.path}: already exists")
            answers.append([])
            for block_index, block in enumerate(file.blocks):
                blob_id = self._blobs.id_from_response(block.put_response)
                if blob_id is None:
                    put_url = self._blobs.new_upload_url(VOLUME_BLOCK_BYTES)
                    reply.missing_blocks.add(file_index=file_index, block_index=block_index, put_url=put_url)
                else:
                    answers[-1].append(blob_id)
        if not reply.missing_blocks:
            async with volume.lock:
                for file, blob_ids in zip(request.files, answers, strict=True):
                    target = _inside(volume, file.path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as opened:
                        for blob_id in blob_ids:
                            opened.write(self._blobs.read(blob_id))
                        opened.truncate(file.size)
                    if file.mode:
                        target.chmod((file.mode & 0o777) | 0o600)
        return reply

    @rpc
    async def volume_remove_file2(self, request: api_pb2.VolumeRemoveFile2Request, caller: Caller) -> Empty:
        volume = self._volumes.get(request.volume_id)
        path = _inside(volume, request.path)
        if not path.exists():
            raise not_found("Path", request.path)
        async with volume.lock:
            if path.is_dir():
                if not request.recursive:
                    raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path} is a directory: pass recursive=True.")
                await asyncio.to_thread(shutil.rmtree, path)
            else:
                path.unlink()
        return Empty()

    def _make(self, volume_id: str, name: str) -> Volume:
        directory = self._directory / volume_id
        directory.mkdir(parents=True)
        return Volume(volume_id, name, directory)


def _mount_of(container: Container, volume: Volume) -> api_pb2.VolumeMount:
    for mount in container.function.definition.volume_mounts:
        if mount.volume_id == volume.id:
            return mount
    raise GRPCError(
        Status.FAILED_PRECONDITION, f"Volume {volume.name or volume.id!r} is not mounted in container {container.id}."
    )


def _place(container: Container, mount: api_pb2.VolumeMount) -> Path:
    return container.root / PurePosixPath(mount.mount_path).relative_to("/")


def _source(volume: Volume, mount: api_pb2.VolumeMount) -> Path:
    source = _inside(volume, mount.sub_path)
    source.mkdir(parents=True, exist_ok=True)
    return source


def _inside(volume: Volume, path: str) -> Path:
    relative = PurePosixPath("/", path).relative_to("/")
    if ".." in relative.parts:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{path} leaves the volume.")
    return volume.directory / relative


def _snapshot(directory: Path) -> Snapshot:
    found: Snapshot = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[os.path.relpath(path, directory)] = (status.st_size, status.st_mtime_ns)
    return found


def _publish(private: Path, committed: Path, seen: Snapshot) -> Snapshot:
    """Copy what changed since `seen`, and remove what is gone; the last to commit a file wins."""
    now = _snapshot(private)
    for path, stamp in now.items():
        if seen.get(path) != stamp:
            _replace(private / path, committed / path)
    for path in seen.keys() - now.keys():
        (committed / path).unlink(missing_ok=True)
    for folder, _, _ in os.walk(private):
        (committed / os.path.relpath(folder, private)).mkdir(parents=True, exist_ok=True)
    return now


def _refresh(committed: Path, private: Path) -> None:
    """Make a private copy like what is committed."""
    wanted = _snapshot(committed)
    for path in _snapshot(private).keys() - wanted.keys():
        (private / path).unlink()
    for path in wanted:
        source, target = committed / path, private / path
        if not target.exists() or not filecmp.cmp(source, target, shallow=True):
            _replace(source, target)
    for folder, _, _ in os.walk(committed):
        (private / os.path.relpath(folder, committed)).mkdir(parents=True, exist_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Copy a file so that whoever has the old one open keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copy2(source, partial, follow_symlinks=False)
    os.replace(partial, target)
