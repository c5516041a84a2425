"""Batch norms of PyTorch's state_dicts and modules as layers, and back.

    report = import_state_dict(client, normd.state_files.load("resnet50.safetensors"), prefix="resnet50.")
    print(report)
    arrays = export_state_dict(client, prefix="resnet50.")
    print(export_module(client, model, prefix="resnet50."))

From the command line: python3 -m normd.state_dict import|export|inspect --help
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from normd import state_files
from normd._exporting import (Estimator, ExportedLayer, ExportReport, OnMissing, check_identity, check_size, finite_state,
                              gamma_and_beta, read_layers, remark_on_rest, variance)
from normd._importing import (Array, Found, ImportedLayer, ImportReport, NegativeVariance, OnExisting, check_prefix,
                              layer_name, store, values, variances)
from normd._security import Tls
from normd.client import Client
from normd.errors import Code, Error, NotFoundError
from normd.types import Averaging, Layer, LayerState, VarianceEstimator

__all__ = ["ExportReport", "ExportedLayer", "ImportReport", "ImportedLayer", "export_module", "export_state_dict",
           "import_module", "import_state_dict"]

_MEAN, _VAR, _BATCHES, _WEIGHT, _BIAS = "running_mean", "running_var", "num_batches_tracked", "weight", "bias"


def import_state_dict(client: Client, arrays: Mapping[str, Array], *, prefix: str = "", momentum: Optional[float] = 0.1,
                      eps: float = 1e-5, negative_variance: NegativeVariance = "error",
                      on_existing: OnExisting = "error", progress: bool = False) -> ImportReport:
    """Makes a layer of every batch norm of a state_dict: every X with X.running_mean and X.running_var.

    All of them are checked before the first layer is made. An error of the server later on leaves the layers that were
    made before it; the same call with on_existing="skip" goes on.

    Args:
        arrays: by key, as state_files.load returns them.
        prefix: put before each name: "resnet50.".
        momentum: of all the batch norms, as PyTorch means it: the weight of the new batch; None: cumulative average.
            A state_dict does not hold it.
        eps: likewise.
        negative_variance: "clamp" takes 0 for a variance below 0, which sums that were rounded can give.
        on_existing: what to do with a layer that exists: refuse, leave it alone, or overwrite its state (its settings
            stay as they are).
        progress: show how far it is, if tqdm is installed.

    Raises:
        ValueError: no batch norm, lists of different lengths, a value that is not finite, a variance below 0.
        AlreadyExistsError: a layer exists and on_existing is "error"; no layer was made.
    """
    found = [_read(arrays, key[:-len(_MEAN)], prefix, eps, momentum, negative_variance)
             for key in arrays if key == _MEAN or key.endswith(f".{_MEAN}")]
    if not found:
        raise ValueError(f"no key ends with .{_MEAN}: the state_dict holds no batch norm with running statistics")
    return store(client, found, arrays, on_existing, progress)


def import_module(client: Client, module: Any, *, prefix: str = "", negative_variance: NegativeVariance = "error",
                  on_existing: OnExisting = "error", progress: bool = False) -> ImportReport:
    """The same for a torch.nn.Module: each batch norm in it that has running statistics, with its own eps and momentum.

    The way back is export_module.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    arrays = {key: _to_numpy(value) for key, value in module.state_dict().items()}
    found = [_read(arrays, f"{name}." if name else "", prefix, one.eps, one.momentum, negative_variance)
             for name, one in module.named_modules() if isinstance(one, _BatchNorm) and one.running_mean is not None]
    if not found:
        raise ValueError("the module holds no batch norm with running statistics")
    return store(client, found, arrays, on_existing, progress)


