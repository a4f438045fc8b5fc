/**
 * What a browser of the laboratory can do: `window.rift`. It notes when what happened, in ms of its own clock.
 * The module under test is named in the page's address, `?module=`, and the server by `?server=`.
 */
import SimplePeer from "simple-peer/simplepeer.min.js";

const asked = new URLSearchParams(location.search);
const server = asked.get("server");
const { connect, prepare } = await import(new URL(asked.get("module"), location).href);
const round = ms => Math.round(ms * 10) / 10;

window.rift = {
  /** Does what can be done before somebody clicks; a `meet` with the same options uses it. */
  prepare: ({ rtc }) => prepare(server, { rtc }),

  /** Begins to look for a peer, in a try of its own. */
  meet({ kind, ...options }) {
    const abort = new AbortController();
    const begun = performance.now();
    const now = (window.rift.now = { states: [], end: () => abort.abort() });
    const onstate = (state, why) => now.states.push([state, round(performance.now() - begun), why?.type]);
    const Peer = kind === "simple-peer" ? SimplePeer : undefined;
    const whole = { retry: false, met: () => false, ...options, Peer, signal: abort.signal, onstate };
    now.outcome = connect(server, whole).then(
      async link => {
        now.link = link;
        now.role = link.role;
        now.opened = round(performance.now() - begun);
        now.heard = [];
        const hear = data => now.heard.push([performance.now(), data]);
        if (link.channel) link.channel.addEventListener("message", ({ data }) => hear(data));
        else link.peer.on("data", hear);
      },
      error => {
        now.error = error.type ?? String(error);
        now.candidates = error.candidates;
      },
    );
  },

  /** What became of it: null while it is not known. */
  async outcome() {
    const { now } = window.rift;
    const over = await Promise.race([now.outcome.then(() => true), new Promise(resolve => setTimeout(resolve, 50))]);
    if (!over) return null;
    const { states, role, opened, error, candidates, link } = now;
    const way = link && (await window.rift.way(link.peer._pc ?? link.peer));
    return { states, role, opened, error, candidates, way };
  },

  /** The kinds of the candidates in use: ours, theirs. */
  async way(connection) {
    const stats = [...(await connection.getStats()).values()];
    const transport = stats.find(each => each.type === "transport" && each.selectedCandidatePairId);
    const pair = transport
      ? stats.find(each => each.id === transport.selectedCandidatePairId)
      : stats.find(each => each.type === "candidate-pair" && (each.selected || each.state === "succeeded"));
    const kind = id => stats.find(each => each.id === id)?.candidateType;
    return pair ? [kind(pair.localCandidateId), kind(pair.remoteCandidateId)] : null;
  },

  /** Says something ten times a second, for as long as the link lives, and notes when it ends. */
  chatter() {
    const { now } = window.rift;
    now.link.closed.then(() => (now.closed = performance.now()));
    now.chatter = setInterval(() => {
      try {
        (now.link.channel ?? now.link.peer).send("tick");
      } catch {
        // While it is interrupted there is nobody to talk to.
      }
    }, 100);
    const listen = channel => channel?.addEventListener("message", () => now.heard.push([performance.now(), "tick"]));
    now.link.addEventListener?.("resumed", () => {
      now.resumed = (now.resumed ?? 0) + 1;
      listen(now.link.channel);
    });
  },

  /** Since `event`, a time of this page: the longest silence, and when the link ended, in seconds. */
  silence(event) {
    const { now } = window.rift;
    const until = now.closed ?? performance.now();
    const times = [...now.heard.map(([time]) => time).filter(time => time > event - 200), until];
    const gaps = times.map((time, index) => time - (times[index - 1] ?? event));
    const seconds = ms => ms === undefined ? null : Math.round(ms / 100) / 10;
    return {
      longest: seconds(Math.max(...gaps)),
      last: seconds(until - (now.heard.at(-1)?.[0] ?? event)),
      closed: now.closed === undefined ? null : seconds(now.closed - event),
      resumed: now.resumed ?? 0,
    };
  },

  clock: () => performance.now(),

  /** Ends the try. */
  end() {
    const { now } = window.rift;
    clearInterval(now?.chatter);
    now?.end();
    now?.link?.close();
  },

  /** What is gathered with these servers: each candidate with the ms after which it came, and when all had come. */
  async gather(iceServers, most) {
    const peer = new RTCPeerConnection({ iceServers });
    peer.createDataChannel("x");
    const begun = performance.now();
    const found = [];
    const complete = new Promise(resolve => {
      peer.onicecandidate = ({ candidate }) => {
        if (candidate?.candidate) found.push([candidate.type, round(performance.now() - begun)]);
        else if (!candidate) resolve(round(performance.now() - begun));
      };
    });
    await peer.setLocalDescription();
    const late = new Promise(resolve => setTimeout(resolve, most, null));
    const done = await Promise.race([complete, late]);
    peer.close();
    return { found, complete: done };
  },
};
