"""Trains a small CNN on scikit-learn's handwritten digits twice from the same seed, and compares.

The first run uses torch.nn.BatchNorm2d. In the second, the batch normalization lives in the layers digits.bn1 and
digits.bn2 of a running normd: forward, backward, running statistics and the SGD steps on gamma and beta happen
there. The mathematics is the same, so accuracies agree and running statistics differ by rounding. The layers
stay on the server.

    digits.py --server 127.0.0.1:50051 --epochs 8 --seed 0 --sample-out x.npy

It trains in float64. Training amplifies rounding: in float32 (--dtype float32), two runs that sum in another order, on
another number of threads say, drift apart until the second digit differs, and the comparison would show only that.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import]
from sklearn.model_selection import train_test_split  # type: ignore[import]

import normd
import normd.torch

LEARNING_RATE = 0.05
MOMENTUM = 0.9
BATCH = 64
PREFIX = "digits"


@dataclass
class Data:
    """8 x 8 images in [0, 1] and what they show: 1437 to train on, 360 to test with."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@dataclass
class Run:
    """What one training gave."""

    network: torch.nn.Module
    accuracy: float
    seconds: float


class Network(torch.nn.Module):
    """Two convolutions, each with its batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1: torch.nn.Module = torch.nn.BatchNorm2d(16)
        self.conv2 = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2: torch.nn.Module = torch.nn.BatchNorm2d(32)
        self.linear = torch.nn.Linear(32 * 4 * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        x = torch.relu(self.bn2(self.conv2(x)))
        y: torch.Tensor = self.linear(x.flatten(1))
        return y


def read_data(seed: int, dtype: str) -> Data:
    digits = load_digits()
    images = (digits.images / 16.0).astype(dtype)[:, None]
    parts = train_test_split(images, digits.target, test_size=360, random_state=seed, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return Data(train_images, train_labels, test_images, test_labels)


def make_network(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network()


def train(title: str, network: torch.nn.Module, data: Data, epochs: int, seed: int) -> Run:
    """Trains `network` with SGD on whatever of it learns here, and shows how it goes."""
    print(f"\n{title}")
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM)
    order = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    network.train()
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in torch.split(torch.randperm(len(data.train_images), generator=order), BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(data.train_images[batch]), data.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        accuracy = test(network, data)
        done = "#" * (20 * epoch // epochs)
        print(f"  epoch {epoch:2d}/{epochs} [{done:<20}] loss {np.mean(losses):.4f}  test accuracy {accuracy:6.2%}  "
              f"{time.perf_counter() - started:5.1f} s", flush=True)
    return Run(network, accuracy, time.perf_counter() - started)


def test(network: torch.nn.Module, data: Data) -> float:
    """The share of the test images that `network` reads correctly, with running statistics."""
    network.eval()
    with torch.no_grad():
        right = network(data.test_images).argmax(1) == data.test_labels
    network.train()
    return float(right.double().mean())


def largest_difference(local: torch.nn.Module, served: torch.nn.Module, keys: tuple[str, ...]) -> float:
    """The largest |a - b| / max(1, |a|) over the entries of the state dicts that end in one of `keys`."""
    ours, theirs = served.state_dict(), local.state_dict()
    return max(float(((theirs[key] - ours[key]).abs() / theirs[key].abs().clamp(min=1)).max())
               for key in theirs if key.endswith(keys))


def serve(network: Network, client: normd.Client) -> Network:
    """`network` with its batch norms on the server, in new layers: those of an earlier run are deleted."""
    for layer in list(client.list_layers(f"{PREFIX}.bn")):
        client.delete_layer(layer.name)
    normd.torch.convert(network, client, PREFIX, optimizer=normd.SGD(LEARNING_RATE, momentum=MOMENTUM))
    return network


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains on digits with torch's batch norms and with normd's.")
    parser.add_argument("--server", default="127.0.0.1:50051", help="where normd listens (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64",
                        help="of images and weights (default: %(default)s)")
    parser.add_argument("--sample-out", metavar="FILE.npy",
                        help=f"write an input of layer {PREFIX}.bn1 there, to try normctl infer with")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs is {arguments.epochs}, want at least 1")

    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, arguments.dtype))  # type: ignore[no-untyped-call]
    data = read_data(arguments.seed, arguments.dtype)
    print(f"Handwritten digits: {len(data.train_images)} images to train on, {len(data.test_images)} to test with")
    try:
        with normd.Client(arguments.server) as client:
            served_network = serve(make_network(arguments.seed), client)
            local = train("torch.nn.BatchNorm2d, in this process", make_network(arguments.seed), data,
                          arguments.epochs, arguments.seed)
            served = train(f"normd.torch.BatchNorm2d, layers on the server at {arguments.server}", served_network, data,
                           arguments.epochs, arguments.seed)
            statistics = largest_difference(local.network, served.network, ("running_mean", "running_var"))
            learned = largest_difference(local.network, served.network, ("bn1.weight", "bn1.bias", "bn2.weight",
                                                                         "bn2.bias"))
            print(f"\n{'':24}{'torch':>12}{'normd':>12}")
            print(f"{'test accuracy':24}{local.accuracy:12.2%}{served.accuracy:12.2%}")
            print(f"{'training time':24}{local.seconds:10.1f} s{served.seconds:10.1f} s")
            print(f"Largest difference in running statistics: {statistics:.1e}")
            print(f"Largest difference in gamma and beta:     {learned:.1e}")
            names = ", ".join(layer.name for layer in client.list_layers(f"{PREFIX}.bn"))
            print(f"\nLayers on the server: {names}")
            if arguments.sample_out:
                with torch.no_grad():
                    sample = served_network.conv1(data.test_images[:4]).numpy()
                np.save(arguments.sample_out, sample)
                print(f"Input of {PREFIX}.bn1 for 4 test images, {sample.dtype} {list(sample.shape)}: "
                      f"{arguments.sample_out}")
                print(f"Try: normctl --server {arguments.server} infer {PREFIX}.bn1 {arguments.sample_out} y.npy")
    except normd.Error as error:
        print(f"digits.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
