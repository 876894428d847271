"""Payloads too large for a message: uploaded and downloaded over HTTP, as from an object store."""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

VOLUME_BLOCK_BYTES = 8 * 1024 * 1024  # files in volumes travel in blocks of this size
_MAX_BLOB_BYTES = 5 * 1024**3  # what one upload to an object store may have


class Blobs:
    """Keeps blobs in files.

    Addresses are given out by remote procedure calls only, which need the token, and cannot be guessed. An upload to
    any other address is refused before its content is read, and so is one that is larger than what was announced.

    Args:
        directory: Where to keep them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runner: web.AppRunner | None = None
        self._url = ""
        self._expected: dict[str, int] = {}  # the largest size of what may be uploaded, in bytes, by its identifier

    async def start(self, host: str) -> None:
        """Listen on a free port of `host`."""
        app = web.Application(client_max_size=_MAX_BLOB_BYTES)
        app.router.add_put("/{blob_id}", self._put)
        app.router.add_get("/{blob_id}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0)
        await site.start()
        address = self._runner.addresses[0]
        shown_host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self._url = f"http://{shown_host}:{address[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def read(self, blob_id: str) -> bytes:
        """Return the content of a blob.

        Raises:
            GRPCError: There is none.
        """
        path = self._path(blob_id)
        if not path.exists():
            raise not_found("Blob", blob_id, "Was it uploaded?")
        return path.read_bytes()

    def share(self, path: Path, start: int, length: int) -> list[str]:
        """Make a part of a file available, as blocks like those of a volume, and return their addresses. Blocks."""
        urls = []
        with path.open("rb") as file:
            file.seek(start)
            end = start + length
            while (position := file.tell()) < end:
                # Blocks lie on fixed boundaries of the file, whatever part of it is asked for.
                size = min(VOLUME_BLOCK_BYTES - position % VOLUME_BLOCK_BYTES, end - position)
                blob_id = _new_id()
                self._path(blob_id).write_bytes(file.read(size))
                urls.append(f"{self._url}/{blob_id}")
        return urls

    def new_upload_url(self, max_bytes: int) -> str:
        """An address that up to so many bytes can be uploaded to."""
        return f"{self._url}/{self._expect(max_bytes)}"

    def id_from_response(self, response: bytes) -> str | None:
        """The identifier of a blob from the answer that its upload got."""
        blob_id = response.decode("ascii", "replace")
        return blob_id if blob_id and self._path(blob_id).exists() else None

    @rpc
    async def blob_create(self, request: api_pb2.BlobCreateRequest, caller: Caller) -> api_pb2.BlobCreateResponse:
        if request.content_length > _MAX_BLOB_BYTES:
            raise GRPCError(Status.INVALID_ARGUMENT, f"A blob of {request.content_length} bytes is too large.")
        blob_id = self._expect(request.content_length)
        return api_pb2.BlobCreateResponse(
            blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[f"{self._url}/{blob_id}"])
        )

    @rpc
    async def blob_get(self, request: api_pb2.BlobGetRequest, caller: Caller) -> api_pb2.BlobGetResponse:
        if not self._path(request.blob_id).exists():
            raise not_found("Blob", request.blob_id)
        return api_pb2.BlobGetResponse(download_url=f"{self._url}/{request.blob_id}")

    def _expect(self, max_bytes: int) -> str:
        blob_id = _new_id()
        self._expected[blob_id] = max_bytes
        return blob_id

    def _path(self, blob_id: str) -> Path:
        return self._directory / Path(blob_id).name

    async def _put(self, request: web.Request) -> web.Response:
        blob_id = request.match_info["blob_id"]
        max_bytes = self._expected.get(blob_id)
        if max_bytes is None:
            return web.Response(status=403, text="nothing may be uploaded here")
        if (request.content_length or 0) > max_bytes:
            return _too_large(max_bytes)
        md5 = hashlib.md5(usedforsecurity=False)
        path = self._path(blob_id)
        partial = path.with_suffix(f".{secrets.token_hex(4)}")
        size_bytes = 0
        try:
            with partial.open("wb") as file:
                async for chunk in request.content.iter_chunked(1 << 20):
                    size_bytes += len(chunk)
                    if size_bytes > max_bytes:
                        return _too_large(max_bytes)
                    md5.update(chunk)
                    file.write(chunk)
            expected = request.headers.get("Content-MD5")
            if expected and base64.b64decode(expected) != md5.digest():
                return web.Response(status=400, text="The Content-MD5 you specified did not match what we received.")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return web.Response(text=blob_id, headers={"ETag": f'"{md5.hexdigest()}"'})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request.match_info["blob_id"])
        if not path.exists():
            return web.Response(status=404, text="no such blob")
        return web.FileResponse(path)


def _too_large(max_bytes: int) -> web.Response:
    return web.Response(status=413, text=f"more than the {max_bytes} bytes that were announced")


def _new_id() -> str:
    # The identifier is all it takes to read or write a blob, so it is not to be guessed.
    return f"bl-{secrets.token_hex(16)}"
