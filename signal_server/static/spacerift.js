/**
 * Spacerift: link two browsers over WebRTC through a server that speaks plain HTTP POST.
 *
 * A `Search` asks the server for a peer until it has a link. It makes an *end* of a link (native or simple-peer)
 * for each offer and each answer, and a *pool* (open or signed) writes what is sent and reads what comes back.
 *
 *     CONNECT offer -> ANSWER                      -> linked, as the initiator
 *     CONNECT offer -> DEMOTE -> CONNECT answer -> DELIVERED   -> linked, as the responder
 *                         └----> BOUNCE new offer (we are linked with that peer, or cannot read its offer)
 *
 * Whatever else happens is an error that passes (try again, later) or one that does not (reject).
 */

// All in milliseconds.
const GATHER = 1500;
const GATHER_ANSWER = 2000; // at most, well below the server's ANSWER_TIMEOUT (5 s): a late answer is no answer
const OPEN_WITHIN = 10_000;
const HOLD_WITHIN = 65_000; // above any sensible REQUEST_TIMEOUT; it ends requests over a line that died silently
const DELIVER_WITHIN = 10_000; // the server answers an answer within 3 s
const ICE_WITHIN = 3_000;
const ICE_FRESH = 5 * 60_000; // TURN credentials are short-lived
const BRISK = 1_000; // a reply sooner than this means that nobody was waited for
const BACKOFF = 500; // doubles with every failure in a row …
const BACKOFF_MOST = 15_000; // … up to this; a person may be looking on
const NAMESPACE_FRESH = 50 * 60_000; // the server takes a SIGNED_NAMESPACE for an hour; clocks differ
const SERVER_CLOCK = 60_000;
const PEER_CLOCK = 5 * 60_000; // two clocks, each a minute off the server's, and the time the offer was held

const REPEATS = 3; // of an answer whose reply was lost, or that was not taken
const SOON = 2; // seconds; by then an answer that was not taken may be taken still
/** @type {RequestInit} */
const ANONYMOUS = { cache: "no-store", credentials: "omit" };
const PASSING = [0, 297, 298, 299, 408, 429]; // 0: no reply, or no link; 408 and 429 may come from a proxy

/**
 * @typedef {{ type: "offer" | "answer", sdp: string, id?: string }} Signal simple-peer's own form, and a page's id
 * @typedef {Record<string, unknown> & { TYPE?: string, NONCE?: string }} Reply
 * @typedef {{ TYPE: "CONNECT" | "BOUNCE", NONCE?: string, SIGNAL: string }} Message
 * @typedef {{ text: string, fingerprint: string }} Verified
 * @typedef {"gathering" | "waiting" | "answering" | "connecting" | "linked" | "paused"} State
 */

/**
 * @typedef {object} Signer see signers.js
 * @property {string} fingerprint of the primary key, in hexadecimal
 * @property {() => string | Promise<string>} publicKey armored
 * @property {(text: string) => Promise<string>} sign gives an armored attached message
 * @property {(message: string, publicKey: string, options?: { pinned?: boolean }) => Promise<Verified>} verify
 *   rejects what does not hold; `pinned`: with exactly this key, whomever else we trust
 */

/**
 * @typedef {object} SimplePeer what is used of it, in version 9 and 10
 * @property {(signal: Signal) => void} signal
 * @property {(event: string, listener: (value: any) => void) => unknown} on
 * @property {(event: string, listener: (value: any) => void) => unknown} once
 * @property {() => void} destroy
 * @property {RTCPeerConnection | null} [_pc]
 */

/**
 * @typedef {object} Options
 * @property {string} [namespace] the pool to meet in; none is the default pool
 * @property {any} [Peer] the SimplePeer class; by default, the browser's own RTCPeerConnection
 * @property {RTCConfiguration} [rtc] `iceServers` come from the server's `GET /ice` if not given here
 * @property {number} [gather] ms; the signal is sent with the candidates that have been gathered by then
 * @property {MediaStream[]} [streams] audio and video to send; what comes is in `link.streams`
 * @property {string | (() => string | Promise<string>)} [fingerprint] by default random, one for each page
 * @property {Signer} [signer] meet signed peers only
 * @property {string} [serverKey] armored; refuse replies that this key has not signed (needs `signer`)
 * @property {(offer: Signal) => boolean | Promise<boolean>} [met] true: we have this peer, another one, please
 * @property {boolean} [retry] go on after whatever may pass; true by default
 * @property {AbortSignal} [signal] gives up, and leaves the pool at once
 * @property {(state: State, why?: SpaceriftError) => void} [onstate] `why`: "paused" has the reason, with the
 *   seconds until it goes on as `retryAfter`
 * @property {typeof globalThis.fetch} [fetch] outside a browser
 * @property {any} [wrtc] outside a browser: an object with `RTCPeerConnection` and its kin
 */

