"""The messages of the calls that carry no tensors: what they ask, apart from how it gets to the server."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Union

from google.protobuf.field_mask_pb2 import FieldMask

from normd import _calls, _convert
from normd.moments import Moments
from normd.presets import Preset
from normd.types import LayerState
from normd.v1 import layer_service_pb2 as layers_pb
from normd.v1 import normalization_service_pb2, resources_pb2
from normd.v1 import snapshot_service_pb2 as snapshots_pb


def create_layer(name: str, num_channels: int, preset: Union[str, Preset], initial_state: Optional[LayerState],
                 request_id: Optional[str], settings: dict[str, Any]) -> Any:
    """See Client.create_layer."""
    if isinstance(preset, Preset):
        settings = {**preset.settings, **settings}
        preset = preset.name
    return layers_pb.CreateLayerRequest(
        name=name, config=_convert.to_config(num_channels, settings), preset=preset,
        initial_state=None if initial_state is None else _convert.to_state(initial_state),
        request_id=_calls.request_id(request_id))


def get_layer(name: str, with_state: bool, version: int) -> Any:
    """See Client.get_layer."""
    return layers_pb.GetLayerRequest(name=name, view=_view(with_state), version=version)


def get_layer_if_newer(name: str, version: int) -> Any:
    """See Client.get_layer_if_newer."""
    return layers_pb.GetLayerRequest(name=name, view=_view(True), if_newer_than=version)


def list_layers(prefix: str, with_state: bool, page_size: int, page_token: str) -> Any:
    """See Client.list_layers; for one page."""
    return layers_pb.ListLayersRequest(prefix=prefix, page_size=page_size, page_token=page_token,
                                       view=_view(with_state))


def update_layer(name: str, etag: str, request_id: Optional[str], settings: dict[str, Any]) -> Any:
    """See Client.update_layer."""
    return layers_pb.UpdateLayerRequest(
        name=name, config=_convert.to_config(None, settings), update_mask=FieldMask(paths=list(settings)),
        etag=etag, request_id=_calls.request_id(request_id))


def fork_layer(name: str, new_name: str, version: int, share_affine: bool, reset_statistics: bool,
               request_id: Optional[str]) -> Any:
    """See Client.fork_layer."""
    return layers_pb.ForkLayerRequest(
        name=name, new_name=new_name, version=version, share_affine=share_affine,
        reset_statistics=reset_statistics, request_id=_calls.request_id(request_id))


def watch_layers(names: Union[str, Sequence[str], None], prefix: Optional[str], with_state: bool,
                 min_interval: float) -> Any:
    """See Client.watch; without what is known."""
    if (names is None) == (prefix is None):
        raise ValueError("want names or a prefix to watch (prefix=\"\": all layers), and not both")
    names = [names] if isinstance(names, str) else list(names or ())
    if prefix is None and not names:
        raise ValueError("there are no names to watch")
    if not 0 <= min_interval <= 3600:
        raise ValueError(f"min_interval is {min_interval!r}, want seconds from 0 to 3600")
    request = layers_pb.WatchLayersRequest(names=names, prefix=prefix or "", view=_view(with_state))
    request.min_interval.FromNanoseconds(round(min_interval * 1e9))
    return request


def delete_layer(name: str, etag: str, request_id: Optional[str]) -> Any:
    """See Client.delete_layer."""
    return layers_pb.DeleteLayerRequest(name=name, etag=etag, request_id=_calls.request_id(request_id))


def reset_statistics(name: str, expected_version: int, request_id: Optional[str]) -> Any:
    """See Client.reset_statistics."""
    return layers_pb.ResetStatisticsRequest(name=name, expected_version=expected_version,
                                            request_id=_calls.request_id(request_id))


def set_state(name: str, state: LayerState, expected_version: int, reset_optimizer: bool,
              request_id: Optional[str]) -> Any:
    """See Client.set_state."""
    return layers_pb.SetStateRequest(
        name=name, state=_convert.to_state(state), expected_version=expected_version,
        reset_optimizer=reset_optimizer, request_id=_calls.request_id(request_id))


def merge_moments(layer: str, moments: Moments, contributor: str, sequence: int, request_id: Optional[str]) -> Any:
    """See Client.merge_moments."""
    return normalization_service_pb2.MergeMomentsRequest(
        layer=layer, moments=_convert.to_moments(moments), contributor=contributor, sequence=sequence,
        request_id=_calls.request_id(request_id))


def create_snapshot(name: str, layer: str, prefix: str, request_id: Optional[str]) -> Any:
    """See Client.create_snapshot."""
    return snapshots_pb.CreateSnapshotRequest(name=name, layer=layer, prefix=prefix,
                                              request_id=_calls.request_id(request_id))


def list_snapshots(prefix: str) -> Any:
    """See Client.list_snapshots."""
    return snapshots_pb.ListSnapshotsRequest(prefix=prefix)


def selection(layer: str, prefix: str, new_name: Optional[str]) -> Any:
    """What Client.restore_snapshot and restore_backup bring back."""
    return snapshots_pb.RestoreSelection(layer=layer, prefix=prefix, new_name=new_name)


def restore_snapshot(name: str, layer: str, prefix: str, new_name: Optional[str], request_id: Optional[str]) -> Any:
    """See Client.restore_snapshot."""
    return snapshots_pb.RestoreSnapshotRequest(name=name, selection=selection(layer, prefix, new_name),
                                               request_id=_calls.request_id(request_id))


def delete_snapshot(name: str, request_id: Optional[str]) -> Any:
    """See Client.delete_snapshot."""
    return snapshots_pb.DeleteSnapshotRequest(name=name, request_id=_calls.request_id(request_id))


def _view(with_state: bool) -> int:
    return int(resources_pb2.LAYER_VIEW_STATE if with_state else resources_pb2.LAYER_VIEW_CONFIG)
