// Runs the module of `wasm.rs` under Node: node wasm.mjs MODULE MODEL PROMPT TOKENS

import { readFile } from "node:fs/promises";

const [module, model, prompt, tokens] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(await readFile(module));
const tern = instance.exports;

function write(bytes) {
  const start = tern.input(bytes.length);
  new Uint8Array(tern.memory.buffer, start, bytes.length).set(bytes);
}

function answer(succeeded) {
  const bytes = new Uint8Array(tern.memory.buffer, tern.output(), tern.output_size_bytes());
  const text = new TextDecoder().decode(bytes);
  if (!succeeded) throw new Error(text);
  return text;
}

write(await readFile(model));
console.error(`kernel ${answer(tern.load())}`);
write(new TextEncoder().encode(prompt));
const start = performance.now();
process.stdout.write(answer(tern.generate(Number(tokens))));
console.error(`\n${(performance.now() - start).toFixed(0)} ms`);
