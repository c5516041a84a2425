"""torch.nn.BatchNorm1d, 2d and 3d whose layer lives on a normd server. See normd.torch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal, Optional

import numpy as np
import torch

from normd.client import Client
from normd._content_hash import content_hash
from normd._tensors import BFLOAT16_BITS
from normd.errors import AlreadyExistsError, FailedPreconditionError
from normd.types import (Averaging, BackwardResult, Float64Array, FloatArray, Layer, LayerState, Layout, Optimizer,
                         TrainingStatistics, VarianceEstimator)

# "auto": use the layer if it exists, create it otherwise; "new": it must not exist; "existing": it must.
Create = Literal["auto", "new", "existing"]

# The dtypes that an input may have, and those that weight and bias may have then: torch's rule.
_WEIGHT_DTYPES = {torch.float32: (torch.float32,), torch.float64: (torch.float64,),
                  torch.float16: (torch.float16, torch.float32), torch.bfloat16: (torch.bfloat16, torch.float32)}

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class _Normalize(torch.autograd.Function):
    """One forward pass of a module: TrainStep or Infer, and Backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Optional[torch.Tensor],  # type: ignore[override]
                bias: Optional[torch.Tensor], learning: Optional[torch.Tensor],
                module: ServedBatchNorm) -> torch.Tensor:
        """`learning` only makes autograd call backward where the server learns gamma and beta."""
        array, layout = _to_numpy(x)
        ctx.module = module
        # Autograd refuses a backward pass after a change of what is saved. The server's own steps on gamma are no such
        # change: the forward's gamma is kept below.
        ctx.save_for_backward(x, weight if module.optimizer is None else None)
        if module._uses_batch_statistics():
            step = module._train_step(array, layout)
            ctx.statistics = {"batch_mean": step.batch_mean, "batch_var": step.batch_var}
            # The layer's gamma may change before backward: by this module's next step, or by another process.
            ctx.statistics["gamma"] = module._gamma
            assert step.y is not None
            return _to_torch(step.y, layout)
        module._push_affine()
        answer = module.client.infer(module.layer, array, layout=layout)
        ctx.statistics = {"frozen": True, "version": answer.version}
        ctx.content_hash, ctx.affine = answer.content_hash, (module._gamma, module._beta)
        return _to_torch(answer.output, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Optional[torch.Tensor], ...]:
        x, weight = ctx.saved_tensors
        module: ServedBatchNorm = ctx.module
        array, layout = _to_numpy(x)
        gradient = _elements(dy.detach().permute(*_last(dy.dim())) if layout == "channels_last" else dy.detach())
        wants_dx, wants_dgamma, wants_dbeta = ctx.needs_input_grad[:3]

        def backward() -> BackwardResult:
            return module.client.backward(module.layer, array, gradient, layout=layout, omit_dx=not wants_dx,
                                          optimizer=module.optimizer, **ctx.statistics)

        try:
            answer = backward()
        except FailedPreconditionError:
            if not ctx.statistics.get("frozen"):
                raise
            # A new version is no obstacle where only gamma and beta have changed, as they do when weight and bias
            # learn: with the forward's own, the hash must be what infer answered with.
            newest = module.client.get_layer(module.layer)
            assert newest.state is not None
            gamma, beta = ctx.affine
            state = newest.state if gamma is None else replace(newest.state, gamma=gamma, beta=beta)
            if content_hash(newest.config, state) != ctx.content_hash:
                raise
            ctx.statistics.update(version=newest.version, gamma=gamma)
            answer = backward()
        if module.optimizer is not None:
            module._adopt_affine(answer.gamma, answer.beta)
        dx = None if answer.dx is None else _to_torch(answer.dx, layout)
        dgamma = torch.as_tensor(answer.dgamma, dtype=weight.dtype) if wants_dgamma else None
        dbeta = torch.as_tensor(answer.dbeta, dtype=weight.dtype) if wants_dbeta else None
        return dx, dgamma, dbeta, None, None


class ServedBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """What the three have in common. See BatchNorm2d."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, client: Client,
                 layer: str, optimizer: Optional[Optimizer] = None, create: Create = "auto",
                 state: Optional[LayerState] = None) -> None:
        if create not in ("auto", "new", "existing"):
            raise ValueError(f"create is {create!r}, want 'auto', 'new' or 'existing'")
        if optimizer is not None and not affine:
            raise ValueError(f"layer {layer!r}: an optimizer has nothing to learn with affine=False")
        self.__dict__["_served"] = False
        super().__init__(num_features, eps, momentum, affine, track_running_stats,  # type: ignore[arg-type]
                         device, dtype)
        self.client = client
        self.layer = layer
        # Applied on the server in every backward pass; may be replaced between steps (learning rate schedules).
        self.optimizer = optimizer
        self._frozen = False
        # Version of the layer that the buffers show.
        self._version_shown = 0
        # The layer's gamma and beta as last sent or received, exactly; None without affine.
        self._gamma: Optional[Float64Array] = None
        self._beta: Optional[Float64Array] = None
        # The layer must exist and take this module's settings before anything is asked of it.
        self._adopt(self._open(create, state))
        self.__dict__["_served"] = True
        if optimizer is not None:
            self.weight.requires_grad_(False)
            self.bias.requires_grad_(False)

    # Settings that torch lets one change on a module.

    @property  # type: ignore[override]
    def momentum(self) -> Optional[float]:
        """Torch's momentum: the weight of the new batch, or None to average all batches."""
        value: Optional[float] = self.__dict__["_momentum"]
        return value

    @momentum.setter
    def momentum(self, value: Optional[float]) -> None:
        if self.__dict__["_served"] and value != self.momentum:
            if value is None or self.momentum is None:
                raise ValueError(f"layer {self.layer!r}: momentum cannot change between None and a number; "
                                 "make another layer")
            self.client.update_layer(self.layer, update_weight=value)
        self.__dict__["_momentum"] = value

    @property
    def eps(self) -> float:
        """Added to the variance before the square root."""
        value: float = self.__dict__["_eps"]
        return value

    @eps.setter
    def eps(self, value: float) -> None:
        if self.__dict__["_served"] and value != self.eps:
            self.client.update_layer(self.layer, eps=value)
        self.__dict__["_eps"] = value

    # Modes.

    def freeze(self) -> ServedBatchNorm:
        """From now on normalizes with the running statistics, and does not change them, in training mode too.

        Gradients flow as through a constant scale and shift. Gamma and beta still learn, unless their requires_grad is
        off. unfreeze() goes back.
        """
        self._frozen = True
        return self

    def unfreeze(self) -> ServedBatchNorm:
        """Ends freeze()."""
        self._frozen = False
        return self

    @property
    def frozen(self) -> bool:
        """Whether freeze() is in force."""
        return self._frozen

    def train(self, mode: bool = True) -> ServedBatchNorm:
        """As torch's; train(False), which is eval(), also brings this module and the layer to the same state."""
        super().train(mode)
        if not mode and self.__dict__["_served"]:
            self.sync()
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Normalizes a batch, (N, C, ...)."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        if input.device.type != "cpu":
            raise RuntimeError(f"layer {self.layer!r}: input is on {input.device}, want cpu: normd's modules send "
                               "their tensors to a server; call .cpu() before and .to(device) after")
        if input.dtype not in _WEIGHT_DTYPES:
            raise TypeError(f"layer {self.layer!r}: input is {input.dtype}, want one of: "
                            f"{', '.join(map(str, _WEIGHT_DTYPES))}")
        if self.weight is not None and self.weight.dtype not in _WEIGHT_DTYPES[input.dtype]:
            raise TypeError(f"layer {self.layer!r}: input is {input.dtype} and the weight {self.weight.dtype}, "
                            f"want {' or '.join(map(str, _WEIGHT_DTYPES[input.dtype]))}")
        if self._uses_batch_statistics():
            _check_batch_size(input.shape)
        learning = torch.zeros((), requires_grad=True) if self.optimizer is not None else None
        y: torch.Tensor = _Normalize.apply(input, self.weight, self.bias, learning, self)
        return y

    # State.

    def sync(self) -> None:
        """Sends weight and bias to the layer if they have changed, and fetches its newest running statistics."""
        self._push_affine()
        layer = self.client.get_layer_if_newer(self.layer, self._version_shown)
        if layer is not None:
            self._adopt_statistics(layer)

    def pull(self) -> None:
        """Overwrites everything here, weight and bias too, with what the layer has: others may have trained it."""
        self._adopt(self.client.get_layer(self.layer))

    def reset_running_stats(self) -> None:
        """As torch's, on the server."""
        if self.__dict__["_served"] and self.track_running_stats:
            self.client.reset_statistics(self.layer)
        if self.track_running_stats:
            self._buffers["running_mean"].zero_()  # type: ignore[union-attr]
            self._buffers["running_var"].fill_(1)  # type: ignore[union-attr]
            self._buffers["num_batches_tracked"].zero_()  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        if name in _BUFFERS and self.__dict__.get("_served") and self.track_running_stats:
            self.sync()
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.sync()
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any) -> None:
        # No request while the parts are written: the layer changes once, when all of them are here.
        self.__dict__["_served"] = False
        try:
            super()._load_from_state_dict(*args)  # type: ignore[no-untyped-call]
        finally:
            self.__dict__["_served"] = True
        self._push_all()

    def _apply(self, fn: Any) -> ServedBatchNorm:
        super()._apply(fn)  # type: ignore[no-untyped-call]
        tensor = next((t for t in (*self._parameters.values(), *self._buffers.values()) if t is not None), None)
        if tensor is not None and tensor.device.type not in ("cpu", "meta"):
            warnings.warn(f"layer {self.layer!r}: normd's modules take CPU tensors; on {tensor.device} their forward "
                          "raises RuntimeError", stacklevel=2)
        return self

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}, layer={self.layer!r}, "
                f"server={self.client.target!r}")

    # The rest is between this module, its autograd function and the server.

    def _uses_batch_statistics(self) -> bool:
        return (self.training and not self._frozen) or not self.track_running_stats

    def _settings(self) -> dict[str, Any]:
        """What the layer must be like, in the words of the server."""
        settings: dict[str, Any] = {
            "eps": self.eps, "affine": self.affine, "track_running_stats": self.track_running_stats,
            "running_var_estimator": VarianceEstimator.SAMPLE, "normalize_training_with": TrainingStatistics.BATCH,
            "averaging": Averaging.CUMULATIVE if self.momentum is None else Averaging.EXPONENTIAL}
        if self.momentum is not None:
            settings["update_weight"] = self.momentum
        return settings

    def _open(self, create: Create, state: Optional[LayerState]) -> Layer:
        """Creates the layer, or finds it and compares its settings. Raises ValueError if they differ."""
        if create != "existing":
            try:
                self.client.create_layer(self.layer, self.num_features, preset="pytorch", initial_state=state,
                                         **self._settings())
            except AlreadyExistsError:
                if create == "new":
                    raise
        found = self.client.get_layer(self.layer)
        wanted = {"num_channels": self.num_features, **self._settings()}
        for name, value in wanted.items():
            if getattr(found.config, name) != value:
                raise ValueError(f"layer {self.layer!r} exists with {name}={getattr(found.config, name)!r}, "
                                 f"want {value!r}")
        return found

    def _adopt(self, layer: Layer) -> None:
        assert layer.state is not None
        if self.affine:
            self._adopt_affine(layer.state.gamma, layer.state.beta)
        self._adopt_statistics(layer)

    def _adopt_statistics(self, layer: Layer) -> None:
        assert layer.state is not None
        if self.track_running_stats:
            mean, var, tracked = (self._buffers[name] for name in _BUFFERS)
            assert mean is not None and var is not None and tracked is not None
            mean.copy_(torch.from_numpy(layer.state.running_mean))
            var.copy_(torch.from_numpy(layer.state.running_var))
            tracked.fill_(layer.state.num_batches_tracked)
        self._version_shown = layer.version

    def _adopt_affine(self, gamma: Float64Array, beta: Float64Array) -> None:
        self._gamma, self._beta = gamma, beta
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(gamma))
            self.bias.copy_(torch.from_numpy(beta))

    def _changed_affine(self) -> Optional[tuple[Float64Array, Float64Array]]:
        """Weight and bias as float64 if they are not what the layer's values look like in their dtype.

        By value: `.data` and foreign optimizers change tensors without a trace, and C numbers are soon compared.
        """
        if not self.affine:
            return None
        assert self._gamma is not None and self._beta is not None
        if (torch.equal(self.weight, torch.from_numpy(self._gamma).to(self.weight.dtype))
                and torch.equal(self.bias, torch.from_numpy(self._beta).to(self.bias.dtype))):
            return None
        return doubles(self.weight), doubles(self.bias)

    def _push_affine(self) -> None:
        changed = self._changed_affine()
        if changed is not None:
            self.client.set_state(self.layer, LayerState(gamma=changed[0], beta=changed[1]))
            self._gamma, self._beta = changed

    def _train_step(self, x: FloatArray, layout: Layout) -> Any:
        # In eval mode a module without running statistics normalizes with those of its input; nothing is learned.
        skip_update = not self.training
        if skip_update:
            self._push_affine()
        changed = self._changed_affine()
        if changed is None and self.affine and self.optimizer is None and not skip_update:
            # Weight and bias are learned here: this step uses them, whatever others have stored meanwhile.
            assert self._gamma is not None and self._beta is not None
            changed = self._gamma, self._beta
        gamma, beta = changed if changed is not None else (None, None)
        step = self.client.train_step(self.layer, x, layout=layout, gamma=gamma, beta=beta, skip_update=skip_update)
        if changed is not None:
            self._gamma, self._beta = changed
        return step

    def _push_all(self) -> None:
        parts: dict[str, Any] = {}
        if self.affine:
            parts.update(gamma=doubles(self.weight), beta=doubles(self.bias))
        if self.track_running_stats:
            mean, var, tracked = (self._buffers[name] for name in _BUFFERS)
            assert tracked is not None
            parts.update(running_mean=doubles(mean), running_var=doubles(var), num_batches_tracked=int(tracked))
        if not parts:
            return
        layer = self.client.set_state(self.layer, LayerState(**parts))
        if self.affine:
            self._gamma, self._beta = parts["gamma"], parts["beta"]
        self._version_shown = layer.version


