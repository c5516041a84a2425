"""Batch normalization as one serves it oneself: grpcio, PyTorch, and the tensor in a bytes field.

torch_server.py --unix-socket PATH [--torch-threads 1] [--workers 8]

Needs the generated baseline_pb2 on its path. Listens on a free port of 127.0.0.1 and on the socket, says so on stdout as
normd does, and ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
from concurrent import futures

import baseline_pb2
import baseline_pb2_grpc
import grpc
import numpy as np
import torch
import torch.nn.functional as F


class Layer:
    """Starts like the layers of workload.h, so that both servers have the same right answers."""

    def __init__(self, num_channels: int) -> None:
        self.running_mean = torch.full((num_channels,), 0.5)
        self.running_var = torch.full((num_channels,), 2.0)
        self.weight = torch.full((num_channels,), 1.25)
        self.bias = torch.full((num_channels,), -0.5)


class BatchNormService(baseline_pb2_grpc.BatchNormServicer):
    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}

    def Normalize(
        self, request: baseline_pb2.NormalizeRequest, context: grpc.ServicerContext
    ) -> baseline_pb2.Blob:
        # A copy, because PyTorch wants memory that it may write to.
        x = torch.from_numpy(np.frombuffer(bytearray(request.data), dtype=np.float32)).view(tuple(request.shape))
        layer = self.layers.setdefault(request.layer, Layer(x.shape[1]))
        with torch.no_grad():
            y = F.batch_norm(
                x, layer.running_mean, layer.running_var, layer.weight, layer.bias,
                training=request.training, momentum=0.1, eps=1e-5,
            )
        return baseline_pb2.Blob(data=y.numpy().tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unix-socket", required=True)
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()

    torch.set_num_threads(args.torch_threads)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(args.workers), options=unlimited)
    baseline_pb2_grpc.add_BatchNormServicer_to_server(BatchNormService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"unix:{args.unix_socket}")
    signal.signal(signal.SIGTERM, lambda number, frame: server.stop(None))
    server.start()
    print(f"torch_server listening on 127.0.0.1:{port}", flush=True)
    print(f"torch_server listening on unix:{args.unix_socket}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
