// Runs the jobs of a work folder in whichever onnxruntime is handed over: the same code in Node and in the browser.
// programs.py writes jobs.json, the models and the inputs as raw bytes, and reads what this writes.

const ARRAYS = { float32: Float32Array, float64: Float64Array, float16: Uint16Array };

/**
 * @param ort the module of onnxruntime-node or onnxruntime-web.
 * @param store read(name) and write(name, bytes) of the work folder, asynchronous.
 * @param options of every session.
 */
export async function runJobs(ort, store, options) {
  const { jobs } = JSON.parse(new TextDecoder().decode(await store.read("jobs.json")));
  const results = {};
  for (const job of jobs) {
    try {
      results[job.name] = await runJob(ort, store, options, job);
    } catch (error) {
      results[job.name] = { error: String(error?.stack ?? error) };
    }
  }
  const report = { versions: ort.env.versions, results };
  await store.write("results.json", new TextEncoder().encode(JSON.stringify(report)));
}

async function runJob(ort, store, options, job) {
  const session = await ort.InferenceSession.create(new Uint8Array(await store.read(job.model)), options);
  const [count, ...rest] = job.dims;
  const size = rest.reduce((a, b) => a * b, 1);
  const data = new ARRAYS[job.type](await store.read(job.input));
  const parts = [];
  for (let at = 0; at < count; at += job.batch) {
    const rows = Math.min(job.batch, count - at);
    const x = new ort.Tensor(job.type, data.subarray(at * size, (at + rows) * size), [rows, ...rest]);
    const outputs = await session.run({ [session.inputNames[0]]: x });
    const y = outputs[session.outputNames[0]];
    parts.push({ type: y.type, dims: y.dims, bytes: new Uint8Array(y.data.buffer, y.data.byteOffset, y.data.byteLength).slice() });
  }
  await session.release();
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.bytes.length, 0));
  parts.reduce((at, part) => (bytes.set(part.bytes, at), at + part.bytes.length), 0);
  const output = `${job.name}.output`;
  await store.write(output, bytes);
  const first = parts[0];
  return { output, type: first.type, dims: [parts.reduce((n, part) => n + part.dims[0], 0), ...first.dims.slice(1)] };
}
