// Runs a program of WebAssembly's system interface (wasm32-wasip1) under Node, as a test runner of Cargo.

import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const { env } = process;
const wasi = new WASI({ version: "preview1", args: process.argv.slice(2), env, preopens: { "/": "/" } });
const module = await WebAssembly.compile(await readFile(process.argv[2]));
process.exit(wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject())));
