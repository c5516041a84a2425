"""Debian's python3-grpcio with stubs that protoc's plugin generates, and nothing of ours: the contract is the .proto files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from conftest import Server

PROTOS = Path(__file__).parents[2] / "proto"

# Runs in a process of its own: this one has normd's stubs, and protobuf knows each file once.
CLIENT = """
import sys
import grpc
import numpy as np
from inference import open_inference_service_pb2 as oip, open_inference_service_pb2_grpc as oip_grpc
from normd.v1 import layer_service_pb2, layer_service_pb2_grpc, normalization_service_pb2, normalization_service_pb2_grpc
from normd.v1 import tensor_pb2

assert "normd.client" not in sys.modules
channel = grpc.insecure_channel(sys.argv[1])
layers = layer_service_pb2_grpc.LayerServiceStub(channel)
request = layer_service_pb2.CreateLayerRequest(name="plain.bn", preset="pytorch")
request.config.num_channels = 3
assert layers.CreateLayer(request).layer.version == 1

x = np.random.default_rng(1).normal(3, 2, (8, 3)).astype(np.float32)
normalization = normalization_service_pb2_grpc.NormalizationServiceStub(channel)
tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
step = normalization.TrainStep(normalization_service_pb2.TrainStepRequest(layer="plain.bn", x=tensor))
np.testing.assert_allclose(step.batch_mean, x.astype(np.float64).mean(0), rtol=1e-12)
y = np.frombuffer(step.y.data, np.float32).reshape(x.shape)
want = (x - x.mean(0, dtype=np.float64)) / np.sqrt(x.var(0, dtype=np.float64) + 1e-5)
np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)

inference = oip_grpc.GRPCInferenceServiceStub(channel)
request = oip.ModelInferRequest(model_name="plain.bn", raw_input_contents=[x.tobytes()])
request.inputs.add(name="x", datatype="FP32", shape=x.shape)
answer = inference.ModelInfer(request)
own = normalization.Infer(normalization_service_pb2.InferRequest(layer="plain.bn", x=tensor))
assert answer.raw_output_contents[0] == own.y.data and answer.model_version == str(own.version)
try:
    normalization.Infer(normalization_service_pb2.InferRequest(layer="nobody", x=tensor))
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND
else:
    raise AssertionError("an unknown layer must be an error")
print("done")
"""


def test_plain_stubs(tmp_path: Path, server: Server) -> None:
    plugin = shutil.which("grpc_python_plugin")
    assert plugin is not None
    files = sorted(str(file.relative_to(PROTOS)) for folder in ("normd", "inference")
                   for file in (PROTOS / folder).rglob("*.proto"))
    subprocess.run(
        ["protoc", "-I", str(PROTOS), f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
         f"--plugin=protoc-gen-grpc_python={plugin}", *files],
        check=True,
    )
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    # Without the virtual environment, in which the name normd is our package.
    done = subprocess.run(["/usr/bin/python3", str(client), server.tcp], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
