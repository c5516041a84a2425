// h2load, an HTTP/2 load generator that knows nothing of gRPC. It counts HTTP's 200, which a failed call has too: how many
// calls succeeded is what the server's own statistics say.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { call, floats, startServer } from './server.mjs';

let server;
let inference;

before(async () => {
  server = await startServer();
  const load = (file) => grpc.loadPackageDefinition(
    protoLoader.loadSync(file, { includeDirs: [process.env.NORMD_PROTOS], longs: Number }));
  const insecure = grpc.credentials.createInsecure();
  const { LayerService } = load('normd/v1/layer_service.proto').normd.v1;
  const layers = new LayerService(server.address, insecure);
  assert.ifError((await call(layers, 'createLayer', { name: 'bn', config: { numChannels: 64 } }))[0]);
  layers.close();
  const { GRPCInferenceService } = load('inference/open_inference_service.proto').inference;
  inference = new GRPCInferenceService(server.address, insecure);
});

after(async () => {
  inference.close();
  assert.equal(await server.stop(), 0);
});

test('20,000 calls on 4 connections', async () => {
  const { requestSerialize } = inference.ModelInfer;
  const message = requestSerialize({
    modelName: 'bn', inputs: [{ name: 'x', datatype: 'FP32', shape: [4, 64] }], rawInputContents: [floats(Array(256).fill(1))],
  });
  // gRPC's frame: not compressed, and the length.
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  writeFileSync('request.bin', Buffer.concat([prefix, message]));
  const h2load = spawn('h2load', ['-n', '20000', '-c', '4', '-m', '8', '-d', 'request.bin', '-H',
                                  'content-type: application/grpc', '-H', 'te: trailers',
                                  `http://${server.address}/inference.GRPCInferenceService/ModelInfer`]);
  let output = '';
  h2load.stdout.on('data', (data) => { output += data; });
  const [code] = await once(h2load, 'close');
  assert.equal(code, 0, output);
  assert.match(output, /20000 succeeded, 0 failed/);
  const [error, { modelStats: [model] }] = await call(inference, 'ModelStatistics', { name: 'bn' });
  assert.ifError(error);
  assert.equal(model.inferenceStats.success.count, 20000);
  assert.equal(model.inferenceStats.fail?.count ?? 0, 0);
});
