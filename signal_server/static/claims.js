/**
 * What an OpenPGP message and a key claim, read as strictly as the server does. Nothing is verified here: kbpgp does
 * that, and is only asked about what it can judge. It throws where nobody can catch it, which ends a Node process.
 */

const SHA2 = [8, 9, 10]; // SHA-256, SHA-384 and SHA-512
const CLOCK_SECONDS = 60; // how far a peer's clock may be ahead of ours
const ALGORITHMS = [1, 19, 22]; // RSA, ECDSA and Ed25519 in its old form: what every server takes
const NEW_ALGORITHMS = [27, 28]; // of RFC 9580, as version 6 is: a server with Sequoia takes them
const MAY_SIGN = 2;

const [SIGNATURE, ONE_PASS, PUBLIC_KEY, COMPRESSED, LITERAL] = [2, 4, 6, 8, 11];
const [USER_ID, PUBLIC_SUBKEY, USER_ATTRIBUTE] = [13, 14, 17];

const [CREATED, EXPIRES, KEY_EXPIRES, ISSUER] = [2, 3, 9, 16];
const [KEY_FLAGS, EMBEDDED, ISSUER_FINGERPRINT] = [27, 32, 33];
const UNDERSTOOD = [CREATED, EXPIRES, KEY_EXPIRES, 11, ISSUER, 21, 22, 25, KEY_FLAGS, 29, 30, EMBEDDED, ISSUER_FINGERPRINT];

const [BINDING, CONSENT, DIRECT] = [0x18, 0x19, 0x1f];
const CERTIFICATIONS = [0x10, 0x11, 0x12, 0x13];
const REVOCATIONS = [0x20, 0x28, 0x30];

/** The types of signature that may stand behind each packet of a key. */
const PLACES = new Map([
  [PUBLIC_KEY, [DIRECT, 0x20]],
  [USER_ID, [...CERTIFICATIONS, 0x30]],
  [USER_ATTRIBUTE, [...CERTIFICATIONS, 0x30]],
  [PUBLIC_SUBKEY, [BINDING, 0x28]],
]);

/**
 * @typedef {{ tag: number, body: Uint8Array }} Packet
 * @typedef {{ type: number, critical: boolean, value: Uint8Array }} Subpacket
 * @typedef {{ type: number, algorithm: number, hash: number, hashed: Subpacket[], all: Subpacket[] }} Claim
 * @typedef {{ algorithm: number, maySign: boolean }} KeyClaim what a key is and, by its newest statement, may do
 */

/**
 * Which key a message says it was signed by, if the message is of the one form that the protocol has.
 *
 * @param {Uint8Array} body without armor
 * @param {(body: Uint8Array) => Promise<Uint8Array>} unpack what is in a compressed message
 * @returns {Promise<{ keyId: string, algorithm: number }>}
 */
export async function readMessage(body, unpack) {
  let packets = readPackets(body);
  if (packets.length === 1 && packets[0].tag === COMPRESSED) packets = readPackets(await unpack(body));
  check(packets.map(each => each.tag).join() === [ONE_PASS, LITERAL, SIGNATURE].join(), "not one signed text");
  const onePass = packets[0].body;
  const claim = readSignature(packets[2].body);
  check(claim.type === 0 || claim.type === 1, "not the signature of a text");
  check(SHA2.includes(claim.hash), "a broken hash");
  if (NEW_ALGORITHMS.includes(claim.algorithm)) throw cannotVerify("Ed25519 or Ed448 in its new form");
  check(ALGORITHMS.includes(claim.algorithm), "an algorithm that no server takes");
  const said = [3, claim.type, claim.hash, claim.algorithm];
  check(onePass.length === 13 && said.every((each, at) => onePass[at] === each), "it says two things of its signature");
  checkUnderstood(claim);
  const created = timeOf(claim);
  const now = Date.now() / 1000;
  check(created <= now + CLOCK_SECONDS, "signed in the future");
  for (const { value } of claim.hashed.filter(each => each.type === EXPIRES)) {
    const seconds = new Reader(value).number(4);
    check(seconds === 0 || created + seconds > now, "an expired signature");
  }
  return { keyId: hex(onePass.subarray(4, 12)), algorithm: claim.algorithm };
}

