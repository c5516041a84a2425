"""Cases that others have written for batch normalization, run on a server, all but the ones in EXCEPTIONS.

PyTorch's OpInfo samples and module cases and scikit-learn's tests come with Debian's packages, ONNX's with
libonnx-testdata; Keras's numbers are written out here. A case that a newer package brings runs by itself, or fails.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
import sys
import types
import unittest
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import numpy as np
import onnx
import onnx.backend.test
import pytest
import torch
from sklearn.utils.tests import test_extmath

import normd
import normd.torch
from onnx_backend import Backend


class NotRun(NamedTuple):
    """Why a case does not run, and what comes of it if it is tried; None: there is nothing to try."""

    reason: str
    error: Optional[type[Exception]] = None


EMPTY = NotRun("a batch without values is refused: it has no statistics, and nothing to normalize",
               normd.InvalidArgumentError)
RANK_1 = NotRun("a tensor of rank 1 has no channels", normd.InvalidArgumentError)
NEGATIVE = NotRun("a momentum below 0 is no weight: the variance could become negative", normd.InvalidArgumentError)
LAST_DIGITS = NotRun("it wants 14 digits of a mean after 5000 merges of one row, each of which rounds; 12 are left. The "
                     "variance, which it is about, is checked in test_sklearns_stability", AssertionError)
WEIGHTS = NotRun("samples have no weights: the API counts them")
RENORM = NotRun("batch renormalization is another operator")
KERAS_API = NotRun("about Keras's own classes: weights, serialization, regularizers")

EXCEPTIONS = {
    "OpInfo nn.functional.batch_norm 3": RANK_1,
    "OpInfo nn.functional.batch_norm 4": RANK_1,
    "OpInfo nn.functional.batch_norm 5": NEGATIVE,
    "OpInfo native_batch_norm 3": NEGATIVE,
    "new_module_tests BatchNorm1d zero_batch": EMPTY,
    "new_module_tests BatchNorm2d zero_batch": EMPTY,
    "new_module_tests BatchNorm3d zero_batch": EMPTY,
    "sklearn test_incremental_variance_numerical_stability": LAST_DIGITS,
    "sklearn test_incremental_weighted_mean_and_variance": WEIGHTS,
    "sklearn test_incremental_weighted_mean_and_variance_ignore_nan": WEIGHTS,
    "sklearn test_incremental_weighted_mean_and_variance_simple": WEIGHTS,
    "keras test_bn_basics": KERAS_API,
    "keras test_input_fully_masked": EMPTY,
    "keras test_renorm_basics": RENORM,
    "keras test_renorm_invalid_clipping_keys": RENORM,
    "keras test_renorm_stddev_initializer": RENORM,
    "keras test_renorm_inference": RENORM,
    "keras test_renorm_correctness": RENORM,
    "keras test_serialization": KERAS_API,
}


def tried(case: str) -> Any:
    """A context in which the case runs: it passes, or fails as EXCEPTIONS says."""
    if case not in EXCEPTIONS:
        return contextlib.nullcontext()
    error = EXCEPTIONS[case].error
    if error is None:
        pytest.skip(EXCEPTIONS[case].reason)
    return pytest.raises(error)


# PyTorch. It imports a package that Debian does not have, for a base class.


def _import_torch_cases() -> tuple[Any, Any, Any]:
    expecttest = types.ModuleType("expecttest")
    expecttest.ACCEPT, expecttest.TestCase = False, type("TestCase", (unittest.TestCase,), {})
    with pytest.MonkeyPatch.context() as patch:
        if "expecttest" not in sys.modules:
            patch.setitem(sys.modules, "expecttest", expecttest)
        # It reads the command line.
        patch.setattr(sys, "argv", ["test"])
        from torch.testing._internal import common_methods_invocations, common_modules, common_nn
    return common_methods_invocations, common_modules, common_nn


METHODS, MODULES, NN = _import_torch_cases()
OPS = {op.name: op for op in METHODS.op_db if "batch_norm" in op.name and not op.variant_test_name}
# Error of our results against float64.
TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 2e-6, "atol": 2e-6},
             torch.bfloat16: {"rtol": 2.0**-7, "atol": 2.0**-7}}
MODULE_CLASSES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}


def op_cases() -> Iterator[Any]:
    for name, op in OPS.items():
        for dtype in sorted(op.dtypes, key=str):
            for number in range(count_of(name)):
                yield pytest.param(name, dtype, number, id=f"{name}-{dtype}-{number}".replace("torch.", ""))


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(17)
    return list(OPS[name].sample_inputs("cpu", dtype, requires_grad=True))


def count_of(name: str) -> int:
    return len(samples(name, torch.float32))


def close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want.double(), **TOLERANCE[dtype])


@pytest.mark.parametrize("name, dtype, number", op_cases())
def test_op_info(client: normd.Client, layer: str, name: str, dtype: torch.dtype, number: int) -> None:
    """Forward, backward and running statistics, beside PyTorch's own operator in float64 on the same values."""
    sample = samples(name, dtype)[number]
    given = (sample.input, *sample.args)
    if name == "native_batch_norm":
        x, weight, bias, mean, var, training, momentum, eps = given
    else:
        (x, mean, var, weight, bias), options = given, sample.kwargs
        training, momentum, eps = options.get("training", False), options.get("momentum", 0.1), options.get("eps", 1e-5)
    with tried(f"OpInfo {name} {number}"):
        if x.dim() < 2:
            # No module takes it; neither does the server.
            client.create_layer(layer, 1)
            client.train_step(layer, x.detach().double().numpy())
        exact = [None if t is None else t.detach().double().clone() for t in (x, mean, var, weight, bias)]
        for tensor in (exact[0], exact[3], exact[4]):
            if tensor is not None:
                tensor.requires_grad_()
        want = torch.nn.functional.batch_norm(*exact, training, momentum, eps)
        dy = torch.randn(x.shape, dtype=torch.float64).to(dtype)
        want.backward(dy.double())

        # In eval mode momentum plays no part, and PyTorch takes any.
        module = getattr(normd.torch, MODULE_CLASSES[x.dim()])(
            x.shape[1], eps, momentum if training else 0.1, weight is not None, mean is not None, dtype=dtype,
            client=client, layer=layer, state=state_of(mean, var, weight, bias))
        module.training = training
        x = x.detach().clone().requires_grad_()
        y = module(x)
        y.backward(dy)
        close(y, want, dtype)
        close(x.grad, exact[0].grad, dtype)
        if weight is not None:
            close(module.weight.grad, exact[3].grad, dtype)
            close(module.bias.grad, exact[4].grad, dtype)
        if mean is not None:
            close(module.running_mean, exact[1], dtype)
            close(module.running_var, exact[2], dtype)
        if name == "native_batch_norm" and training:
            _, saved_mean, saved_inv_std = torch.native_batch_norm(
                *(None if t is None else t.detach() for t in (exact[0], exact[3], exact[4], exact[1], exact[2])),
                training, momentum, eps)
            step = client.train_step(layer, x.detach().double().numpy(), skip_update=True)
            np.testing.assert_allclose(step.batch_mean, saved_mean, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(1 / np.sqrt(step.batch_var + eps), saved_inv_std, rtol=1e-12)


def state_of(mean: Optional[torch.Tensor], var: Optional[torch.Tensor], weight: Optional[torch.Tensor],
             bias: Optional[torch.Tensor]) -> normd.LayerState:
    parts = {"running_mean": mean, "running_var": var, "gamma": weight, "beta": bias}
    return normd.LayerState(**{name: value.detach().double().numpy() for name, value in parts.items()
                               if value is not None})


def module_cases() -> Iterator[tuple[str, str, tuple[Any, ...], tuple[int, ...]]]:
    """Name, class, arguments and shape of the input."""
    for case in (*NN.module_tests, *NN.new_module_tests):
        kind = case.get("module_name", "")
        if "BatchNorm" in kind or "BatchNorm" in case.get("fullname", ""):
            yield (f"new_module_tests {kind} {case.get('desc', 'plain')}", kind, case["constructor_args"],
                   case["input_size"])
    for info in MODULES.module_db:
        kind = info.module_cls.__name__
        if "BatchNorm" in kind:
            for number, inputs in enumerate(info.module_inputs_func(info, "cpu", torch.float64, False, training=True)):
                x, = inputs.forward_input.args
                assert not inputs.constructor_input.kwargs
                yield f"module_db {kind} {number}", kind, inputs.constructor_input.args, tuple(x.shape)


@pytest.mark.parametrize("name, kind, arguments, shape", [pytest.param(*case, id=case[0].replace(" ", "-"))
                                                          for case in module_cases()])
def test_modules(client: normd.Client, layer: str, name: str, kind: str, arguments: tuple[Any, ...],
                 shape: tuple[int, ...]) -> None:
    """In training and eval mode, beside torch's module; and gradcheck, which asks no torch."""
    torch.manual_seed(23)
    theirs = getattr(torch.nn, kind)(*arguments).double()
    for parameter in theirs.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 2)
    with tried(name):
        ours = normd.torch.convert(copy.deepcopy(theirs), client, layer)
        for training in (True, False, True):
            theirs.train(training), ours.train(training)
            xs = [torch.randn(shape, dtype=torch.float64, requires_grad=True)]
            xs.append(xs[0].detach().clone().requires_grad_())
            dy = torch.randn(shape, dtype=torch.float64)
            ys = [module(x) for module, x in zip((theirs, ours), xs)]
            for module, y in zip((theirs, ours), ys):
                module.zero_grad()
                y.backward(dy)
            close(ys[1], ys[0], torch.float64)
            close(xs[1].grad, xs[0].grad, torch.float64)
            for got, want in zip(ours.parameters(), theirs.parameters()):
                close(got.grad, want.grad, torch.float64)
            for got, want in zip(ours.state_dict().values(), theirs.state_dict().values()):
                torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)
            assert torch.autograd.gradcheck(ours, xs[1].detach()[:3].requires_grad_(), fast_mode=True)
            # gradcheck has trained our layer, too.
            ours.load_state_dict(theirs.state_dict())