def export_state_dict(client: Client, *, prefix: str = "", dtype: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The layers whose name starts with `prefix`, without it, under the keys of a PyTorch state_dict.

    Floating-point values are rounded to `dtype`; the server's are float64. num_batches_tracked is int64. A layer that
    was named by the prefix alone gets keys without a name. Layers without running statistics and affine have no keys.
    A state_dict holds neither eps nor momentum: export_module sets them.

    Raises:
        NotFoundError: there is no such layer.
        ValueError: a value is too large for `dtype`.
    """
    return _export(client, prefix, np.dtype(dtype))[0]


def _export(client: Client, prefix: str, dtype: np.dtype[Any]) -> tuple[dict[str, Array], ExportReport]:
    check_prefix(prefix)
    arrays: dict[str, Array] = {}
    exported = []
    # With the layer that is named by the prefix alone, whose name the prefix does not begin.
    for layer in client.list_layers(prefix[:-1], with_state=True):
        if layer.name != prefix[:-1] and not layer.name.startswith(prefix):
            continue
        written = _write(layer, layer.name[len(prefix):], dtype)
        arrays.update(written)
        remarks: list[str] = []
        if layer.config.track_running_stats:
            variance(layer, VarianceEstimator.SAMPLE, "keep", "torch", remarks)
        exported.append(_exported(layer, "a state_dict", tuple(written), None, remarks))
    if not exported:
        raise NotFoundError(Code.NOT_FOUND, f"no layer's name starts with {prefix!r}")
    return arrays, ExportReport(tuple(exported))


def export_module(client: Client, module: Any, *, prefix: str = "", estimator: Estimator = "keep",
                  on_missing: OnMissing = "error") -> ExportReport:
    """Writes layers into the batch norms of a torch.nn.Module: statistics, weight and bias, eps and momentum.

    Each batch norm takes the layer that import_module would make of it, in place and in its own dtype and device; the
    version of each layer is in the report. Everything is checked before anything is written. A layer that is not affine
    writes ones and zeros; a momentum of None is torch's cumulative average.

    Args:
        module: a torch.nn.Module; those of normd.torch, which keep their state on the server, are refused.
        prefix: put before each batch norm's name.
        estimator: "keep" leaves running_var the number that infer() normalizes with, so that eval() gives the same;
            "convert" makes it the sample variance, torch's own: exactly, by sample_count, on pooled layers; others
            whose estimator differs are refused.
        on_missing: what to do with a batch norm with running statistics and without a layer: refuse, or leave it alone.
            One without running statistics needs no layer.

    Raises:
        ValueError: no batch norm; a layer does not fit its batch norm; a value is not finite, or too large.
        NotFoundError: a layer is missing and on_missing is "error", or all are.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from normd._torch_modules import ServedBatchNorm

    modules = {layer_name(prefix, name): (name, one) for name, one in module.named_modules() if isinstance(one, _BatchNorm)}
    tracking = [name for name, (_, one) in modules.items() if one.running_mean is not None]
    if not modules:
        raise ValueError("the module holds no batch norm")
    for label, one in modules.values():
        if isinstance(one, ServedBatchNorm):
            raise ValueError(f"{label!r} is of normd.torch and keeps its state on the server, want torch's own")
        if any(torch.nn.parameter.is_lazy(value) for value in [*one.parameters(), *one.buffers()]):
            raise ValueError(f"{label!r} is not initialized yet ({type(one).__name__}): call the module once")
    layers = read_layers(client, tracking, on_missing) if tracking else {}
    for name in modules.keys() - set(tracking):
        with contextlib.suppress(NotFoundError):
            layers[name] = client.get_layer(name)
    writes: list[tuple[Any, Any]] = []
    exported = []
    for name, (label, one) in modules.items():
        if name in layers:
            remarks: list[str] = []
            tensors = _tensors_for(layers[name], label, one, estimator, remarks)
            writes += [(getattr(one, key), value) for key, value in tensors.items()]
            target = repr(label) if label else type(one).__name__
            exported.append(_exported(layers[name], target, tuple(tensors), one, remarks))
    with torch.no_grad():
        for old, new in writes:
            old.copy_(new)
    for done in exported:
        settings: Any = modules[done.name][1]
        settings.eps, settings.momentum = done.eps, done.momentum
    return ExportReport(tuple(exported), tuple(name for name in tracking if name not in layers))


def _tensors_for(layer: Layer, label: str, module: Any, estimator: Estimator, remarks: list[str]) -> dict[str, Any]:
    """New values of the batch norm's parameters and buffers, as they will be."""
    import torch

    config, state = layer.config, finite_state(layer)
    tracks = module.running_mean is not None
    if module.num_features != config.num_channels or tracks != config.track_running_stats:
        raise ValueError(f"{layer.name} has {config.num_channels} channels and track_running_stats "
                         f"{config.track_running_stats}, want {module.num_features} and {tracks} as {label!r} has")
    exact = {}
    if module.affine:
        exact[_WEIGHT], exact[_BIAS] = gamma_and_beta(layer, remarks)
    else:
        check_identity(layer, repr(label))
    if config.track_running_stats:
        exact[_MEAN] = state.running_mean
        exact[_VAR] = variance(layer, VarianceEstimator.SAMPLE, estimator, "torch", remarks)
    tensors = {}
    for key, values_ in exact.items():
        old = getattr(module, key)
        tensors[key] = torch.from_numpy(values_).to(old.dtype)
        check_size(layer, f"{label}.{key}" if label else key, values_, bool(torch.isfinite(tensors[key]).all()), old.dtype)
    if config.track_running_stats:
        tensors[_BATCHES] = torch.tensor(state.num_batches_tracked)
    return tensors


def _exported(layer: Layer, target: str, keys: tuple[str, ...], module: Any, remarks: list[str]) -> ExportedLayer:
    """What the report says, with the settings of the module that will change, if there is one."""
    config = layer.config
    # None: torch's cumulative average.
    momentum = config.update_weight
    if config.averaging is Averaging.POOLED:
        remarks.append("pooled average: torch's cumulative one counts batches, not values")
    if module is not None:
        if not config.track_running_stats:
            momentum = module.momentum
        remarks += [f"{key} {before} -> {after}" for key, before, after in
                    (("eps", module.eps, config.eps), ("momentum", module.momentum, momentum)) if before != after]
    remark_on_rest(layer, "torch", remarks)
    return ExportedLayer(layer.name, layer.version, config.num_channels, target, keys, config.eps, momentum,
                         tuple(remarks))


def _to_numpy(tensor: Any) -> Array:
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16; float32 holds it exactly.
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def _read(arrays: Mapping[str, Array], stem: str, prefix: str, eps: float, momentum: Optional[float],
          negative_variance: NegativeVariance) -> Found:
    """The batch norm whose keys start with `stem`, which is empty or ends with a dot."""
    name = layer_name(prefix, stem[:-1])
    remarks: list[str] = []
    mean = values(arrays, stem + _MEAN)
    if stem + _VAR not in arrays:
        raise ValueError(f"{stem + _MEAN} has no {stem + _VAR} beside it")
    var = variances(arrays, stem + _VAR, len(mean), negative_variance, remarks)
    keys = [stem + _MEAN, stem + _VAR]
    batches = 0
    if stem + _BATCHES in arrays:
        keys.append(stem + _BATCHES)
        value = np.asarray(arrays[stem + _BATCHES])
        if value.size != 1 or value.dtype.kind not in "iu" or value.item() < 0:
            raise ValueError(f"{stem + _BATCHES} is {value}, {value.dtype}, want one integer of 0 or more")
        batches = int(value.item())
    else:
        remarks.append(f"no {_BATCHES}, taken as 0")
    gamma = beta = np.empty(0)
    if stem + _WEIGHT in arrays or stem + _BIAS in arrays:
        for key in (stem + _WEIGHT, stem + _BIAS):
            if key in arrays:
                keys.append(key)
            else:
                remarks.append(f"no {key[len(stem):]}, taken as {1 if key.endswith(_WEIGHT) else 0}")
        gamma = values(arrays, stem + _WEIGHT, len(mean), default=1)
        beta = values(arrays, stem + _BIAS, len(mean), default=0)
    else:
        remarks.append("no weight and bias: not affine")
    state = LayerState(running_mean=mean, running_var=var, num_batches_tracked=batches, gamma=gamma, beta=beta)
    settings: dict[str, Any] = {} if momentum is not None else {"averaging": Averaging.CUMULATIVE}
    return Found(name, state, tuple(keys), eps, momentum, remarks, settings=settings)


def _write(layer: Layer, name: str, dtype: np.dtype[Any]) -> dict[str, Array]:
    assert layer.state is not None
    state = layer.state
    stem = f"{name}." if name else ""
    arrays: dict[str, Array] = {}
    if layer.config.affine:
        arrays[stem + _WEIGHT] = state.gamma
        arrays[stem + _BIAS] = state.beta
    if layer.config.track_running_stats:
        arrays[stem + _MEAN] = state.running_mean
        arrays[stem + _VAR] = state.running_var
    for key, exact in arrays.items():
        with np.errstate(over="ignore"):
            arrays[key] = exact.astype(dtype)
        if not np.array_equal(np.isfinite(arrays[key]), np.isfinite(exact)):
            raise ValueError(f"{layer.name}: {key} has values up to {np.abs(exact).max():g}, too large for {dtype}")
    if layer.config.track_running_stats:
        arrays[stem + _BATCHES] = np.asarray(state.num_batches_tracked, np.int64)
    return arrays


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m normd.state_dict", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("file", help=".npz or .safetensors")
        if name != "inspect":
            sub.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT or unix:/path (default %(default)s)")
            sub.add_argument("--tls", action="store_true", help="connect with TLS; --tls-ca and its like mean it, too")
            sub.add_argument("--tls-ca", metavar="FILE", help="PEM file of the authorities to trust")
            sub.add_argument("--tls-cert", metavar="FILE", help="PEM file of the certificate to show to the server")
            sub.add_argument("--tls-key", metavar="FILE", help="PEM file of its key")
            sub.add_argument("--tls-server-name", metavar="NAME", help="name in the server's certificate")
            sub.add_argument("--token-file", metavar="FILE", help="file with the token that says who calls")
            sub.add_argument("--prefix", default="", help="before each layer's name: resnet50.")
        return sub

    imports = command("import", "Make a layer of every batch norm of a PyTorch state_dict")
    imports.add_argument("--momentum", default="0.1", help="PyTorch's, the weight of the new batch, or none for the "
                                                           "cumulative average (default %(default)s)")
    imports.add_argument("--eps", type=float, default=1e-5, help="default %(default)s")
    imports.add_argument("--negative-variance", choices=["error", "clamp"], default="error", help="default %(default)s")
    imports.add_argument("--on-existing", choices=["error", "skip", "overwrite"], default="error",
                         help="default %(default)s")
    exports = command("export", "Write layers as a PyTorch state_dict")
    exports.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default %(default)s")
    command("inspect", "Show the arrays of a file")
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        if args.command == "inspect":
            for key, array in state_files.load(args.file).items():
                print(f"{key}  {array.dtype}  {list(array.shape)}")
            return 0
        tls = Tls(args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)
        with Client(args.target, tls=tls if args.tls or tls != Tls() else None, token_file=args.token_file) as client:
            if args.command == "export":
                arrays, report = _export(client, args.prefix, np.dtype(args.dtype))
                state_files.save(args.file, arrays)
                rounded = " (the server's float64 values, rounded)" if args.dtype == "float32" else ""
                print(f"{args.file}: {len(arrays)} arrays, {args.dtype}{rounded}\n{report}")
            else:
                momentum = None if args.momentum.lower() == "none" else float(args.momentum)
                print(import_state_dict(client, state_files.load(args.file), prefix=args.prefix, momentum=momentum,
                                        eps=args.eps, negative_variance=args.negative_variance,
                                        on_existing=args.on_existing, progress=sys.stderr.isatty()))
    except (Error, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
