/**
 * Signers for connect(), each made of the real npm package that is handed in.
 *
 *     import * as openpgp from "openpgp";
 *     await connect(url, { signer: await openpgpSigner(openpgp, { privateKey, trusted: [bob, carol] }) });
 *
 * What is signed and verified has kbpgp's form: one armored, attached message. Both libraries are asked more than they
 * ask themselves: kbpgp accepts a message that nobody signed and one of a key that may not sign, and throws where nobody
 * can catch it, so what a message and a key claim is read before kbpgp sees them. Both take the first of several keys
 * for the only one, and openpgp.js takes what a key signed before it expired.
 */

/**
 * @typedef {object} Options all keys are armored
 * @property {string} [privateKey] without it, a new key is made
 * @property {string} [passphrase] of the private key
 * @property {string | string[]} [trusted] whose messages are taken; without it, any key's that comes with its PUBLIC_KEY
 *
 * @typedef {{ text: string, fingerprint: string }} Verified
 *
 * @typedef {object} Signer
 * @property {string} fingerprint of the primary key, in upper-case hexadecimal
 * @property {() => string} publicKey
 * @property {(text: string, options?: { date?: Date }) => Promise<string>} sign gives an armored attached message;
 *   `date`: the time by the server's clock, if ours is wrong
 * @property {(message: string, publicKey: string, options?: { pinned?: boolean, date?: Date }) => Promise<Verified>}
 *   verify rejects what does not hold; `pinned`: with exactly this key, whomever else we trust
 */

import { cannotVerify, check, readKey, readMessage } from "./claims.js";

const SHA2 = [8, 9, 10]; // OpenPGP's numbers of SHA-256, SHA-384 and SHA-512
const MAX_MESSAGE = 96 * 1024;
const MAX_KEY = 16 * 1024;
const DAY = 24 * 60 * 60 * 1000;
const NAME = "Spacerift";
const EMAIL = "peer@spacerift.invalid";

/**
 * For kbpgp (2.x). It cannot verify the keys of most other modern programs: see docs/signatures.md. A message of such a
 * peer is rejected with the name `CannotVerify`, and such a key in `trusted` rejects at once.
 *
 * @param {any} kbpgp the library
 * @param {Options} [options]
 * @returns {Promise<Signer>}
 */