def test_torchs_cases_are_all_there() -> None:
    """As of PyTorch 1.13.1."""
    assert set(OPS) == {"native_batch_norm", "nn.functional.batch_norm"}
    assert {name: count_of(name) for name in OPS} == {"native_batch_norm": 10, "nn.functional.batch_norm": 12}
    assert all(op.dtypes == {torch.float32, torch.float64, torch.bfloat16} for op in OPS.values())
    names = [name for name, *_ in module_cases()]
    assert len(names) == len(set(names)) == 21


# ONNX.

ONNX_DATA = Path("/usr/share/libonnx-testdata/data")


@pytest.fixture(scope="module")
def onnx_tests() -> Iterator[dict[str, unittest.TestCase]]:
    """The runner's tests on the CPU, by name."""
    with pytest.MonkeyPatch.context() as patch:
        if "object" not in vars(np):
            # NumPy 1.24 has no such name any more, and the runner compares with it.
            patch.setitem(vars(np), "object", object)
        classes = onnx.backend.test.BackendTest(Backend, __name__).test_cases.values()
        yield {name.removesuffix("_cpu"): kind(name) for kind in classes for name in dir(kind) if name.endswith("_cpu")}


def onnx_models() -> list[str]:
    """The runner's names of the models that hold nothing but a BatchNormalization."""
    return [folder.name for kind in ("node", "simple", "pytorch-converted", "pytorch-operator")
            for folder in sorted((ONNX_DATA / kind).iterdir())
            if b"BatchNormalization" in (folder / "model.onnx").read_bytes()
            and Backend.is_compatible(onnx.load(folder / "model.onnx"))]


