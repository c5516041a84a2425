"""Client of normd for asyncio.

    async with normd.aio.Client("127.0.0.1:50051") as client:
        await client.create_layer("net.bn1", 64, preset="pytorch")
        step = await client.train_step("net.bn1", x)
        results = await asyncio.gather(*(client.infer("net.bn1", each) for each in batches))

The methods, values, errors and retries are those of normd.Client. What there is not: shared memory (transport="shm",
empty), which is for threads. See Client.
"""

from normd.aio._steps import Steps
from normd.aio._streams import InferStream, TrainStepStream
from normd.aio._watch import LayerWatch
from normd.aio.client import Client

__all__ = ["Client", "InferStream", "LayerWatch", "Steps", "TrainStepStream"]
