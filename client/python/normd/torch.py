"""torch.nn.BatchNorm1d, 2d and 3d whose layer lives on a normd server.

    client = normd.Client("127.0.0.1:50051")
    bn = normd.torch.BatchNorm2d(64, client=client, layer="net.bn1")
    net = normd.torch.convert(torchvision.models.resnet50(), client, "resnet50")     # all of a network
    net = normd.torch.revert(net)                                                    # and back, to export it, say

The modules take torch's arguments, accept its inputs, raise its errors and have its state_dict; a state_dict goes from
torch.nn.BatchNorm2d into ours and back. They are instances of torch's classes. Differences that one can meet:

* Tensors are float16, bfloat16, float32 or float64 and on the CPU. The weight has the input's dtype, or is float32 with
  a 16-bit input. A module moved to another device refuses its input.
* The server refuses NaN, infinity (unless the layer's non_finite_policy says otherwise) and empty batches, with
  normd.InvalidArgumentError, and its layer has not changed then.
* Reading `running_mean`, `running_var` or `num_batches_tracked` asks the server, as do `state_dict()`, `eval()` and
  `pull()`; `named_buffers()` gives what was last fetched.
* Setting `momentum` or `eps` changes the layer on the server. momentum is torch's: the weight of the new batch.
* copy.deepcopy of a module gives a second module on the same layer.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

import torch

from normd._torch_modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, Create, ServedBatchNorm, doubles
from normd.client import Client
from normd.types import FloatArray, LayerState, Optimizer

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "convert", "revert"]

_CLASSES: tuple[tuple[type[torch.nn.modules.batchnorm._BatchNorm], type[ServedBatchNorm]], ...] = (
    (torch.nn.BatchNorm1d, BatchNorm1d), (torch.nn.BatchNorm2d, BatchNorm2d), (torch.nn.BatchNorm3d, BatchNorm3d))


def convert(module: torch.nn.Module, client: Client, prefix: str, *, optimizer: Optional[Optimizer] = None,
            create: Create = "new") -> torch.nn.Module:
    """Replaces every torch.nn.BatchNorm1d, 2d and 3d in `module` by ours; returns `module`. See also revert.

    Layers are named `prefix` + "." + the path in named_modules(), e.g. "resnet50.layer1.0.bn1". Each one starts with
    the settings, weight, bias and running statistics of the module that it replaces (which stays as it was), and its
    training mode, dtype and requires_grad. A module that stands in several places becomes one module, with one layer.
    With create "auto" or "existing", a layer that exists keeps what it has learned, and the new module takes that over.
    Batch norms that already are ours stay. If `module` itself is a batch norm, the new one is returned, and its layer
    is called `prefix`.

    Weight and bias become new parameters: make your optimizer afterwards.
    """
    def served(child: torch.nn.Module, name: str) -> torch.nn.Module:
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm) and not isinstance(child, ServedBatchNorm):
            return _served_like(child, client, name, optimizer, create)
        return child

    return _replace(module, prefix, served)


def revert(module: torch.nn.Module) -> torch.nn.Module:
    """Replaces every batch norm of ours in `module` by torch's; returns `module`. What convert did, undone.

    Each starts with what its layer has at this moment, others' training included, after weight and bias have been sent
    there if they have changed here; and with the settings, training mode, device, dtype and requires_grad of the module
    that it replaces. So a network that was trained on a server can be scripted, exported, or go on without one. The
    layers stay on the server. A module that stands in several places becomes one module. A frozen one (freeze()) is in
    eval mode afterwards, since torch's have no such state; weight and bias that the server learned have requires_grad
    on.

    Weight and bias become new parameters: make your optimizer afterwards.

    Raises:
        normd.Error: the server could not be asked. The modules that come later are as they were.
    """
    def plain(child: torch.nn.Module, name: str) -> torch.nn.Module:
        return _plain_like(child) if isinstance(child, ServedBatchNorm) else child

    return _replace(module, "", plain)


def _replace(module: torch.nn.Module, prefix: str,
             new: Callable[[torch.nn.Module, str], torch.nn.Module]) -> torch.nn.Module:
    """Puts new(child, its name) in the place of each module below `module` and of itself; asks once of each."""
    replaced: dict[int, torch.nn.Module] = {}

    def visit(child: torch.nn.Module, name: str) -> torch.nn.Module:
        if id(child) not in replaced:
            # Before its children: they may contain it.
            replaced[id(child)] = child
            replaced[id(child)] = other = new(child, name)
            if other is child:
                for key, grandchild in list(child._modules.items()):
                    if grandchild is not None:
                        child._modules[key] = visit(grandchild, f"{name}.{key}")
        return replaced[id(child)]

    return visit(module, prefix)


def _plain_like(served: ServedBatchNorm) -> torch.nn.Module:
    """One of torch's with the settings of `served` and the state of its layer."""
    kind = next(theirs for theirs, ours in _CLASSES if isinstance(served, ours))
    served.sync()
    served.pull()
    tensor = next((t for t in (*served._parameters.values(), *served._buffers.values()) if t is not None), None)
    device, dtype = (None, None) if tensor is None else (tensor.device, tensor.dtype)
    plain = kind(served.num_features, served.eps, served.momentum,  # type: ignore[arg-type]
                 served.affine, served.track_running_stats, device=device, dtype=dtype)
    with torch.no_grad():
        for name, value in served._parameters.items():
            if value is not None:
                parameter = plain._parameters[name]
                assert parameter is not None
                parameter.copy_(value)
                parameter.requires_grad_(value.requires_grad or served.optimizer is not None)
        for name, buffer in served._buffers.items():
            if buffer is not None:
                plain._buffers[name].copy_(buffer)  # type: ignore[union-attr]
    plain.train(served.training and not served.frozen)
    return plain


def _served_like(original: torch.nn.modules.batchnorm._BatchNorm, client: Client, name: str,
                 optimizer: Optional[Optimizer], create: Create) -> torch.nn.Module:
    """One of ours with the settings and the state of `original`; another kind of batch norm is returned as it is."""
    if isinstance(original, torch.nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"{name} is lazy and has not seen an input: run the model once before its layers are replaced")
    kind = next((ours for theirs, ours in _CLASSES if isinstance(original, theirs)), None)
    if kind is None:
        return original
    parts: dict[str, Union[FloatArray, int]] = {}
    if original.affine:
        parts.update(gamma=doubles(original.weight), beta=doubles(original.bias))
    if original.track_running_stats:
        assert original.num_batches_tracked is not None
        parts.update(running_mean=doubles(original.running_mean), running_var=doubles(original.running_var),
                     num_batches_tracked=int(original.num_batches_tracked))
    tensor = original.weight if original.affine else original.running_mean
    served = kind(original.num_features, original.eps, original.momentum, original.affine, original.track_running_stats,
                  dtype=None if tensor is None else tensor.dtype, client=client, layer=name,
                  optimizer=optimizer if original.affine else None, create=create,
                  state=LayerState(**parts) if parts else None)  # type: ignore[arg-type]
    if original.affine and optimizer is None:
        served.weight.requires_grad_(original.weight.requires_grad)
        served.bias.requires_grad_(original.bias.requires_grad)
    # Not train(): that would ask the server what it has just said.
    served.training = original.training
    return served