@pytest.mark.parametrize("name", onnx_models())
def test_onnx_backend(client: normd.Client, layer: str, onnx_tests: dict[str, unittest.TestCase], name: str) -> None:
    """ONNX's own runner, with its own comparison."""
    Backend.client, Backend.layer = client, layer
    result = unittest.TestResult()
    onnx_tests[name].run(result)
    assert result.testsRun == 1 and not result.skipped
    assert result.wasSuccessful(), (result.failures + result.errors)[0][1]


def test_onnxs_cases_are_all_there(onnx_tests: dict[str, unittest.TestCase]) -> None:
    """As of ONNX 1.12: those that hold nothing else are those that are called so."""
    names = onnx_models()
    assert len(names) == 9
    assert {name for name in onnx_tests if re.match("test_batch_?norm", name, re.I)} == set(names)


# scikit-learn: its tests, with a pooled layer in the place of the function that they test.

SKLEARN = sorted(name for name in dir(test_extmath) if re.match("test_incremental_", name))


class Pooled:
    """scikit-learn's _incremental_mean_and_var, by MergeMoments."""

    def __init__(self, client: normd.Client, layer: str) -> None:
        self.client, self.layer, self.layers, self.calls = client, layer, 0, 0
        self.last: tuple[Any, ...] = ()

    def __call__(self, rows: Any, mean: Any, var: Any, count: Any) -> tuple[Any, Any, Any]:
        self.calls += 1
        if not (self.last and all(a is b for a, b in zip(self.last, (mean, var, count)))):
            # Statistics from elsewhere: a layer that starts with them.
            self.layers += 1
            self.client.create_layer(f"{self.layer}.{self.layers}", rows.shape[1], "standard_scaler",
                                     initial_state=normd.LayerState(running_mean=mean, running_var=var,
                                                                    sample_count=count))
        moments = normd.Moments.of_rows(rows)
        # NaN is a missing value: not told, it is left out, and not refused.
        moments = normd.Moments(moments.count, moments.mean, moments.m2)
        merged = self.client.merge_moments(f"{self.layer}.{self.layers}", moments)
        self.last = merged.running_mean, merged.running_var, merged.sample_count
        return self.last


