"""The drop-in modules against torch.nn.BatchNorm1d, 2d and 3d (PyTorch 1.13), step by step."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import normd
import normd.torch

SHAPES = {"1d-NC": (16, 5), "1d-NCL": (6, 5, 9), "2d": (4, 5, 6, 7), "3d": (3, 5, 2, 4, 3)}
# torch itself computes float32 in float32; ours is nearer to the truth.
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-11}}


def pair(client: normd.Client, layer: str, kind: str, *args: Any, **settings: Any) -> tuple[Any, Any]:
    """torch's module and ours with the same random weight and bias."""
    own = {key: settings.pop(key) for key in ("optimizer", "create") if key in settings}
    name = f"BatchNorm{kind[:2]}"
    theirs = getattr(torch.nn, name)(*args, **settings)
    ours = getattr(normd.torch, name)(*args, **settings, client=client, layer=layer, **own)
    if theirs.affine:
        with torch.no_grad():
            torch.manual_seed(1)
            theirs.weight.uniform_(-2, 2)
            theirs.bias.uniform_(-2, 2)
            ours.weight.copy_(theirs.weight)
            ours.bias.copy_(theirs.bias)
    return theirs, ours


def assert_same_state(theirs: torch.nn.Module, ours: torch.nn.Module, **tolerance: float) -> None:
    want, got = theirs.state_dict(), ours.state_dict()
    assert list(got) == list(want)
    for key, value in want.items():
        assert got[key].dtype == value.dtype
        torch.testing.assert_close(got[key], value, msg=lambda text, key=key: f"{key}: {text}", **tolerance)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SHAPES)
def test_many_steps(client: normd.Client, layer: str, kind: str, dtype: torch.dtype, memory: str) -> None:
    theirs, ours = pair(client, layer, kind, 5, dtype=dtype)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, 0.9, weight_decay=0.01) for m in (theirs, ours)]
    tolerance = TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        x = torch.randn(SHAPES[kind], generator=generator, dtype=dtype) * 3 + 2
        dy = torch.randn(SHAPES[kind], generator=generator, dtype=dtype)
        if memory == "channels_last" and x.dim() > 3:
            kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
            x = x.contiguous(memory_format=kinds[x.dim()])
        elif memory == "strided":
            x = x.repeat_interleave(2, -1)[..., ::2]
            dy = dy.transpose(0, -1).contiguous().transpose(0, -1)
        xs = [x.detach().requires_grad_() for _ in range(2)]
        training = step % 4 != 3
        ys = []
        for module, argument, optimizer in zip((theirs, ours), xs, optimizers):
            module.train(training)
            optimizer.zero_grad()
            ys.append(module(argument))
            ys[-1].backward(dy)
        torch.testing.assert_close(ys[1], ys[0], **tolerance)
        assert ys[1].shape == x.shape
        if memory == "channels_last" and x.dim() > 3:
            assert ys[1].stride() == x.stride()
        torch.testing.assert_close(xs[1].grad, xs[0].grad, **tolerance)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **tolerance)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, **tolerance)
        for optimizer in optimizers:
            optimizer.step()
        assert_same_state(theirs, ours, **tolerance)
    # What state_dict shows is what the layer holds.
    state = client.get_layer(layer).state
    np.testing.assert_array_equal(state.gamma.astype(ours.weight.detach().numpy().dtype), ours.weight.detach().numpy())
    assert state.num_batches_tracked == int(theirs.num_batches_tracked)


@pytest.mark.parametrize("momentum, affine, track", itertools.product([0.1, 0.7, 0.0, 1.0, None], [True, False],
                                                                      [True, False]))
def test_settings(client: normd.Client, layer: str, momentum: float | None, affine: bool, track: bool) -> None:
    theirs, ours = pair(client, layer, "2d", 5, 1e-3, momentum, affine, track)
    torch.manual_seed(2)
    for training in (True, True, False, True, False):
        x = torch.randn(SHAPES["2d"]) * 2 - 1
        xs = [x.clone().requires_grad_() for _ in range(2)]
        ys = [module.train(training)(argument) for module, argument in zip((theirs, ours), xs)]
        torch.testing.assert_close(ys[1], ys[0], rtol=2e-5, atol=2e-5)
        for y in ys:
            (y**3).sum().backward()
        torch.testing.assert_close(xs[1].grad, xs[0].grad, rtol=1e-4, atol=1e-4)
        assert_same_state(theirs, ours, rtol=2e-5, atol=2e-5)
    assert ours.extra_repr().startswith(theirs.extra_repr())


