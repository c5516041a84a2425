// Every method of the Open Inference Protocol, by a client that knows the standard only.
import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { after, before, test } from 'node:test';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { call, floats, startServer, toDoubles, toFloats } from './server.mjs';
import { InferenceClient } from './standard.mjs';

let server;
let client;
const request = (values = [1, 2, 3, 4]) => ({
  model_name: 'bn',
  inputs: [{ name: 'x', datatype: 'FP32', shape: [2, 2] }],
  raw_input_contents: [floats(values)],
});
// Of a fresh layer: mean 0, variance 1.
const normalized = (values) => values.map((value) => Math.fround(value / Math.sqrt(1 + 1e-5)));

function assertClose(got, want) {
  assert.equal(got.length, want.length);
  got.forEach((value, i) => assert.ok(Math.abs(value - want[i]) <= 1e-6 * Math.max(1, Math.abs(want[i])),
                                      `[${i}]: ${value}, want ${want[i]}`));
}

before(async () => {
  server = await startServer('--shared-memory', '--open-inference-shared-memory');
  client = new InferenceClient(server.address, grpc.credentials.createInsecure());
  // Layers are made by normd's own service.
  const protos = protoLoader.loadSync('normd/v1/layer_service.proto', { includeDirs: [process.env.NORMD_PROTOS] });
  const { LayerService } = grpc.loadPackageDefinition(protos).normd.v1;
  const layers = new LayerService(server.address, grpc.credentials.createInsecure());
  const [error] = await call(layers, 'createLayer', { name: 'bn', config: { numChannels: 2 } });
  assert.ifError(error);
  layers.close();
});

after(async () => {
  client.close();
  assert.equal(await server.stop(), 0);
});

test('the server and its models', async () => {
  assert.deepEqual(await call(client, 'ServerLive', {}), [null, { live: true }]);
  assert.deepEqual(await call(client, 'ServerReady', {}), [null, { ready: true }]);
  assert.deepEqual(await call(client, 'ModelReady', { name: 'bn' }), [null, { ready: true }]);
  assert.deepEqual(await call(client, 'ModelReady', { name: 'nobody' }), [null, {}]);
  const [, metadata] = await call(client, 'ServerMetadata', {});
  assert.equal(metadata.name, 'normd');
  assert.ok(metadata.extensions.includes('system_shared_memory'));
  const tensor = (name) => ({ name, datatype: 'FP32', shape: [-1, 2] });
  const [, model] = await call(client, 'ModelMetadata', { name: 'bn' });
  assert.deepEqual(model, { name: 'bn', versions: ['1'], platform: 'normd_batch_norm', inputs: [tensor('x')],
                            outputs: [tensor('y')] });
  const [, { config }] = await call(client, 'ModelConfig', { name: 'bn' });
  assert.deepEqual(config.input, [{ name: 'x', data_type: 11, dims: [-1, 2] }]);
  assert.deepEqual(config.output, [{ name: 'y', data_type: 11, dims: [-1, 2] }]);
  const [, index] = await call(client, 'RepositoryIndex', {});
  assert.deepEqual(index, { models: [{ name: 'bn', version: '1', state: 'READY' }] });
});

test('inference, raw and typed', async () => {
  const [error, response] = await call(client, 'ModelInfer', { ...request(), id: 'abc' });
  assert.ifError(error);
  assert.equal(response.id, 'abc');
  assert.equal(response.model_version, '1');
  assert.deepEqual(response.outputs.map(({ name, datatype, shape }) => ({ name, datatype, shape })),
                   [{ name: 'y', datatype: 'FP32', shape: [2, 2] }]);
  assertClose(toFloats(response.raw_output_contents[0]), normalized([1, 2, 3, 4]));

  const typed = request();
  typed.raw_input_contents = [];
  typed.inputs[0].contents = { fp32_contents: [1, 2, 3, 4] };
  const [typedError, same] = await call(client, 'ModelInfer', typed);
  assert.ifError(typedError);
  assert.deepEqual(same.raw_output_contents, response.raw_output_contents);
});

