// Checks Kubernetes manifests against the API's schemas: types, required fields, and names of fields that do not exist.
//   kubectl kustomize deploy/kubernetes/single | node validate_manifests.mjs
// Needs the npm packages kubernetes-models and yaml in the working directory's node_modules.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const load = (path) => import(pathToFileURL(resolve("node_modules", path)).href);
const { parseAllDocuments } = (await load("yaml/dist/index.js")).default;

// The schemas allow unknown fields. So the validator gets proxies that record what it asks for: a field that it never asked
// for is not in the schema. Names in maps that people fill (labels, data ...) are asked for by iteration.
function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item, i) => watched(item, `${path}[${i}]`, unread));
  const copy = {};
  for (const [key, item] of Object.entries(value)) {
    copy[key] = watched(item, `${path}.${key}`, unread);
    unread.add(`${path}.${key}`);
  }
  return new Proxy(copy, {
    get(target, key) {
      if (typeof key === "string") unread.delete(`${path}.${key}`);
      return target[key];
    },
    has(target, key) {
      return key in target;
    },
  });
}

let problems = 0;
let count = 0;
for (const document of parseAllDocuments(readFileSync(0, "utf8"))) {
  const object = document.toJS();
  if (object === null) continue;
  const { apiVersion, kind } = object;
  const name = `${kind}/${object.metadata?.name}`;
  ++count;
  const unread = new Set();
  try {
    const models = await load(`kubernetes-models/${apiVersion}/index.js`);
    if (!(kind in models)) throw new Error(`there is no ${kind} in ${apiVersion}`);
    const model = new models[kind](object);
    const proxy = watched(object, name, unread);
    // The model's own method, on our object: a model keeps its fields as properties of itself.
    Object.setPrototypeOf(proxy, Object.getPrototypeOf(model));
    proxy.validate();
  } catch (error) {
    console.error(`${name}: ${error.message}`);
    ++problems;
    continue;
  }
  for (const path of unread) {
    console.error(`${path}: unknown field`);
    ++problems;
  }
}
console.log(`${count} manifests, ${problems} problems`);
process.exit(problems === 0 && count > 0 ? 0 : 1);