export async function kbpgpSigner(kbpgp, { privateKey, passphrase, trusted } = {}) {
  const own = await (privateKey ? importPrivate(privateKey) : generate());
  const publicKey = await called(done => own.export_pgp_public({}, done));
  const friends = await Promise.all(blocks(trusted).map(importPublic));
  const ring = trusted == null ? undefined : new Map(friends.map(friend => [nameOf(friend.key), friend]));

  /** @param {string} armored */
  async function importPrivate(armored) {
    const key = await called(done => kbpgp.KeyManager.import_from_armored_pgp({ armored }, done));
    // A key without a passphrase is locked too, and would throw where nobody can catch it.
    await called(done => key.unlock_pgp({ passphrase: passphrase ?? "" }, done));
    return key;
  }

  async function generate() {
    const { certify_keys, sign_data } = kbpgp.const.openpgp.key_flags;
    const primary = { nbits: 256, flags: certify_keys | sign_data, expire_in: 0 };
    const userid = `${NAME} <${EMAIL}>`;
    const key = await called(done => kbpgp.KeyManager.generate({ userid, ecc: true, primary, subkeys: [] }, done));
    await called(done => key.sign({}, done));
    return key;
  }

  /** @param {string} armored */
  async function importPublic(armored) {
    checkBlock(armored, "PUBLIC KEY BLOCK", MAX_KEY);
    const claims = readKey(bodyOf(armored), bytes => kbpgp.hash.SHA1(kbpgp.Buffer.from(bytes)));
    const signing = [...claims].filter(([, { maySign }]) => maySign);
    check(signing.length > 0, "a key that may not sign");
    try {
      const key = await called(done => kbpgp.KeyManager.import_from_armored_pgp({ armored }, done));
      check(signing.some(([keyId]) => materialOf(key, keyId) != null), "it takes no subkey of it that may sign");
      return { key, claims };
    } catch (error) {
      throw cannotVerify(error instanceof Error ? error.message : String(error), error);
    }
  }

  /** @param {any} key @param {string} keyId */
  function materialOf(key, keyId) {
    return key.find_pgp_key_material(kbpgp.Buffer.from(keyId, "hex"));
  }

  /**
   * Throws what a message claims and the key does not allow. What the key itself signed decides; kbpgp would go by what
   * its algorithm can do.
   *
   * @param {{ key: any, claims: Map<string, import("./claims.js").KeyClaim> }} imported
   * @param {{ keyId: string, algorithm: number }} claim
   */
  function checkSigner({ key, claims }, { keyId, algorithm }) {
    const signer = claims.get(keyId);
    check(signer !== undefined, "signed by another key");
    check(signer?.maySign === true, "signed by a key that may not sign");
    check(signer?.algorithm === algorithm, "of another algorithm than its key");
    const material = materialOf(key, keyId);
    if (material == null) throw cannotVerify("it does not take the subkey that signed");
    check((material.get_all_key_flags() & kbpgp.const.openpgp.key_flags.sign_data) !== 0, "signed by a key that may not sign");
  }

  /** @param {string} armored @returns {Uint8Array} */
  function bodyOf(armored) {
    const [error, decoded] = kbpgp.armor.decode(armored);
    if (error) throw error;
    return decoded.body;
  }

  /** @param {Uint8Array} body @returns {Promise<Uint8Array>} */
  async function unpack(body) {
    const [error, packets] = kbpgp.parser.parse(body);
    if (error) throw error;
    return called(done => packets[0].inflate(done));
  }

  return prove({
    fingerprint: nameOf(own),
    publicKey: () => publicKey,
    sign(text, { date = new Date() } = {}) {
      const opts = { now: Math.floor(date.getTime() / 1000) };
      return called(done => kbpgp.box({ msg: text, sign_with: own, opts }, done));
    },
    async verify(message, armoredKey, { pinned = false } = {}) {
      checkBlock(message, "MESSAGE", MAX_MESSAGE);
      const claim = await readMessage(bodyOf(message), unpack);
      const shown = await importPublic(armoredKey);
      const chosen = choose(ring, nameOf(shown.key), shown, pinned);
      const { key } = chosen;
      checkSigner(chosen, claim);
      const keyfetch = new kbpgp.keyring.KeyRing();
      keyfetch.add_key_manager(key);
      const literals = await called(done => kbpgp.unbox({ armored: message, keyfetch }, done)).catch(error => {
        // gpg's --include-key-block, for one: it is no sign of a forgery that kbpgp is older.
        throw /^Unknown signature subpacket/.test(error.message) ? cannotVerify(error.message, error) : error;
      });
      check(literals.length === 1, "not one text");
      const signers = literals[0].get_data_signers();
      check(signers.length === 1, "not one signature");
      check(nameOf(signers[0].get_key_manager()) === nameOf(key), "signed by another key");
      check(SHA2.includes(signers[0].sig.hasher.type), "a broken hash");
      return { text: decode(literals[0].data), fingerprint: nameOf(key) };
    },
  });
}

/**
 * For openpgp.js (6.x).
 *
 * @param {any} openpgp the library
 * @param {Options} [options]
 * @returns {Promise<Signer>}
 */
