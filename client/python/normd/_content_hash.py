"""The hash that every answer names, computed here."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np

from normd.types import LayerConfig, LayerState


def content_hash(config: LayerConfig, state: LayerState) -> str:
    """Layer.content_hash of a layer with these settings and this state: lower-case hex SHA-256.

    Of everything that inference depends on, little-endian: "normd.v1"; int64 num_channels; float64 eps; float64 clip
    (infinity: none); uint8 track_running_stats; uint8 affine; float64 running_mean and running_var, if tracked; float64
    gamma and beta, if affine. With it one can check that a checkpoint is what a server answered with.
    """
    clip = math.inf if config.clip is None else config.clip
    digest = hashlib.sha256(b"normd.v1" + struct.pack("<qdd??", config.num_channels, config.eps, clip,
                                                      config.track_running_stats, config.affine))
    parts = (state.running_mean, state.running_var) if config.track_running_stats else ()
    parts += (state.gamma, state.beta) if config.affine else ()
    for part in parts:
        digest.update(np.asarray(part, "<f8").tobytes())
    return digest.hexdigest()
