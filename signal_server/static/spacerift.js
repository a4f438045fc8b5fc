/**
 * Spacerift: link two browsers over WebRTC through a server that speaks plain HTTP POST.
 *
 * A `Search` makes one `Exchange` after the other until it has a link. A `Transport` carries its requests, and a codec (open or
 * signed) writes what is sent and reads what comes back. For each offer and each answer the search makes an *end* of a
 * link (native or simple-peer). A `Link` is an end that is open; when its path breaks, it searches for the same peer.
 *
 *     CONNECT offer -> ANSWER                      -> linked, as the initiator
 *     CONNECT offer -> DEMOTE -> CONNECT answer -> DELIVERED   -> linked, as the responder
 *                         └----> BOUNCE new offer (we are linked with that peer, or cannot read its offer)
 *
 * All else is an error that passes (try again, later) or one that does not (reject).
 */

// All in milliseconds.
const GATHER = 1500;
const GATHER_QUIET = [100, 300]; // what is needed has been gathered, and nothing new came for as long as that took
const GATHER_ALL = 10; // the least, where nothing more can come: all of the computer's own addresses are known by then
const GATHER_SRFLX = 600; // a STUN server is asked at once and after 250 ms, and has answered if it will
const ANSWER_WITHIN = 5000; // a server's ANSWER_TIMEOUT, if it does not tell its own
const OPEN_WITHIN = 5000; // no link that opened took longer than 2.1 s; DTLS sends its flights again after 1 and 3 s
const HOLD_WITHIN = 65_000; // above any sensible REQUEST_TIMEOUT; it ends requests over a line that died silently
const DELIVER_WITHIN = 10_000; // the server answers an answer within 3 s
const GATHER_LEAST = 100; // of an answer that comes late already
const FAR = 20; // to the server and back; from there on, our checks begin as late as the other side's
const CLOCK_SAME = 1000;
const SIGN_WITHIN = 10_000;
const ICE_WITHIN = 3000;
const ICE_AGAIN_WITHIN = 2000; // a limit of `GET /ice` is over by then
const ICE_FRESH = 5 * 60_000; // TURN credentials are short-lived
const SPARE_FRESH = 2000; // whoever is not demoted by then waits
const PREPARED_FRESH = 60_000; // an offer that waits for a click keeps ports open, at a TURN server too
const BRISK = 1000; // a reply sooner than this means that nobody was waited for
const BACKOFF = 500; // doubles with every failure in a row …
const BACKOFF_MOST = 15_000; // … up to this; a person may be looking on
const RESUME = 60_000;
const LOST_AFTER = 3000; // without a way to the other side; until then it often comes back by itself
const RESUME_HOLD = 5000; // a request that waits over a broken path would not notice that there is a new one
const LISTEN_EVERY = 1000;
const SILENT_AFTER = 8000; // browsers ask each other every 5 s at the latest whether they are there
const CONSENT_FOR = 35_000; // WebRTC gives up after 30 s without a reply: what is connected later has had one
const GOODBYE_WITHIN = 1000;
const NAMESPACE_FRESH = 50 * 60_000; // the server takes a SIGNED_NAMESPACE for an hour; clocks differ
const SERVER_CLOCK = 60_000;
const PEER_CLOCK = 5 * 60_000; // two clocks, each a minute off the server's, and the time the offer was held

const REPEATS = 3; // of an answer whose reply was lost, or that was not taken
const SOON = 2; // seconds; by then an answer that was not taken may be taken still
const UNHEARD_MOST = 3; // requests to a server that never gave a reply that this page may read
/** @type {RequestInit} */
const ANONYMOUS = { cache: "no-store", credentials: "omit" };
const PASSING = [0, 297, 298, 299, 408, 429]; // 0: no reply, or no link; 408 and 429 may come from a proxy
const FINAL = ["NO_WEBRTC", "SIGNER"]; // of those that have no status

/**
 * @typedef {{ type: "offer" | "answer", sdp: string, id?: string }} Signal simple-peer's own form, and a page's id
 * @typedef {Record<string, unknown> & { TYPE?: string, NONCE?: string }} Reply
 * @typedef {{ TYPE: "CONNECT" | "BOUNCE", NONCE?: string, SIGNAL: string }} Message
 * @typedef {{ text: string, fingerprint: string }} Verified
 * @typedef {"gathering" | "waiting" | "answering" | "connecting" | "linked" | "paused" | "interrupted"} State
 * @typedef {{ host: number, srflx: number, relay: number, mapping: "none" | "one port" | "several ports" }} Candidates
 *   how many of each kind a signal has, and by how many ports of one address its side is seen from outside
 */

/**
 * @typedef {object} Signer see signers.js
 * @property {string} fingerprint of the primary key, in hexadecimal
 * @property {() => string | Promise<string>} publicKey armored
 * @property {(text: string, options?: { date?: Date }) => Promise<string>} sign gives an armored attached message;
 *   `date`: the time by the server's clock
 * @property {(message: string, publicKey: string, options?: { pinned?: boolean, date?: Date }) => Promise<Verified>}
 *   verify rejects what does not hold; `pinned`: with exactly this key, whomever else we trust
 */

/**
 * @typedef {object} SimplePeer what is used of it, in version 9 and 10
 * @property {(signal: Signal | { type: "candidate", candidate: RTCIceCandidateInit }) => void} signal
 * @property {(event: string, listener: (value: any) => void) => unknown} on
 * @property {(event: string, listener: (value: any) => void) => unknown} once
 * @property {() => void} destroy
 * @property {RTCPeerConnection | null} [_pc]
 */

/**
 * @typedef {object} Options
 * @property {string} [namespace] the room to meet in; without it, the default pool
 * @property {any} [Peer] the SimplePeer class; by default, the browser's own RTCPeerConnection
 * @property {RTCConfiguration} [rtc] `iceServers` come from the server's `GET /ice` if not given here
 * @property {number} [gather] ms; the signal is sent with the candidates that have been gathered by then
 * @property {MediaStream[]} [streams] audio and video to send; what comes is in `link.streams`
 * @property {string | (() => string | Promise<string>)} [fingerprint] by default random, one for each page
 * @property {Signer} [signer] meet signed peers only
 * @property {string} [serverKey] armored; refuse replies that this key has not signed (needs `signer`)
 * @property {(offer: Signal) => boolean | Promise<boolean>} [met] true: we have this peer, another one, please
 * @property {boolean} [rematch] where nobody new waits, meet a peer that this page was linked with; by default true
 *   with a namespace
 * @property {number} [resume] ms; a link whose path breaks is made again with the same peer for so long; 0: never
 * @property {boolean} [retry] go on after errors that may pass; true by default
 * @property {AbortSignal} [signal] gives up, and leaves the pool at once
 * @property {(state: State, why?: SpaceriftError) => void} [onstate] `why`: "paused" has the reason, with the
 *   seconds until it goes on as `retryAfter`
 * @property {typeof globalThis.fetch} [fetch] outside a browser
 * @property {any} [wrtc] outside a browser: an object with `RTCPeerConnection` and its kin
 */

/**
 * Why there is no link. `type` is the server's, or our own NETWORK, LINK_LOST, BAD_SIGNAL, BAD_REPLY, UNTRUSTED,
 * SIGNER or NO_WEBRTC.
 */
export class SpaceriftError extends Error {
  /**
   * @param {string} type
   * @param {string} message
   * @param {{ status?: number, retryAfter?: number, cause?: unknown, hint?: string,
   *   candidates?: { ours: Candidates, theirs: Candidates } }} [more] `retryAfter` in seconds
   */
  constructor(type, message, { status = 0, retryAfter, cause, hint, candidates } = {}) {
    super(message, { cause });
    this.name = "SpaceriftError";
    this.type = type;
    this.status = status;
    this.retryAfter = retryAfter;
    /** What a person may do about it: a sentence, which is the end of the message, too. */
    this.hint = hint;
    /** LINK_LOST: the candidates that the two signals had. */
    this.candidates = candidates;
  }
}

/**
 * Links with another peer.
 *
 * @param {string | URL} url where the server is mounted
 * @param {Options} [options]
 * @returns {Promise<Link>} rejects with a SpaceriftError, or with the reason of `options.signal`
 */
export async function connect(url, options = {}) {
  const server = absolute(url);
  const search = new Search(server, options, { prepared: takePrepared(server, options) });
  const link = search.run().then(meeting => new Link(meeting, search));
  link.then(link => search.signal.aborted && link.close(), () => {});
  return unlessAborted(search.signal, link); // at once, whatever it waits for
}

/**
 * Begins, before a person asks for a link, what takes the longest: the ICE servers and the candidates of an offer.
 * The next `connect` with the same URL, `Peer`, `rtc` and `wrtc` uses them, if it comes within a minute.
 *
 * @param {string | URL} url
 * @param {Options} [options]
 */
export function prepare(url, options = {}) {
  if (isPreparedFor(absolute(url), options)) return;
  prepared?.drop();
  const { fetch } = options;
  const signal = new AbortController().signal;
  const transport = new Transport(absolute(url), new OpenCodec(""), { fetch, signal, rematch: false });
  const ends = new Ends(options, transport);
  const made = ends.offer();
  ends.keepSpare();
  void transport.iceServers(); // if only to know how far the server is, and to have a connection to it
  const keep = () => {
    clearTimeout(timer);
    wakeUps.delete(wake);
    prepared = undefined;
  };
  const drop = () => {
    keep();
    made.then(({ end }) => end.close(), () => {});
    ends.dropSpare();
  };
  const wake = (/** @type {string} */ why) => why === "online" && drop(); // its addresses may be of another network
  const timer = setTimeout(drop, PREPARED_FRESH);
  wakeUps.add(wake);
  made.catch(() => {}); // connect tries again, and tells
  prepared = { key: keyOf(absolute(url), options), options, ends, made, drop, keep };
}

