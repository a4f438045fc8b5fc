/**
 * Links with another peer.
 *
 * @param {string | URL} url where the server is mounted
 * @param {Options} [options]
 * @returns {Promise<Link>} rejects with a SpaceriftError, or with the reason of `options.signal`
 */
export function connect(url: string | URL, options?: Options): Promise<Link>;
/**
 * Begins, before a person asks for a link, what takes the longest: the ICE servers and the candidates of an offer.
 * The next `connect` with the same URL, `Peer`, `rtc` and `wrtc` uses them, if it comes within a minute.
 *
 * @param {string | URL} url
 * @param {Options} [options]
 */
export function prepare(url: string | URL, options?: Options): void;
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
    constructor(type: string, message: string, { status, retryAfter, cause, hint, candidates }?: {
        status?: number;
        retryAfter?: number;
        cause?: unknown;
        hint?: string;
        candidates?: {
            ours: Candidates;
            theirs: Candidates;
        };
    });
    type: string;
    status: number;
    retryAfter: number | undefined;
    /** What a person may do about it: a sentence, which is the end of the message, too. */
    hint: string | undefined;
    /** LINK_LOST: the candidates that the two signals had. */
    candidates: {
        ours: Candidates;
        theirs: Candidates;
    } | undefined;
}
/**
 * An open link with another peer. When its path breaks, both sides look for each other at the server. After the
 * event `"resumed"`, `peer`, `channel` and `streams` are new ones.
 */
export class Link extends EventTarget {
    /** @param {Meeting} meeting @param {Search} search the one that found it */
    constructor(meeting: Meeting, search: Search);
    role: "initiator" | "responder";
    /** The verified fingerprint of the other peer's key, in a signed pool. */
    remoteKey: string | undefined;
    remoteId: string | undefined;
    /** @type {any} an RTCPeerConnection or a SimplePeer */
    peer: any;
    /** The open data channel of a native peer. */
    channel: RTCDataChannel;
    /** The other side's streams. */
    streams: MediaStream[];
    /** @type {Promise<void>} Resolves when the link is over for good, whoever ended it. */
    closed: Promise<void>;
    /** Ends the link. The other side is told, and does not look for us. */
    close(): void;
    #private;
}
/**
 * simple-peer's own form, and a page's id
 */
export type Signal = {
    type: "offer" | "answer";
    sdp: string;
    id?: string;
};
export type Reply = Record<string, unknown> & {
    TYPE?: string;
    NONCE?: string;
};
export type Message = {
    TYPE: "CONNECT" | "BOUNCE";
    NONCE?: string;
    SIGNAL: string;
};
export type Verified = {
    text: string;
    fingerprint: string;
};
export type State = "gathering" | "waiting" | "answering" | "connecting" | "linked" | "paused" | "interrupted";
/**
 * how many of each kind a signal has, and by how many ports of one address its side is seen from outside
 */
export type Candidates = {
    host: number;
    srflx: number;
    relay: number;
    mapping: "none" | "one port" | "several ports";
};
/**
 * see signers.js
 */
export type Signer = {
    /**
     * of the primary key, in hexadecimal
     */
    fingerprint: string;
    /**
     * armored
     */
    publicKey: () => string | Promise<string>;
    /**
     * gives an armored attached message;
     * `date`: the time by the server's clock
     */
    sign: (text: string, options?: {
        date?: Date;
    }) => Promise<string>;
    /**
     * rejects what does not hold; `pinned`: with exactly this key, whomever else we trust
     */
    verify: (message: string, publicKey: string, options?: {
        pinned?: boolean;
        date?: Date;
    }) => Promise<Verified>;
};
/**
 * what is used of it, in version 9 and 10
 */
