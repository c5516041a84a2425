// `buf curl`, for people without any SDK: by reflection, and from the .proto files. docs and README show these commands.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { floats, startServer } from './server.mjs';

let server;

before(async () => { server = await startServer(); });
after(async () => assert.equal(await server.stop(), 0));

// Exit code and output of a call with a JSON request, or one per line.
async function curl(method, request, ...flags) {
  const buf = spawn(process.env.BUF, ['curl', '--protocol', 'grpc', '--http2-prior-knowledge', ...flags, '-d', '@-',
                                      `http://${server.address}/${method}`]);
  let output = '';
  buf.stdout.on('data', (data) => { output += data; });
  buf.stderr.on('data', (data) => { output += data; });
  buf.stdin.end([request].flat().map((message) => JSON.stringify(message)).join('\n'));
  const [code] = await once(buf, 'close');
  return { code, output };
}

const x = { dtype: 'DATA_TYPE_FLOAT32', shape: [2, 2], data: floats([1, 2, 3, 4]).toString('base64') };

test('unary calls by reflection', async () => {
  const created = await curl('normd.v1.LayerService/CreateLayer', { name: 'curl.bn', config: { numChannels: 2 } });
  assert.equal(created.code, 0, created.output);
  const step = await curl('normd.v1.NormalizationService/TrainStep', { layer: 'curl.bn', x, requestId: 'a' });
  assert.equal(step.code, 0, step.output);
  assert.deepEqual(JSON.parse(step.output).batchMean, [2, 3]);
  const inference = await curl('inference.GRPCInferenceService/ModelInfer', {
    model_name: 'curl.bn', inputs: [{ name: 'x', datatype: 'FP32', shape: [2, 2] }], raw_input_contents: [x.data],
  });
  assert.equal(inference.code, 0, inference.output);
  assert.equal(JSON.parse(inference.output).modelVersion, '2');
});

test('from the .proto files', async () => {
  const list = await curl('normd.v1.LayerService/ListLayers', {}, '--schema', process.env.NORMD_PROTOS);
  assert.equal(list.code, 0, list.output);
  assert.equal(JSON.parse(list.output).layers[0].name, 'curl.bn');
});

test('a stream in both directions', async () => {
  const steps = [1, 2, 3].map((id) => ({ id, infer: { layer: 'curl.bn', x } }));
  const { code, output } = await curl('normd.v1.NormalizationService/Steps', steps);
  assert.equal(code, 0, output);
  assert.equal(output.match(/"id": "\d"/g).length, 3);
});

test('a stream from the server', async () => {
  // A watch goes on for ever: it ends when what it is for has come, with the program that npm's wrapper started.
  const buf = spawn(process.env.BUF, ['curl', '--protocol', 'grpc', '--http2-prior-knowledge',
                                      '-d', '{"names": ["curl.bn"]}',
                                      `http://${server.address}/normd.v1.LayerService/WatchLayers`],
                    { detached: true });
  let output = '';
  const closed = once(buf, 'close');
  for await (const data of buf.stdout) {
    output += data;
    if (output.includes('"version": "2"')) break;
  }
  process.kill(-buf.pid, 'SIGTERM');
  await closed;
  assert.match(output, /"name": "curl.bn"/);
});

test('errors name what is wrong', async () => {
  const { code, output } = await curl('normd.v1.NormalizationService/Infer', { layer: 'nobody', x });
  assert.notEqual(code, 0);
  assert.match(output, /not_found/);
  assert.match(output, /nobody/);
});
