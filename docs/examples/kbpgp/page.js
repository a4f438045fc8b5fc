/** Links with a friend, each with a key of kbpgp. `?server=` names the server, `#` the room. */
import kbpgp from "kbpgp";
import { connect } from "spacerift";
import { kbpgpSigner } from "spacerift/signers";

const server = new URLSearchParams(location.search).get("server") ?? "http://localhost:8000/";
const show = text => document.body.append(text, document.createElement("br"));

// A new key, for this visit. With `{ privateKey, passphrase, trusted: [friend] }` it is yours, and so are your friends.
const signer = await kbpgpSigner(kbpgp);
show(`I am ${signer.fingerprint}.`);

const link = await connect(server, { namespace: location.hash.slice(1) || "kbpgp", signer });
show(`Linked with ${link.remoteKey}.`);
link.channel.onmessage = ({ data }) => {
  show(`It says: ${data}`);
  if (link.role === "responder") link.channel.send("hello");
};
// What a responder in Chromium says in the moment in which a link opens is now and then lost, so the other speaks first.
if (link.role === "initiator") link.channel.send("hello");
