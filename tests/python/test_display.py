"""What values look like in a terminal and in a notebook, and the progress of imports."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

import normd
from normd import state_dict

X = np.random.default_rng(1).standard_normal((40, 12))


def test_reprs(client: normd.Client, layer: str) -> None:
    client.create_layer(layer, 12, normd.presets.keras(momentum=0.9), clip=5)
    step = client.train_step(layer, X.astype(np.float32))
    found = client.get_layer(layer)
    assert repr(found) == (f"<Layer '{layer}' at version 2: 12 channels, preset keras, eps 0.001, update_weight 0.1, "
                           "clip 5, 1 batches>")
    assert repr(client.freeze_layer(layer)).endswith("clip 5, frozen>")
    shown = repr(step)
    assert re.match(r"TrainStepResult\(y=float32\[40,12\] from -\S+ to \S+, batch_mean=float64\[12\] from ", shown)
    assert f"version=2, content_hash='{step.content_hash}'" in shown and "skipped_channels=[]" in shown
    low, high = found.state.running_mean.min(), found.state.running_mean.max()
    assert f"running_mean=float64[12] from {low:.4g} to {high:.4g}" in repr(found.state)
    for value in (step, found, found.state, client.infer(layer, X), client.backward(layer, X, X, frozen=True)):
        assert len(repr(value)) < 700 and "\n" not in repr(value)
    assert repr(normd.Moments.of(X[:, :2])).startswith("Moments(count=[40.0, 40.0], mean=[")
    assert repr(normd.RunningMeanStd(np.zeros(3), np.ones(3), 2.0)) == \
        "RunningMeanStd(mean=[0.0, 0.0, 0.0], var=[1.0, 1.0, 1.0], count=2.0)"


class Tags(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("settings, drawings", [
    ({}, 2), ({"affine": False}, 1), ({"track_running_stats": False}, 1),
    ({"affine": False, "track_running_stats": False}, 0)])
def test_notebook(client: normd.Client, layer: str, settings: dict[str, bool], drawings: int) -> None:
    pytest.importorskip("matplotlib")
    client.create_layer(layer, 12, "pytorch", **settings)
    client.train_step(layer, X)
    page = client.get_layer(layer)._repr_html_()
    Tags(re.sub(r"<svg.*</svg>", "", page, flags=re.DOTALL))
    assert page.startswith("<div>") and layer in page and "12 channels" in page
    found = re.search(r"<svg.*</svg>", page, re.DOTALL)
    assert (found is not None) == (drawings > 0)
    if found is not None:
        axes = [node for node in ElementTree.fromstring(found[0]).iter() if node.get("id", "").startswith("axes_")]
        assert len(axes) == drawings
    # Without state there is nothing to draw.
    assert "<svg" not in client.get_layer(layer, with_state=False)._repr_html_()


def test_notebook_without_matplotlib(client: normd.Client, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    client.create_layer(layer, 12)
    page = client.get_layer(layer)._repr_html_()
    Tags(page)
    assert "<svg" not in page and "running_var" in page


ARRAYS = {f"bn{number}.running_{name}": np.ones(4) for number in range(6) for name in ("mean", "var")}


def test_progress_of_an_import(client: normd.Client, layer: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    state_dict.import_state_dict(client, ARRAYS, prefix=f"{layer}.quiet.")
    assert capfd.readouterr() == ("", "")
    state_dict.import_state_dict(client, ARRAYS, prefix=f"{layer}.", progress=True)
    out, err = capfd.readouterr()
    assert out == "" and re.search(r"looking: 100%.*6/6", err) and re.search(r"storing: 100%.*6/6", err)


def test_progress_without_tqdm(client: normd.Client, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    report = state_dict.import_state_dict(client, ARRAYS, prefix=f"{layer}.", progress=True)
    assert len(report.layers) == 6
