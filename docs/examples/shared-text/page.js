/**
 * A text that everybody in a room edits at once: Yjs merges the edits, and each page is linked with each other one.
 * `?server=` names the server, `#` the room.
 */
import * as Y from "yjs";
import { connect } from "spacerift";

const ASK = 0; // what the sender has; the reply is an UPDATE with the rest, and an ASK_BACK
const UPDATE = 1;
const ASK_BACK = 2;

const server = new URLSearchParams(location.search).get("server") ?? "http://localhost:8000/";
const area = document.getElementById("text");
const others = document.getElementById("others");
const doc = new Y.Doc();
const text = doc.getText("text");
const links = new Set();
const interrupted = new Set();

/** Links with one after the other. Two that are linked are not matched again, so this page meets all. */
async function meetEverybody() {
  if (!location.hash) location.hash = crypto.randomUUID();
  const namespace = location.hash.slice(1);
  for (;;) {
    let link;
    const onstate = state => {
      if (!link || (state !== "interrupted" && state !== "linked")) return;
      if (state === "interrupted") interrupted.add(link);
      else interrupted.delete(link);
      tell();
    };
    link = await connect(server, { namespace, rematch: false, onstate });
    join(link);
  }
}

function join(link) {
  links.add(link);
  listen(link);
  link.addEventListener("resumed", () => listen(link));
  link.closed.then(() => {
    links.delete(link);
    interrupted.delete(link);
    tell();
  });
  tell();
}

/** A channel that is new, at the beginning or after a break: each side gets what it lacks. */
function listen(link) {
  link.channel.binaryType = "arraybuffer";
  link.channel.onmessage = ({ data }) => receive(link, new Uint8Array(data));
  send(link, ASK, Y.encodeStateVector(doc));
}

function receive(link, [kind, ...bytes]) {
  const body = new Uint8Array(bytes);
  if (kind === UPDATE) return Y.applyUpdate(doc, body, link);
  send(link, UPDATE, Y.encodeStateAsUpdate(doc, body));
  if (kind === ASK) send(link, ASK_BACK, Y.encodeStateVector(doc));
}

function send({ channel }, kind, body) {
  if (channel.readyState === "open") channel.send(new Uint8Array([kind, ...body]));
}

function tell() {
  const some = links.size === 1 ? "1 other" : `${links.size} others`;
  const gone = interrupted.size ? `, ${interrupted.size} of them interrupted` : "";
  others.textContent = links.size ? `Linked with ${some}${gone}.` : "Nobody else is here yet.";
}

doc.on("update", (update, origin) => {
  for (const link of links) if (link !== origin) send(link, UPDATE, update);
});

text.observe(({ transaction }) => {
  if (transaction.origin === area) return;
  const { selectionStart, selectionEnd } = area;
  area.value = text.toString();
  area.setSelectionRange(selectionStart, selectionEnd);
});

/** What was typed: the part between what is the same before it and after it. */
area.addEventListener("input", () => {
  const [old, now] = [text.toString(), area.value];
  let start = 0;
  while (start < Math.min(old.length, now.length) && old[start] === now[start]) start++;
  let same = 0;
  while (same < Math.min(old.length, now.length) - start && old.at(-1 - same) === now.at(-1 - same)) same++;
  doc.transact(() => {
    text.delete(start, old.length - start - same);
    text.insert(start, now.slice(start, now.length - same));
  }, area);
});

meetEverybody();
