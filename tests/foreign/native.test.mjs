// normd's own services, by @grpc/grpc-js from the .proto files, and from what reflection says.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { GrpcReflection } from 'grpc-js-reflection-client';
import { call, floats, startServer, toFloats } from './server.mjs';

let server;
let v1;
const insecure = grpc.credentials.createInsecure();
const tensor = (values, shape) => ({ dtype: 'DATA_TYPE_FLOAT32', shape, data: floats(values) });

before(async () => {
  server = await startServer();
  const files = ['layer_service', 'normalization_service', 'snapshot_service'].map((name) => `normd/v1/${name}.proto`);
  v1 = grpc.loadPackageDefinition(protoLoader.loadSync(files, {
    includeDirs: [process.env.NORMD_PROTOS], longs: Number, enums: String, defaults: true, oneofs: true,
  })).normd.v1;
});

after(async () => assert.equal(await server.stop(), 0));

test('a layer, a training step, and a watcher that sees it', async () => {
  const layers = new v1.LayerService(server.address, insecure);
  const normalization = new v1.NormalizationService(server.address, insecure);
  const [error, created] = await call(layers, 'createLayer', { name: 'js', config: { numChannels: 2 }, preset: 'pytorch' });
  assert.ifError(error);
  assert.equal(created.layer.version, 1);

  const watch = layers.watchLayers({ names: ['js'] });
  const seen = [];
  const second = new Promise((resolve, reject) => {
    watch.on('data', (change) => {
      seen.push(change);
      if (change.layer?.version === 2) resolve();
    });
    watch.on('error', reject);
  });
  const [stepError, step] = await call(normalization, 'trainStep', {
    layer: 'js', x: tensor([1, 2, 3, 4], [2, 2]), requestId: 'one',
  });
  assert.ifError(stepError);
  assert.deepEqual(step.batchMean, [2, 3]);
  const y = toFloats(step.y.data);
  assert.ok(Math.abs(y[0] + 1 / Math.sqrt(1 + 1e-5)) < 1e-6);
  await second;
  watch.removeAllListeners('error');
  watch.on('error', () => {});
  watch.cancel();
  assert.equal(seen.at(-1).layer.name, 'js');

  const [missing] = await call(normalization, 'infer', { layer: 'nobody', x: tensor([1, 2], [1, 2]) });
  assert.equal(missing.code, grpc.status.NOT_FOUND);
  layers.close();
  normalization.close();
});

test('many calls on one stream', async () => {
  const normalization = new v1.NormalizationService(server.address, insecure);
  const stream = normalization.steps();
  const answers = [];
  const ended = new Promise((resolve, reject) => {
    stream.on('data', (answer) => answers.push(answer));
    stream.on('end', resolve);
    stream.on('error', reject);
  });
  for (let id = 1; id <= 50; id += 1) stream.write({ id, infer: { layer: 'js', x: tensor([1, 2], [1, 2]) } });
  stream.end();
  await ended;
  assert.deepEqual(answers.map(({ id }) => id), [...Array(50).keys()].map((i) => i + 1));
  assert.ok(answers.every(({ infer }) => infer.version === 2));
  normalization.close();
});

test('reflection lists every service, and is enough for a call', async () => {
  const reflection = new GrpcReflection(server.address, insecure);
  const services = await reflection.listServices();
  assert.deepEqual([...services].sort(), [
    'grpc.health.v1.Health', 'grpc.reflection.v1alpha.ServerReflection', 'inference.GRPCInferenceService',
    'normd.v1.AdminService',
    'normd.v1.LayerService', 'normd.v1.NormalizationService', 'normd.v1.SharedMemoryService', 'normd.v1.SnapshotService',
  ]);
  for (const service of services) {
    const methods = await reflection.listMethods(service);
    assert.ok(methods.length > 0, `${service} has methods`);
  }
  const descriptor = await reflection.getDescriptorBySymbol('grpc.health.v1.Health');
  const { Health } = descriptor.getPackageObject({ enums: String }).grpc.health.v1;
  const health = new Health(server.address, insecure);
  for (const service of ['', ...services.filter((name) => !name.startsWith('grpc.'))]) {
    const [error, answer] = await call(health, 'Check', { service });
    assert.ifError(error);
    assert.equal(answer.status, 'SERVING', service);
  }
  health.close();
});