/** The way from a URL to an open link: one exchange after the other, until one succeeds. */
class Search {
  losses = 0; // links that did not open

  /**
   * @param {URL} url
   * @param {Options} options
   * @param {{ prepared?: Prepared, former?: Former }} [more] `former`: look for this very peer
   */
  constructor(url, options, { prepared, former } = {}) {
    const { namespace, signer, serverKey } = options;
    if (namespace === "") throw hinted("BAD_REQUEST", "The namespace is empty.", EMPTY_NAMESPACE);
    if (serverKey && !signer) throw new TypeError("serverKey needs a signer, which verifies with it");
    this.url = url;
    this.options = options;
    this.signal = options.signal ?? new AbortController().signal;
    this.met = options.met ?? isKnown;
    this.rematch = options.rematch ?? Boolean(namespace);
    this.former = former;
    this.backoff = new Backoff(former ? BACKOFF : BACKOFF_MOST); // there is little time to resume
    const codec = signer ? new SignedCodec(namespace ?? "", signer, serverKey) : new OpenCodec(namespace ?? "");
    this.transport = new Transport(url, codec, { fetch: options.fetch, signal: this.signal, rematch: this.rematch });
    this.ends = new Ends(options, this.transport, former?.certificates);
    this.ends.inherit(prepared?.ends);
    this.prepared = prepared?.made;
  }

  /** @param {State} state @param {SpaceriftError} [why] */
  state(state, why) {
    if (!this.signal.aborted) this.options.onstate?.(state, why);
  }

  /** @returns {Promise<Meeting>} */
  async run() {
    const { fingerprint = pageFingerprint } = this.options;
    const ask = async () => (typeof fingerprint === "function" ? fingerprint() : fingerprint);
    checkAborted(this.signal);
    try {
      if (!this.former) this.ends.keepSpare(); // a network that changes is no time to gather ahead
      this.transport.fingerprint = await ask();
      return await this.#untilLinked(ask);
    } finally {
      this.ends.dropSpare();
    }
  }

  /** @param {() => Promise<string>} ask for our fingerprint @returns {Promise<Meeting>} */
  async #untilLinked(ask) {
    const { fingerprint = pageFingerprint, retry = true } = this.options;
    for (;;) {
      const startedAt = Date.now();
      try {
        checkAborted(this.signal);
        return await new Exchange(this).run();
      } catch (error) {
        this.ends.dropSpare(); // the network may be another one by then
        checkAborted(this.signal);
        if (!retry || !passes(error) || this.transport.isUnheard) throw error;
        if (error.type === "LINK_LOST") {
          this.losses++;
          // The server takes the two for linked. In a room they shall try again, perhaps with the roles changed.
          if (this.rematch && fingerprint === pageFingerprint) renewPageFingerprint(this.transport.fingerprint);
          if (this.rematch) this.transport.fingerprint = await ask();
        }
        await this.pause(error, Date.now() - startedAt);
      }
    }
  }

  /** @returns {Prepared["made"] | undefined} what was begun before the click, once */
  takePrepared() {
    const { prepared } = this;
    this.prepared = undefined;
    return prepared;
  }

  /** @param {SpaceriftError} error @param {number} took ms */
  async pause(error, took) {
    const { type, message, cause } = error;
    const ms = this.backoff.after(error, took);
    this.state("paused", new SpaceriftError(type, message, { ...error, cause, retryAfter: ms / 1000 }));
    await delay(ms, this.signal, { wakes: type === "NETWORK" });
  }
}

/** One exchange with the server and another peer, with all its detours. */
class Exchange {
  /** @param {Search} search */
  constructor(search) {
    this.search = search;
    this.transport = search.transport;
    this.ends = search.ends;
    this.former = search.former;
    this.signal = search.signal;
  }

  /** Both sides begin as initiators; the server demotes one. @returns {Promise<Meeting>} */
  async run() {
    let outcome = await this.offer();
    while (!(outcome instanceof Meeting)) outcome = await this.respond(outcome);
    return outcome;
  }

  /**
   * Offers a link, and waits in the pool for its answer.
   *
   * @param {string} [bounced] the NONCE of an offer that we do not want
   * @returns {Promise<Meeting | Reply>} an open link, or the DEMOTE that came in its place
   */
  async offer(bounced) {
    this.search.state("gathering");
    const early = this.search.takePrepared()?.catch(() => this.ends.offer());
    const { end, signal } = await (early ?? this.ends.offer());
    try {
      checkAborted(this.signal);
      this.former?.checkOwn(signal);
      const message = messageOf(bounced ? "BOUNCE" : "CONNECT", signal, bounced);
      this.search.state("waiting");
      // Two that resume must not ask anew in step.
      const ms = this.former ? RESUME_HOLD * (0.8 + 0.4 * Math.random()) : HOLD_WITHIN;
      const timer = setTimeout(() => this.ends.dropSpare(), SPARE_FRESH);
      const asked = this.transport.post(message, ms, { unless: end.late });
      const reply = await asked.finally(() => clearTimeout(timer)).catch(error => {
        const better = end.late.aborted && end.described();
        if (!better) throw error;
        return this.transport.post(messageOf("CONNECT", better), ms);
      });
      if (reply.TYPE === "ANSWER") return await this.accept(end, signal, reply);
      if (!isDemote(reply)) throw badReply(reply);
      end.close(); // the offer is dropped: ours is the other one now
      return reply;
    } catch (error) {
      end.close();
      throw error;
    }
  }

  /** @param {End} end @param {Signal} ours @param {Reply} reply @returns {Promise<Meeting>} */
  async accept(end, ours, reply) {
    const { signal: theirs, remoteKey } = await this.transport.read(reply, "answer");
    if (this.former && !this.former.is(theirs, remoteKey)) throw badSignal();
    const accepted = end.accept(theirs).catch(error => {
      throw badSignal(error);
    });
    return this.opened(new Meeting("initiator", { end, ours, theirs, remoteKey }), accepted);
  }

  /**
   * Answers the offer of a DEMOTE, or bounces it.
   *
   * @param {Reply} demote
   * @returns {Promise<Meeting | Reply>} an open link, or another DEMOTE: that peer had gone, or was bounced
   */
  async respond(demote) {
    const until = Date.now() + seconds(demote.ANSWER_WITHIN, ANSWER_WITHIN);
    this.search.state("answering");
    const offer = await this.transport.read(demote, "offer").catch(nullUnlessFinal);
    if (!offer || !(await this.wants(offer))) return this.offer(demote.NONCE);
    const { signal: theirs, remoteKey } = offer;
    const end = await this.ends.responder(until);
    try {
      const ours = await end.signal(theirs).catch(nullUnlessFinal);
      checkAborted(this.signal);
      if (!ours) {
        end.close();
        return await this.offer(demote.NONCE);
      }
      this.former?.checkOwn(ours);
      const reply = await this.transport.deliver(messageOf("CONNECT", ours, demote.NONCE), end);
      if (isDemote(reply)) {
        end.close();
        return reply;
      }
      if (reply.TYPE !== "DELIVERED") throw badReply(reply);
      return await this.opened(new Meeting("responder", { end, ours, theirs, remoteKey }));
    } catch (error) {
      end.close();
      throw error;
    }
  }

  /** @param {{ signal: Signal, remoteKey?: string }} offer whether to answer it */
  async wants({ signal, remoteKey }) {
    return this.former ? this.former.is(signal, remoteKey) : !(await this.search.met(signal));
  }

  /**
   * Waits until the link is open. On a busy page that may be before we hear that the answer was taken.
   *
   * @param {Meeting} meeting
   * @param {Promise<void>} [accepted]
   * @returns {Promise<Meeting>}
   */
  async opened(meeting, accepted = Promise.resolve()) {
    this.search.state("connecting");
    const lost = () => {
      throw linkLost(meeting, this.search.losses, this.ends.hasIceServers);
    };
    const open = meeting.end.opened.catch(lost);
    await within(OPEN_WITHIN, this.signal, Promise.race([accepted.then(() => open), open]), lost);
    return meeting;
  }
}

/**
 * How long to wait: as long as the server says, and a random part of a window that doubles with every failure in a
 * row. Peers that lost the same server must not come back as one.
 */
class Backoff {
  #failures = 0;

  /** @param {number} most ms, of the window */
  constructor(most) {
    this.most = most;
  }

  /** @param {SpaceriftError} error @param {number} took ms @returns {number} ms */
  after({ type, status, retryAfter }, took) {
    const isPatient = (status === 298 || status === 299) && took >= BRISK;
    const isWoken = type === "NETWORK" && retryAfter === 0;
    this.#failures = isPatient || isWoken ? 0 : this.#failures + 1;
    const window = this.#failures && Math.min(this.most, BACKOFF * 2 ** (this.#failures - 1));
    return (retryAfter ?? 0) * 1000 + Math.random() * window;
  }
}

/** Two signals that fit, and our end of the link that they make. */
class Meeting {
  /**
   * @param {"initiator" | "responder"} role
   * @param {{ end: End, ours: Signal, theirs: Signal, remoteKey?: string }} about
   */
  constructor(role, { end, ours, theirs, remoteKey }) {
    this.role = role;
    this.end = end;
    this.ours = ours;
    this.theirs = theirs;
    this.remoteKey = remoteKey;
  }
}

