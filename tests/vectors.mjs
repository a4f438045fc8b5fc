// Signed messages by kbpgp and openpgp.js, one JSON object a line, for tests/vectors.py.

import { promisify } from "node:util";
import kbpgp from "kbpgp";
import * as openpgp from "openpgp";
import * as openpgp5 from "openpgp5";
import openpgp4 from "openpgp4";

const texts = JSON.parse(process.argv[2]).map((text) => Buffer.from(text, "base64").toString("utf8"));
const day = 86400;
const offered = '{"TYPE":"CONNECT","NAMESPACE":"chess","SIGNAL":"v=0","TIME":1}';

/**
 * @param {string} name
 * @param {string} message
 * @param {string} key
 * @param {string | null} text - null: it must be refused
 * @param {boolean} isNew - it came with RFC 9580, and gpg is not asked
 */
function vector(name, message, key, text, isNew = false) {
  const base64 = text === null ? null : Buffer.from(text).toString("base64");
  process.stdout.write(JSON.stringify({ name, message, key, text: base64, isNew }) + "\n");
}

// --- kbpgp -------------------------------------------------------------------------------------------------

const F = kbpgp.const.openpgp.key_flags;
const sign = F.certify_keys | F.sign_data;

async function kbpgpKey(options, make = kbpgp.KeyManager.generate) {
  const manager = await promisify(make.bind(kbpgp.KeyManager))({ userid: "k <k@example.invalid>", ...options });
  await promisify(manager.sign.bind(manager))({});
  return { manager, key: await promisify(manager.export_pgp_public.bind(manager))({}) };
}

const box = promisify(kbpgp.box);
const single = { primary: { nbits: 256, flags: sign, expire_in: 0 }, subkeys: [] };

async function byKbpgp() {
  const one = await kbpgpKey({ ecc: true, ...single });
  const two = await kbpgpKey({
    ecc: true,
    primary: { nbits: 384, flags: F.certify_keys, expire_in: 0 },
    subkeys: [{ nbits: 256, flags: F.sign_data, expire_in: day * 365 }],
  });
  const full = await kbpgpKey({}, kbpgp.KeyManager.generate_ecc);
  for (const [name, { manager, key }] of Object.entries({ one, "with a signing subkey": two, "by default": full })) {
    for (const text of texts) {
      vector(`kbpgp ${name}: ${text.slice(0, 20)}`, await box({ msg: text, sign_with: manager }), key, text);
    }
  }
  const { manager, key } = one;
  const good = await box({ msg: offered, sign_with: manager });
  const clear = promisify(kbpgp.clearsign);
  const signer = manager.find_signing_pgp_key();
  vector("kbpgp clearsigned", await clear({ msg: Buffer.from(offered), signing_key: signer }), key, null);
  const detached = await promisify(kbpgp.detachsign)({ data: Buffer.from(offered), signing_key: signer });
  vector("kbpgp detached", detached, key, null);
  vector("kbpgp unsigned", await box({ msg: offered, encrypt_for: full.manager }), key, null);
  const sealed = await box({ msg: offered, encrypt_for: full.manager, sign_with: manager });
  vector("kbpgp signed and encrypted", sealed, key, null);
  vector("kbpgp with another's key", good, two.key, null);
  vector("kbpgp twice", good + good, key, null);
  const secret = await promisify(manager.export_pgp_private.bind(manager))({ passphrase: "x" });
  vector("kbpgp with the private key", good, secret, null);
}

// --- openpgp.js --------------------------------------------------------------------------------------------

const plain = { nonDeterministicSignaturesViaNotation: false };
const who = [{ name: "j", email: "j@example.invalid" }];

const generate = (options) => openpgp.generateKey({ userIDs: who, format: "object", subkeys: [], ...options });
const binary = (text) => openpgp.createMessage({ binary: Buffer.from(text) });

