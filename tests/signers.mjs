// What the signers of signers.js make of vectors: JSON lines in, JSON lines out. For tests/test_signers.py.

import { createInterface } from "node:readline";
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import { kbpgpSigner, openpgpSigner } from "../signal_server/static/signers.js";

const signers = { kbpgp: await kbpgpSigner(kbpgp), "openpgp.js": await openpgpSigner(openpgp) };

for await (const line of createInterface({ input: process.stdin })) {
  const { name, message, key } = JSON.parse(line);
  const found = { name };
  for (const [library, signer] of Object.entries(signers)) {
    found[library] = await signer.verify(message, key).catch(error => String(error));
  }
  process.stdout.write(JSON.stringify(found) + "\n");
}
process.exit(); // kbpgp would keep it for a while