/**
 * One public key, each of whose own signatures stands where it belongs and says nothing that we do not understand.
 *
 * @param {Uint8Array} body without armor
 * @param {(bytes: Uint8Array) => Uint8Array} sha1 which is how a key is named
 * @returns {Map<string, KeyClaim>} by key id: the primary key and its subkeys
 */
export function readKey(body, sha1) {
  const packets = readPackets(body);
  check(packets[0]?.tag === PUBLIC_KEY, "not a public key");
  check(packets.slice(1).every(each => each.tag === SIGNATURE || (each.tag !== PUBLIC_KEY && PLACES.has(each.tag))), "not one public key");
  const [primary] = packets;
  const primaryId = keyIdOf(primary, sha1);
  /** @type {Map<string, KeyClaim>} */
  const keys = new Map([[primaryId, { algorithm: primary.body[5], maySign: false }]]);
  let head = primary;
  /** @type {Claim[]} */
  let statements = [];
  const names = [];
  for (const packet of [...packets.slice(1), primary]) {
    if (packet.tag === SIGNATURE) {
      const claim = packet.body[0] === 4 || REVOCATIONS.includes(packet.body[2]) ? readSignature(packet.body) : null;
      if (claim && isBy(claim, primaryId)) {
        checkOwn(claim, head, primary);
        if (SHA2.includes(claim.hash)) statements.push(claim);
      }
      continue;
    }
    if (head.tag === PUBLIC_KEY) names.push(statements.filter(each => each.type === DIRECT));
    if (head.tag === USER_ID) names.push(statements.filter(each => CERTIFICATIONS.includes(each.type)));
    if (head.tag === PUBLIC_SUBKEY && head.body[0] === 4) {
      const bindings = statements.filter(each => each.type === BINDING);
      keys.set(keyIdOf(head, sha1), { algorithm: head.body[5], maySign: allowsSigning(head, [bindings]) });
    }
    [head, statements] = [packet, []];
  }
  keys.set(primaryId, { algorithm: primary.body[5], maySign: allowsSigning(primary, names) });
  return keys;
}

/** @param {Claim} claim @param {Packet} head @param {Packet} primary */
function checkOwn(claim, head, primary) {
  check(PLACES.get(head.tag)?.includes(claim.type) ?? false, "a signature out of its place");
  check(claim.algorithm === primary.body[5], "a signature of another algorithm than its key");
  checkUnderstood(claim);
  timeOf(claim);
  for (const { value } of claim.all.filter(each => each.type === EMBEDDED)) {
    const consent = readSignature(value);
    check(claim.type === BINDING && consent.type === CONSENT, "a signature out of its place");
    check(consent.algorithm === head.body[5], "a signature of another algorithm than its key");
    checkUnderstood(consent);
  }
}

/**
 * May a key sign now, by the newest statement of each thing that was stated?
 *
 * @param {Packet} key
 * @param {Claim[][]} stated
 * @returns {boolean}
 */
function allowsSigning(key, stated) {
  const newest = stated.flatMap(each => {
    const last = Math.max(...each.map(timeOf));
    return each.filter(statement => timeOf(statement) === last);
  });
  const made = new Reader(key.body.subarray(1)).number(4);
  const ends = newest.flatMap(each => each.hashed.filter(({ type }) => type === KEY_EXPIRES));
  const hasExpired = ends.some(({ value }) => value.some(Boolean) && made + new Reader(value).number(4) <= Date.now() / 1000);
  const flags = newest.flatMap(each => each.hashed.filter(({ type }) => type === KEY_FLAGS));
  return !hasExpired && flags.length > 0 && flags.every(({ value }) => (value[0] & MAY_SIGN) !== 0);
}

/** @param {Claim} claim @returns {number} seconds since 1970 */
function timeOf(claim) {
  const created = claim.hashed.filter(each => each.type === CREATED);
  check(created.length === 1 && created[0].value.length === 4, "not one time");
  return new Reader(created[0].value).number(4);
}

/** @param {Claim} claim @param {string} keyId @returns {boolean} */
function isBy(claim, keyId) {
  return claim.all.some(
    ({ type, value }) =>
      (type === ISSUER && hex(value) === keyId) || (type === ISSUER_FINGERPRINT && hex(value.subarray(-8)) === keyId),
  );
}

