// A normd for a test file: on a free port, without state, gone at the end.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export async function startServer(...flags) {
  const normd = spawn(process.env.NORMD_BIN, ['--listen', '127.0.0.1:0', '--store', 'memory', ...flags], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(createInterface({ input: normd.stdout }), 'line');
  return {
    address: line.replace('normd listening on ', ''),
    async stop() {
      normd.kill('SIGTERM');
      const [code] = await once(normd, 'exit');
      return code;
    },
  };
}

// A unary call as a promise of [error, response].
export function call(client, method, request) {
  return new Promise((resolve) => client[method](request, (error, response) => resolve([error, response])));
}

export const floats = (values) => Buffer.from(Float32Array.from(values).buffer);
export const toFloats = (bytes) => [...new Float32Array(Uint8Array.from(bytes).buffer)];
export const toDoubles = (bytes) => [...new Float64Array(Uint8Array.from(bytes).buffer)];