test('errors have codes', async () => {
  const [unknown] = await call(client, 'ModelInfer', { ...request(), model_name: 'nobody' });
  assert.equal(unknown.code, grpc.status.NOT_FOUND);
  const [bytes] = await call(client, 'ModelInfer', { ...request(), raw_input_contents: [Buffer.alloc(7)] });
  assert.equal(bytes.code, grpc.status.INVALID_ARGUMENT);
  assert.match(bytes.details, /7 bytes/);
});

test('training and its versions', async () => {
  const step = { ...request(), parameters: { training: { bool_param: true }, request_id: { string_param: 'one' } },
                 outputs: [{ name: 'y' }, { name: 'batch_mean' }] };
  const [error, response] = await call(client, 'ModelInfer', step);
  assert.ifError(error);
  assert.equal(response.model_version, '2');
  assert.deepEqual(toDoubles(response.raw_output_contents[1]), [2, 3]);
  const [, again] = await call(client, 'ModelInfer', step);
  assert.equal(again.parameters.replayed.bool_param, true);
  const [, model] = await call(client, 'ModelMetadata', { name: 'bn' });
  assert.deepEqual(model.versions, ['1', '2']);
  const [, pinned] = await call(client, 'ModelInfer', { ...request(), model_version: '1' });
  assertClose(toFloats(pinned.raw_output_contents[0]), normalized([1, 2, 3, 4]));
});

test('a stream', async () => {
  const stream = client.ModelStreamInfer();
  const answers = [];
  const ended = new Promise((resolve, reject) => {
    stream.on('data', (answer) => answers.push(answer));
    stream.on('end', resolve);
    stream.on('error', reject);
  });
  for (let i = 0; i < 20; i += 1) {
    stream.write({ ...request(), id: `${i}`, model_name: i === 7 ? 'nobody' : 'bn', model_version: i === 7 ? '' : '1' });
  }
  stream.end();
  await ended;
  assert.deepEqual(answers.map(({ infer_response: { id } }) => id), [...Array(20).keys()].map(String));
  answers.forEach((answer, i) => {
    if (i === 7) {
      assert.match(answer.error_message, /^NOT_FOUND: /);
    } else {
      assertClose(toFloats(answer.infer_response.raw_output_contents[0]), normalized([1, 2, 3, 4]));
    }
  });
});

test('statistics', async () => {
  const [error, { model_stats: [model] }] = await call(client, 'ModelStatistics', { name: 'bn' });
  assert.ifError(error);
  assert.equal(model.name, 'bn');
  assert.ok(model.execution_count >= 20);
  assert.equal(model.inference_stats.success.count, model.execution_count);
});

test('tensors in shared memory', async () => {
  const key = `/normd-foreign-${process.pid}`;
  const file = `/dev/shm${key}`;
  const fd = openSync(file, 'wx+', 0o600);
  try {
    writeSync(fd, Buffer.alloc(4096), 0, 4096, 0);
    writeSync(fd, floats([1, 2, 3, 4]), 0, 16, 128);
    const [error] = await call(client, 'SystemSharedMemoryRegister', { name: 'mine', key, byte_size: 4096 });
    assert.ifError(error);
    const [, status] = await call(client, 'SystemSharedMemoryStatus', {});
    assert.deepEqual(status.regions.mine, { name: 'mine', key, byte_size: 4096 });
    const place = (offset) => ({ shared_memory_region: { string_param: 'mine' },
                                 shared_memory_offset: { int64_param: offset },
                                 shared_memory_byte_size: { int64_param: 16 } });
    const [inferError, response] = await call(client, 'ModelInfer', {
      model_name: 'bn', model_version: '1',
      inputs: [{ name: 'x', datatype: 'FP32', shape: [2, 2], parameters: place(128) }],
      outputs: [{ name: 'y', parameters: place(1024) }],
    });
    assert.ifError(inferError);
    assert.deepEqual(response.raw_output_contents.map((bytes) => bytes.length), [0]);
    assertClose(toFloats(readFileSync(file).subarray(1024, 1040)), normalized([1, 2, 3, 4]));
    assert.ifError((await call(client, 'SystemSharedMemoryUnregister', { name: 'mine' }))[0]);
    const [, none] = await call(client, 'SystemSharedMemoryStatus', {});
    assert.equal(Object.keys(none.regions ?? {}).length, 0);
  } finally {
    closeSync(fd);
    rmSync(file);
  }
});