def error_of(module: torch.nn.Module, x: torch.Tensor) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:
        module(x)
    return caught.type, str(caught.value)


@pytest.mark.parametrize("kind, shape", [
    ("1d", (4,)), ("1d", (4, 5, 2, 2)), ("2d", (4, 5)), ("2d", (4, 5, 6)), ("2d", (1, 2, 3, 4, 5)),
    ("3d", (4, 5, 6, 7)), ("1d", (1, 5)), ("1d", (1, 5, 1)), ("2d", (1, 5, 1, 1)), ("3d", (1, 5, 1, 1, 1))])
def test_wrong_input_is_torchs_error(client: normd.Client, layer: str, kind: str, shape: tuple[int, ...]) -> None:
    theirs, ours = pair(client, layer, kind, 5)
    before = client.get_layer(layer)
    assert error_of(ours, torch.zeros(shape)) == error_of(theirs, torch.zeros(shape))
    # Unlike torch, nothing has been counted.
    after = client.get_layer(layer)
    assert after.state.num_batches_tracked == 0
    assert after.version == before.version


def test_one_value_per_channel_is_fine_in_eval(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5)
    x = torch.randn(1, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_wrong_channels_and_dtypes(client: normd.Client, layer: str) -> None:
    _, ours = pair(client, layer, "2d", 5)
    with pytest.raises(normd.InvalidArgumentError, match=f"{layer}.*6.*5"):
        ours(torch.zeros(2, 6, 3, 3))
    with pytest.raises(TypeError, match="int16"):
        ours(torch.zeros(2, 5, 3, 3, dtype=torch.int16))
    with pytest.raises(TypeError, match="float64.*float32"):
        ours(torch.zeros(2, 5, 3, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="meta, want cpu"):
        ours(torch.zeros(2, 5, 3, 3, device="meta"))
    with pytest.raises(normd.InvalidArgumentError):
        ours(torch.full((2, 5, 3, 3), float("nan")))
    assert int(ours.num_batches_tracked) == 0


def test_state_dict_goes_to_torch_and_back(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "2d", 5)
    for _ in range(3):
        ours(torch.randn(4, 5, 3, 3) + 1)
    saved = io.BytesIO()
    torch.save(ours.state_dict(), saved)
    saved.seek(0)
    theirs.load_state_dict(torch.load(saved))
    assert_same_state(theirs, ours, rtol=0, atol=0)
    assert int(theirs.num_batches_tracked) == 3
    x = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=2e-5, atol=2e-5)
    theirs.train()(x)
    with torch.no_grad():
        theirs.weight.mul_(2)
    ours.load_state_dict(theirs.state_dict())
    state = client.get_layer(layer).state
    np.testing.assert_array_equal(state.running_mean, theirs.running_mean.double().numpy())
    np.testing.assert_array_equal(state.running_var, theirs.running_var.double().numpy())
    np.testing.assert_array_equal(state.gamma, theirs.weight.detach().double().numpy())
    assert state.num_batches_tracked == 4
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=2e-5, atol=2e-5)


def test_cumulative_goes_on_after_load(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5, momentum=None)
    for _ in range(4):
        theirs(torch.randn(8, 5))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(8, 5)
    theirs(x), ours(x)
    assert_same_state(theirs, ours, rtol=1e-5, atol=1e-6)


def test_load_refuses_missing_keys(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5)
    state = theirs.state_dict()
    del state["running_var"]
    with pytest.raises(RuntimeError, match="running_var"):
        ours.load_state_dict(state)


def test_a_change_of_weight_travels_before_inference(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5)
    x = torch.randn(8, 5)
    for module in (theirs, ours):
        module.eval()
        module.weight.data.mul_(3)  # Autograd's version counter does not notice this.
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(client.get_layer(layer).state.gamma, theirs.weight.detach().double().numpy())


def test_no_needless_versions(client: normd.Client, layer: str) -> None:
    _, ours = pair(client, layer, "1d", 5)
    ours.eval()
    version = client.get_layer(layer).version
    for _ in range(3):
        ours(torch.randn(8, 5))
        ours.state_dict()
        ours.eval()
    assert client.get_layer(layer).version == version