export type SimplePeer = {
    signal: (signal: Signal | {
        type: "candidate";
        candidate: RTCIceCandidateInit;
    }) => void;
    on: (event: string, listener: (value: any) => void) => unknown;
    once: (event: string, listener: (value: any) => void) => unknown;
    destroy: () => void;
    _pc?: RTCPeerConnection | null | undefined;
};
export type Options = {
    /**
     * the room to meet in; without it, the default pool
     */
    namespace?: string | undefined;
    /**
     * the SimplePeer class; by default, the browser's own RTCPeerConnection
     */
    Peer?: any;
    /**
     * `iceServers` come from the server's `GET /ice` if not given here
     */
    rtc?: RTCConfiguration | undefined;
    /**
     * ms; the signal is sent with the candidates that have been gathered by then
     */
    gather?: number | undefined;
    /**
     * audio and video to send; what comes is in `link.streams`
     */
    streams?: MediaStream[] | undefined;
    /**
     * by default random, one for each page
     */
    fingerprint?: string | (() => string | Promise<string>) | undefined;
    /**
     * meet signed peers only
     */
    signer?: Signer | undefined;
    /**
     * armored; refuse replies that this key has not signed (needs `signer`)
     */
    serverKey?: string | undefined;
    /**
     * true: we have this peer, another one, please
     */
    met?: ((offer: Signal) => boolean | Promise<boolean>) | undefined;
    /**
     * where nobody new waits, meet a peer that this page was linked with; by default true
     * with a namespace
     */
    rematch?: boolean | undefined;
    /**
     * ms; a link whose path breaks is made again with the same peer for so long; 0: never
     */
    resume?: number | undefined;
    /**
     * go on after errors that may pass; true by default
     */
    retry?: boolean | undefined;
    /**
     * gives up, and leaves the pool at once
     */
    signal?: AbortSignal | undefined;
    /**
     * `why`: "paused" has the reason, with the
     * seconds until it goes on as `retryAfter`
     */
    onstate?: ((state: State, why?: SpaceriftError) => void) | undefined;
    /**
     * outside a browser
     */
    fetch?: typeof fetch | undefined;
    /**
     * outside a browser: an object with `RTCPeerConnection` and its kin
     */
    wrtc?: any;
};
export type Setup = {
    Peer: any;
    wrtc: any;
    /**
     * the RTCPeerConnection to use
     */
    Connection: any;
    config: RTCConfiguration;
    gather: number;
    /**
     * to the server and back, in ms
     */
    roundTrip: number;
    /**
     * whether it has gathered for as long as our offer, which is on its way
     */
    isSpare: boolean;
    streams: MediaStream[];
    signal: AbortSignal;
    /**
     * whether the candidates of an offer are kept until `begin`
     */
    isFar: boolean;
};
export type End = NativeEnd | SimplePeerEnd;
export type Certificates = Promise<{
    certificates?: RTCCertificate[];
}>;
export type Prepared = {
    key: string;
    options: Options;
    ends: Ends;
    made: Promise<{
        end: End;
        signal: Signal;
    }>;
    drop: () => void;
    keep: () => void;
};
/** Two signals that fit, and our end of the link that they make. */
declare class Meeting {
    /**
     * @param {"initiator" | "responder"} role
     * @param {{ end: End, ours: Signal, theirs: Signal, remoteKey?: string }} about
     */
    constructor(role: "initiator" | "responder", { end, ours, theirs, remoteKey }: {
        end: End;
        ours: Signal;
        theirs: Signal;
        remoteKey?: string;
    });
    role: "initiator" | "responder";
    end: End;
    ours: Signal;
    theirs: Signal;
    remoteKey: string | undefined;
}
/** The way from a URL to an open link: one exchange after the other, until one succeeds. */
declare class Search {
    /**
     * @param {URL} url
     * @param {Options} options
     * @param {{ prepared?: Prepared, former?: Former }} [more] `former`: look for this very peer
     */
    constructor(url: URL, options: Options, { prepared, former }?: {
        prepared?: Prepared;
        former?: Former;
    });
    losses: number;
    url: URL;
    options: Options;
    signal: AbortSignal;
    met: (offer: Signal) => boolean | Promise<boolean>;
    rematch: boolean;
    former: Former | undefined;
    backoff: Backoff;
    transport: Transport;
    ends: Ends;
    prepared: Promise<{
        end: End;
        signal: Signal;
    }> | undefined;
    /** @param {State} state @param {SpaceriftError} [why] */
    state(state: State, why?: SpaceriftError): void;
    /** @returns {Promise<Meeting>} */
    run(): Promise<Meeting>;
    /** @returns {Prepared["made"] | undefined} what was begun before the click, once */
    takePrepared(): Prepared["made"] | undefined;
    /** @param {SpaceriftError} error @param {number} took ms */
    pause(error: SpaceriftError, took: number): Promise<void>;
    #private;
}
/** One end of a link, with the browser's own RTCPeerConnection. */
declare class NativeEnd extends AnyEnd {
    /** @param {Setup} setup @param {boolean} initiator */
    constructor(setup: Setup, initiator: boolean);
    /** @type {RTCDataChannel | undefined} */ channel: RTCDataChannel | undefined;
    /** @type {RTCPeerConnection} */
    peer: RTCPeerConnection;
    get isOpen(): boolean;
    get isConnected(): boolean;
    /** @param {Signal} [offer] @returns {Promise<Signal>} our offer, or our answer to theirs */
    signal(offer?: Signal): Promise<Signal>;
    /** @returns {Signal | undefined} our offer, with what has been gathered by now */
    described(): Signal | undefined;
    /** @param {Signal} answer */
    accept({ sdp }: Signal): Promise<void>;
    /** Says goodbye: the channel is closed first, so that the other side knows that it is not the path that broke. */
    close(): void;
    #private;
}
/** One end of a link, with a SimplePeer that was handed in. */
declare class SimplePeerEnd extends AnyEnd {
    /** @param {Setup} setup @param {boolean} initiator */
    constructor(setup: Setup, initiator: boolean);
    channel: undefined;
    isOpen: boolean;
    /** @type {SimplePeer} */
    peer: SimplePeer;
    /** @type {Promise<Signal>} */
    signalled: Promise<Signal>;
    get isConnected(): boolean;
    /** @param {Signal} [offer] @returns {Promise<Signal>} */
    signal(offer?: Signal): Promise<Signal>;
    /** @returns {Signal | undefined} our offer, with what has been gathered by now */
    described(): Signal | undefined;
    /** @param {Signal} answer */
    accept({ sdp }: Signal): Promise<void>;
    close(): void;
    #private;
}
/** Makes the ends of links, all with one certificate, by which the other side can know us again. */
declare class Ends {
    /** @param {Options} options @param {Transport} transport @param {Certificates} [certificates] */
    constructor(options: Options, transport: Transport, certificates?: Certificates);
    hasIceServers: boolean;
    options: Options;
    transport: Transport;
    certificates: Certificates | undefined;
    /** @returns {Promise<{ end: End, signal: Signal }>} an end and its offer, with what was gathered */
    offer(): Promise<{
        end: End;
        signal: Signal;
    }>;
    /** @param {Ends} [others] who have prepared what we may need */
    inherit(others?: Ends): void;
    /** Lets a browser gather for an answer while our offer, which will be demoted perhaps, is made and on its way. */
    keepSpare(): void;
    dropSpare(): void;
    /** @param {number} until when our answer must be with the server @returns {Promise<End>} an end for it */
    responder(until: number): Promise<End>;
    get isNative(): boolean;
    /**
     * @param {boolean} initiator
     * @param {{ until?: number, isSpare?: boolean }} [more] `until`: when our answer must be with the server
     * @returns {Promise<End>}
     */
    make(initiator: boolean, { until, isSpare }?: {
        until?: number;
        isSpare?: boolean;
    }): Promise<End>;
    #private;
}
/** A peer that we were linked with: how to find it and how to know it again. */
declare class Former {
    /** @param {Meeting} meeting @param {Certificates} [certificates] */
    constructor({ ours, theirs, remoteKey }: Meeting, certificates?: Certificates);
    ours: string;
    theirs: string;
    remoteKey: string | undefined;
    certificates: Certificates | undefined;
    /** The namespace that only the two can name, or nothing if they cannot be known by their certificates. */
    get room(): string;
    /** @param {Signal} signal @param {string} [remoteKey] */
    is({ sdp }: Signal, remoteKey?: string): boolean;
    /** @param {Signal} signal our own */
    checkOwn({ sdp }: Signal): void;
}
/**
 * How long to wait: as long as the server says, and a random part of a window that doubles with every failure in a
 * row. Peers that lost the same server must not come back as one.
 */