/** A peer that we were linked with: how to find it and how to know it again. */
class Former {
  /** @param {Meeting} meeting @param {Certificates} [certificates] */
  constructor({ ours, theirs, remoteKey }, certificates) {
    this.ours = dtlsFingerprint(ours.sdp);
    this.theirs = dtlsFingerprint(theirs.sdp);
    this.remoteKey = remoteKey;
    this.certificates = certificates;
  }

  /** The namespace that only the two can name, or nothing if they cannot be known by their certificates. */
  get room() {
    return this.ours && this.theirs ? `resume:${[this.ours, this.theirs].sort().join("")}` : "";
  }

  /** @param {Signal} signal @param {string} [remoteKey] */
  is({ sdp }, remoteKey) {
    return dtlsFingerprint(sdp) === this.theirs && isSameKey(remoteKey, this.remoteKey);
  }

  /** @param {Signal} signal our own */
  checkOwn({ sdp }) {
    if (!/^a=candidate:/m.test(sdp)) throw new SpaceriftError("NETWORK", "There is no network yet.");
    if (dtlsFingerprint(sdp) === this.ours) return;
    throw new SpaceriftError("NO_WEBRTC", "This WebRTC keeps no certificate, and so no link can be made again.");
  }
}

/** How one search speaks with its server. */
class Transport {
  fingerprint = "";
  #unheard = 0;

  /**
   * @param {URL} url
   * @param {OpenCodec | SignedCodec} codec
   * @param {{ fetch?: typeof globalThis.fetch, signal: AbortSignal, rematch: boolean }} options
   */
  constructor(url, codec, { fetch = globalThis.fetch.bind(globalThis), signal, rematch }) {
    this.url = url;
    this.codec = codec;
    this.fetch = fetch;
    this.signal = signal;
    this.rematch = rematch;
  }

  /** Nothing that this page may read ever came from there, and it was asked often enough. */
  get isUnheard() {
    return this.#unheard >= UNHEARD_MOST && !heard.has(rootOf(this.url));
  }

  iceServers() {
    return knownIceServers(this.url, this.fetch);
  }

  /** In ms, to the server and back; 0 while it is not known. */
  get roundTrip() {
    return roundTrips.get(rootOf(this.url)) ?? 0;
  }

  /**
   * One request and its reply.
   *
   * @param {Message} message
   * @param {number} ms
   * @param {{ sending?: () => void, unless?: AbortSignal }} [more] `sending`: called when it is signed and about to be
   *   sent; `unless`: ends it, and takes it back
   * @returns {Promise<Reply>} a reply of status 200, checked
   */
  async post(message, ms, { sending = () => {}, unless } = {}) {
    for (let isFirst = true; ; isFirst = false) {
      const parameters = await this.codec.write(message);
      sending();
      const more = given({ FINGERPRINT: this.fingerprint, REMATCH: this.rematch ? "1" : "" });
      const { status, reply } = await this.#request({ ...parameters, ...more }, ms, unless);
      // By status, never by `ok`: 297, 298 and 299 are as good as 200 to a browser.
      if (status === 200) {
        await this.codec.check(reply, message);
        return reply;
      }
      const isCorrected = isFirst && status === 403 && this.codec.setClock(reply.TIME);
      if (!isCorrected) throw refusal(status, reply);
    }
  }

  /**
   * Posts an answer, again if no reply comes (the server knows a repeated one) or if it is told to ask again soon.
   * The link may open before we hear DELIVERED: then it was delivered.
   *
   * Our checks begin when the answer is with the server, half a round trip after it was sent. The other side begins a
   * little later, once it has the answer. Behind a NAT that is open to all, its own packet must be on the way before
   * ours comes in, or the NAT takes the port for ours; and the other way round. See docs/nat.md.
   *
   * @param {Message} message
   * @param {End} end
   * @returns {Promise<Reply>}
   */
  async deliver(message, end) {
    const reply = this.#postAgain(message, end);
    reply.catch(error => error?.type === "UNTRUSTED" && end.close());
    reply.then(() => end.begin(), () => {});
    const opened = end.opened.then(() => ({ TYPE: "DELIVERED" }));
    return Promise.race([reply, opened.catch(() => reply)]);
  }

  /** @param {Message} message @param {End} end @returns {Promise<Reply>} */
  async #postAgain(message, end) {
    for (let repeat = 0; ; repeat++) {
      try {
        const sending = () => void setTimeout(() => end.begin(), this.roundTrip / 2);
        return await this.post(message, DELIVER_WITHIN, { sending });
      } catch (error) {
        const after = retryAnswerAfter(error);
        if (after === undefined || repeat >= REPEATS) throw error;
        await delay(after * 1000 + Math.random() * BACKOFF * 2 ** repeat, this.signal);
        if (end.isOpen) return { TYPE: "DELIVERED" }; // it was, as we see
      }
    }
  }

  /**
   * It never costs a preflight (a form, no header of our own). It is a plain fetch without `keepalive`, so that the
   * browser ends it when the page is left. Some proxies do not tell the server, so a LEAVE does.
   *
   * @param {Record<string, string>} parameters
   * @param {number} ms
   * @param {AbortSignal} [unless]
   * @returns {Promise<{ status: number, reply: Reply }>}
   */
  async #request(parameters, ms, unless) {
    checkAborted(this.signal);
    const REQUEST = randomText();
    const ended = new AbortController();
    let isWoken = false;
    const leave = () => {
      ended.abort();
      sayLeave(this.url, given({ TYPE: "LEAVE", REQUEST, FINGERPRINT: this.fingerprint }), this.fetch);
    };
    const wake = (/** @type {string} */ why) => {
      if (why !== "online") return; // a line that sleeps may be as good as ever
      isWoken = true;
      leave();
    };
    const timer = setTimeout(leave, ms);
    this.signal.addEventListener("abort", leave);
    unless?.addEventListener("abort", leave);
    wakeUps.add(wake);
    inFlight.add(leave);
    try {
      const body = new URLSearchParams({ ...parameters, REQUEST });
      const asked = this.fetch(this.url, { ...ANONYMOUS, method: "POST", body, signal: ended.signal });
      const response = await timed(this.url, asked);
      const { status, reply } = await readJson(response);
      if (reply.TYPE) heard.add(rootOf(this.url));
      return { status, reply };
    } catch (error) {
      checkAborted(this.signal);
      const isHeard = heard.has(rootOf(this.url));
      if (!isHeard && isOnline() && !isWoken && !unless?.aborted) this.#unheard++;
      throw networkError(error, { isHeard, retryAfter: isWoken ? 0 : undefined });
    } finally {
      clearTimeout(timer);
      this.signal.removeEventListener("abort", leave);
      unless?.removeEventListener("abort", leave);
      wakeUps.delete(wake);
      inFlight.delete(leave);
    }
  }

  /**
   * @param {Reply} reply
   * @param {Signal["type"]} type
   * @returns {Promise<{ signal: Signal, remoteKey?: string }>} the other peer's signal; rejects with BAD_SIGNAL
   */
  async read(reply, type) {
    try {
      const { signal, remoteKey } = await this.codec.read(reply);
      return { signal: readSignal(signal, type), remoteKey };
    } catch (error) {
      throw isFinal(error) ? error : badSignal(error);
    }
  }
}

/** How messages are written and read where nobody signs. */
class OpenCodec {
  /** @param {string} namespace */
  constructor(namespace) {
    this.namespace = namespace;
  }

