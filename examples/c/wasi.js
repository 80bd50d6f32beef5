// Runs a WebAssembly program that reads files, such as plain_c.c linked by zig, in Node.js:
//
//   node --no-warnings wasi.js plain_c.wasm batch.raw
//
// It may open all files that you may.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { WASI } = require("node:wasi");

const [program, ...rest] = process.argv.slice(2);
// A program's current folder is always "/", so names of files are given from there.
const names = rest.map((word) => (fs.existsSync(word) ? path.resolve(word) : word));
const wasi = new WASI({
  version: "preview1",
  args: [program, ...names],
  preopens: { "/": "/" },
  returnOnExit: true,
});
WebAssembly.instantiate(fs.readFileSync(program), wasi.getImportObject()).then(
  ({ instance }) => process.exit(wasi.start(instance)),
);
