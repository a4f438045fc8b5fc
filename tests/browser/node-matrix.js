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

for await (const line of createInterface({ input: process.stdin })) void link(JSON.parse(line));

async function link({ server, says, ...options }) {
  const { peer, channel } = await connect(server, { ...options, Peer, wrtc, fetch, met: () => false });
  if (channel) channel.onmessage = ({ data }) => console.log(String(data));
  else peer.on("data", data => console.log(String(data)));
  let left = 100;
  const timer = setInterval(() => {
    if (left-- && (channel ?? peer).readyState !== "closed") (channel ?? peer).send(says);
    else clearInterval(timer);
  }, 100);
}
