// Compiles Grid.sol to the artefact that is checked in as Grid.json.
//
//   node compile.js <folder of solc, .../node_modules/solc>          prints the artefact
//   node compile.js <folder of solc> > Grid.json                     renews it
//
// The same source, compiler and settings give the same bytes on every machine: the metadata
// hash, which would depend on more than these, is left out.
"use strict";
const fs = require("fs");
const path = require("path");

const solc = require(path.resolve(process.argv[2]));
const source = "Grid.sol";
// `paris` runs on every EVM chain in use; nothing here needs a later instruction.
const settings = {
  evmVersion: "paris",
  optimizer: { enabled: true, runs: 200 },
  metadata: { bytecodeHash: "none", appendCBOR: false },
};
const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources: { [source]: { content: fs.readFileSync(path.join(__dirname, source), "utf8") } },
      settings: {
        ...settings,
        outputSelection: { [source]: { Grid: ["abi", "evm.bytecode.object", "storageLayout"] } },
      },
    }),
  ),
);
// Warnings stop it too: the contract cannot be mended once it is on a chain.
for (const error of output.errors ?? []) process.stderr.write(error.formattedMessage);
if (output.errors?.length) process.exit(1);

const grid = output.contracts[source].Grid;
// What a prover needs: which member lies where. Numbers of syntax nodes are left out.
const place = ({ label, slot, offset, type }) => ({ label, slot: Number(slot), offset, type: named(type) });
const named = (type) => grid.storageLayout.types[type].label;
const structs = {};
for (const { label, members } of Object.values(grid.storageLayout.types)) {
  if (members) structs[label] = members.map(place);
}
const artefact = {
  source,
  compiler: solc.version(),
  settings,
  abi: grid.abi,
  storage: { slots: grid.storageLayout.storage.map(place), structs },
  bytecode: "0x" + grid.evm.bytecode.object,
};
process.stdout.write(JSON.stringify(artefact, null, 1) + "\n");