@pytest.mark.parametrize("name", SKLEARN)
def test_sklearn(client: normd.Client, layer: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with tried(f"sklearn {name}"):
        served = Pooled(client, layer)
        monkeypatch.setattr(test_extmath, "_incremental_mean_and_var", served)
        getattr(test_extmath, name)()
        assert served.calls > 0


def test_sklearns_stability(client: normd.Client, layer: str) -> None:
    """Half of the rows 1e8, the others log(1e-5), one at a time: naive formulas miss the variance by 400 and more."""
    served, count = Pooled(client, layer), 5000
    far, near = np.full(2, 1e8), np.full((1, 2), np.log(1e-5))
    statistics: tuple[Any, ...] = (far, np.zeros(2), np.full(2, count))
    for _ in range(count):
        statistics = served(near, *statistics)
    mean, var, counted = statistics
    assert counted.tolist() == [2 * count] * 2
    np.testing.assert_allclose(mean, (far + near[0]) / 2, rtol=1e-12)
    assert np.abs(var - ((far - near[0]) / 2) ** 2).max() < 200


def test_sklearns_cases_are_all_there() -> None:
    """As of scikit-learn 1.2."""
    assert len(SKLEARN) == 7


# Keras 3's batch_normalization_test.py, by the names of its tests: the numbers and what they must be.


def keras_correctness(client: normd.Client, layer: str) -> None:
    """With momentum 0 the statistics are those of the last batch; inference is training then."""
    rng = np.random.default_rng(0)
    cases = itertools.product(("channels_first", "channels_last"), ((5, 2, 3), (5, 3, 3, 2)), (0.0, 1.0))
    for number, (layout, shape, start) in enumerate(cases):
        name = f"{layer}.{number}"
        axis = 1 if layout == "channels_first" else len(shape) - 1
        channels = shape[axis]
        state = normd.LayerState(running_mean=np.full(channels, start), running_var=np.full(channels, start))
        client.create_layer(name, channels, normd.presets.keras(momentum=0.0), initial_state=state)
        x = out = rng.normal(5.0, 10.0, shape)
        for _ in range(3):
            out = client.train_step(name, out, layout=layout).y
        over = tuple(other for other in range(len(shape)) if other != axis)
        np.testing.assert_allclose(out.mean(over), 0, atol=1e-3)
        np.testing.assert_allclose(out.std(over), 1, atol=1e-3)
        learned = client.get_layer(name).state
        np.testing.assert_allclose(learned.running_mean, 0, atol=1e-3)
        np.testing.assert_allclose(learned.running_var, 1, atol=1e-3)
        assert not np.allclose(client.infer(name, x, layout=layout).output, client.train_step(name, x, layout=layout).y)
        np.testing.assert_allclose(client.infer(name, x, layout=layout).output,
                                   client.train_step(name, x, layout=layout).y, rtol=1e-12, atol=1e-12)


def keras_masked_values(client: normd.Client, layer: str) -> None:
    """Values that a mask hides are left out by whoever sends the moments of the others."""
    rows = np.tile([[1.0, 5.0], [2.0, 5.0]], (10, 1))
    client.create_layer(layer, 2, normd.presets.keras(momentum=0.0))
    for _ in range(5):
        client.merge_moments(layer, normd.Moments.of(rows))
    learned = client.get_layer(layer).state
    assert learned.running_mean.tolist() == [1.5, 5.0] and learned.running_var.tolist() == [0.25, 0.0]


def keras_trainable(client: normd.Client, layer: str) -> None:
    """Not trainable: mean 0 and variance 1 leave x as it is. Trained: mean 0, standard deviation 1."""
    client.create_layer(layer, 3, normd.presets.keras(momentum=0.8, epsilon=1e-7))
    x = np.random.default_rng(1).normal(5.0, 10.0, (200, 4, 4, 3))
    client.freeze_layer(layer)
    np.testing.assert_allclose(client.infer(layer, x, layout="channels_last").output, x, rtol=1e-6)
    client.unfreeze_layer(layer)
    for _ in range(10):
        y = client.train_step(layer, x, layout="channels_last").y
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-3)