class BatchNorm2d(ServedBatchNorm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d on (N, C, H, W), whose layer lives on a normd server.

    Two ways of learning gamma and beta:

    * without `optimizer`, `weight` and `bias` are ordinary parameters: your torch optimizer moves them, and they travel
      to the layer with the next training step (in the same atomic step), before inference, and on eval() and
      state_dict();
    * with `optimizer=normd.SGD(...)` or normd.Adam, the server moves them in every backward pass, for all processes
      that train on the layer; `weight` and `bias` show the result and have requires_grad off. Their learning rate is
      `module.optimizer`'s. The gradients of a loss computed from several forward passes are applied one by one.

    Backward gives gradients in training mode, in eval() and frozen (freeze()); it can be done once per forward.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as in torch. dtype is that of weight,
            bias and the buffers; the layer itself computes in float64.
        client: the connection to the server.
        layer: the layer's name, such as "resnet50.layer1.0.bn1".
        optimizer: see above.
        create: "auto" uses the layer if it exists (its settings must be those given here) and creates it otherwise;
            "new" wants it not to exist (normd.AlreadyExistsError), "existing" wants it to (normd.NotFoundError).
            What an existing layer has learned becomes this module's state.
        state: what a layer that is created here starts with.

    Raises:
        normd.Error: the server could not do it; see normd.errors.
        ValueError: wrong rank, one value per channel in training, settings that differ from the existing layer's.
    """


class BatchNorm1d(ServedBatchNorm, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d on (N, C) or (N, C, L), whose layer lives on a normd server. See BatchNorm2d."""


class BatchNorm3d(ServedBatchNorm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d on (N, C, D, H, W), whose layer lives on a normd server. See BatchNorm2d."""


def _check_batch_size(size: torch.Size) -> None:
    """As torch, word for word."""
    if size.numel() == size[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


def doubles(tensor: Optional[torch.Tensor]) -> Float64Array:
    """A copy of its own as float64."""
    assert tensor is not None
    array: Float64Array = tensor.detach().to("cpu", torch.float64, copy=True).numpy()
    return array


def _last(rank: int) -> tuple[int, ...]:
    """The permutation that moves dimension 1 to the end."""
    return 0, *range(2, rank), 1


def _elements(x: torch.Tensor) -> FloatArray:
    """x's elements, without a copy; bfloat16, which NumPy lacks, as its bits."""
    array: FloatArray = x.view(torch.int16).numpy().view(BFLOAT16_BITS) if x.dtype == torch.bfloat16 else x.numpy()
    return array


def _to_numpy(x: torch.Tensor) -> tuple[FloatArray, Layout]:
    """x's elements, without a copy; a tensor in torch's channels_last memory format as (N, ..., C)."""
    x = x.detach()
    if x.dim() > 3 and not x.is_contiguous() and x.permute(*_last(x.dim())).is_contiguous():
        return _elements(x.permute(*_last(x.dim()))), "channels_last"
    return _elements(x), "channels_first"


def _to_torch(array: FloatArray, layout: Layout) -> torch.Tensor:
    """The tensor (N, C, ...) with the memory format that _to_numpy was given; shares the memory of `array`."""
    if layout == "channels_last":
        # In NumPy: autograd forbids to overwrite a view that a function returns, and ReLU(inplace=True) would.
        array = np.moveaxis(array, -1, 1)
    if array.dtype == BFLOAT16_BITS:
        # No such view: integers have no gradient.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