/** Why there is no link. `type` is the server's, or our own NETWORK, LINK_LOST, BAD_SIGNAL, BAD_REPLY or UNTRUSTED. */
export class SpaceriftError extends Error {
  /**
   * @param {string} type
   * @param {string} message
   * @param {{ status?: number, retryAfter?: number, cause?: unknown }} [more] `retryAfter` in seconds
   */
  constructor(type, message, { status = 0, retryAfter, cause } = {}) {
    super(message, { cause });
    this.name = "SpaceriftError";
    this.type = type;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** An open link with another peer. */
export class Link {
  /**
   * @param {NativeEnd | SimplePeerEnd} end
   * @param {{ role: "initiator" | "responder", remoteId?: string, remoteKey?: string }} about
   */
  constructor(end, { role, remoteId, remoteKey }) {
    this.role = role;
    /** @type {any} an RTCPeerConnection or a SimplePeer */
    this.peer = end.peer;
    /** The open data channel of a native peer. */
    this.channel = /** @type {RTCDataChannel} */ (end.channel);
    /** The other side's streams. */
    this.streams = end.streams;
    /** The verified fingerprint of the other peer's key, in a signed pool. */
    this.remoteKey = remoteKey;
    this.remoteId = remoteId;
    /** Resolves when the link is over, whoever ended it. */
    this.closed = end.closed;
    /** Ends the link. */
    this.close = () => end.close();
    links.add(this);
    end.closed.then(() => links.delete(this));
  }
}

/** @type {Set<Link>} the open links of this page */
const links = new Set();
const pageId = randomText();
const pageFingerprint = randomText();

// A closed tab would else leave the other side waiting, in Chromium for 15 s, until its own checks fail.
globalThis.addEventListener?.("pagehide", ({ persisted }) => persisted || links.forEach(link => link.close()));

/**
 * Links with another peer.
 *
 * @param {string | URL} url where the server is mounted
 * @param {Options} [options]
 * @returns {Promise<Link>} rejects with a SpaceriftError, or with the reason of `options.signal`
 */
export async function connect(url, options = {}) {
  const search = new Search(new URL(url, globalThis.document?.baseURI), options);
  const link = search.run();
  link.then(link => search.signal.aborted && link.close(), () => {});
  return unlessAborted(search.signal, link); // at once, whatever it waits for
}

/** The way from a URL to a link: the exchange, with all its detours. */
class Search {
  #failures = 0; // in a row

  /** @param {URL} url @param {Options} options */
  constructor(url, options) {
    const { namespace = "", signer, serverKey } = options;
    if (serverKey && !signer) throw new TypeError("serverKey needs a signer, which verifies with it");
    this.url = url;
    this.options = options;
    this.signal = options.signal ?? new AbortController().signal;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.met = options.met ?? isKnown;
    this.pool = signer ? new SignedPool(namespace, signer, serverKey) : new OpenPool(namespace);
    this.fingerprint = "";
  }

  /** @param {State} state @param {SpaceriftError} [why] */
  state(state, why) {
    if (!this.signal.aborted) this.options.onstate?.(state, why);
  }

  async run() {
    const { fingerprint = pageFingerprint, retry = true } = this.options;
    this.signal.throwIfAborted();
    this.fingerprint = typeof fingerprint === "function" ? await fingerprint() : fingerprint;
    this.signal.throwIfAborted();
    for (;;) {
      const startedAt = Date.now();
      try {
        return await this.attempt();
      } catch (error) {
        this.signal.throwIfAborted();
        if (!retry || !passes(error)) throw error;
        await this.pause(error, Date.now() - startedAt);
      }
    }
  }

  /** Both sides begin as initiators; the server demotes one. */
  async attempt() {
    let outcome = await this.offer();
    while (!(outcome instanceof Link)) outcome = await this.respond(outcome);
    return outcome;
  }

  /**
   * Offers a link, and waits in the pool for its answer.
   *
   * @param {string} [bounced] the NONCE of an offer that we do not want
   * @returns {Promise<Link | Reply>} a link, or the DEMOTE that came in its place
   */
  async offer(bounced) {
    this.state("gathering");
    const end = await this.end(true);
    try {
      const message = this.message(bounced ? "BOUNCE" : "CONNECT", await end.signal(), bounced);
      this.state("waiting");
      const reply = await this.post(message, HOLD_WITHIN);
      if (reply.TYPE === "ANSWER") return await this.accept(end, reply);
      if (!isDemote(reply)) throw badReply(reply);
      end.close(); // the offer is dropped: ours is the other one now
      return reply;
    } catch (error) {
      end.close();
      throw error;
    }
  }

  /** @param {NativeEnd | SimplePeerEnd} end @param {Reply} reply */
  async accept(end, reply) {
    const { signal, remoteKey } = await this.read(reply, "answer");
    this.state("connecting");
    const accepted = end.accept(signal).catch(error => {
      throw badSignal(error);
    });
    accepted.catch(() => {}); // if the race below ends without it
    // On a busy page the link may be open before we hear that the answer was taken, and the other side's first
    // words would find no listener.
    await Promise.race([accepted, end.opened]);
    return this.linked(end, { role: "initiator", remoteId: signal.id, remoteKey });
  }

  /**
   * Answers the offer of a DEMOTE, or bounces it.
   *
   * @param {Reply} demote
   * @returns {Promise<Link | Reply>} a link, or another DEMOTE: that peer had gone, or was bounced
   */
  async respond(demote) {
    this.state("answering");
    const offer = await this.read(demote, "offer").catch(() => null);
    if (!offer || (await this.met(offer.signal))) return this.offer(demote.NONCE);
    const end = await this.end(false);
    try {
      const answer = await end.signal(offer.signal).catch(() => null);
      this.signal.throwIfAborted();
      if (!answer) {
        end.close();
        return await this.offer(demote.NONCE);
      }
      const reply = await this.deliver(end, this.message("CONNECT", answer, demote.NONCE));
      if (isDemote(reply)) {
        end.close();
        return reply;
      }
      if (reply.TYPE !== "DELIVERED") throw badReply(reply);
      this.state("connecting");
      return await this.linked(end, { role: "responder", remoteId: offer.signal.id, remoteKey: offer.remoteKey });
    } catch (error) {
      end.close();
      throw error;
    }
  }

  /**
   * @param {Reply} reply
   * @param {Signal["type"]} type
   * @returns {Promise<{ signal: Signal, remoteKey?: string }>} the other peer's signal; rejects with BAD_SIGNAL
   */
  async read(reply, type) {
    try {
      const { signal, remoteKey } = await this.pool.read(reply);
      return { signal: readSignal(signal, type), remoteKey };
    } catch (error) {
      throw badSignal(error);
    }
  }

  /**
   * Delivers an answer. The link may open before we hear DELIVERED: then it was delivered, and what the other side
   * says at once must find a listener.
   *
   * @param {NativeEnd | SimplePeerEnd} end
   * @param {Message} message
   * @returns {Promise<Reply>}
   */
  async deliver(end, message) {
    const reply = this.postAgain(end, message);
    reply.catch(error => error?.type === "UNTRUSTED" && end.close());
    const opened = end.opened.then(() => ({ TYPE: "DELIVERED" }));
    return Promise.race([reply, opened.catch(() => reply)]);
  }

  /**
   * Posts an answer, again if no reply comes (the server knows a repeated one) or if it is told to ask again soon.
   *
   * @param {NativeEnd | SimplePeerEnd} end
   * @param {Message} message
   * @returns {Promise<Reply>}
   */
  async postAgain(end, message) {
    for (let repeat = 0; ; repeat++) {
      try {
        return await this.post(message, DELIVER_WITHIN);
      } catch (error) {
        const seconds = retryAnswerAfter(error);
        if (seconds === undefined || repeat >= REPEATS) throw error;
        await delay(seconds * 1000 + Math.random() * BACKOFF * 2 ** repeat, this.signal);
        if (end.isOpen) return { TYPE: "DELIVERED" }; // it was, as we see
      }
    }
  }

  /** @param {NativeEnd | SimplePeerEnd} end @param {ConstructorParameters<typeof Link>[1]} about */
  async linked(end, about) {
    await within(OPEN_WITHIN, this.signal, end.opened, () => {
      throw linkLost();
    });
    const link = new Link(end, about);
    this.state("linked");
    return link;
  }

  /** @param {Message["TYPE"]} TYPE @param {Signal} signal @param {string} [NONCE] @returns {Message} */
  message(TYPE, { type, sdp }, NONCE) {
    return { TYPE, NONCE, SIGNAL: JSON.stringify({ type, sdp, id: pageId }) };
  }

  /**
   * One request and its reply.
   *
   * It never costs a preflight (a form, no header of our own), and is a plain fetch without `keepalive`, so that the
   * browser ends it when the page is left: the peer is out of the pool at once.
   *
   * @param {Message} message
   * @param {number} ms
   * @returns {Promise<Reply>} a reply of status 200, checked
   */
  async post(message, ms) {
    const parameters = await this.pool.write(message);
    if (this.fingerprint) parameters.FINGERPRINT = this.fingerprint;
    const { status, reply } = await this.request(new URLSearchParams(parameters), ms);
    // By status, never by `ok`: 297, 298 and 299 are as good as 200 to a browser.
    if (status !== 200) throw refusal(status, reply);
    await this.pool.check(reply, message);
    return reply;
  }

  /** @param {URLSearchParams} body @param {number} ms @returns {Promise<{ status: number, reply: Reply }>} */
  async request(body, ms) {
    try {
      const signal = AbortSignal.any([this.signal, AbortSignal.timeout(ms)]);
      const response = await this.fetch(this.url, { ...ANONYMOUS, method: "POST", body, signal });
      const reply = await response.json().catch(error => {
        if (error instanceof SyntaxError) return {}; // a proxy's page
        throw error;
      });
      return { status: response.status, reply: Object(reply) };
    } catch (error) {
      this.signal.throwIfAborted();
      throw new SpaceriftError("NETWORK", "The server cannot be reached.", { cause: error });
    }
  }

  /** @param {boolean} initiator */
  async end(initiator) {
    const { Peer, rtc = {}, gather = GATHER, streams = [], wrtc } = this.options;
    const iceServers = rtc.iceServers ?? (await knownIceServers(this.url, this.fetch));
    this.signal.throwIfAborted();
    const isNative = !Peer || "createOffer" in Peer.prototype;
    const End = isNative ? NativeEnd : SimplePeerEnd;
    const most = initiator ? gather : Math.min(gather, GATHER_ANSWER);
    const config = { ...rtc, iceServers };
    return new End({ Peer, wrtc, config, gather: most, streams, signal: this.signal }, initiator);
  }

  /**
   * Waits as long as the server says, and a random part of a window that doubles with every failure in a row:
   * peers that lost the same server must not come back as one.
   *
   * @param {SpaceriftError} error
   * @param {number} took ms
   */
  async pause(error, took) {
    const isPatient = (error.status === 298 || error.status === 299) && took >= BRISK;
    this.#failures = isPatient ? 0 : this.#failures + 1;
    const window = isPatient ? 0 : Math.min(BACKOFF_MOST, BACKOFF * 2 ** (this.#failures - 1));
    const ms = (error.retryAfter ?? 0) * 1000 + Math.random() * window;
    const { type, message, status, cause } = error;
    this.state("paused", new SpaceriftError(type, message, { status, retryAfter: ms / 1000, cause }));
    await delay(ms, this.signal);
  }
}

/** How messages are written and read where nobody signs. */
class OpenPool {
  /** @param {string} namespace */
  constructor(namespace) {
    this.namespace = namespace;
  }

  /** @param {Message} message @returns {Promise<Record<string, string>>} the parameters of a request */
  async write({ TYPE, NONCE, SIGNAL }) {
    return given({ TYPE, NONCE, NAMESPACE: this.namespace, SIGNAL });
  }

  /** @param {Reply} reply @param {Message} message */
  async check(reply, message) {} // there is nothing to be held against it

  /** @param {Reply} reply @returns {Promise<{ signal: unknown, remoteKey?: string }>} the other peer's signal */
  async read(reply) {
    return { signal: reply.SIGNAL };
  }
}

/** How messages are written and read where everybody signs. What is wrong is UNTRUSTED. */
class SignedPool {
  /** @type {Map<string, string[]>} the SIGNED_SIGNALs in which a signal was sent, by the signal */
  #sent = new Map();

  /** @param {string} namespace @param {Signer} signer @param {string} [serverKey] */
  constructor(namespace, signer, serverKey) {
    this.namespace = namespace;
    this.signer = signer;
    this.serverKey = serverKey;
  }

  /** @param {Message} message @returns {Promise<Record<string, string>>} */
  async write({ TYPE, NONCE, SIGNAL }) {
    const text = asciiJson({ TYPE, NAMESPACE: this.namespace, NONCE, SIGNAL, TIME: Date.now() });
    const SIGNED_SIGNAL = await this.signer.sign(text);
    const SIGNED_NAMESPACE = await signedNamespace(this.signer, this.namespace);
    this.#sent.set(SIGNAL, [...(this.#sent.get(SIGNAL) ?? []), SIGNED_SIGNAL]);
    return given({ TYPE, NONCE, SIGNED_NAMESPACE, SIGNED_SIGNAL, PUBLIC_KEY: await this.signer.publicKey() });
  }

  /**
   * Refuses a reply that the pinned server key has not signed, for us, now, and about this very signal.
   *
   * @param {Reply} reply
   * @param {Message} message
   */
  async check(reply, message) {
    if (!this.serverKey) return;
    const { text } = await this.verify(reply.SIGNED_REPLY, this.serverKey, { pinned: true });
    const signed = parseObject(text);
    const delivered = reply.TYPE === "DELIVERED";
    const about = delivered ? this.#sent.get(message.SIGNAL) ?? [] : [String(reply.SIGNED_SIGNAL)];
    const hashes = await Promise.all(about.map(sha256));
    const nonces = reply.TYPE === "DEMOTE" ? [reply.NONCE] : delivered ? [message.NONCE, undefined] : [signed.NONCE];
    trust(signed.TYPE === reply.TYPE, "the server's reply is of another type");
    trust(nonces.includes(signed.NONCE || undefined), "the server's reply has another nonce");
    trust(hashes.includes(String(signed.SHA256).toLowerCase()), "the server's reply is about another signal");
    trust(isSameKey(signed.TO, this.signer.fingerprint), "the server's reply is for someone else");
    trust(isNear(signed.TIME, SERVER_CLOCK), "the server's reply is not of now");
    trust(isNew(text, signed.TIME), "the server's reply came before");
  }

  /** @param {Reply} reply @returns {Promise<{ signal: unknown, remoteKey?: string }>} */
  async read(reply) {
    const namespace = await this.verify(reply.SIGNED_NAMESPACE, reply.PUBLIC_KEY);
    const { text, fingerprint } = await this.verify(reply.SIGNED_SIGNAL, reply.PUBLIC_KEY);
    const signed = parseObject(text);
    trust(isSameKey(namespace.fingerprint, fingerprint), "two keys signed it");
    trust(namespace.text === this.namespace && signed.NAMESPACE === this.namespace, "it is of another namespace");
    trust(isNear(signed.TIME, PEER_CLOCK), "it is not of now");
    // An answer and a bounce name an offer, which one is the server's to know; a first offer names none.
    const isAnswer = reply.TYPE === "ANSWER";
    const hasNonce = typeof signed.NONCE === "string" && signed.NONCE !== "";
    trust(signed.TYPE === "CONNECT" || (signed.TYPE === "BOUNCE" && !isAnswer), "it is of another type");
    trust(hasNonce === (isAnswer || signed.TYPE === "BOUNCE"), "its nonce does not fit");
    return { signal: signed.SIGNAL, remoteKey: fingerprint };
  }

  /** @param {unknown} message @param {unknown} key @param {{ pinned?: boolean }} [options] */
  async verify(message, key, options) {
    trust(typeof message === "string" && typeof key === "string", "a signature or its key is missing");
    try {
      return await this.signer.verify(/** @type {string} */ (message), /** @type {string} */ (key), options);
    } catch (error) {
      throw untrusted("a signature does not hold", error);
    }
  }
}

/**
 * @typedef {object} Setup
 * @property {any} Peer
 * @property {any} wrtc
 * @property {RTCConfiguration} config
 * @property {number} gather
 * @property {MediaStream[]} streams
 * @property {AbortSignal} signal
 */

/** One end of a link, with the browser's own RTCPeerConnection. */
class NativeEnd {
  /** @type {RTCDataChannel | undefined} */ channel;
  /** @type {MediaStream[]} */ streams = [];
  #settle = outcome();
  opened = this.#settle.opened;
  closed = this.#settle.closed;

  /** @param {Setup} setup @param {boolean} initiator */
  constructor(setup, initiator) {
    const Connection = setup.Peer ?? setup.wrtc?.RTCPeerConnection ?? globalThis.RTCPeerConnection;
    this.setup = setup;
    this.initiator = initiator;
    /** @type {RTCPeerConnection} */
    this.peer = new Connection(setup.config);
    this.peer.addEventListener("connectionstatechange", () => {
      // Without a way to signal there is no second start: a failed connection is over, as it is with simple-peer.
      if (["failed", "closed"].includes(this.peer.connectionState)) this.close();
    });
    this.peer.addEventListener("track", ({ streams }) => {
      this.streams.push(...streams.filter(stream => !this.streams.includes(stream)));
    });
    if (initiator) this.#use(this.peer.createDataChannel("spacerift"));
    else this.peer.addEventListener("datachannel", ({ channel }) => this.#use(channel), { once: true });
  }

  get isOpen() {
    return this.channel?.readyState === "open";
  }

  /** @param {Signal} [offer] @returns {Promise<Signal>} our offer, or our answer to theirs */
  async signal(offer) {
    if (offer) await this.peer.setRemoteDescription({ type: "offer", sdp: offer.sdp });
    for (const stream of this.setup.streams) for (const track of stream.getTracks()) this.peer.addTrack(track, stream);
    await this.peer.setLocalDescription(await (offer ? this.peer.createAnswer() : this.peer.createOffer()));
    await within(this.setup.gather, this.setup.signal, this.#gathered(), () => {});
    const { type, sdp } = /** @type {RTCSessionDescription} */ (this.peer.localDescription);
    return { type: /** @type {Signal["type"]} */ (type), sdp };
  }

  /** @param {Signal} answer */
  async accept({ sdp }) {
    await this.peer.setRemoteDescription({ type: "answer", sdp });
  }

  close() {
    this.peer.close();
    this.#settle.over();
  }

  /** @param {RTCDataChannel} channel */
  #use(channel) {
    this.channel = channel;
    channel.addEventListener("open", this.#settle.open);
    channel.addEventListener("close", () => this.close());
    if (channel.readyState === "open") this.#settle.open();
  }

  #gathered() {
    return /** @type {Promise<void>} */ (
      new Promise(resolve => {
        const look = () => this.peer.iceGatheringState === "complete" && resolve();
        this.peer.addEventListener("icegatheringstatechange", look);
        look();
      })
    );
  }
}

/** One end of a link, with a SimplePeer that was handed in. */
class SimplePeerEnd {
  channel = undefined; // it keeps its channel to itself; `peer.send` and `peer.on("data")` are its way
  isOpen = false;
  /** @type {MediaStream[]} */ streams = [];
  #settle = outcome();
  opened = this.#settle.opened;
  closed = this.#settle.closed;

  /** @param {Setup} setup @param {boolean} initiator */
  constructor({ Peer, wrtc, config, gather, streams, signal }, initiator) {
    this.setup = { gather, signal };
    // Its own default `config` would ask third parties' STUN servers: ours always names them, be it none.
    const options = { initiator, config, streams, trickle: false, iceCompleteTimeout: gather };
    /** @type {SimplePeer} */
    this.peer = new Peer(wrtc ? { ...options, wrtc } : options);
    /** @type {Promise<Signal>} */
    this.signalled = new Promise(resolve => this.peer.once("signal", resolve));
    this.peer.on("stream", stream => this.streams.push(stream));
    this.peer.on("error", () => this.#settle.over());
    this.peer.once("close", () => this.#settle.over());
    this.peer.once("connect", () => {
      this.isOpen = true;
      this.#settle.open();
    });
  }

  /** @param {Signal} [offer] @returns {Promise<Signal>} */
  async signal(offer) {
    if (offer) this.peer.signal({ type: "offer", sdp: offer.sdp });
    const signal = Promise.race([this.signalled, this.closed.then(() => Promise.reject(badSignal()))]);
    // simple-peer's own time-out begins with the first candidate, so it needs an outer one.
    return within(2 * this.setup.gather, this.setup.signal, signal, () => {
      throw linkLost();
    });
  }

  /** @param {Signal} answer */
  async accept({ sdp }) {
    this.peer.signal({ type: "answer", sdp });
  }

  close() {
    this.peer.destroy();
    // Version 10 closes its connection only in a later task, which a page that is being left does not get.
    this.peer._pc?.close();
    this.#settle.over();
  }
}

/** What becomes of an end: it opens or not (`opened` rejects), and is over some day. */
function outcome() {
  /** @type {() => void} */ let open = () => {};
  /** @type {() => void} */ let close = () => {};
  /** @type {(error: Error) => void} */ let lose = () => {};
  /** @type {Promise<void>} */
  const opened = new Promise((resolve, reject) => {
    open = resolve;
    lose = reject;
  });
  /** @type {Promise<void>} */
  const closed = new Promise(resolve => (close = resolve));
  opened.catch(() => {}); // nobody may be waiting for it
  const over = () => {
    lose(linkLost());
    close();
  };
  return { opened, closed, open, over };
}

/** @type {Map<string, { time: number, list: Promise<RTCIceServer[]> }>} by the server's address */
const iceServers = new Map();

/** @param {URL} url @param {typeof globalThis.fetch} fetch @returns {Promise<RTCIceServer[]>} */
function knownIceServers(url, fetch) {
  const address = new URL("ice", url.pathname.endsWith("/") ? url : `${url.origin}${url.pathname}/`).href;
  const known = iceServers.get(address);
  if (known && Date.now() - known.time < ICE_FRESH) return known.list;
  const list = askIceServers(address, fetch).catch(() => {
    iceServers.delete(address);
    return []; // peers of one network link without
  });
  iceServers.set(address, { time: Date.now(), list });
  return list;
}

/** @param {string} address @param {typeof globalThis.fetch} fetch @returns {Promise<RTCIceServer[]>} */
async function askIceServers(address, fetch) {
  const response = await fetch(address, { ...ANONYMOUS, signal: AbortSignal.timeout(ICE_WITHIN) });
  if (response.status === 404) return []; // a server without this route
  const { iceServers } = await response.json();
  return Array.isArray(iceServers) ? iceServers : [];
}

// Where a Spacerift server serves this module, its ICE servers are asked for while the page loads, not after the click.
if (/^https?:.*\/spacerift\.js$/.test(import.meta.url)) {
  void knownIceServers(new URL(".", import.meta.url), globalThis.fetch);
}

/** @type {WeakMap<Signer, Map<string, { time: number, message: Promise<string> }>>} */
const signedNamespaces = new WeakMap();

/** @param {Signer} signer @param {string} namespace signed once, and good for an hour */
function signedNamespace(signer, namespace) {
  const known = signedNamespaces.get(signer) ?? new Map();
  signedNamespaces.set(signer, known);
  if (!(Date.now() - known.get(namespace)?.time < NAMESPACE_FRESH)) {
    known.set(namespace, { time: Date.now(), message: signer.sign(namespace) });
  }
  return known.get(namespace).message;
}

/** @param {Signal} offer of ourselves, as another search of this page, or of a peer that we are linked with */
function isKnown({ id }) {
  return id === pageId || [...links].some(link => link.remoteId !== undefined && link.remoteId === id);
}

/** @param {unknown} text @param {Signal["type"]} expected @returns {Signal} */
function readSignal(text, expected) {
  const { type, sdp, id } = parseObject(text);
  if (type !== expected || typeof sdp !== "string") throw badSignal();
  return { type: expected, sdp, id: typeof id === "string" ? id : undefined };
}

/** @param {unknown} text from another peer @returns {Record<string, unknown>} */
function parseObject(text) {
  try {
    return Object(JSON.parse(String(text)));
  } catch (error) {
    throw badSignal(error);
  }
}

/** @param {unknown} error @returns {error is SpaceriftError} whether it may be gone on the next attempt */
function passes(error) {
  return error instanceof SpaceriftError && (PASSING.includes(error.status) || error.status >= 500);
}

/** @param {unknown} error @returns {number | undefined} seconds after which the same answer may still be taken */
function retryAnswerAfter(error) {
  if (!(error instanceof SpaceriftError)) return undefined;
  if (error.type === "NETWORK") return 0;
  const { status, retryAfter = 0 } = error;
  return (status === 297 || status === 503) && retryAfter <= SOON ? retryAfter : undefined;
}

/** @param {Reply} reply */
function isDemote({ TYPE, NONCE }) {
  return TYPE === "DEMOTE" && typeof NONCE === "string" && NONCE !== "";
}

/** @param {number} status @param {Reply} reply */
function refusal(status, { TYPE, RETRY_AFTER, PARAMETER, DETAIL }) {
  const words = [TYPE ?? "The server refuses", PARAMETER ?? DETAIL].filter(Boolean).join(": ");
  const retryAfter = typeof RETRY_AFTER === "number" && RETRY_AFTER >= 0 ? RETRY_AFTER : undefined;
  return new SpaceriftError(TYPE ?? (status >= 500 ? "UNAVAILABLE" : "BAD_REPLY"), words, { status, retryAfter });
}

/** @param {Reply} reply */
function badReply({ TYPE }) {
  return new SpaceriftError("BAD_REPLY", `This is no reply of a Spacerift server: ${TYPE}`, { status: 200 });
}

/** @param {unknown} [cause] */
function badSignal(cause) {
  return new SpaceriftError("BAD_SIGNAL", "The other peer's signal cannot be read.", { cause });
}

function linkLost() {
  return new SpaceriftError("LINK_LOST", "The link did not open.");
}

/** @param {string} why @param {unknown} [cause] */
function untrusted(why, cause) {
  return new SpaceriftError("UNTRUSTED", `Not trusted: ${why}.`, { status: 200, cause });
}

/** @param {boolean} holds @param {string} why */
function trust(holds, why) {
  if (!holds) throw untrusted(why);
}

/** @param {unknown} time ms since 1970 @param {number} most ms */
function isNear(time, most) {
  return typeof time === "number" && Math.abs(Date.now() - time) <= most;
}

/** @type {Map<string, number>} the server's replies that are still of now, each with its time */
const knownReplies = new Map();

/** @param {string} reply as it was signed @param {unknown} time ms since 1970 */
function isNew(reply, time) {
  for (const [old, at] of knownReplies) if (!isNear(at, SERVER_CLOCK)) knownReplies.delete(old);
  const { size } = knownReplies;
  return knownReplies.set(reply, Number(time)).size > size;
}

/** @param {unknown} one @param {unknown} other fingerprints, in either case */
function isSameKey(one, other) {
  return String(one).toLowerCase() === String(other).toLowerCase();
}

/** @param {Record<string, string | undefined>} parameters @returns {Record<string, string>} those with a value */
function given(parameters) {
  /** @type {Record<string, string>} */
  const those = {};
  for (const [name, value] of Object.entries(parameters)) if (value) those[name] = value;
  return those;
}

/** @param {object} value @returns {string} one line of ASCII: all OpenPGP programs leave such a text as it is */
function asciiJson(value) {
  const escaped = (/** @type {string} */ unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[^\x20-\x7e]/g, escaped);
}

/** @param {string} text @returns {Promise<string>} hexadecimal */
async function sha256(text) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))));
}

/** @returns {string} 128 random bits; `randomUUID` is missing where the page came without TLS */
function randomText() {
  return hex(crypto.getRandomValues(new Uint8Array(16)));
}

/** @param {Uint8Array} bytes */
function hex(bytes) {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} rejects when `signal` is aborted */
function delay(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

/**
 * @template T
 * @param {AbortSignal} signal
 * @param {Promise<T>} promise
 * @returns {Promise<T>} rejects when `signal` is aborted
 */
function unlessAborted(signal, promise) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

/**
 * @template T
 * @param {number} ms
 * @param {AbortSignal} signal
 * @param {Promise<T>} promise
 * @param {() => T} late what to give, or to throw, when the time is over
 * @returns {Promise<T>}
 */
async function within(ms, signal, promise, late) {
  const done = new AbortController();
  try {
    return await Promise.race([promise, delay(ms, AbortSignal.any([signal, done.signal])).then(late)]);
  } finally {
    done.abort();
  }
}
