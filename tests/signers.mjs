// What the signers of signers.js make of vectors: JSON lines in, JSON lines out. For tests/test_signers.py.

import { createInterface } from "node:readline";
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import { kbpgpSigner, openpgpSigner } from "../signal_server/static/signers.js";

const signers = { kbpgp: await kbpgpSigner(kbpgp), "openpgp.js": await openpgpSigner(openpgp) };

// What is thrown where nobody can catch it would end the process; the promise that waits for it never ends.
let thrown = error => { throw error; };
process.on("uncaughtException", error => thrown(error));

for await (const line of createInterface({ input: process.stdin })) {
  const { name, message, key } = JSON.parse(line);
  const found = { name };
  for (const [library, signer] of Object.entries(signers)) {
    const crash = new Promise(resolve => { thrown = error => resolve(`crash: ${error}`); });
    found[library] = await Promise.race([signer.verify(message, key).catch(error => String(error)), crash]);
  }
  process.stdout.write(JSON.stringify(found) + "\n");
}
process.exit(); // kbpgp would keep it for a while