async function byOpenpgp() {
  const kinds = {
    ed25519: { type: "ecc", curve: "ed25519Legacy" },
    "NIST P-256": { type: "ecc", curve: "nistP256" },
    "NIST P-521": { type: "ecc", curve: "nistP521" },
    "RSA 2048": { type: "rsa", rsaBits: 2048 },
    "with a signing subkey": { type: "ecc", curve: "ed25519Legacy", subkeys: [{ sign: true }] },
    "with an encrypting subkey": { type: "ecc", curve: "ed25519Legacy", subkeys: [{}] },
    "two names, will expire": { type: "ecc", curve: "ed25519Legacy", keyExpirationTime: day, userIDs: [who[0], { name: "z" }] },
  };
  for (const [name, options] of Object.entries(kinds)) {
    const { privateKey, publicKey } = await generate(options);
    const key = publicKey.armor();
    for (const text of texts) {
      const message = await openpgp.sign({ message: await binary(text), signingKeys: privateKey, config: plain });
      vector(`openpgp.js ${name}: ${text.slice(0, 20)}`, message, key, text);
    }
  }
  const { privateKey, publicKey } = await generate(kinds.ed25519);
  const key = publicKey.armor();
  const message = await binary(offered);
  const by = (extra) => openpgp.sign({ message, signingKeys: privateKey, config: plain, ...extra });
  vector("openpgp.js with a salt", await by({ config: {} }), key, offered);
  const squeezed = { ...plain, preferredCompressionAlgorithm: openpgp.enums.compression.zlib };
  vector("openpgp.js zlib", await by({ config: squeezed }), key, offered);
  const asText = await openpgp.createMessage({ text: offered });
  vector("openpgp.js as text", await by({ message: asText }), key, offered);
  vector("openpgp.js detached", await by({ detached: true }), key, null);
  const clear = await openpgp.createCleartextMessage({ text: offered });
  vector("openpgp.js clearsigned", await by({ message: clear }), key, null);
  vector("openpgp.js in the future", await by({ date: new Date(Date.now() + day * 1000) }), key, null);
  const other = await generate(kinds.ed25519);
  vector("openpgp.js by two", await by({ signingKeys: [privateKey, other.privateKey] }), key, null);
  vector("openpgp.js by two, the other first", await by({ signingKeys: [other.privateKey, privateKey] }), key, null);
  vector("openpgp.js by another", await by({ signingKeys: other.privateKey }), key, null);
  vector("openpgp.js with the private key", await by({}), privateKey.armor(), null);
  const both = new openpgp.PacketList();
  both.push(...publicKey.toPacketList(), ...other.publicKey.toPacketList());
  vector("openpgp.js two keys", await by({}), openpgp.armor(openpgp.enums.armor.publicKey, both.write()), null);
  const notes = (critical) => [{ name: "a@example.invalid", value: Buffer.from("b"), humanReadable: true, critical }];
  vector("openpgp.js a notation", await by({ signatureNotations: notes(false) }), key, offered);
  vector("openpgp.js a critical notation", await by({ signatureNotations: notes(true) }), key, null);
  vector("openpgp.js a foul notation", await by({ signatureNotations: [{
    name: "a\n[GNUPG:] BADSIG x\n", value: Buffer.from("b\n[GNUPG:] BADSIG x\n"), humanReadable: true, critical: false,
  }] }), key, offered);
  const locked = await openpgp.encrypt({ message, encryptionKeys: (await generate(kinds["with an encrypting subkey"])).publicKey });
  vector("openpgp.js encrypted", locked, key, null);
  vector("openpgp.js by a password", await openpgp.encrypt({ message, passwords: "x" }), key, null);
  vector("openpgp.js unsigned", message.armor(), key, null);
  const past = new Date(Date.now() - 3 * day * 1000);
  const old = await generate({ ...kinds.ed25519, date: past, keyExpirationTime: day });
  const then = new Date(past.getTime() + 1000);
  const before = await openpgp.sign({ message, signingKeys: old.privateKey, date: then, config: plain });
  vector("openpgp.js expired since", before, old.publicKey.armor(), null);
  const { publicKey: revoked } = await openpgp.revokeKey({ key: privateKey, format: "object" });
  vector("openpgp.js revoked", await by({}), revoked.armor(), null);
  const config = { v6Keys: true };
  for (const [name, options] of Object.entries({
    "new Ed25519": { type: "curve25519" },
    "new Ed448": { type: "curve448" },
    "version 6 Ed25519": { type: "curve25519", config },
    "version 6 Ed448": { type: "curve448", config },
    "version 6 RSA": { type: "rsa", rsaBits: 2048, config },
    "version 6 P-256": { type: "ecc", curve: "nistP256", config },
    "version 6 P-521": { type: "ecc", curve: "nistP521", config },
    "version 6 with subkeys": { type: "curve25519", subkeys: [{ sign: true }, {}], config },
  })) {
    const pair = await generate(options);
    for (const text of texts) {
      const signed = await openpgp.sign({ message: await binary(text), signingKeys: pair.privateKey, config: plain });
      vector(`openpgp.js ${name}: ${text.slice(0, 20)}`, signed, pair.publicKey.armor(), text, true);
    }
    const { publicKey: dead } = await openpgp.revokeKey({ key: pair.privateKey, format: "object" });
    const signed = await openpgp.sign({ message, signingKeys: pair.privateKey, config: plain });
    vector(`openpgp.js ${name}, revoked`, signed, dead.armor(), null, true);
    const both = await openpgp.sign({ message, signingKeys: [pair.privateKey, privateKey], config: plain });
    vector(`openpgp.js ${name}, by two`, both, pair.publicKey.armor(), null, true);
  }
}