export async function openpgpSigner(openpgp, { privateKey, passphrase, trusted } = {}) {
  const own = await (privateKey ? readPrivate(privateKey) : generate());
  const publicKey = own.toPublic().armor();
  const friends = await Promise.all(blocks(trusted).map(readPublic));
  const ring = trusted == null ? undefined : new Map(friends.map(key => [nameOf(key), key]));
  // gpg prints the salt that openpgp.js would add for every program to read, and kbpgp cannot read it.
  const config = { nonDeterministicSignaturesViaNotation: false };

  /** @param {string} armoredKey */
  async function readPrivate(armoredKey) {
    const key = await openpgp.readPrivateKey({ armoredKey });
    return key.isDecrypted() ? key : openpgp.decryptKey({ privateKey: key, passphrase });
  }

  async function generate() {
    // The old form of Ed25519: gpg 2.2 and kbpgp know no other.
    const kind = { type: "ecc", curve: "ed25519Legacy", subkeys: [], format: "object" };
    // Made yesterday: where this clock is ahead of the server's, a key of now would be one of the future.
    const date = new Date(Date.now() - DAY);
    return (await openpgp.generateKey({ ...kind, userIDs: [{ name: NAME, email: EMAIL }], date })).privateKey;
  }

  /** @param {string} armoredKeys */
  async function readPublic(armoredKeys) {
    checkBlock(armoredKeys, "PUBLIC KEY BLOCK", MAX_KEY);
    const keys = await openpgp.readKeys({ armoredKeys });
    check(keys.length === 1 && !keys[0].isPrivate(), "not one public key");
    return keys[0];
  }

  return prove({
    fingerprint: nameOf(own),
    publicKey: () => publicKey,
    async sign(text, { date = new Date() } = {}) {
      const message = await openpgp.createMessage({ binary: new TextEncoder().encode(text) });
      return openpgp.sign({ message, signingKeys: own, date, config });
    },
    async verify(armoredMessage, armoredKey, { pinned = false, date = new Date() } = {}) {
      checkBlock(armoredMessage, "MESSAGE", MAX_MESSAGE);
      const shown = await readPublic(armoredKey);
      const key = choose(ring, nameOf(shown), shown, pinned);
      const message = await openpgp.readMessage({ armoredMessage });
      const asked = { message, verificationKeys: key, expectSigned: true, format: "binary", date };
      const found = await openpgp.verify(asked);
      check(found.signatures.length === 1, "not one signature");
      const [{ verified, keyID, signature }] = found.signatures;
      await verified;
      await key.getSigningKey(keyID, date); // not only when it signed: now
      check(SHA2.includes((await signature).packets[0].hashAlgorithm), "a broken hash");
      return { text: decode(found.data), fingerprint: nameOf(key) };
    },
  });
}

/**
 * A signer that has signed and verified once, by the rules that its peers hold it to: a private key that may not sign,
 * has expired or has no user id is refused here and not by each peer.
 *
 * @param {Signer} signer
 * @returns {Promise<Signer>}
 */
async function prove(signer) {
  try {
    await signer.verify(await signer.sign("mine"), signer.publicKey(), { pinned: true });
  } catch (error) {
    throw new Error(`this private key cannot be used: ${/** @type {Error} */ (error).message}`, { cause: error });
  }
  return signer;
}

/**
 * The key that must have signed: the trusted copy of the one that is shown, or itself.
 *
 * @template T
 * @param {Map<string, T> | undefined} ring
 * @param {string} name
 * @param {T} shown
 * @param {boolean} pinned
 * @returns {T}
 */
function choose(ring, name, shown, pinned) {
  if (pinned || !ring) return shown;
  const known = ring.get(name);
  check(known !== undefined, "not a trusted key");
  return /** @type {T} */ (known);
}

/** @param {any} key of either library @returns {string} its primary fingerprint */
function nameOf(key) {
  const fingerprint = key.getFingerprint ? key.getFingerprint() : key.get_pgp_fingerprint_str();
  return fingerprint.toUpperCase();
}

/** @param {Options["trusted"]} trusted @returns {string[]} as a page has them, perhaps with blank lines around */
function blocks(trusted) {
  return [trusted ?? []].flat().map(key => String(key).trim());
}

/**
 * One armored block and nothing around it: both libraries would read the first of several, and skip text before it.
 *
 * @param {unknown} text
 * @param {"MESSAGE" | "PUBLIC KEY BLOCK"} kind
 * @param {number} most characters
 */
function checkBlock(text, kind, most) {
  const isText = typeof text === "string" && text.length <= most;
  const lines = isText ? text.trim().split(/[ \t]*\r?\n/) : [];
  check(lines[0] === `-----BEGIN PGP ${kind}-----` && lines.at(-1) === `-----END PGP ${kind}-----`, "not one armored block");
  check(lines.filter(line => line.includes("-----")).length === 2, "not one armored block");
}

/** @param {Uint8Array} bytes @returns {string} */
function decode(bytes) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

/**
 * @param {(done: (error: unknown, value: any) => void) => void} call that takes a callback
 * @returns {Promise<any>}
 */
function called(call) {
  return new Promise((resolve, reject) => call((error, value) => (error ? reject(error) : resolve(value))));
}