def keras_large_value(client: normd.Client, layer: str) -> None:
    """A variance that float16 cannot hold, with float16 data."""
    client.create_layer(layer, 3, normd.presets.keras(),
                        initial_state=normd.LayerState(running_mean=np.zeros(3), running_var=np.full(3, 70000.0)))
    assert client.get_layer(layer).state.running_var.tolist() == [70000.0] * 3
    y = client.infer(layer, np.full((2, 3), 1000, np.float16)).output
    np.testing.assert_allclose(y, 1000 / 70000.001**0.5, rtol=1e-3)


def keras_ones(client: normd.Client, layer: str) -> None:
    """A constant batch, all of it unmasked: y is 0, the mean 1, the variance 0."""
    client.create_layer(layer, 4, normd.presets.keras(momentum=0.0))
    assert not client.train_step(layer, np.ones((1, 2, 3, 4)), layout="channels_last").y.any()
    learned = client.get_layer(layer).state
    assert learned.running_mean.tolist() == [1] * 4 and learned.running_var.tolist() == [0] * 4


def keras_fully_masked(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 5, normd.presets.keras())
    client.train_step(layer, np.zeros((0, 5)))


def keras_invalid_momentum(client: normd.Client, layer: str) -> None:
    for number, momentum in enumerate((0.0, 1.0)):
        client.create_layer(f"{layer}.{number}", 2, normd.presets.keras(momentum=momentum))
    for momentum in (-0.1, 1.5):
        with pytest.raises(normd.InvalidArgumentError, match="update_weight"):
            client.create_layer(layer, 2, normd.presets.keras(momentum=momentum))


KERAS: dict[str, Optional[Callable[[normd.Client, str], None]]] = {
    "test_bn_basics": None, "test_correctness": keras_correctness, "test_input_fully_masked": keras_fully_masked,
    "test_bachnorm_ignore_masked_values": keras_masked_values, "test_trainable_behavior": keras_trainable,
    "test_large_value_within_autocast_scope": keras_large_value, "test_masked_broadcast_normalization": keras_ones,
    "test_renorm_basics": None, "test_renorm_invalid_clipping_keys": None, "test_renorm_stddev_initializer": None,
    "test_invalid_momentum": keras_invalid_momentum, "test_renorm_inference": None, "test_renorm_correctness": None,
    "test_serialization": None}


@pytest.mark.parametrize("name", KERAS)
def test_keras(client: normd.Client, layer: str, name: str) -> None:
    case = KERAS[name]
    with tried(f"keras {name}"):
        assert case is not None
        case(client, layer)


def test_every_exception_is_of_a_case() -> None:
    known = {f"OpInfo {name} {number}" for name in OPS for number in range(count_of(name))}
    known |= {name for name, *_ in module_cases()} | {f"sklearn {name}" for name in SKLEARN}
    known |= {f"keras {name}" for name in KERAS}
    assert set(EXCEPTIONS) <= known
