/**
 * A peer in Node, Deno or Bun that links for each line of input: a server, what it says, and options. It prints what
 * it hears. The argument names its WebRTC.
 */
import { createInterface } from "node:readline";
import process from "node:process";
import { connect } from "../../signal_server/static/spacerift.js";

const stack = process.argv[2];
const wrtc = await {
  "@roamhq/wrtc": async () => (await import("@roamhq/wrtc")).default,
  "simple-peer 9": async () => (await import("@roamhq/wrtc")).default,
  "node-datachannel": () => import("node-datachannel/polyfill"),
  werift: () => import("werift"),
}[stack]();
const Peer = stack === "simple-peer 9" ? (await import("simple-peer")).default : undefined;

const links = [];
let abort = new AbortController();

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (!asked.close) link(asked).catch(error => abort.signal.aborted || console.error(error));
  else {
    abort.abort();
    abort = new AbortController();
    for (const each of links.splice(0)) each.close();
  }
}

async function link({ server, says, once, ...options }) {
  const link = await connect(server, { ...options, Peer, wrtc, fetch, met: () => false, signal: abort.signal });
  links.push(link);
  const { peer, channel } = link;
  const to = channel ?? peer;
  if (channel) channel.onmessage = ({ data }) => console.log(String(data));
  else peer.on("data", data => console.log(String(data)));
  to.send(says);
  let left = once ? 0 : 100;
  const timer = setInterval(() => {
    if (left-- > 0 && to.readyState !== "closed") to.send(says);
    else clearInterval(timer);
  }, 100);
}
