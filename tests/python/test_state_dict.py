"""PyTorch's state_dicts as layers and back, judged by PyTorch; files, judged by what the formats say."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import normd
from normd import state_dict, state_files


def trained_resnet50() -> torch.nn.Module:
    """Without weights from anywhere: random, but no batch norm as it was made."""
    torch.manual_seed(5)
    model = torchvision.models.resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
            module.num_batches_tracked.fill_(7)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model.eval()


def arrays_of(module: torch.nn.Module) -> dict[str, Any]:
    return {key: value.detach().numpy() for key, value in module.state_dict().items()}


def batch_norm_keys(arrays: dict[str, Any]) -> set[str]:
    stems = {key[:-len("running_mean")] for key in arrays if key.endswith("running_mean")}
    return {key for key in arrays if key[:key.rfind(".") + 1] in stems}


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_all_of_resnet50_in_one_command(client: normd.Client, server: Any, layer: str, tmp_path: Path, ending: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    model = trained_resnet50()
    arrays = arrays_of(model)
    source, copy = tmp_path / f"resnet50.{ending}", tmp_path / f"copy.{ending}"
    state_files.save(source, arrays)
    prefix = f"{layer}."
    assert state_dict.main(["import", str(source), "--target", server.tcp, "--prefix", prefix]) == 0
    said = capsys.readouterr().out
    assert said.startswith("53 batch norms, 55 other keys left out\n")
    assert f"{prefix}layer1.0.bn1: created, 64 channels, preset pytorch, eps 1e-05, update_weight 0.1" in said

    x = np.random.default_rng(1).normal(size=(2, 64, 5, 5)).astype(np.float32)
    with torch.no_grad():
        want = model.get_submodule("layer1.0.bn1")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(client.infer(f"{prefix}layer1.0.bn1", x).output, want, rtol=1e-5, atol=1e-5)

    assert state_dict.main(["export", str(copy), "--target", server.tcp, "--prefix", prefix]) == 0
    exported = state_files.load(copy)
    assert set(exported) == batch_norm_keys(arrays)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, arrays[key])
        assert value.dtype == arrays[key].dtype and value.shape == arrays[key].shape
    other = trained_resnet50()
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
    other.load_state_dict({key: torch.from_numpy(value) for key, value in exported.items()}, strict=False)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values()))


def test_a_module_brings_its_own_settings(client: normd.Client, layer: str) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3, eps=1e-3, momentum=0.25),
                              torch.nn.BatchNorm1d(3, momentum=None, affine=False),
                              torch.nn.BatchNorm1d(3, track_running_stats=False), torch.nn.Linear(3, 3)).double()
    x = torch.randn(16, 3, dtype=torch.float64)
    net(x)
    report = state_dict.import_module(client, net, prefix=f"{layer}.")
    assert [one.name for one in report.layers] == [f"{layer}.0", f"{layer}.1"]
    assert "not affine" in str(report) and "equal weights" in str(report)
    # Training goes on as it would have in PyTorch.
    net(x + 1)
    client.train_step(f"{layer}.0", (x + 1).numpy())
    first = net[0]
    state = client.get_layer(f"{layer}.0").state
    assert state is not None and first.running_mean is not None and first.running_var is not None
    np.testing.assert_allclose(state.running_mean, first.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(state.running_var, first.running_var.numpy(), rtol=1e-12)
    assert state.num_batches_tracked == 2
    assert client.get_layer(f"{layer}.0").config.eps == 1e-3


def one(**changes: Any) -> dict[str, Any]:
    arrays = {"bn.running_mean": np.array([1.0, 2.0]), "bn.running_var": np.array([3.0, 4.0]),
              "bn.num_batches_tracked": np.array(5), "bn.weight": np.array([1.5, -1.0]), "bn.bias": np.zeros(2)}
    arrays.update({f"bn.{key}": value for key, value in changes.items()})
    return {key: value for key, value in arrays.items() if value is not None}


@pytest.mark.parametrize(("arrays", "message"), [
    ({"conv.weight": np.zeros(3)}, "holds no batch norm"),
    (one(running_var=None), "bn.running_mean has no bn.running_var"),
    (one(running_var=np.array([1.0, -0.5])), r"bn.running_var\[1\] is -0.5 \(1 such channels\)"),
    (one(running_mean=np.array([np.nan, 1])), r"bn.running_mean\[0\] is nan"),
    (one(weight=np.array([1.0])), r"bn.weight has shape \(1,\) .* want 2 values"),
    (one(bias=np.array([1, 2])), "bn.bias has shape .* dtype int64"),
    (one(num_batches_tracked=np.array(-1)), "num_batches_tracked is -1"),
    (one(num_batches_tracked=np.array(5.5)), "num_batches_tracked is 5.5, float64, want one integer"),
    (one(num_batches_tracked=np.array([1, 2])), "want one integer"),
    ({f"b:0.{key[3:]}": value for key, value in one().items()}, "b:0' cannot be a layer's name"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_made(client: normd.Client, layer: str,
                                                                arrays: dict[str, Any], message: str) -> None:
    good = {f"a.{key}": value for key, value in one().items()}
    with pytest.raises(ValueError, match=message):
        state_dict.import_state_dict(client, {**(good if "bn.bias" in arrays else {}), **arrays}, prefix=f"{layer}.")
    assert list(client.list_layers(f"{layer}.")) == []


def test_a_negative_variance_is_clamped_on_request(client: normd.Client, layer: str) -> None:
    report = state_dict.import_state_dict(client, one(running_var=np.array([1.0, -1e-9]), bias=None,
                                                      num_batches_tracked=None), prefix=f"{layer}.",
                                          negative_variance="clamp")
    assert report.layers[0].remarks == ("1 negative variances became 0", "no num_batches_tracked, taken as 0",
                                        "no bias, taken as 0")
    state = client.get_layer(f"{layer}.bn").state
    assert state is not None
    np.testing.assert_array_equal(state.running_var, [1, 0])
    np.testing.assert_array_equal(state.beta, [0, 0])


def test_prefixes(client: normd.Client, layer: str) -> None:
    bare = {key[3:]: value for key, value in one().items()}
    state_dict.import_state_dict(client, bare, prefix=f"{layer}.")
    assert set(state_dict.export_state_dict(client, prefix=f"{layer}.")) == set(bare)
    for bad in (layer, f"{layer}.x"):
        with pytest.raises(ValueError, match="ends with a dot"):
            state_dict.import_state_dict(client, one(), prefix=bad)
        with pytest.raises(ValueError, match="ends with a dot"):
            state_dict.export_state_dict(client, prefix=bad)
    with pytest.raises(ValueError, match="has no name"):
        state_dict.import_state_dict(client, bare)


def test_bfloat16_and_values_too_large(client: normd.Client, layer: str) -> None:
    net = torch.nn.BatchNorm1d(2).bfloat16()
    net.running_mean = torch.tensor([0.333, 3e38], dtype=torch.bfloat16)
    state_dict.import_module(client, net, prefix=f"{layer}.a.")
    exported = state_dict.export_state_dict(client, prefix=f"{layer}.a.")
    np.testing.assert_array_equal(exported["running_mean"], net.running_mean.float().numpy())
    with pytest.raises(ValueError, match="too large for float16"):
        state_dict.export_state_dict(client, prefix=f"{layer}.a.", dtype=np.float16)


def test_an_overwrite_looks_at_all_layers_first(client: normd.Client, layer: str) -> None:
    client.create_layer(f"{layer}.a", 2, eps=0.5)
    client.create_layer(f"{layer}.b", 3)
    both = {f"{stem}.{key[3:]}": value for stem in "ab" for key, value in one().items()}
    with pytest.raises(ValueError, match="b has 3 channels, affine True .* want 2, True"):
        state_dict.import_state_dict(client, both, prefix=f"{layer}.", on_existing="overwrite")
    assert client.get_layer(f"{layer}.a").version == 1
    report = state_dict.import_state_dict(client, {f"a.{key[3:]}": value for key, value in one().items()},
                                          prefix=f"{layer}.", on_existing="overwrite")
    # The layer keeps its settings.
    assert "preset reference, eps 0.5" in str(report)


def test_layers_that_exist(client: normd.Client, layer: str) -> None:
    prefix = f"{layer}."
    two = {**one(), **{f"new.{key}": value for key, value in one().items()}}
    state_dict.import_state_dict(client, one(), prefix=prefix)
    with pytest.raises(normd.AlreadyExistsError, match="1 of 2 layers exist already"):
        state_dict.import_state_dict(client, two, prefix=prefix)
    assert len(list(client.list_layers(prefix))) == 1
    changed = one(running_mean=np.array([8.0, 9.0]))
    assert state_dict.import_state_dict(client, changed, prefix=prefix, on_existing="skip").layers[0].outcome == "skipped"
    assert client.get_layer(f"{prefix}bn").version == 1
    state_dict.import_state_dict(client, changed, prefix=prefix, on_existing="overwrite")
    np.testing.assert_array_equal(state_dict.export_state_dict(client, prefix=prefix, dtype=np.float64)
                                  ["bn.running_mean"], [8, 9])


def test_the_command_line_says_what_is_wrong(server: Any, layer: str, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "weights.pth"
    bad.write_bytes(pickle.dumps({}))
    for arguments, message in [(["inspect", str(bad)], "may hold a pickle"),
                               (["inspect", str(tmp_path / "none.npz")], "No such file"),
                               (["export", str(tmp_path / "x.npz"), "--target", server.tcp, "--prefix", f"{layer}."],
                                "no layer's name starts with")]:
        assert state_dict.main(arguments) == 1
        assert message in capsys.readouterr().err
    state_files.save(tmp_path / "a.safetensors", one())
    assert state_dict.main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    assert "bn.running_mean  float64  [2]" in capsys.readouterr().out


def test_safetensors_is_what_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state_files.save(path, {"x": np.array([[1.5, -2]], np.float32), "n": np.array(7, np.int64),
                            "h": np.array([0.5], np.float16)})
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert json.loads(data[8:8 + length]) == {
        "x": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
        "h": {"dtype": "F16", "shape": [1], "data_offsets": [16, 18]},
    }
    assert data[8 + length:] == struct.pack("<ffq", 1.5, -2, 7) + b"\x00\x38"
    assert (8 + length) % 8 == 0
    loaded = state_files.load(path)
    assert loaded["n"].shape == () and loaded["n"].dtype == np.int64
    np.testing.assert_array_equal(loaded["x"], [[1.5, -2]])


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -3.140625, 1e-30, float("inf")], dtype=torch.bfloat16)
    write(tmp_path / "a.safetensors", {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}},
          values.view(torch.int16).numpy().tobytes())
    np.testing.assert_array_equal(state_files.load(tmp_path / "a.safetensors")["b"], values.float().numpy())


def write(path: Path, header: Any, body: bytes) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def tensor(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


@pytest.mark.parametrize(("header", "body", "message"), [
    (b"not json", b"", "not JSON"),
    (b"\xff\xfe", b"", "not JSON"),
    ([], b"", "not a JSON object"),
    ({"a": 1}, b"", "want dtype, shape and data_offsets"),
    ({"a": tensor(0, 4, dtype="F8")}, bytes(4), "dtype is 'F8'"),
    ({"a": tensor(0, 4, dtype=["F32"])}, bytes(4), "dtype is"),
    ({"a": tensor(0, 0, shape=[0, 2**70])}, b"", "want sizes"),
    (b'{"a": {}, "a": {}}', b"", "twice"),
    (b"[" * 100_000, b"", "not JSON"),
    ({"a": tensor(0, 4, shape=[-1])}, bytes(4), "want sizes"),
    ({"a": tensor(0, 4, shape=[True])}, bytes(4), "want sizes"),
    ({"a": tensor(0, 4, shape=[2])}, bytes(4), "want 8 bytes"),
    ({"a": tensor(0, 8)}, bytes(4), "of 4 bytes"),
    ({"a": tensor(0, 4, data_offsets=[4, 0])}, bytes(4), "want 4 bytes"),
    ({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12), "begins at byte 4, want 8"),
    ({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12), "begins at byte 8, want 4"),
    ({"a": tensor(0, 4)}, bytes(9), "5 bytes behind the last tensor"),
    ({"a": tensor(0, 4, shape=[2**40, 2**40])}, bytes(4), "want"),
])
def test_a_malformed_safetensors_file_is_refused(tmp_path: Path, header: Any, body: bytes, message: str) -> None:
    write(tmp_path / "a.safetensors", header, body)
    with pytest.raises(state_files.StateFileError, match=message):
        state_files.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 100) + b"{}", struct.pack("<Q", 2**63)])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(state_files.StateFileError, match="has .* bytes|says that its header"):
        state_files.load(tmp_path / "a.safetensors")


def test_an_npz_takes_any_name(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "a.b": np.array(2.5)}
    state_files.save(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz") as archive:
        assert set(archive.files) == set(arrays)
        np.testing.assert_array_equal(archive["file"], [0, 1, 2])


def test_no_pickle_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(state_files.StateFileError, match="without pickle"):
        state_files.load(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(state_files.StateFileError, match="cannot be read"):
        state_files.load(tmp_path / "b.npz")


def test_what_cannot_be_written_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state_files.save(path, {"x": np.zeros(1)})
    before = path.read_bytes()
    with pytest.raises(state_files.StateFileError, match="complex128"):
        state_files.save(path, {"x": np.zeros(1, complex)})
    with pytest.raises(state_files.StateFileError, match="array 'x': Object arrays"):
        state_files.save(tmp_path / "a.npz", {"x": np.array([{}], dtype=object)})
    with pytest.raises(state_files.StateFileError, match="want .npz or .safetensors"):
        state_files.save(tmp_path / "a.txt", {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
