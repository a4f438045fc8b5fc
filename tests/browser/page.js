/**
 * What a tab of a test can do; Playwright calls `window.tab`. The page comes from another origin than the server,
 * `?server=` names it, and spacerift.js is imported from there, as any web page would.
 */
import SimplePeer9 from "simple-peer/simplepeer.min.js";
import SimplePeer10 from "@thaunknown/simple-peer";
import Fingerprint2 from "fingerprintjs2";
import FingerprintJS from "@fingerprintjs/fingerprintjs";

const PEERS = { native: undefined, "simple-peer 9": SimplePeer9, "simple-peer 10": SimplePeer10 };
const PATIENCE = 20_000; // ms

const server = new URLSearchParams(location.search).get("server");
const spacerift = await import(new URL("spacerift.js", server).href);
const { fingerprintjs, fingerprintjs2 } = await import(new URL("fingerprints.js", server).href);

const tab = {
  spacerift,
  server,
  fingerprints: {
    fingerprintjs2: options => fingerprintjs2(Fingerprint2, options),
    fingerprintjs: options => fingerprintjs(FingerprintJS, options),
  },
  links: [],
  abort: new AbortController(),

  /** Ends everything, so that another test may use this tab. A faked clock stays, and so does the tab then not. */
  reset() {
    tab.abort.abort();
    for (const link of tab.links) link.close();
    Object.assign(tab, { abort: new AbortController(), meeting: null, links: [], link: null });
    Object.assign(tab, { states: [], pauses: [], losses: [], heard: [] });
    return setTimeout.toString().includes("[native code]");
  },

  /** Begins to look for a peer; `linked()` waits for it. */
  meet(kind, options = {}) {
    tab.meeting = tab.search(kind, options);
    tab.meeting.catch(() => {});
  },

  /** The same at another server. */
  meetAt(url, options) {
    tab.meeting = tab.search("native", options, url);
    tab.meeting.catch(() => {});
  },

  async search(kind, options, url = server) {
    const { states, pauses, losses } = tab; // a state that comes after a reset is not the next test's
    const onstate = (state, why) => {
      states.push(state);
      if (why?.type === "LINK_LOST") losses.push({ ...why, message: why.message, hint: why.hint ?? null });
      if (state === "paused") pauses.push({ type: why.type, status: why.status, retryAfter: why.retryAfter });
    };
    const link = await spacerift.connect(url, { Peer: PEERS[kind], signal: tab.abort.signal, onstate, ...options });
    tab.link = link;
    tab.links.push(link);
    if (link.channel) link.channel.onmessage = ({ data }) => tab.heard.push(data);
    else link.peer.on("data", data => tab.heard.push(new TextDecoder().decode(data)));
    return link;
  },

  async within(what, promise) {
    const late = new Promise((_, reject) => setTimeout(reject, PATIENCE, new Error(`${what}; ${tab.states}`)));
    return Promise.race([promise, late]);
  },

  async linked() {
    const { role, remoteKey, remoteId } = await tab.within("no link", tab.meeting);
    return { role, remoteKey, remoteId, states: tab.states };
  },

  /** What the meeting was rejected with. */
  async refused() {
    const refused = tab.meeting.then(() => new Error("it linked"), error => error);
    const { name, message, type, status, retryAfter } = await tab.within("no refusal", refused);
    return { name, message, type, status, retryAfter };
  },

  say(text) {
    (tab.link.channel ?? tab.link.peer).send(text);
  },

  async hears() {
    for (let waited = 0; !tab.heard.length && waited < PATIENCE; waited += 10) {
      await new Promise(resolve => setTimeout(resolve, 10));
    }
    return tab.heard.shift();
  },
};

tab.reset();
window.tab = tab;
