// A signer of signers.js as a process: `node sign_lines.mjs KIND`. JSON lines in, JSON lines out; the first line out says
// who it is. For tests/test_unlike_signers.py.

import { createInterface } from "node:readline";
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import { kbpgpSigner, openpgpSigner } from "../signal_server/static/signers.js";

async function version6() {
  const userIDs = [{ name: "six" }];
  const date = new Date(Date.now() - 60_000);
  const made = await openpgp.generateKey({ type: "curve25519", userIDs, subkeys: [], date, config: { v6Keys: true } });
  return openpgpSigner(openpgp, { privateKey: made.privateKey });
}

const kinds = { kbpgp: () => kbpgpSigner(kbpgp), "openpgp.js": () => openpgpSigner(openpgp), "openpgp.js, version 6": version6 };
const signer = await kinds[process.argv[2]]();
const say = value => process.stdout.write(JSON.stringify(value) + "\n");

say({ fingerprint: signer.fingerprint, key: signer.publicKey() });
for await (const line of createInterface({ input: process.stdin })) {
  const { text, message, key } = JSON.parse(line);
  const done = text === undefined ? signer.verify(message, key) : signer.sign(text).then(signed => ({ signed }));
  say(await done.catch(error => ({ error: String(error) })));
}
process.exit(); // kbpgp would keep it for a while
