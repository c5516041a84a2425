"""torch.autograd.gradcheck on the drop-in modules, in float64: training, eval and frozen."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.stateless import functional_call

import normd
import normd.torch

SHAPES = {"1d-NC": (4, 3), "1d-NCL": (2, 3, 3), "2d": (2, 3, 2, 2), "3d": (2, 3, 2, 1, 2)}


@pytest.mark.parametrize("mode", ["training", "eval", "frozen", "training-untracked", "eval-untracked"])
@pytest.mark.parametrize("kind", SHAPES)
def test_gradcheck(client: normd.Client, layer: str, kind: str, mode: str) -> None:
    torch.manual_seed(0)
    module = getattr(normd.torch, f"BatchNorm{kind[:2]}")(3, dtype=torch.float64, client=client, layer=layer,
                                                          track_running_stats=not mode.endswith("untracked"))
    x = torch.randn(SHAPES[kind], dtype=torch.float64) * 2 + 1
    # Running statistics that are not those of x.
    module(torch.randn(SHAPES[kind], dtype=torch.float64) * 3)
    module.train(not mode.startswith("eval"))
    if mode == "frozen":
        module.freeze()
    if kind == "2d":
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 3, dtype=torch.float64)

    def function(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional_call(module, {"weight": weight, "bias": bias}, x)
        return result

    arguments = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(function, arguments, atol=1e-7, rtol=1e-6)
