// node node_runtime.js PACKAGE MODEL: keeps a session of onnxruntime-node open and answers one line of JSON for each on stdin.
// Tensors travel in files, since lines of text would round them.
"use strict";
const fs = require("fs");
const path = require("path");
const readline = require("readline");

const [folder, model] = process.argv.slice(2);
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array,
  uint8: Uint8Array, bool: Uint8Array,
};

const say = (answer) => fs.writeSync(1, JSON.stringify(answer) + "\n");
const explain = (error) => String((error && error.message) || error).split("\n")[0].slice(0, 400);

function tensor(ort, sent) {
  const bytes = fs.readFileSync(sent.file);
  const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return new ort.Tensor(sent.type, new ARRAYS[sent.type](copy), sent.dims);
}

async function answer(ort, session, request) {
  const feeds = {};
  for (const sent of request.inputs) feeds[sent.name] = tensor(ort, sent);
  const found = await session.run(feeds);
  const outputs = session.outputNames.map((name, i) => {
    const { data, dims, type } = found[name];
    const file = path.join(request.folder, `out_${i}`);
    fs.writeFileSync(file, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    return { name, type, dims: Array.from(dims), file };
  });
  say({ outputs });
}

async function main() {
  const ort = require(folder);
  const { version } = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8"));
  const session = await ort.InferenceSession.create(model, { executionProviders: ["cpu"], logSeverityLevel: 4 });
  say({ version, node: process.versions.node, inputs: session.inputNames });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      await answer(ort, session, JSON.parse(line));
    } catch (error) {
      say({ error: explain(error) });
    }
  }
}

main().catch((error) => {
  say({ error: explain(error) });
  process.exit(1);
});
