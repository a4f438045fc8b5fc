/**
 * A peer in Node, with node-datachannel and a certificate from two files, or with @roamhq/wrtc. Its input tells it, a line of JSON each, whom
 * to meet and what to say; each line of its output has the milliseconds, and what happened.
 */
import { createInterface } from "node:readline";
import process from "node:process";
import { connect } from "../../signal_server/static/spacerift.js";

const [name, certificatePemFile, keyPemFile] = process.argv.slice(2);
const isRoam = name === "@roamhq/wrtc";
const wrtc = isRoam ? (await import(name)).default : await import("node-datachannel/polyfill");
const note = (...what) => console.log(JSON.stringify([Date.now(), ...what]));
let link;

for await (const line of createInterface({ input: process.stdin })) {
  const { meet: asked, say } = JSON.parse(line);
  if (asked) void meet(asked);
  else if (link?.channel.readyState === "open") link.channel.send(say);
}

async function meet({ server, isSigned, ...options }) {
  link?.close();
  link = undefined;
  const rtc = isRoam ? { iceServers: [] } : { iceServers: [], certificatePemFile, keyPemFile };
  const mine = await connect(server, { ...options, rtc, wrtc, fetch, onstate: state => note("state", state) });
  link = mine;
  const hear = () => (mine.channel.onmessage = ({ data }) => note("heard", String(data)));
  hear();
  mine.addEventListener("resumed", () => (note("resumed"), hear()));
  mine.closed.then(() => link === mine && note("closed"));
}
