// Runs a WASI program: node wasi.js PROGRAM ARGUMENTS... Its files are those of this machine.
"use strict";
const fs = require("node:fs");
const { WASI } = require("node:wasi");

const [program, ...rest] = process.argv.slice(2);
const wasi = new WASI({
  version: "preview1",
  args: [program, ...rest],
  preopens: { "/": "/" },
  returnOnExit: true,
});
WebAssembly.instantiate(fs.readFileSync(program), wasi.getImportObject()).then(
  ({ instance }) => process.exit(wasi.start(instance)),
);