/** @param {Claim} claim */
function checkUnderstood(claim) {
  check(claim.hashed.every(each => !each.critical || UNDERSTOOD.includes(each.type)), "a critical subpacket");
}

/** @param {Packet} key @param {(bytes: Uint8Array) => Uint8Array} sha1 @returns {string} */
function keyIdOf({ body }, sha1) {
  checkVersion(body[0], "a key");
  check(body.length > 6, "truncated");
  return hex(sha1(Uint8Array.from([0x99, body.length >> 8, body.length & 0xff, ...body])).subarray(-8));
}

/** @param {number} version @param {string} what */
function checkVersion(version, what) {
  if (version === 6) throw cannotVerify(`${what} of version 6`);
  check(version === 4, `${what} of another version`);
}

// --- packets ----------------------------------------------------------------------------------------------------

/** Takes bytes from the front; throws where there are fewer. */
class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.place = 0;
  }

  get hasMore() {
    return this.place < this.bytes.length;
  }

  /** @param {number} count @returns {Uint8Array} */
  take(count) {
    check(this.place + count <= this.bytes.length, "truncated");
    this.place += count;
    return this.bytes.subarray(this.place - count, this.place);
  }

  /** @param {number} size in bytes @returns {number} */
  number(size) {
    return this.take(size).reduce((value, byte) => value * 256 + byte, 0);
  }

  rest() {
    return this.take(this.bytes.length - this.place);
  }

  /** @param {number} first @returns {number} the length that this byte begins */
  length(first) {
    if (first < 192) return first;
    return first < 255 ? (first - 192) * 256 + this.number(1) + 192 : this.number(4);
  }
}

/** @param {Uint8Array} bytes @returns {Packet[]} */
function readPackets(bytes) {
  const reader = new Reader(bytes);
  const packets = [];
  while (reader.hasMore) {
    const header = reader.number(1);
    check(header > 0x7f, "not a packet");
    const [tag, body] = header < 0xc0 ? [(header >> 2) & 0x0f, oldBody(reader, header & 3)] : [header & 0x3f, newBody(reader)];
    packets.push({ tag, body });
  }
  return packets;
}

/** @param {Reader} reader @param {number} kind of length @returns {Uint8Array} */
function oldBody(reader, kind) {
  return kind === 3 ? reader.rest() : reader.take(reader.number(1 << kind));
}

/** @param {Reader} reader @returns {Uint8Array} of one piece or of several */
function newBody(reader) {
  const pieces = [];
  for (;;) {
    const first = reader.number(1);
    const isLast = first < 224 || first === 255;
    pieces.push(reader.take(isLast ? reader.length(first) : 2 ** (first & 0x1f)));
    if (isLast) return pieces.length === 1 ? pieces[0] : Uint8Array.from(pieces.flatMap(piece => [...piece]));
  }
}

/** @param {Uint8Array} body @returns {Claim} */
function readSignature(body) {
  const reader = new Reader(body);
  checkVersion(reader.number(1), "a signature");
  const [type, algorithm, hash] = reader.take(3);
  const hashed = readSubpackets(reader.take(reader.number(2)));
  return { type, algorithm, hash, hashed, all: [...hashed, ...readSubpackets(reader.take(reader.number(2)))] };
}

/** @param {Uint8Array} area @returns {Subpacket[]} */
function readSubpackets(area) {
  const reader = new Reader(area);
  const found = [];
  while (reader.hasMore) {
    const piece = new Reader(reader.take(reader.length(reader.number(1))));
    const type = piece.number(1);
    found.push({ type: type & 0x7f, critical: type > 0x7f, value: piece.rest() });
  }
  return found;
}

/** @param {Uint8Array} bytes @returns {string} */
export function hex(bytes) {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} why @param {unknown} [cause] @returns {Error} about what is as it should be, perhaps, but not for kbpgp */
export function cannotVerify(why, cause) {
  return Object.assign(new Error(`kbpgp cannot verify this key: ${why}`, { cause }), { name: "CannotVerify" });
}

/** @param {boolean} holds @param {string} why */
export function check(holds, why) {
  if (!holds) throw new Error(why);
}
