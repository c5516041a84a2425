"""What a call says outside its message: the layer that it is of, and the trace."""

from __future__ import annotations

import re
from typing import Any

from normd import _trace
from normd.v1 import layer_service_pb2 as pb

# The one that a proxy can send the calls of a layer to the same server by.
LAYER = "normd-layer"
# What no header may hold is no name, and the server refuses it by itself.
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# Others have the field `layer`.
_NAMED = (pb.CreateLayerRequest, pb.GetLayerRequest, pb.UpdateLayerRequest, pb.DeleteLayerRequest,
          pb.ResetStatisticsRequest, pb.SetStateRequest, pb.ForkLayerRequest)


def of(request: Any = None) -> dict[str, Any]:
    """The keyword arguments of a gRPC call for `request`, a message; None: it is of no layer, or of several."""
    layer = request.name if isinstance(request, _NAMED) else getattr(request, "layer", "")
    pairs = _trace.headers()
    if _NAME.fullmatch(layer):
        pairs = ((LAYER, layer), *pairs)
    return {"metadata": pairs} if pairs else {}