declare class Backoff {
    /** @param {number} most ms, of the window */
    constructor(most: number);
    most: number;
    /** @param {SpaceriftError} error @param {number} took ms @returns {number} ms */
    after({ type, status, retryAfter }: SpaceriftError, took: number): number;
    #private;
}
/** How one search speaks with its server. */
declare class Transport {
    /**
     * @param {URL} url
     * @param {OpenCodec | SignedCodec} codec
     * @param {{ fetch?: typeof globalThis.fetch, signal: AbortSignal, rematch: boolean }} options
     */
    constructor(url: URL, codec: OpenCodec | SignedCodec, { fetch, signal, rematch }: {
        fetch?: typeof globalThis.fetch;
        signal: AbortSignal;
        rematch: boolean;
    });
    fingerprint: string;
    url: URL;
    codec: OpenCodec | SignedCodec;
    fetch: typeof fetch;
    signal: AbortSignal;
    rematch: boolean;
    /** Nothing that this page may read ever came from there, and it was asked often enough. */
    get isUnheard(): boolean;
    iceServers(): Promise<RTCIceServer[]>;
    /** In ms, to the server and back; 0 while it is not known. */
    get roundTrip(): number;
    /**
     * One request and its reply.
     *
     * @param {Message} message
     * @param {number} ms
     * @param {{ sending?: () => void, unless?: AbortSignal }} [more] `sending`: called when it is signed and about to be
     *   sent; `unless`: ends it, and takes it back
     * @returns {Promise<Reply>} a reply of status 200, checked
     */
    post(message: Message, ms: number, { sending, unless }?: {
        sending?: () => void;
        unless?: AbortSignal;
    }): Promise<Reply>;
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
    deliver(message: Message, end: End): Promise<Reply>;
    /**
     * @param {Reply} reply
     * @param {Signal["type"]} type
     * @returns {Promise<{ signal: Signal, remoteKey?: string }>} the other peer's signal; rejects with BAD_SIGNAL
     */
    read(reply: Reply, type: Signal["type"]): Promise<{
        signal: Signal;
        remoteKey?: string;
    }>;
    #private;
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
declare class AnyEnd {
    /** @param {Setup} setup */
    constructor(setup: Setup);
    /** @type {MediaStream[]} */ streams: MediaStream[];
    /** @type {() => void} */ open: () => void;
    /** @type {() => void} */ over: () => void;
    hasFailed: boolean;
    isSilent: boolean;
    /** Called when the path to the other side is lost, and when it is there again. */
    onlost: () => void;
    onback: () => void;
    /** For what a page is to hear only from now on. */
    release: () => void;
    setup: Setup;
    /** @type {Promise<void>} */
    closed: Promise<void>;
    /** @type {Promise<void>} */
    opened: Promise<void>;
    /** Aborted when an address from outside is there after all, for which the signal did not wait. */
    get late(): AbortSignal;
    /** @param {RTCPeerConnection} peer @returns {Promise<void>} see `gathered` */
    gathered(peer: RTCPeerConnection): Promise<void>;
    fail(): void;
    /** @param {Signal} offer @returns {string} its SDP as it is used at once: if we are far, without its candidates */
    setAside({ sdp }: Signal): string;
    /** Lets the checks of the other side's candidates begin. */
    begin(): void;
    /** @param {RTCIceCandidateInit} candidate */
    add(candidate: RTCIceCandidateInit): void;
    /** @param {RTCPeerConnection} peer whose path is watched from now on */
    watch(peer: RTCPeerConnection): void;
    #private;
}
/** How messages are written and read where nobody signs. */
declare class OpenCodec {
    /** @param {string} namespace */
    constructor(namespace: string);
    namespace: string;
    /** @param {unknown} time @returns {boolean} whether it changed anything */
    setClock(time: unknown): boolean;
    /** @param {Message} message @returns {Promise<Record<string, string>>} the parameters of a request */
    write({ TYPE, NONCE, SIGNAL }: Message): Promise<Record<string, string>>;
    /** @param {Reply} reply @param {Message} message */
    check(reply: Reply, message: Message): Promise<void>;
    /** @param {Reply} reply @returns {Promise<{ signal: unknown, remoteKey?: string }>} the other peer's signal */
    read(reply: Reply): Promise<{
        signal: unknown;
        remoteKey?: string;
    }>;
}
/** How messages are written and read where everybody signs. What is wrong is UNTRUSTED. */
declare class SignedCodec {
    /** @param {string} namespace @param {Signer} signer @param {string} [serverKey] */
    constructor(namespace: string, signer: Signer, serverKey?: string);
    namespace: string;
    signer: Signer;
    serverKey: string | undefined;
    /** The time by the server's clock, as far as we know. */
    get now(): number;
    /** @param {unknown} time the server's, ms since 1970 @returns {boolean} whether ours was another */
    setClock(time: unknown): boolean;
    /** @param {Message} message @returns {Promise<Record<string, string>>} */
    write({ TYPE, NONCE, SIGNAL }: Message): Promise<Record<string, string>>;
    /**
     * Refuses a reply that the pinned server key has not signed, for us, now, and about this very signal.
     *
     * @param {Reply} reply
     * @param {Message} message
     */
    check(reply: Reply, message: Message): Promise<void>;
    /** @param {Reply} reply @returns {Promise<{ signal: unknown, remoteKey?: string }>} */
    read(reply: Reply): Promise<{
        signal: unknown;
        remoteKey?: string;
    }>;
    /** @param {unknown} message @param {unknown} key @param {{ pinned?: boolean }} [options] */
    verify(message: unknown, key: unknown, options?: {
        pinned?: boolean;
    }): Promise<Verified>;
    #private;
}
export {};
