/**
 * Adapters that make a `fingerprint` for connect() out of a library that is handed in.
 *
 *     import FingerprintJS from "@fingerprintjs/fingerprintjs";
 *     await connect(url, { fingerprint: fingerprintjs(FingerprintJS) });
 *
 * Both libraries describe the machine, not the person: like machines have like values (all the phones of one model,
 * say), and peers with one FINGERPRINT behind one address never meet each other. So a random part, kept by this
 * browser, is added. `{ shared: true }` leaves it out: the value is then the library's own, the same for the whole
 * machine, and only useful to keep one machine from posing as many.
 */

/**
 * @typedef {{ shared?: boolean }} Options
 * @typedef {() => Promise<string>} Fingerprint
 */

const KEY = "spacerift-browser";
const SEED = 31; // the one that fingerprintjs2's own examples use

/** @type {string | undefined} where nothing can be kept, this page's */
let kept;

/**
 * For fingerprintjs2 (2.x).
 *
 * @param {any} Fingerprint2 the library
 * @param {Options} [options]
 * @returns {Fingerprint}
 */
export function fingerprintjs2(Fingerprint2, options) {
  return once(options, async () => {
    /** @type {{ value: unknown }[]} */
    const components = await Fingerprint2.getPromise();
    return Fingerprint2.x64hash128(components.map(({ value }) => value).join(""), SEED);
  });
}

/**
 * For @fingerprintjs/fingerprintjs (3 to 5).
 *
 * @param {any} FingerprintJS the library
 * @param {Options} [options]
 * @returns {Fingerprint}
 */
export function fingerprintjs(FingerprintJS, options) {
  return once(options, async () => {
    const agent = await FingerprintJS.load({ monitoring: false }); // it would now and then tell its makers
    return (await agent.get()).visitorId;
  });
}

/**
 * @param {Options | undefined} options
 * @param {() => Promise<string>} measure takes about a tenth of a second, so it is done once
 * @returns {Fingerprint}
 */
function once({ shared = false } = {}, measure) {
  /** @type {Promise<string> | undefined} */
  let value;
  const make = async () => (shared ? measure() : `${await measure()}-${browserPart()}`);
  return () => (value ??= make().catch(error => {
    value = undefined; // the next connect() may have more luck
    throw error;
  }));
}

/** @returns {string} random, one for each browser */
function browserPart() {
  kept ??= stored() ?? store(randomText());
  return kept;
}

function stored() {
  try {
    return localStorage.getItem(KEY) ?? undefined;
  } catch {
    return undefined; // storage is refused, as in some private windows
  }
}

/** @param {string} part */
function store(part) {
  try {
    localStorage.setItem(KEY, part);
  } catch {
    // this page's only, then
  }
  return part;
}

function randomText() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("");
}
