/** A peer in Node: links with whoever comes, says hello, prints what it hears. Arguments: server, namespace, kind. */
import SimplePeer from "simple-peer";
import wrtc from "@roamhq/wrtc";
import { connect } from "spacerift";

const [server, namespace, kind] = process.argv.slice(2);
const Peer = kind === "simple-peer 9" ? SimplePeer : undefined;
const link = await connect(server, { namespace, Peer, wrtc, fetch });
const heard = new Promise(resolve => {
  if (Peer) link.peer.on("data", resolve);
  else link.channel.onmessage = ({ data }) => resolve(data);
});
(Peer ? link.peer : link.channel).send("hello from node");
console.log(JSON.stringify({ role: link.role, heard: String(await heard) }));
link.close();
process.exit(0);
