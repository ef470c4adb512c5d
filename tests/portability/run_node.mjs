// node run_node.mjs FOLDER: the jobs of a work folder in onnxruntime-node.

import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import ort from "onnxruntime-node";
import { runJobs } from "./jobs.mjs";

const folder = process.argv[2];
const store = {
  read: async (name) => {
    const bytes = await readFile(path.join(folder, name));
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  },
  write: (name, bytes) => writeFile(path.join(folder, name), bytes),
};
await runJobs(ort, store, { logSeverityLevel: 3 });