def test_frozen_is_eval_in_training(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "2d", 5)
    x = torch.randn(4, 5, 3, 3) + 1
    theirs(x), ours(x)
    ours.freeze()
    assert ours.frozen and ours.training
    theirs.eval()
    version = client.get_layer(layer).version
    xs = [x.clone().requires_grad_() for _ in range(2)]
    for module, argument in zip((theirs, ours), xs):
        module.zero_grad()
        (module(argument) ** 2).sum().backward()
    torch.testing.assert_close(xs[1].grad, xs[0].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    assert client.get_layer(layer).version == version
    ours.unfreeze()(x)
    assert int(ours.num_batches_tracked) == 2


def test_frozen_gradients_survive_learning_and_new_statistics(client: normd.Client, layer: str) -> None:
    _, ours = pair(client, layer, "1d", 5, dtype=torch.float64)
    ours.freeze()
    x = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    want, = torch.autograd.grad((ours(x) ** 2).sum(), x)
    y = ours(x)
    client.set_state(layer, normd.LayerState(gamma=np.full(5, 9.0), beta=np.full(5, 9.0)))
    got, = torch.autograd.grad((y**2).sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)
    ours.pull()
    want, = torch.autograd.grad((ours(x) ** 2).sum(), x)
    y = ours(x)
    client.train_step(layer, x.detach().numpy())
    # The version of the forward pass is kept.
    got, = torch.autograd.grad((y**2).sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


def test_settings_can_change(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5)
    for module in (theirs, ours):
        module.momentum, module.eps = 0.5, 0.1
    x = torch.randn(8, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert_same_state(theirs, ours, rtol=1e-5, atol=1e-6)
    assert client.get_layer(layer).config.update_weight == 0.5
    with pytest.raises(ValueError, match="momentum cannot change"):
        ours.momentum = None


def test_reset(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "1d", 5)
    for module in (theirs, ours):
        module(torch.randn(8, 5))
        module.reset_parameters()
    assert_same_state(theirs, ours, rtol=0, atol=0)
    assert client.get_layer(layer).state.num_batches_tracked == 0


def test_create(client: normd.Client, layer: str) -> None:
    with pytest.raises(normd.NotFoundError):
        normd.torch.BatchNorm1d(5, client=client, layer=layer, create="existing")
    first = normd.torch.BatchNorm1d(5, client=client, layer=layer, create="new")
    first(torch.randn(8, 5))
    with torch.no_grad():
        first.weight.fill_(3)
    first.eval()
    with pytest.raises(normd.AlreadyExistsError):
        normd.torch.BatchNorm1d(5, client=client, layer=layer, create="new")
    with pytest.raises(ValueError, match="num_channels=5, want 6"):
        normd.torch.BatchNorm1d(6, client=client, layer=layer)
    with pytest.raises(ValueError, match="eps"):
        normd.torch.BatchNorm1d(5, eps=0.1, client=client, layer=layer)
    with pytest.raises(ValueError, match="create is 'maybe'"):
        normd.torch.BatchNorm1d(5, client=client, layer=layer, create="maybe")
    with pytest.raises(ValueError, match="nothing to learn"):
        normd.torch.BatchNorm1d(5, affine=False, client=client, layer=layer + "x", optimizer=normd.SGD(0.1))
    second = normd.torch.BatchNorm1d(5, client=client, layer=layer)
    assert_same_state(first, second, rtol=0, atol=0)
    # Two processes' modules share statistics; pull() takes over what the other has learned as well.
    second(torch.randn(8, 5))
    assert int(first.num_batches_tracked) == 2
    with torch.no_grad():
        second.weight.fill_(4)
    second.eval()
    first.pull()
    assert first.weight.tolist() == [4] * 5


def test_copies_and_pickles(client: normd.Client, layer: str) -> None:
    ours = normd.torch.BatchNorm1d(5, client=client, layer=layer)
    ours(torch.randn(8, 5))
    copied = copy.deepcopy(ours)
    assert copied.client is client and copied.weight is not ours.weight
    pickled = pickle.loads(pickle.dumps(ours))
    assert pickled.client is not client
    for other in (copied, pickled):
        assert isinstance(other, torch.nn.BatchNorm1d)
        assert_same_state(ours, other, rtol=0, atol=0)
    pickled.client.close()


def test_autograd_guards(client: normd.Client, layer: str) -> None:
    ours = normd.torch.BatchNorm1d(5, client=client, layer=layer)
    x = torch.randn(8, 5, requires_grad=True)
    y = ours(x)
    with torch.no_grad():
        ours.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    gradient, = torch.autograd.grad((ours(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    # An output may be overwritten, as ReLU(inplace=True) does.
    torch.relu_(ours(x)).sum().backward()


def test_server_learns(client: normd.Client, layer: str) -> None:
    theirs, ours = pair(client, layer, "2d", 5, optimizer=normd.SGD(0.1, momentum=0.9, weight_decay=0.01))
    reference = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=0.01)
    assert not ours.weight.requires_grad and not ours.bias.requires_grad
    torch.manual_seed(4)
    for step in range(10):
        if step == 5:  # A schedule.
            reference.param_groups[0]["lr"] = 0.01
            ours.optimizer = normd.SGD(0.01, momentum=0.9, weight_decay=0.01)
        # x needs no gradient here, and yet the server must learn.
        x, target = torch.randn(SHAPES["2d"]), torch.randn(SHAPES["2d"])
        reference.zero_grad()
        for module in (theirs, ours):
            ((module(x) - target) ** 2).mean().backward()
        reference.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    assert_same_state(theirs, ours, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(client.get_layer(layer).state.gamma, theirs.weight.detach().numpy(), rtol=1e-5)
    with torch.no_grad():
        version = client.get_layer(layer).version
        ours.eval()(x)
        assert client.get_layer(layer).version == version


def test_server_learns_from_two_forwards(client: normd.Client, layer: str) -> None:
    """The second backward still differentiates its own forward, though the first has moved gamma."""
    theirs, ours = pair(client, layer, "1d", 5, dtype=torch.float64, optimizer=normd.SGD(0.1))
    xs = [torch.randn(8, 5, dtype=torch.float64) for _ in range(2)]
    gradients = []
    for module in (theirs, ours):
        inputs = [x.clone().requires_grad_() for x in xs]
        losses = [(module(x) ** 3).sum() for x in inputs]
        for loss in losses:
            loss.backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(ours.weight, theirs.weight - 0.1 * theirs.weight.grad, rtol=1e-10, atol=1e-10)


def test_replace_keeps_everything(client: normd.Client, layer: str) -> None:
    shared = torch.nn.BatchNorm2d(6)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6, 1e-3, 0.3), torch.nn.Sequential(
        torch.nn.BatchNorm2d(6, affine=False), torch.nn.BatchNorm2d(6, track_running_stats=False), shared), shared,
        torch.nn.BatchNorm2d(6, momentum=None), torch.nn.InstanceNorm2d(6))
    net(torch.randn(4, 3, 8, 8))
    net[1].weight.requires_grad_(False)
    net[4].eval()
    original = copy.deepcopy(net)
    assert normd.torch.convert(net, client, layer) is net
    names = [found.name for found in client.list_layers(layer + ".")]
    assert names == [f"{layer}.1", f"{layer}.2.0", f"{layer}.2.1", f"{layer}.2.2", f"{layer}.4"]
    assert net[2][2] is net[3]
    assert type(net[5]) is torch.nn.InstanceNorm2d
    assert [m.training for m in net.modules()] == [m.training for m in original.modules()]
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in original.parameters()]
    assert_same_state(original, net, rtol=0, atol=0)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(net(x), original(x), rtol=1e-4, atol=1e-4)
    assert_same_state(original, net, rtol=1e-4, atol=1e-4)
    modules = list(net.modules())
    normd.torch.convert(net, client, layer)
    assert list(net.modules()) == modules
    alone = normd.torch.convert(torch.nn.BatchNorm1d(3), client, layer + ".alone")
    assert isinstance(alone, normd.torch.BatchNorm1d)
    with pytest.warns(UserWarning, match="Lazy"), pytest.raises(ValueError, match="lazy"):
        normd.torch.convert(torch.nn.LazyBatchNorm1d(), client, layer + ".lazy")


class Shared(torch.nn.Module):
    """Batch norms in several places, of several kinds, modes and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.BatchNorm2d(6, 1e-3, 0.3)
        self.blocks = torch.nn.ModuleList([
            torch.nn.BatchNorm2d(6, affine=False), torch.nn.BatchNorm2d(6, track_running_stats=False),
            torch.nn.BatchNorm2d(6, momentum=None), self.first, torch.nn.BatchNorm2d(6, dtype=torch.float32)])
        self.flat = torch.nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.flat(x.mean((2, 3)))


def test_there_and_back(client: normd.Client, layer: str, tmp_path: Path) -> None:
    torch.manual_seed(11)
    net = Shared().double()
    net.blocks[4].float().double()
    net.blocks[0].eval()
    net.first.bias.requires_grad_(False)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.5, 2)
    original = copy.deepcopy(net)
    normd.torch.convert(net, client, layer)
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.05) for m in (original, net)]
    for _ in range(4):
        x = torch.randn(5, 6, 3, 4, dtype=torch.float64)
        for module, optimizer in zip((original, net), optimizers):
            optimizer.zero_grad()
            (module(x) ** 3).mean().backward()
            optimizer.step()
    # Not told to the server yet: the last step of the optimizer.
    assert normd.torch.revert(net) is net
    assert not any(isinstance(module, (normd.torch.BatchNorm1d, normd.torch.BatchNorm2d)) for module in net.modules())
    assert [type(m) for m in net.modules()] == [type(m) for m in original.modules()]
    assert net.blocks[3] is net.first
    assert [m.training for m in net.modules()] == [m.training for m in original.modules()]
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in original.parameters()]
    assert [m.extra_repr() for m in net.modules()] == [m.extra_repr() for m in original.modules()]
    assert_same_state(original, net, rtol=1e-10, atol=1e-11)
    # It needs no server: scripted, saved, loaded elsewhere.
    state = client.get_layer(layer + ".first").state
    np.testing.assert_array_equal(net.first.weight.detach().numpy(), state.gamma)
    path = tmp_path / "net.pt"
    torch.jit.script(net.eval()).save(str(path))
    torch.testing.assert_close(torch.jit.load(str(path))(x), original.eval()(x), rtol=1e-9, atol=1e-9)


def test_revert_takes_what_others_have_trained(client: normd.Client, layer: str) -> None:
    served = normd.torch.BatchNorm1d(5, client=client, layer=layer, dtype=torch.float16)
    step = client.train_step(layer, np.random.default_rng(1).standard_normal((9, 5)), gamma=[2] * 5, beta=[3] * 5)
    plain = normd.torch.revert(served)
    assert type(plain) is torch.nn.BatchNorm1d and plain.weight.dtype == plain.running_mean.dtype == torch.float16
    assert plain.weight.tolist() == [2] * 5 and plain.bias.tolist() == [3] * 5
    assert int(plain.num_batches_tracked) == step.num_batches_tracked == 1
    np.testing.assert_array_equal(plain.running_mean.numpy(), (0.1 * step.batch_mean).astype(np.float16))
    # A plain network passes, and so does one that has been reverted.
    assert normd.torch.revert(plain) is plain


def test_revert_of_frozen_and_of_server_learned(client: normd.Client, layer: str) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(5), torch.nn.BatchNorm1d(5))
    normd.torch.convert(net, client, layer, optimizer=normd.SGD(0.1))
    net[0].freeze()
    x = torch.randn(8, 5)
    (net(x) ** 3).sum().backward()
    gamma = client.get_layer(layer + ".1").state.gamma
    normd.torch.revert(net)
    assert [module.training for module in net] == [False, True]
    assert all(parameter.requires_grad for parameter in net.parameters())
    np.testing.assert_array_equal(net[1].weight.detach().numpy(), gamma.astype(np.float32))
    assert not np.array_equal(gamma, np.ones(5))


def test_tensors_are_not_copied_here(client: normd.Client, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to the client is the input's own memory, and what comes from there is the output's."""
    ours = normd.torch.BatchNorm2d(5, client=client, layer=layer)
    seen: list[Any] = []

    def train_step(name: str, x: np.ndarray, **settings: Any) -> normd.TrainStepResult:
        result = type(client).train_step(client, name, x, **settings)
        seen.append((x, result.y))
        return result

    monkeypatch.setattr(client, "train_step", train_step)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 5, 6, 7).contiguous(memory_format=memory_format)
        y = ours(x)
        given, got = seen.pop()
        assert given.ctypes.data == x.data_ptr() and got.ctypes.data == y.data_ptr()
        assert y.stride() == x.stride()