// --- openpgp.js as it was before -----------------------------------------------------------------------------

async function byOpenpgp5() {
  const kinds = {
    default: {},
    "RSA 2048": { type: "rsa", rsaBits: 2048 },
    "NIST P-384": { curve: "p384" },
    "NIST P-521": { curve: "p521" },
    "with a signing subkey": { subkeys: [{ sign: true }] },
  };
  for (const [name, options] of Object.entries(kinds)) {
    const { privateKey, publicKey } = await openpgp5.generateKey({ userIDs: who, format: "object", ...options });
    for (const text of texts) {
      const message = await openpgp5.sign({ message: await openpgp5.createMessage({ text }), signingKeys: privateKey });
      vector(`openpgp.js 5 ${name}: ${text.slice(0, 20)}`, message, publicKey.armor(), text);
    }
  }
  const other = await openpgp5.generateKey({ userIDs: who, format: "object", curve: "brainpoolP256r1" });
  const message = await openpgp5.createMessage({ text: offered });
  const signed = await openpgp5.sign({ message, signingKeys: other.privateKey });
  vector("openpgp.js 5 brainpool", signed, other.publicKey.armor(), null);
}

async function byOpenpgp4() {
  const kinds = {
    default: {},
    ed25519: { curve: "ed25519" },
    "NIST P-256": { curve: "p256" },
    "NIST P-521": { curve: "p521" },
    "with a signing subkey": { curve: "ed25519", subkeys: [{ sign: true }] },
  };
  for (const [name, options] of Object.entries(kinds)) {
    const { key } = await openpgp4.generateKey({ userIds: who, ...options });
    const armored = key.toPublic().armor();
    for (const text of texts) {
      const message = openpgp4.message.fromText(text);
      const { data } = await openpgp4.sign({ message, privateKeys: [key] });
      vector(`openpgp.js 4 ${name}: ${text.slice(0, 20)}`, data, armored, text);
    }
  }
  const { key } = await openpgp4.generateKey({ userIds: who, curve: "secp256k1" });
  const { data } = await openpgp4.sign({ message: openpgp4.message.fromText(offered), privateKeys: [key] });
  vector("openpgp.js 4 secp256k1", data, key.toPublic().armor(), null);
}

await byKbpgp();
await byOpenpgp();
await byOpenpgp5();
await byOpenpgp4();
