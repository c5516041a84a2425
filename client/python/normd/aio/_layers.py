"""Client's methods on the life of layers. normd.Client's say what they do."""

from __future__ import annotations

from typing import Any, AsyncIterator, Iterable, Optional, Sequence, Union

from normd import _convert, _requests
from normd._watch import Progress
from normd.aio._connection import Caller
from normd.aio._watch import LayerWatch
from normd.presets import Preset
from normd.types import Layer, LayerChange, LayerState


class LayerCalls(Caller):
    """Makes, reads, changes, forks, watches and deletes layers."""

    # A LayerServiceStub.
    _layers: Any

    async def create_layer(self, name: str, num_channels: int, preset: Union[str, Preset] = "reference", *,
                           initial_state: Optional[LayerState] = None, request_id: Optional[str] = None,
                           timeout: Optional[float] = None, **settings: Any) -> Layer:
        """As normd.Client.create_layer."""
        request = _requests.create_layer(name, num_channels, preset, initial_state, request_id, settings)
        return _convert.from_layer((await self._call(self._layers.CreateLayer, request, timeout)).layer)

    async def get_layer(self, name: str, *, with_state: bool = True, version: int = 0,
                        timeout: Optional[float] = None) -> Layer:
        """As normd.Client.get_layer."""
        request = _requests.get_layer(name, with_state, version)
        return _convert.from_layer((await self._call(self._layers.GetLayer, request, timeout)).layer)

    async def get_layer_if_newer(self, name: str, version: int, *, timeout: Optional[float] = None) -> Optional[Layer]:
        """As normd.Client.get_layer_if_newer."""
        request = _requests.get_layer_if_newer(name, version)
        response = await self._call(self._layers.GetLayer, request, timeout)
        return None if response.not_modified else _convert.from_layer(response.layer)

    async def list_layers(self, prefix: str = "", *, with_state: bool = False, page_size: int = 100,
                          timeout: Optional[float] = None) -> AsyncIterator[Layer]:
        """As normd.Client.list_layers: `async for layer in client.list_layers()`."""
        token = ""
        while True:
            request = _requests.list_layers(prefix, with_state, page_size, token)
            response = await self._call(self._layers.ListLayers, request, timeout)
            for layer in response.layers:
                yield _convert.from_layer(layer)
            token = response.next_page_token
            if not token:
                return

    async def update_layer(self, name: str, *, etag: str = "", request_id: Optional[str] = None,
                           timeout: Optional[float] = None, **settings: Any) -> Layer:
        """As normd.Client.update_layer."""
        request = _requests.update_layer(name, etag, request_id, settings)
        return _convert.from_layer((await self._call(self._layers.UpdateLayer, request, timeout)).layer)

    async def freeze_layer(self, name: str, *, request_id: Optional[str] = None,
                           timeout: Optional[float] = None) -> Layer:
        """As normd.Client.freeze_layer."""
        return await self.update_layer(name, frozen=True, request_id=request_id, timeout=timeout)

    async def unfreeze_layer(self, name: str, *, request_id: Optional[str] = None,
                             timeout: Optional[float] = None) -> Layer:
        """As normd.Client.unfreeze_layer."""
        return await self.update_layer(name, frozen=False, request_id=request_id, timeout=timeout)

    async def fork_layer(self, name: str, new_name: str, *, version: int = 0, share_affine: bool = False,
                         reset_statistics: bool = False, request_id: Optional[str] = None,
                         timeout: Optional[float] = None) -> Layer:
        """As normd.Client.fork_layer."""
        request = _requests.fork_layer(name, new_name, version, share_affine, reset_statistics, request_id)
        return _convert.from_layer((await self._call(self._layers.ForkLayer, request, timeout)).layer)

    def watch(self, names: Union[str, Sequence[str], None] = None, *, prefix: Optional[str] = None,
              with_state: bool = True, min_interval: float = 0.0,
              known: Iterable[Union[Layer, LayerChange]] = ()) -> LayerWatch:
        """As normd.Client.watch; an asynchronous iterator.

            async with client.watch(prefix="resnet50.", min_interval=0.1) as watch:
                async for change in watch:
                    print(change.name, "is gone" if change.layer is None else change.version)
        """
        request = _requests.watch_layers(names, prefix, with_state, min_interval)
        return LayerWatch(self._connection, self._layers.WatchLayers,
                          Progress(self._connection.retry, request, known))

    async def delete_layer(self, name: str, *, etag: str = "", request_id: Optional[str] = None,
                           timeout: Optional[float] = None) -> None:
        """As normd.Client.delete_layer."""
        await self._call(self._layers.DeleteLayer, _requests.delete_layer(name, etag, request_id), timeout)

    async def reset_statistics(self, name: str, *, expected_version: int = 0, request_id: Optional[str] = None,
                               timeout: Optional[float] = None) -> Layer:
        """As normd.Client.reset_statistics."""
        request = _requests.reset_statistics(name, expected_version, request_id)
        return _convert.from_layer((await self._call(self._layers.ResetStatistics, request, timeout)).layer)

    async def set_state(self, name: str, state: LayerState, *, expected_version: int = 0,
                        reset_optimizer: bool = False, request_id: Optional[str] = None,
                        timeout: Optional[float] = None) -> Layer:
        """As normd.Client.set_state."""
        request = _requests.set_state(name, state, expected_version, reset_optimizer, request_id)
        return _convert.from_layer((await self._call(self._layers.SetState, request, timeout)).layer)