  /** @param {unknown} time @returns {boolean} whether it changed anything */
  setClock(time) {
    return false;
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
class SignedCodec {
  /** @type {Map<string, string[]>} the SIGNED_SIGNALs in which a signal was sent, by the signal */
  #sent = new Map();

  /** @param {string} namespace @param {Signer} signer @param {string} [serverKey] */
  constructor(namespace, signer, serverKey) {
    this.namespace = namespace;
    this.signer = signer;
    this.serverKey = serverKey;
  }

  /** The time by the server's clock, as far as we know. */
  get now() {
    return Date.now() + (clockOffsets.get(this.signer) ?? 0);
  }

  /** @param {unknown} time the server's, ms since 1970 @returns {boolean} whether ours was another */
  setClock(time) {
    if (typeof time !== "number" || Math.abs(time - this.now) < CLOCK_SAME) return false;
    clockOffsets.set(this.signer, time - Date.now());
    signedNamespaces.delete(this.signer); // signed at the wrong time
    return true;
  }

  /** @param {Message} message @returns {Promise<Record<string, string>>} */
  async write({ TYPE, NONCE, SIGNAL }) {
    const { signer, namespace, now } = this;
    const text = asciiJson({ TYPE, NAMESPACE: namespace, NONCE, SIGNAL, TIME: now });
    const SIGNED_SIGNAL = await signedBy(() => signer.sign(text, { date: new Date(now) }));
    const SIGNED_NAMESPACE = await signedNamespace(signer, namespace, now);
    const PUBLIC_KEY = await signedBy(() => signer.publicKey());
    this.#sent.set(SIGNAL, [...(this.#sent.get(SIGNAL) ?? []), SIGNED_SIGNAL]);
    return given({ TYPE, NONCE, SIGNED_NAMESPACE, SIGNED_SIGNAL, PUBLIC_KEY });
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
    trust(isNear(signed.TIME, this.now, SERVER_CLOCK), "the server's reply is not of now");
    trust(isNew(text, signed.TIME, this.now), "the server's reply came before");
  }

  /** @param {Reply} reply @returns {Promise<{ signal: unknown, remoteKey?: string }>} */
  async read(reply) {
    const namespace = await this.verify(reply.SIGNED_NAMESPACE, reply.PUBLIC_KEY);
    const { text, fingerprint } = await this.verify(reply.SIGNED_SIGNAL, reply.PUBLIC_KEY);
    const signed = parseObject(text);
    trust(isSameKey(namespace.fingerprint, fingerprint), "two keys signed it");
    trust(namespace.text === this.namespace && signed.NAMESPACE === this.namespace, "it is of another namespace");
    trust(isNear(signed.TIME, this.now, PEER_CLOCK), "it is not of now");
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
    const date = new Date(this.now);
    const verified = inTime(async () => this.signer.verify(String(message), String(key), { ...options, date }));
    return verified.catch(error => {
      throw isFinal(error) ? error : untrusted("a signature does not hold", error);
    });
  }
}

/** Makes the ends of links, all with one certificate, by which the other side can know us again. */
class Ends {
  hasIceServers = false;
  /** @type {Promise<End> | undefined} that gathers already, for an answer */
  #spare;

  /** @param {Options} options @param {Transport} transport @param {Certificates} [certificates] */
  constructor(options, transport, certificates) {
    this.options = options;
    this.transport = transport;
    this.certificates = certificates;
  }

  /** @returns {Promise<{ end: End, signal: Signal }>} an end and its offer, with what was gathered */
  async offer() {
    const end = await this.make(true);
    try {
      return { end, signal: await end.signal() };
    } catch (error) {
      end.close();
      throw error;
    }
  }

  /** @param {Ends} [others] who have prepared what we may need */
  inherit(others) {
    if (!others) return;
    this.certificates ??= others.certificates;
    this.#spare = others.#spare;
    others.#spare = undefined;
  }

  /** Lets a browser gather for an answer while our offer, which will be demoted perhaps, is made and on its way. */
  keepSpare() {
    if (this.#spare || this.options.wrtc || !this.isNative) return;
    const made = (this.#spare = this.make(false, { isSpare: true }));
    const forget = () => {
      if (this.#spare === made) this.#spare = undefined;
    };
    made.then(end => end.closed.then(forget), forget);
  }

  dropSpare() {
    this.#spare?.then(end => end.close(), () => {});
    this.#spare = undefined;
  }

  /** @param {number} until when our answer must be with the server @returns {Promise<End>} an end for it */
  async responder(until) {
    const spare = this.#spare;
    this.#spare = undefined;
    const end = await spare?.catch(() => undefined);
    if (!end) return this.make(false, { until });
    Object.assign(end.setup, this.#times(until));
    return end;
  }

  get isNative() {
    const { Peer } = this.options;
    return !Peer || "createOffer" in Peer.prototype;
  }

  /** @param {number} [until] */
  #times(until = Infinity) {
    const { gather = GATHER } = this.options;
    const { roundTrip } = this.transport;
    // Half of the time is for the way to the server and back, and for a signature.
    const most = Math.max(GATHER_LEAST, Math.min(gather, (until - Date.now()) / 2));
    return { gather: most, roundTrip, isFar: roundTrip >= FAR };
  }

  /**
   * @param {boolean} initiator
   * @param {{ until?: number, isSpare?: boolean }} [more] `until`: when our answer must be with the server
   * @returns {Promise<End>}
   */
  async make(initiator, { until = Infinity, isSpare = false } = {}) {
    const { Peer, rtc = {}, streams = [], wrtc } = this.options;
    const { isNative } = this;
    const { signal } = this.transport;
    const Connection = (isNative && Peer) || wrtc?.RTCPeerConnection || globalThis.RTCPeerConnection;
    if (isNative && typeof Connection !== "function") throw noWebRtc();
    this.certificates ??= ownCertificates(Connection, rtc);
    const known = Promise.resolve(rtc.iceServers ?? this.transport.iceServers());
    const most = until === Infinity ? 2 * ICE_WITHIN : this.#times(until).gather;
    const iceServers = await within(most, signal, known, () => []);
    this.hasIceServers = iceServers.length > 0;
    const pool = isSpare ? { iceCandidatePoolSize: 1 } : {};
    const config = { ...rtc, iceServers, ...(await this.certificates), ...pool };
    checkAborted(signal);
    const setup = { Peer, wrtc, Connection, config, streams, signal, isSpare, ...this.#times(until) };
    try {
      return isNative ? new NativeEnd(setup, initiator) : new SimplePeerEnd(setup, initiator);
    } catch (error) {
      throw isWithoutWebRtc(error) ? noWebRtc(error) : closedByBrowser(error) ?? error;
    }
  }
}

/**
 * @typedef {object} Setup
 * @property {any} Peer
 * @property {any} wrtc
 * @property {any} Connection the RTCPeerConnection to use
 * @property {RTCConfiguration} config
 * @property {number} gather
 * @property {number} roundTrip to the server and back, in ms
 * @property {boolean} isSpare whether it has gathered for as long as our offer, which is on its way
 * @property {MediaStream[]} streams
 * @property {AbortSignal} signal
 * @property {boolean} isFar whether the candidates of an offer are kept until `begin`
 *
 * @typedef {NativeEnd | SimplePeerEnd} End
 * @typedef {Promise<{ certificates?: RTCCertificate[] }>} Certificates
 */

/** What both kinds of ends have: they open or not (`opened` rejects), and are over some day. */
class AnyEnd {
  /** @type {MediaStream[]} */ streams = [];
  /** @type {() => void} */ open = () => {};
  /** @type {() => void} */ over = () => {};
  hasFailed = false; // its path does not come back
  isSilent = false; // nothing comes from the other side, be it that the browser has not noticed
  /** Called when the path to the other side is lost, and when it is there again. */
  onlost = () => {};
  onback = () => {};
  /** For what a page is to hear only from now on. */
  release = () => {};

  /** @type {RTCIceCandidateInit[]} of the other side, not used yet */
  #kept = [];
  #late = new AbortController();

  /** @param {Setup} setup */
  constructor(setup) {
    this.setup = setup;
    /** @type {Promise<void>} */
    this.closed = new Promise(resolve => (this.over = resolve));
    /** @type {Promise<void>} */
    this.opened = new Promise((resolve, reject) => {
      this.open = resolve;
      this.closed.then(() => reject(new SpaceriftError("LINK_LOST", NOT_OPENED)));
    });
    this.opened.catch(() => {}); // nobody may be waiting for it
  }

  /** Aborted when an address from outside is there after all, for which the signal did not wait. */
  get late() {
    return this.#late.signal;
  }

  /** @param {RTCPeerConnection} peer @returns {Promise<void>} see `gathered` */
  gathered(peer) {
    return gathered(peer, this.setup, () => this.#late.abort());
  }

  fail() {
    this.hasFailed = true;
    this.onlost();
  }

  /** @param {Signal} offer @returns {string} its SDP as it is used at once: if we are far, without its candidates */
  setAside({ sdp }) {
    if (!this.setup.isFar) return sdp;
    this.#kept = candidateLines(sdp);
    return sdp.replace(/^a=candidate:.*(\r?\n|$)/gm, "");
  }

  /** Lets the checks of the other side's candidates begin. */
  begin() {
    for (const candidate of this.#kept.splice(0)) this.add(candidate);
  }

  /** @param {RTCIceCandidateInit} candidate */
  add(candidate) {}

  /** @param {RTCPeerConnection} peer whose path is watched from now on */
  watch(peer) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const look = () => {
      clearTimeout(timer);
      if (peer.connectionState === "connected") this.onback();
      if (peer.connectionState === "failed") this.fail();
      // After a change of networks, it does not come back by itself.
      const isMoved = Date.now() - lastOnline < 10 * LOST_AFTER;
      if (peer.connectionState === "disconnected") timer = setTimeout(() => this.onlost(), isMoved ? 0 : LOST_AFTER);
    };
    const wake = (/** @type {string} */ why) => {
      if (why === "online" && peer.connectionState !== "connected") this.onlost();
    };
    peer.addEventListener("connectionstatechange", look);
    wakeUps.add(wake);
    const stop = listenFor(peer, isSilent => {
      this.isSilent = isSilent;
      if (isSilent) this.onlost();
      else this.onback();
    });
    this.closed.then(() => {
      clearTimeout(timer);
      wakeUps.delete(wake);
      stop();
    });
  }
}

/** One end of a link, with the browser's own RTCPeerConnection. */
class NativeEnd extends AnyEnd {
  /** @type {RTCDataChannel | undefined} */ channel;
  #wasOpen = false;
  #isEnding = false; // by us

  /** @param {Setup} setup @param {boolean} initiator */
  constructor(setup, initiator) {
    super(setup);
    /** @type {RTCPeerConnection} */
    this.peer = new setup.Connection(setup.config);
    this.peer.addEventListener("connectionstatechange", () => {
      if (!this.#wasOpen && ["failed", "closed"].includes(this.peer.connectionState)) this.over();
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

  get isConnected() {
    return this.isOpen && !this.isSilent && this.peer.connectionState === "connected";
  }

  /** @param {Signal} [offer] @returns {Promise<Signal>} our offer, or our answer to theirs */
  async signal(offer) {
    const { peer, setup } = this;
    try {
      if (offer) await peer.setRemoteDescription({ type: "offer", sdp: this.setAside(offer) });
      for (const stream of setup.streams) for (const track of stream.getTracks()) peer.addTrack(track, stream);
      const made = await (offer ? peer.createAnswer() : peer.createOffer());
      const set = setup.isSpare ? this.#setFromPool(made) : peer.setLocalDescription(made);
      // Some stacks gather before this resolves.
      const all = Promise.all([set, this.gathered(peer)]).then(() => {});
      await within(setup.gather, setup.signal, all, () => {});
      const signal = described(peer) ?? made;
      const ours = /** @type {Signal} */ ({ type: made.type, sdp: signal.sdp });
      if (peer.signalingState === "have-local-pranswer") await peer.setLocalDescription(ours);
      return ours;
    } catch (error) {
      throw (this.#isEnding ? undefined : closedByBrowser(error)) ?? error;
    }
  }

  /** @returns {Signal | undefined} our offer, with what has been gathered by now */
  described() {
    return described(this.peer);
  }

  /**
   * An answer makes Chromium and Safari throw away what they have gathered before; a provisional one, which nobody
   * needs to see, takes it.
   *
   * @param {RTCSessionDescriptionInit} answer
   */
  async #setFromPool(answer) {
    const { peer } = this;
    await peer.setLocalDescription({ type: "pranswer", sdp: answer.sdp }).catch(() => peer.setLocalDescription(answer));
  }

  /** @param {RTCIceCandidateInit} candidate that is of no use to us, perhaps: there are others */
  add(candidate) {
    void Promise.resolve(this.peer.addIceCandidate(candidate)).catch(() => {});
  }

  /** @param {Signal} answer */
  async accept({ sdp }) {
    await this.peer.setRemoteDescription({ type: "answer", sdp });
  }

  /** Says goodbye: the channel is closed first, so that the other side knows that it is not the path that broke. */
  close() {
    if (this.#isEnding) return;
    this.#isEnding = true;
    const { channel, peer } = this;
    const isHeard = this.isOpen && !isUnloading;
    channel?.close();
    if (isHeard) {
      const timer = setTimeout(() => peer.close(), GOODBYE_WITHIN); // what was sent before goes first
      channel?.addEventListener("close", () => (clearTimeout(timer), peer.close()));
    } else {
      peer.close();
    }
    this.over();
  }

  /** @param {RTCDataChannel} channel */
  #use(channel) {
    this.channel = channel;
    this.release = holdMessages(channel);
    channel.addEventListener("open", () => this.#opened());
    channel.addEventListener("close", () => {
      // Firefox closes it, too, when the path has failed or the network goes, and node-datachannel all with it.
      const isBroken = !this.#isEnding && ["failed", "closed"].includes(this.peer.connectionState);
      if (isBroken || !isOnline()) this.fail();
      else this.close();
    });
    if (channel.readyState === "open") this.#opened();
  }

  #opened() {
    this.#wasOpen = true;
    this.watch(this.peer);
    this.open();
  }
}

/** One end of a link, with a SimplePeer that was handed in. */
class SimplePeerEnd extends AnyEnd {
  channel = undefined; // it keeps its channel to itself; `peer.send` and `peer.on("data")` are its way
  isOpen = false;
  #isClosed = false;
  /** @type {unknown} */ #error;

  /** @param {Setup} setup @param {boolean} initiator */
  constructor(setup, initiator) {
    super(setup);
    const { Peer, wrtc, config, gather, streams } = setup;
    // Its own default `config` would ask third parties' STUN servers: ours always names them, be it none.
    const options = { initiator, config, streams, trickle: false, iceCompleteTimeout: gather };
    /** @type {SimplePeer} */
    this.peer = new Peer(wrtc ? { ...options, wrtc } : options);
    /** @type {Promise<Signal>} */
    this.signalled = new Promise(resolve => this.peer.once("signal", resolve));
    this.peer.on("stream", stream => this.streams.push(stream));
    this.peer.on("error", error => this.#ended(error)); // version 10 says no "close" then
    this.peer.once("close", () => this.#ended());
    this.peer.once("connect", () => {
      this.isOpen = true;
      if (this.peer._pc) this.watch(this.peer._pc);
      this.open();
    });
  }

  get isConnected() {
    return this.isOpen && !this.isSilent && this.peer._pc?.connectionState === "connected";
  }

  /** @param {Signal} [offer] @returns {Promise<Signal>} */
  async signal(offer) {
    const { gather, signal } = this.setup;
    if (offer) this.peer.signal({ type: "offer", sdp: this.setAside(offer) });
    const { _pc } = this.peer; // it would wait for the slowest ICE server
    const early = _pc ? this.gathered(_pc).then(() => described(_pc) ?? this.signalled) : this.signalled;
    const ended = this.closed.then(() => Promise.reject(closedByBrowser(this.#error) ?? badSignal(this.#error)));
    // Its own time-out begins with the first candidate, so it needs an outer one.
    return within(2 * gather, signal, Promise.race([this.signalled, early, ended]), () => {
      throw new SpaceriftError("LINK_LOST", NOT_OPENED);
    });
  }

  /** @returns {Signal | undefined} our offer, with what has been gathered by now */
  described() {
    return this.peer._pc ? described(this.peer._pc) : undefined;
  }

  /** @param {RTCIceCandidateInit} candidate */
  add(candidate) {
    if (!this.#isClosed) this.peer.signal({ type: "candidate", candidate });
  }

  /** @param {Signal} answer */
  async accept({ sdp }) {
    this.peer.signal({ type: "answer", sdp });
  }

  close() {
    this.#isClosed = true;
    const { _pc } = this.peer;
    this.peer.destroy();
    // Version 10 closes its connection only in a later task, which a page that is being left does not get.
    if (isUnloading) _pc?.close();
    this.over();
  }

  /** It destroys itself when its path fails, too. @param {any} [error] */
  #ended(error) {
    if (this.hasFailed) return;
    this.#error ??= error;
    const isLost = PATH_FAILED.includes(error?.code) || !isOnline();
    if (this.isOpen && isLost && !this.#isClosed) this.fail();
    else this.over();
    this.isOpen = false;
  }
}

const PATH_FAILED = ["ERR_ICE_CONNECTION_FAILURE", "ERR_CONNECTION_FAILURE"];

/** @type {typeof EventTarget} */
const Target = globalThis.EventTarget ?? Object; // React Native has none

/**
 * An open link with another peer. When its path breaks, both sides look for each other at the server. After the
 * event `"resumed"`, `peer`, `channel` and `streams` are new ones.
 */
export class Link extends Target {
  /** @type {End} */ #end;
  /** @type {Search} */ #search;
  /** @type {Former} */ #former;
  /** @type {AbortController | undefined} of the search for the other side */ #resuming;
  #isOpening = false; // a new link, of which the other side may be sure already
  #isOver = false;
  /** @type {() => void} */ #over = () => {};

  /** @param {Meeting} meeting @param {Search} search the one that found it */
  constructor(meeting, search) {
    super();
    this.role = meeting.role;
    /** The verified fingerprint of the other peer's key, in a signed pool. */
    this.remoteKey = meeting.remoteKey;
    this.remoteId = meeting.theirs.id;
    /** @type {any} an RTCPeerConnection or a SimplePeer */
    this.peer = meeting.end.peer;
    /** The open data channel of a native peer. */
    this.channel = /** @type {RTCDataChannel} */ (meeting.end.channel);
    /** The other side's streams. */
    this.streams = meeting.end.streams;
    /** @type {Promise<void>} Resolves when the link is over for good, whoever ended it. */
    this.closed = new Promise(resolve => (this.#over = resolve));
    this.#search = search;
    this.#former = new Former(meeting, search.ends.certificates);
    this.#end = meeting.end;
    this.#use(meeting.end);
    links.add(this);
    search.state("linked");
  }

  /** Ends the link. The other side is told, and does not look for us. */
  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#resuming?.abort();
    this.#end.close();
    links.delete(this);
    this.#over();
  }

  /** @param {End} end that is open */
  #use(end) {
    this.#end = end;
    this.peer = end.peer;
    this.channel = /** @type {RTCDataChannel} */ (end.channel);
    this.streams = end.streams;
    setTimeout(() => end.release()); // by then, the page has had its turn
    end.onlost = () => void this.#resume(end);
    end.closed.then(() => end === this.#end && !this.#isOpening && this.close());
  }

  /**
   * Looks for the other side, which does the same. What is back first is used: the old path, or a new one.
   *
   * @param {End} old
   */
  async #resume(old) {
    const { resume: most = RESUME } = this.#search.options;
    const { room } = this.#former;
    if (this.#resuming || this.#isOver || old !== this.#end) return;
    if (!room || !(most > 0)) {
      if (old.hasFailed) this.close();
      return;
    }
    const resuming = (this.#resuming = new AbortController());
    this.#search.state("interrupted");
    const timer = setTimeout(() => resuming.abort(), most);
    const look = () => !this.#isOpening && old.isConnected && resuming.abort();
    const onstate = (/** @type {State} */ state) => {
      this.#isOpening = state === "answering" || state === "connecting";
      look();
    };
    old.onback = look;
    const asked = { rematch: true, retry: true, fingerprint: randomText, signal: resuming.signal, onstate };
    const options = { ...this.#search.options, ...asked, namespace: room };
    const search = new Search(this.#search.url, options, { former: this.#former });
    const meeting = await search.run().catch(() => null);
    this.#isOpening = false;
    if (!meeting) await this.#oldPath(old, resuming, look);
    clearTimeout(timer);
    this.#resuming = undefined;
    if (this.#isOver || (!meeting && !old.isConnected)) {
      meeting?.end.close();
      return this.close();
    }
    if (meeting) {
      this.#use(meeting.end);
      old.close();
      this.dispatchEvent?.(new Event("resumed"));
    }
    this.#search.state("linked");
  }

  /**
   * Where no new link can be made, as by a WebRTC that keeps no certificate, the old path may come back still.
   *
   * @param {End} old
   * @param {AbortController} resuming aborted when it is back, or when the time is over
   * @param {() => void} look
   */
  async #oldPath(old, resuming, look) {
    const { signal } = resuming;
    const over = new Promise(resolve => signal.addEventListener("abort", resolve));
    old.onlost = () => old.hasFailed && resuming.abort();
    old.onlost();
    look();
    if (!signal.aborted) await over;
    old.onlost = () => void this.#resume(old);
  }
}

// ---- what is one for the whole page ----

/** @type {Set<Link>} the open links of this page */
const links = new Set();

/** @type {Set<() => void>} ends a request, and says so to the server */
const inFlight = new Set();

/** @type {Set<(why: "online" | "visible") => unknown>} what waits is told that the network, or the page's user, is back */
const wakeUps = new Set();

/** @type {Set<string>} the servers that gave a reply which this page may read */
const heard = new Set();

/** @type {Map<string, number>} ms to a server and back, by its root: the least that a reply ever took */
const roundTrips = new Map();

/**
 * @param {URL} url
 * @param {Promise<Response>} asked of the server there, just now
 * @returns {Promise<Response>}
 */
async function timed(url, asked) {
  const startedAt = Date.now();
  const response = await asked;
  const root = rootOf(url);
  roundTrips.set(root, Math.min(roundTrips.get(root) ?? Infinity, Date.now() - startedAt));
  return response;
}

/** @type {WeakMap<Signer, number>} ms by which the server's clock is before ours, as it said itself */
const clockOffsets = new WeakMap();

let isUnloading = false;
let lastOnline = -Infinity;

// A closed tab would else leave the other side waiting, in Chromium for 15 s, until its own checks fail.
globalThis.addEventListener?.("pagehide", ({ persisted }) => {
  isUnloading = true;
  for (const leave of inFlight) leave();
  if (!persisted) for (const link of links) link.close();
  isUnloading = false;
});
globalThis.addEventListener?.("online", () => {
  lastOnline = Date.now();
  for (const wake of [...wakeUps]) wake("online");
});
globalThis.document?.addEventListener?.("visibilitychange", () => {
  if (document.visibilityState === "visible") for (const wake of [...wakeUps]) wake("visible");
});

/** Nothing random is made before it is needed: not every place where a module is loaded allows it. */
const own = { id: "", fingerprint: "" };

function pageId() {
  return (own.id ||= randomText());
}

function pageFingerprint() {
  return (own.fingerprint ||= randomText());
}

/** @param {string} old made anew, unless another search has done it */
function renewPageFingerprint(old) {
  if (own.fingerprint === old) own.fingerprint = "";
}

/** False only where the browser knows that there is no network. */
function isOnline() {
  return globalThis.navigator?.onLine !== false;
}

/** @param {Signal} offer of ourselves, as another search of this page, or of a peer that we are linked with */
function isKnown({ id }) {
  return id === pageId() || [...links].some(link => link.remoteId !== undefined && link.remoteId === id);
}

/**
 * @typedef {object} Prepared
 * @property {string} key
 * @property {Options} options
 * @property {Ends} ends
 * @property {Promise<{ end: End, signal: Signal }>} made
 * @property {() => void} drop
 * @property {() => void} keep
 */

/** @type {Prepared | undefined} */
let prepared;

/** @param {URL} url @param {Options} options */
function isPreparedFor(url, { Peer, wrtc, streams = [], ...more }) {
  const { options, key } = prepared ?? { options: {}, key: "" };
  return key === keyOf(url, more) && options.Peer === Peer && options.wrtc === wrtc && !streams.length;
}

/** @param {URL} url @param {Options} options @returns {Prepared | undefined} what was prepared for them */
function takePrepared(url, options) {
  const found = isPreparedFor(url, options) ? prepared : undefined;
  found?.keep();
  return found;
}

/** @param {URL} url @param {Options} options */
function keyOf(url, { rtc, gather }) {
  return JSON.stringify([url.href, rtc, gather]);
}

// ---- ICE ----

/** @type {Map<string, { time: number, list: Promise<RTCIceServer[]> }>} by the server's address */
const iceServers = new Map();

/** @param {URL} url @param {typeof globalThis.fetch} fetch @returns {Promise<RTCIceServer[]>} */
function knownIceServers(url, fetch) {
  const address = `${rootOf(url)}ice`;
  const known = iceServers.get(address);
  if (known && Date.now() - known.time < ICE_FRESH) return known.list;
  const list = askIceServers(url, address, fetch).catch(() => {
    iceServers.delete(address); // the next round asks again
    return []; // peers of one network link without
  });
  iceServers.set(address, { time: Date.now(), list });
  return list;
}

/** @param {URL} url @param {string} address @param {typeof globalThis.fetch} fetch @returns {Promise<RTCIceServer[]>} */
async function askIceServers(url, address, fetch) {
  const never = new AbortController().signal;
  for (let waited = 0; ; ) {
    const ended = new AbortController();
    const asked = timed(url, fetch(address, { ...ANONYMOUS, signal: ended.signal })).then(readJson);
    const { status, reply } = await within(ICE_WITHIN, never, asked, () => {
      ended.abort();
      throw networkError();
    });
    if (status === 200 && Array.isArray(reply.iceServers)) {
      heard.add(rootOf(url));
      return reply.iceServers;
    }
    // Sixty who come at once, from behind one address, are more than its limit.
    const ms = seconds(reply.RETRY_AFTER, BACKOFF) + Math.random() * BACKOFF;
    waited += ms;
    if (![297, 429, 503].includes(status) || waited > ICE_AGAIN_WITHIN) throw refusal(status, reply);
    await delay(ms, never);
  }
}

// Where a Spacerift server serves this module, its ICE servers are asked for while the page loads, not after the
// click. The list of loaded files has the module's address, and a bundle needs no syntax that only modules have.
for (const { name } of globalThis.performance?.getEntriesByType?.("resource") ?? []) {
  if (/^https?:[^?#]*\/spacerift\.js$/.test(name)) void knownIceServers(new URL(".", name), globalThis.fetch);
}

/** @param {any} Connection @param {RTCConfiguration} rtc @returns {Certificates} */
async function ownCertificates(Connection, rtc) {
  if (rtc.certificates?.length) return {};
  try {
    return { certificates: [await Connection.generateCertificate({ name: "ECDSA", namedCurve: "P-256" })] };
  } catch {
    return {}; // some stacks outside of browsers cannot
  }
}

/**
 * Resolves when a stranger can use what was gathered: it is all, or there is what the ICE servers are for and nothing
 * new comes. One address of several that does not answer would else hold up everything. What they did not give the last
 * time is not waited for.
 *
 * @param {RTCPeerConnection} peer
 * @param {Setup} setup
 * @param {() => void} late told if what the ICE servers are for comes after that
 * @returns {Promise<void>}
 */
function gathered(peer, { config: { iceServers = [] }, gather, roundTrip, isSpare }, late) {
  const urls = iceServers.flatMap(server => server.urls);
  const list = urls.join();
  const wanted = urls.some(url => /^turns?:/.test(url)) ? "relay" : "srflx";
  const needed = lastGiven.get(list) ?? wanted;
  const [least, most] = GATHER_QUIET;
  const startedAt = Date.now();
  /** @type {Set<unknown>} */ const answered = new Set();
  /** @type {Set<unknown>} */ const kinds = new Set();
  let addresses = 0; // of this computer
  return new Promise(resolve => {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    let isOver = false;
    const end = () => {
      isOver = true;
      resolve();
    };
    const quiet = () => {
      const isAll = wanted === "srflx" && addresses === 1 && urls.length > 0 && answered.size === urls.length;
      if (isAll) return Math.max(0, GATHER_ALL - (Date.now() - startedAt));
      if (isSpare) return GATHER_ALL;
      return needed === "host" ? most : Math.min(most, Math.max(least, Date.now() - startedAt));
    };
    const look = () => peer.iceGatheringState === "complete" && end();
    peer.addEventListener("icegatheringstatechange", look);
    peer.addEventListener("icecandidate", ({ candidate }) => {
      const [, transport, kind] = / (udp|tcp) .* typ (\w+)/i.exec(candidate?.candidate ?? "") ?? [];
      const { url } = /** @type {{ url?: string }} */ (candidate ?? {});
      if (kind === "host" && transport.toLowerCase() === "udp") addresses++;
      if (kind === "srflx" && url) answered.add(url);
      if (kind === wanted && !kinds.has(kind)) lastGiven.delete(list);
      if (kind === wanted && !kinds.has(kind) && isOver) late();
      kinds.add(kind);
      clearTimeout(timer);
      if (kinds.has(needed)) timer = setTimeout(end, quiet());
    });
    const isStunOnly = wanted === "srflx" && urls.length > 0 && gather === GATHER;
    setTimeout(() => {
      if (!kinds.has(wanted) && gather >= GATHER) lastGiven.set(list, kinds.has("srflx") ? "srflx" : "host");
      end();
    }, isStunOnly ? Math.max(GATHER_SRFLX, 3 * roundTrip) : gather);
    look();
  });
}

/** @type {Map<string, "srflx" | "host">} what there was in time, by the list of addresses that were to give more */
const lastGiven = new Map();
wakeUps.add(why => why === "online" && lastGiven.clear());

/**
 * Tells when nothing comes from the other side any more, and when something does again. Firefox notices only after
 * half a minute that its network card has gone. Neither does it follow Chromium to a relay when the first path is dead:
 * then each question of Chromium's is answered over the relay, and no data is.
 *
 * @param {RTCPeerConnection} peer
 * @param {(isSilent: boolean) => void} told
 * @returns {() => void} stops it
 */
function listenFor(peer, told) {
  let before = { replies: 0, bytes: 0, sent: 0, hasMedia: false };
  let heardAt = Date.now();
  let asked = 0; // since then; a tab that sleeps does not ask
  let sentAt = Infinity; // the first data to which nothing came
  let isSilent = false;
  /** @type {Promise<() => boolean> | undefined} */ let address;
  let goneAt = Infinity;
  const look = async () => {
    const now = await traffic(peer).catch(() => undefined);
    if (!now) return;
    const hasData = now.bytes !== before.bytes;
    asked = !hasData && now.replies === before.replies ? asked + 1 : 0;
    if (asked === 0) heardAt = Date.now();
    if (hasData || now.hasMedia) sentAt = Infinity;
    else if (now.sent !== before.sent) sentAt = Math.min(sentAt, Date.now());
    before = now;
    const wasSilent = isSilent;
    if (now.replies > 0) {
      isSilent = (asked > 5 && Date.now() - heardAt >= SILENT_AFTER) || Date.now() - sentAt >= SILENT_AFTER;
    } else {
      const isThere = await (address ??= ownAddress(peer).catch(() => () => true));
      if (!isThere()) goneAt = Math.min(goneAt, Date.now());
      else if (Date.now() - goneAt < SILENT_AFTER) goneAt = Infinity; // the path may be as good as ever
      isSilent = heardAt <= goneAt && goneAt < Infinity && Date.now() - goneAt < CONSENT_FOR;
    }
    if (isSilent !== wasSilent) told(isSilent);
  };
  const timer = setInterval(look, LISTEN_EVERY);
  void look();
  return () => clearInterval(timer);
}

/**
 * @param {RTCPeerConnection} peer
 * @returns {Promise<{ replies: number, bytes: number, sent: number, hasMedia: boolean }>} replies to its own questions,
 *   and bytes of data from and to the other side. Data is always acknowledged; media may not be
 */
async function traffic(peer) {
  const count = { replies: 0, bytes: 0, sent: 0, hasMedia: false };
  (await peer.getStats()).forEach(({ type, responsesReceived = 0, bytesReceived = 0, bytesSent = 0 }) => {
    if (type === "outbound-rtp") count.hasMedia = true;
    if (type !== "candidate-pair") return;
    count.replies += responsesReceived;
    count.bytes += bytesReceived;
    count.sent += bytesSent;
  });
  return count;
}

/**
 * libdatachannel counts no replies, and notices only after 13 s that the network card has gone (after 30 s if nothing is
 * said). Node knows it at once. A socket that sends nothing tells which of its addresses leads to the other side.
 *
 * @param {RTCPeerConnection} peer
 * @returns {Promise<() => boolean>} whether that address is there still, as far as we know
 */
async function ownAddress(peer) {
  const [os, dgram] = ["os", "dgram"].map(name => /** @type {any} */ (globalThis).process?.getBuiltinModule?.(name));
  const stats = await peer.getStats();
  let theirs = "";
  stats.forEach(({ type, state, nominated, remoteCandidateId }) => {
    if (type !== "candidate-pair" || state !== "succeeded" || !nominated) return;
    const { address, ip } = /** @type {any} */ (stats).get(remoteCandidateId) ?? {};
    theirs = address ?? ip ?? theirs;
  });
  if (!os || !dgram || !theirs) return () => true;
  const socket = dgram.createSocket(theirs.includes(":") ? "udp6" : "udp4");
  const ours = await new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.connect(9, theirs, () => resolve(socket.address().address));
  }).finally(() => socket.close());
  const isThere = () => Object.values(os.networkInterfaces()).flat().some(({ address }) => address === ours);
  return isThere() ? isThere : () => true;
}

/** @param {RTCPeerConnection} peer @returns {Signal | undefined} with what it has gathered */
function described({ localDescription }) {
  return localDescription ? /** @type {Signal} */ ({ type: localDescription.type, sdp: localDescription.sdp }) : undefined;
}

/** @param {string} sdp @returns {RTCIceCandidateInit[]} its candidates, as they would have come one by one */
function candidateLines(sdp) {
  /** @type {RTCIceCandidateInit[]} */
  const found = [];
  let sdpMLineIndex = -1;
  for (const line of sdp.split(/\r?\n/)) {
    if (line.startsWith("m=")) sdpMLineIndex++;
    if (line.startsWith("a=candidate:")) found.push({ candidate: line.slice(2), sdpMLineIndex });
  }
  return found;
}

/** @param {string} sdp @returns {Candidates} */
function candidatesIn(sdp) {
  const counts = { host: 0, srflx: 0, relay: 0 };
  /** @type {Map<string, Set<string>>} the ports outside, by the address outside and the port inside */
  const ports = new Map();
  for (const line of sdp.match(/^a=candidate:.*/gm) ?? []) {
    const [, , protocol, , address, port, , type, ...rest] = line.trim().split(" ");
    if (type === "host" || type === "srflx" || type === "relay") counts[type]++;
    if (type !== "srflx" || protocol.toLowerCase() !== "udp") continue;
    const from = `${address} ${rest.join(" ")}`;
    ports.set(from, (ports.get(from) ?? new Set()).add(port));
  }
  const most = Math.max(0, ...[...ports.values()].map(each => each.size));
  return { ...counts, mapping: most > 1 ? "several ports" : most ? "one port" : "none" };
}

/** @param {string} sdp @returns {string} the SHA-256 of its certificate, 64 hexadecimal digits, or nothing */
function dtlsFingerprint(sdp) {
  const found = /^a=fingerprint:sha-256 ((?:[0-9a-f]{2}:){31}[0-9a-f]{2})\s*$/im.exec(sdp);
  return found ? found[1].replace(/:/g, "").toLowerCase() : "";
}

/**
 * Holds what a channel hears, until `release` is called. Messages come in the moment in which a link opens, and before
 * the page that waits for it can listen. So the page's own listeners are only noted by then, and are handed what came.
 *
 * @param {any} channel
 * @returns {() => void} release
 */
function holdMessages(channel) {
  /** @type {any[]} */ const kept = [];
  /** @type {[any, any][]} */ const listeners = [];
  /** @type {any} */ let handler = null;
  const names = ["onmessage", "addEventListener"];
  const before = names.map(name => Object.getOwnPropertyDescriptor(channel, name));
  const listen = channel.addEventListener;
  const keep = (/** @type {any} */ event) => void kept.push(event);
  listen.call(channel, "message", keep);
  Object.defineProperty(channel, "onmessage", { configurable: true, get: () => handler, set: to => (handler = to) });
  Object.defineProperty(channel, "addEventListener", {
    configurable: true,
    value: (/** @type {string} */ type, /** @type {any} */ listener, /** @type {any} */ options) => {
      if (type === "message") listeners.push([listener, options]);
      else listen.call(channel, type, listener, options);
    },
  });
  return () => {
    channel.removeEventListener("message", keep);
    names.forEach((name, index) => {
      delete channel[name];
      const was = before[index];
      if (was) Object.defineProperty(channel, name, was);
    });
    channel.onmessage = handler;
    if (handler) listeners.unshift([handler, {}]);
    // As tasks of their own: what one listener throws must not keep the next from its message.
    kept.forEach((event, index) => {
      for (const [listener, options] of listeners) {
        if (options?.once && index > 0) continue;
        queueMicrotask(() => (listener.handleEvent ?? listener).call(channel, event));
      }
    });
    for (const [listener, options] of listeners) {
      if (listener !== handler && !(options?.once && kept.length)) channel.addEventListener("message", listener, options);
    }
  };
}

// ---- requests and replies ----

/** @param {URL} url @returns {string} the address below which the server's other routes are */
function rootOf({ origin, pathname }) {
  return `${origin}${pathname.replace(/\/?$/, "/")}`;
}

/** @param {Response} response @returns {Promise<{ status: number, reply: Reply }>} */
async function readJson(response) {
  const reply = await response.json().catch(error => {
    if (error instanceof SyntaxError) return {}; // a proxy's page
    throw error;
  });
  return { status: response.status, reply: Object(reply) };
}

/**
 * Tells the server that a request was ended. It goes out even when the page is being left.
 *
 * @param {URL} url
 * @param {Record<string, string>} parameters
 * @param {typeof globalThis.fetch} fetch
 */
function sayLeave(url, parameters, fetch) {
  const body = new URLSearchParams(parameters);
  if (isUnloading && globalThis.navigator?.sendBeacon?.(url, body)) return;
  fetch(url, { ...ANONYMOUS, method: "POST", body, keepalive: true }).catch(() => {});
}

/** @param {Message["TYPE"]} TYPE @param {Signal} signal @param {string} [NONCE] @returns {Message} */
function messageOf(TYPE, { type, sdp }, NONCE) {
  return { TYPE, NONCE, SIGNAL: JSON.stringify({ type, sdp, id: pageId() }) };
}

/** @param {unknown} text @param {Signal["type"]} expected @returns {Signal} */
function readSignal(text, expected) {
  const { type, sdp, id } = parseObject(text);
  if (type !== expected || typeof sdp !== "string") throw badSignal();
  // With `.local` candidates, which they cannot resolve, aiortc and werift would give up at this line.
  return { type: expected, sdp: sdp.replace(/^a=end-of-candidates\r?\n/gm, ""), id: typeof id === "string" ? id : undefined };
}

/** @param {unknown} text from another peer @returns {Record<string, unknown>} */
function parseObject(text) {
  try {
    return Object(JSON.parse(String(text)));
  } catch (error) {
    throw badSignal(error);
  }
}

/** @param {Reply} reply */
function isDemote({ TYPE, NONCE }) {
  return TYPE === "DEMOTE" && typeof NONCE === "string" && NONCE !== "";
}

/** @param {Record<string, string | undefined>} parameters @returns {Record<string, string>} those with a value */
function given(parameters) {
  /** @type {Record<string, string>} */
  const those = {};
  for (const [name, value] of Object.entries(parameters)) if (value) those[name] = value;
  return those;
}

/** @param {unknown} value seconds, as the server said @param {number} otherwise ms @returns {number} ms */
function seconds(value, otherwise) {
  return typeof value === "number" && value >= 0 ? value * 1000 : otherwise;
}

// ---- signatures ----

/** @type {WeakMap<Signer, Map<string, { time: number, message: Promise<string> }>>} */
const signedNamespaces = new WeakMap();

/** @param {Signer} signer @param {string} namespace signed once, and good for an hour @param {number} now */
function signedNamespace(signer, namespace, now) {
  const known = signedNamespaces.get(signer) ?? new Map();
  signedNamespaces.set(signer, known);
  if (!(now - known.get(namespace)?.time < NAMESPACE_FRESH)) {
    const message = signedBy(() => signer.sign(namespace, { date: new Date(now) }));
    message.catch(() => known.delete(namespace));
    known.set(namespace, { time: now, message });
  }
  return known.get(namespace).message;
}

/**
 * What a signer makes. kbpgp may throw where no promise hears it, so there is a time for it.
 *
 * @template T
 * @param {() => T | Promise<T>} make
 * @returns {Promise<T>}
 */
async function signedBy(make) {
  return inTime(async () => make()).catch(error => {
    throw isFinal(error) ? error : signerError("The signer failed.", error);
  });
}

/** @template T @param {() => Promise<T>} ask a signer @returns {Promise<T>} */
function inTime(ask) {
  return within(SIGN_WITHIN, new AbortController().signal, ask(), () => {
    throw signerError("The signer does not answer.");
  });
}

/** @type {Map<string, number>} the server's replies that are still of now, each with its time */
const knownReplies = new Map();

/** @param {string} reply as it was signed @param {unknown} time ms since 1970 @param {number} now */
function isNew(reply, time, now) {
  for (const [old, at] of knownReplies) if (!isNear(at, now, SERVER_CLOCK)) knownReplies.delete(old);
  const { size } = knownReplies;
  return knownReplies.set(reply, Number(time)).size > size;
}

/** @param {unknown} time ms since 1970 @param {number} now @param {number} most ms */
function isNear(time, now, most) {
  return typeof time === "number" && Math.abs(now - time) <= most;
}

/** @param {unknown} one @param {unknown} other fingerprints, in either case */
function isSameKey(one, other) {
  return String(one).toLowerCase() === String(other).toLowerCase();
}

/** @param {boolean} holds @param {string} why */
function trust(holds, why) {
  if (!holds) throw untrusted(why);
}

// ---- errors ----

const NOT_OPENED = "The link did not open.";
const EMPTY_NAMESPACE = "Name a room, or leave the option out to meet anybody.";
const NEEDS_TURN = "Your network cannot reach strangers directly; a TURN server is needed.";
const WRONG_ADDRESS = "Perhaps the address is wrong, or this page's origin is not in SPACERIFT_CORS_ORIGINS.";
const TRY_ANOTHER = "Try another browser, or its settings for WebRTC.";

/** @param {unknown} error @returns {error is SpaceriftError} whether it may be gone on the next attempt */
function passes(error) {
  if (!(error instanceof SpaceriftError)) return false;
  return !FINAL.includes(error.type) && (PASSING.includes(error.status) || error.status >= 500);
}

/** @param {unknown} error @returns {error is SpaceriftError} */
function isFinal(error) {
  return error instanceof SpaceriftError && FINAL.includes(error.type);
}

/** @param {unknown} error of a signal that cannot be used, so that it is bounced; others are thrown on @returns {null} */
function nullUnlessFinal(error) {
  if (isFinal(error) || (error instanceof SpaceriftError && error.type === "NETWORK")) throw error;
  return null;
}

/** @param {unknown} error @returns {number | undefined} seconds after which the same answer may still be taken */
function retryAnswerAfter(error) {
  if (!(error instanceof SpaceriftError)) return undefined;
  if (error.type === "NETWORK") return 0;
  const { status, retryAfter = 0 } = error;
  return (status === 297 || status === 503) && retryAfter <= SOON ? retryAfter : undefined;
}

/** @param {number} status @param {Reply} reply */
function refusal(status, { TYPE, RETRY_AFTER, PARAMETER, DETAIL }) {
  const words = [TYPE ?? "The server refuses", PARAMETER ?? DETAIL].filter(Boolean).join(": ");
  const retryAfter = typeof RETRY_AFTER === "number" && RETRY_AFTER >= 0 ? RETRY_AFTER : undefined;
  return new SpaceriftError(TYPE ?? (status >= 500 ? "UNAVAILABLE" : "BAD_REPLY"), words, { status, retryAfter });
}

/** @param {string} type @param {string} words @param {string} hint @param {object} [more] */
function hinted(type, words, hint, more) {
  return new SpaceriftError(type, `${words} ${hint}`, { ...more, hint });
}

/** @param {unknown} [cause] @param {{ isHeard?: boolean, retryAfter?: number }} [more] */
function networkError(cause, { isHeard = true, retryAfter } = {}) {
  const words = "The server cannot be reached.";
  if (isHeard || !isOnline()) return new SpaceriftError("NETWORK", words, { retryAfter, cause });
  return hinted("NETWORK", words, WRONG_ADDRESS, { retryAfter, cause });
}

/**
 * Firefox closes every connection when the network goes, and makes no new one before it is back. Chromium makes no more
 * than 500 for a page, and those that are closed count until it has swept them up.
 *
 * @param {any} error
 */
function closedByBrowser(error) {
  const why = {
    InvalidStateError: "The browser has closed the connection: there is no network.",
    UnknownError: "The browser makes no more connections for now.",
  }[/** @type {string} */ (error?.name)];
  return why && new SpaceriftError("NETWORK", why, { cause: error });
}

/** @param {any} error simple-peer's */
function isWithoutWebRtc(error) {
  return error?.code === "ERR_WEBRTC_SUPPORT";
}

/** @param {unknown} [cause] */
function noWebRtc(cause) {
  return hinted("NO_WEBRTC", "There is no WebRTC here, or it is switched off.", TRY_ANOTHER, { cause });
}

/** @param {Reply} reply */
function badReply({ TYPE }) {
  return new SpaceriftError("BAD_REPLY", `This is no reply of a Spacerift server: ${TYPE}`, { status: 200 });
}

/** @param {unknown} [cause] */
function badSignal(cause) {
  return new SpaceriftError("BAD_SIGNAL", "The other peer's signal cannot be read.", { cause });
}

/**
 * @param {Meeting} meeting
 * @param {number} losses how many links did not open before this one
 * @param {boolean} hasIceServers
 */
function linkLost({ ours, theirs }, losses, hasIceServers) {
  const candidates = { ours: candidatesIn(ours.sdp), theirs: candidatesIn(theirs.sdp) };
  const { srflx, relay, mapping } = candidates.ours;
  const isBlind = hasIceServers && srflx === 0; // UDP is blocked, or all those servers are silent
  if (relay === 0 && (isBlind || mapping === "several ports" || losses > 0)) {
    return hinted("LINK_LOST", NOT_OPENED, NEEDS_TURN, { candidates });
  }
  return new SpaceriftError("LINK_LOST", NOT_OPENED, { candidates });
}

/** @param {string} words @param {unknown} [cause] */
function signerError(words, cause) {
  return new SpaceriftError("SIGNER", words, { cause });
}

/** @param {string} why @param {unknown} [cause] */
function untrusted(why, cause) {
  return new SpaceriftError("UNTRUSTED", `Not trusted: ${why}.`, { status: 200, cause });
}

// ---- small things ----

/** @param {string | URL} url */
function absolute(url) {
  return new URL(url, globalThis.document?.baseURI);
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

// AbortSignal.any, AbortSignal.timeout and throwIfAborted are missing in browsers that are still about.

/** @param {AbortSignal} signal */
function checkAborted(signal) {
  if (signal.aborted) throw signal.reason;
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @param {{ wakes?: boolean }} [options] `wakes`: it is over at once when the network or the page's user is back
 * @returns {Promise<void>} rejects when `signal` is aborted
 */
async function delay(ms, signal, { wakes = false } = {}) {
  let wake = () => {};
  const woken = new Promise(resolve => (wake = () => resolve(undefined)));
  if (wakes) wakeUps.add(wake);
  try {
    await within(ms, signal, woken, () => {});
  } finally {
    wakeUps.delete(wake);
  }
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
 * @returns {Promise<T>} rejects when `signal` is aborted
 */
async function within(ms, signal, promise, late) {
  let end = () => {};
  const over = new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    };
  });
  try {
    return await Promise.race([promise, over.then(late)]);
  } finally {
    end();
  }
}
