"""`modal.Image`: builds what can be built here, and says what cannot."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.apps import IMAGE_BUILDER_VERSION
from hypernodes_modal.loopback.environments import BuildError, Environment, Environments
from hypernodes_modal.loopback.inputs import Result
from hypernodes_modal.loopback.interpreters import OWN_VERSION
from hypernodes_modal.loopback.recipes import ContentStore, Recipe, read_layer
from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.ids import Ids
    from hypernodes_modal.loopback.mounts import Mounts
    from hypernodes_modal.loopback.notices import Notices


@dataclass(eq=False)
class Image:
    """An image.

    Attributes:
        id: Its identifier.
        recipe: What is in it.
        build: Ends when it is built or cannot be.
        log: What happened on the way.
    """

    id: str
    recipe: Recipe
    build: asyncio.Task[Result]
    log: list[str] = field(default_factory=list)


class Images:
    """Builds images."""

    def __init__(self, ids: Ids, mounts: Mounts, environments: Environments, notices: Notices) -> None:
        self._notices = notices
        self._ids = ids
        self._mounts = mounts
        self._environments = environments
        self._images: dict[str, Image] = {}
        self._by_content: dict[str, Image] = {}
        self._one_at_a_time = asyncio.Lock()

    def recipe(self, image_id: str) -> Recipe:
        """What is in an image."""
        return self._get(image_id).recipe

    def environment(self, image_id: str) -> Environment:
        """The environment of an image that has been built."""
        return self._environments.get(self._get(image_id).recipe)

    @rpc
    async def image_get_or_create(
        self, request: api_pb2.ImageGetOrCreateRequest, caller: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        layer = request.image
        if layer.HasField("build_function"):
            raise GRPCError(
                Status.UNIMPLEMENTED,
                "Image.run_function is not done by the loopback control plane: it does not keep what a build step "
                "leaves in the file system. Do that work when the container starts (@modal.enter) or in a Volume.",
            )
        content = hashlib.sha256(layer.SerializeToString(deterministic=True)).hexdigest()
        image = self._by_content.get(content)
        if image is None or (image.build.done() and image.build.result().status != Result.GENERIC_STATUS_SUCCESS):
            image = self._create(layer)
            self._by_content[content] = image
        await asyncio.wait([image.build], timeout=0.2)  # mostly it is there at once
        if not image.build.done() or image.log:
            return api_pb2.ImageGetOrCreateResponse(image_id=image.id)  # the client then asks for the log
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image.id, result=image.build.result(), metadata=_metadata(image)
        )

    @rpc
    async def image_join_streaming(
        self, request: api_pb2.ImageJoinStreamingRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        image = self._get(request.image_id)
        await asyncio.wait([image.build], timeout=request.timeout or 55.0)
        sent = int(request.last_entry_id or 0)
        lines = image.log[sent:]
        yield api_pb2.ImageJoinStreamingResponse(
            task_logs=[
                api_pb2.TaskLogs(data=f"{line}\n", file_descriptor=api_pb2.FILE_DESCRIPTOR_INFO) for line in lines
            ],
            entry_id=str(sent + len(lines)),
        )
        if image.build.done():
            yield api_pb2.ImageJoinStreamingResponse(
                result=image.build.result(), metadata=_metadata(image), entry_id=str(len(image.log)), eof=True
            )

    @rpc
    async def image_from_id(self, request: api_pb2.ImageFromIdRequest, caller: Caller) -> api_pb2.ImageFromIdResponse:
        image = self._get(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=image.id, metadata=_metadata(image))

    def _create(self, layer: api_pb2.Image) -> Image:
        base = self._get(layer.base_images[0].image_id).recipe if layer.base_images else Recipe()
        context = self._mounts.get(layer.context_mount_id) if layer.context_mount_id else None
        log: list[str] = []
        problem = None
        recipe = base
        try:
            recipe = read_layer(
                base,
                layer,
                context.files if context else [],
                context.python_version if context else None,
                _Store(self._mounts),
            )
        except (ValueError, StopIteration) as error:
            problem = f"The image cannot be read: {error}"
        for notice in recipe.notices:
            if notice not in base.notices:
                self._note(notice, log)
        image = Image(
            self._ids.new("im"), recipe, asyncio.get_running_loop().create_task(self._build(recipe, problem, log)), log
        )
        self._images[image.id] = image
        return image

    async def _build(self, recipe: Recipe, problem: str | None, log: list[str]) -> Result:
        if problem is None:
            try:
                async with self._one_at_a_time:
                    await asyncio.to_thread(self._environments.get, recipe, log.append)
            except BuildError as error:
                problem = str(error)
        if problem is not None:
            return Result(status=Result.GENERIC_STATUS_FAILURE, exception=f"loopback: {problem}")
        return Result(status=Result.GENERIC_STATUS_SUCCESS)

    def _note(self, notice: str, log: list[str]) -> None:
        log.append(f"loopback: {notice}")
        self._notices.add(notice)

    def _get(self, image_id: str) -> Image:
        try:
            return self._images[image_id]
        except KeyError:
            raise not_found("Image", image_id) from None


class _Store(ContentStore):
    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts

    def put(self, data: bytes) -> str:
        return self._mounts.put(data)

    def read(self, sha256_hex: str) -> bytes:
        return self._mounts.content(sha256_hex).read_bytes()


def _metadata(image: Image) -> api_pb2.ImageMetadata:
    return api_pb2.ImageMetadata(
        python_version_info=f"Python {image.recipe.python_version or OWN_VERSION}.0",
        workdir=image.recipe.workdir,
        image_builder_version=IMAGE_BUILDER_VERSION,
    )
