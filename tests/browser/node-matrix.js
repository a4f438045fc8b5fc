/** A peer in Node that links for each line of input: what it says, and options. It prints what it hears. */
import { createInterface } from "node:readline";
import SimplePeer from "simple-peer";
import wrtc from "@roamhq/wrtc";
import { connect } from "spacerift";

const [server, kind] = process.argv.slice(2);
const Peer = kind === "simple-peer 9" ? SimplePeer : undefined;

for await (const line of createInterface({ input: process.stdin })) void link(JSON.parse(line));

async function link({ says, ...options }) {
  const { peer, channel } = await connect(server, { ...options, Peer, wrtc, fetch, met: () => false });
  if (channel) channel.onmessage = ({ data }) => console.log(data);
  else peer.on("data", data => console.log(String(data)));
  setInterval(() => (channel ?? peer).send(says), 100);
}
