"""torchvision's ResNet-50 and MobileNetV2 with every batch norm on the server, against the originals."""

from __future__ import annotations

import copy
from typing import Any, Callable

import pytest
import torch
import torchvision

import normd
import normd.torch

# name -> builder and its number of batch norms
MODELS: dict[str, tuple[Callable[..., Any], int]] = {"resnet50": (torchvision.models.resnet50, 53),
                                                     "mobilenet_v2": (torchvision.models.mobilenet_v2, 52)}


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Distance in units of the norm of what is wanted."""
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", MODELS)
def test_model(client: normd.Client, layer: str, name: str, memory: str) -> None:
    builder, count = MODELS[name]
    torch.manual_seed(0)
    # In float64, so that 53 layers do not amplify float32's rounding into something that hides a mistake.
    original = builder(weights=None, num_classes=10).double()
    for module in original.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    served = normd.torch.convert(copy.deepcopy(original), client, layer)
    assert sum(1 for _ in client.list_layers(layer + ".", page_size=20)) == count
    assert [key for key, _ in served.named_parameters()] == [key for key, _ in original.named_parameters()]

    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    if memory == "channels_last":
        original, served = (m.to(memory_format=torch.channels_last) for m in (original, served))
        x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([1, 7, 3])
    inputs = [x.detach().requires_grad_() for _ in range(2)]
    outputs = []
    for module, argument in zip((original, served), inputs):
        module.train()
        outputs.append(module(argument))
        torch.nn.functional.cross_entropy(outputs[-1], labels).backward()
    assert relative(outputs[1], outputs[0]) < 1e-10
    assert relative(inputs[1].grad, inputs[0].grad) < 1e-8
    for (key, want), (_, got) in zip(original.named_parameters(), served.named_parameters()):
        # What is 0 but for rounding (a gradient that batch norm projects out) is measured against the whole.
        assert float((got.grad - want.grad).abs().max()) < 1e-8 * max(1.0, float(want.grad.abs().max())), key
    state = served.state_dict()
    assert list(state) == list(original.state_dict())
    for key, want in original.state_dict().items():
        torch.testing.assert_close(state[key], want, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")

    with torch.no_grad():
        assert relative(served.eval()(x), original.eval()(x)) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_model_in_float32(client: normd.Client, layer: str, name: str) -> None:
    torch.manual_seed(1)
    original = MODELS[name][0](weights=None, num_classes=10)
    for module in original.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    served = normd.torch.convert(copy.deepcopy(original), client, layer)
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert relative(served(x), original(x)) < 1e-3
        assert relative(served.eval()(x), original.eval()(x)) < 1e-3
