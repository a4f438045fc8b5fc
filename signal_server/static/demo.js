/** The demo page: two strangers chat, and see how they were linked. */

import { connect, prepare, SpaceriftError } from "./spacerift.js";

/**
 * @typedef {import("./spacerift.js").Link} Link
 * @typedef {import("./spacerift.js").State} State
 */

const TICK = 250; // ms
const ROUND = Number(document.body.dataset.requestTimeout) || 15; // s; the server wrote its REQUEST_TIMEOUT there
const MOST_EVENTS = 100; // in the list of what happened
const LONGEST_TEXT = 2000; // characters; whoever sends more does not use this page

const SERVER = new URL(".", import.meta.url);

/** What each state is called, and what it means. */
const WORDS = {
  gathering: ["Finding ways to reach you…", "Your browser makes an offer."],
  waiting: ["Waiting for a stranger…", `Your offer is with the server, for up to ${ROUND} seconds.`],
  answering: ["Someone is here.", "They waited longer, so you answer their offer."],
  connecting: ["Opening the link…", "The server is done. The two browsers are trying to reach each other."],
  linked: ["You are linked with a stranger.", "You talk directly, and encrypted."],
  interrupted: ["The link is interrupted.", "Both browsers are looking for a new way to each other. It goes on by itself."],
};

/** Why there is a pause, by the error's type, and whether that needs saying again. */
const PAUSES = /** @type {Record<string, string>} */ ({
  NO_PEER: "Nobody came this time. Asking again.",
  NO_NAMESPACE_PEER: "Nobody came to this room. Asking again.",
  RATE_LIMIT: "A little break: that was too fast for the server.",
  UNAVAILABLE: "A little break: the server is busy or starting again.",
  NETWORK: "The server cannot be reached. Trying again.",
  LINK_LOST: "The link did not open. Looking for someone else.",
  BAD_SIGNAL: "The stranger could not be understood. Looking for someone else.",
});

/** Why there is no going on, by the error's type. */
const ENDS = /** @type {Record<string, string>} */ ({
  UNTRUSTED: "This server does not let this page in.",
  MISSING_PARAMETER: "This server asks for more than this page sends, perhaps for signatures.",
  BAD_REPLY: "Whatever answers there is not a Spacerift server.",
  NOT_FOUND: "Whatever answers there is not a Spacerift server.",
  NO_WEBRTC: "This browser cannot link: WebRTC is missing or switched off.",
});

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`no ${type.name} #${id}`);
  return found;
}

const view = {
  status: element("status", HTMLElement),
  detail: element("detail", HTMLElement),
  seconds: element("seconds", HTMLElement),
  safety: element("safety", HTMLElement),
  safetyNumber: element("safety-number", HTMLElement),
  meet: element("meet", HTMLButtonElement),
  leave: element("leave", HTMLButtonElement),
  copy: element("copy", HTMLButtonElement),
  room: element("room", HTMLInputElement),
  roomForm: element("room-form", HTMLFormElement),
  composer: element("composer", HTMLFormElement),
  text: element("text", HTMLInputElement),
  send: element("send", HTMLButtonElement),
  messages: element("messages", HTMLElement),
  nothing: element("nothing", HTMLElement),
  happened: element("happened", HTMLDetailsElement),
  events: element("events", HTMLElement),
  noEvents: element("no-events", HTMLElement),
};

/** @type {AbortController | null} of the search that is going on */
let search = null;
/** @type {Link | null} */
let link = null;
/** The room of that search. */
let searched = "";

// ---- finding someone ----

async function meet() {
  stop();
  const mine = (search = new AbortController());
  searched = room();
  clearTalk();
  startEvents();
  view.meet.textContent = "Stop";
  view.meet.classList.add("stop");
  try {
    const found = await connect(SERVER, { namespace: searched || undefined, signal: mine.signal, onstate: show });
    search = null;
    talk(found);
  } catch (error) {
    if (mine.signal.aborted) return; // by the person, who has been told
    search = null;
    const type = error instanceof SpaceriftError ? error.type : "";
    rest(ENDS[type] ?? "That did not work.", error instanceof Error ? error.message : String(error));
  }
}

/** Ends the search or the link that there is. */
function stop() {
  search?.abort();
  search = null;
  const old = link;
  link = null;
  old?.close();
}

/**
 * @param {State} state
 * @param {SpaceriftError} [why]
 */
function show(state, why) {
  const [status, detail] = state === "paused" ? pauseWords(why) : WORDS[state];
  say(state, status, detail);
  note(why?.status ? `${status} (${why.status} ${why.type})` : status);
  if (why?.candidates) note(`You offered ${ways(why.candidates.ours)}; they offered ${ways(why.candidates.theirs)}.`);
  if (link && (state === "interrupted" || state === "linked")) goesOn(state === "linked");
  count(state === "waiting" ? ROUND : state === "paused" ? why?.retryAfter ?? 0 : 0);
}

/** @param {SpaceriftError} [why] */
function pauseWords(why) {
  const words = PAUSES[why?.type ?? ""] ?? `A little break: the server said ${why?.status}.`;
  return [words, why?.hint ? `${why.hint} It goes on by itself.` : "It goes on by itself."];
}

/** What was gathered, in words. @param {NonNullable<SpaceriftError["candidates"]>["ours"]} candidates */
function ways({ host, srflx, relay, mapping }) {
  const seen = mapping === "several ports" ? " by a different port for everybody" : "";
  return `${host} of the own network, ${srflx} as seen from outside${seen}, ${relay} through a relay`;
}

/** Back to where one may begin. @param {string} status @param {string} detail @param {string} [button] */
function rest(status, detail, button = "Meet a stranger") {
  say("idle", status, detail);
  note(status);
  count(0);
  view.safety.hidden = true;
  view.leave.hidden = true;
  view.meet.textContent = button;
  view.meet.classList.remove("stop");
  allowTalk(false);
}

/** @param {string} state @param {string} status @param {string} detail */
function say(state, status, detail) {
  document.body.dataset.state = state;
  document.title = state === "linked" || state === "interrupted" ? "● Linked · Spacerift" : "Spacerift: meet a stranger";
  // A repeated state is not said again: a screen reader would read it out every round.
  if (view.status.textContent !== status) view.status.textContent = status;
  view.detail.textContent = detail;
}

// ---- the seconds ----

let ticker = 0;

/** Counts down in the ring, for the eyes only. @param {number} seconds */
function count(seconds) {
  clearInterval(ticker);
  const end = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.max(0, (end - performance.now()) / 1000);
    view.seconds.textContent = seconds >= 1 ? `${Math.ceil(left)} s` : "";
    document.body.style.setProperty("--left", String(seconds ? (100 * left) / seconds : 0));
  };
  tick();
  if (seconds) ticker = setInterval(tick, TICK);
}

// ---- what happened ----

let startedAt = 0;

function startEvents() {
  startedAt = performance.now();
  view.events.replaceChildren();
  view.noEvents.hidden = true;
}

/** @param {string} text */
function note(text) {
  if (!startedAt) return;
  const time = document.createElement("time");
  time.textContent = `${((performance.now() - startedAt) / 1000).toFixed(2)} s`;
  const item = document.createElement("li");
  item.append(time, text);
  view.events.append(item);
  if (view.events.childElementCount > MOST_EVENTS) view.events.firstElementChild?.remove();
  view.events.scrollTop = view.events.scrollHeight;
}

// ---- talking ----

/** @param {Link} found */
function talk(found) {
  link = found;
  view.meet.textContent = "Next stranger";
  view.meet.classList.remove("stop");
  view.leave.hidden = false;
  const came = found.role === "initiator" ? "They answered your offer." : "You answered their offer.";
  view.detail.textContent = `${came} You talk directly, and encrypted.`;
  add("note", "You are linked. Say hello.");
  listen(found);
  found.addEventListener("resumed", () => listen(found));
  found.closed.then(() => link === found && gone());
  allowTalk(true);
  if (document.activeElement === view.meet || document.activeElement === document.body) view.text.focus();
  safetyNumber(found.peer).then(
    number => {
      if (link !== found) return;
      view.safetyNumber.textContent = number;
      view.safety.hidden = false;
    },
    () => {}, // without TLS a page has no crypto.subtle, and so no number
  );
}

/** @param {Link} found whose channel is a new one */
function listen(found) {
  found.channel.addEventListener("message", ({ data }) => {
    if (link === found && typeof data === "string") add("theirs", data.slice(0, LONGEST_TEXT));
  });
}

/** An open link is interrupted, or goes on. @param {boolean} isBack */
function goesOn(isBack) {
  add("note", isBack ? "You are linked again, with the same stranger." : "The link is interrupted.");
  view.send.disabled = !isBack; // and what is being typed stays
}

function gone() {
  link = null;
  add("note", "The stranger left.");
  rest("The stranger left.", "There may be others.", "Next stranger");
}

/** @param {boolean} allowed */
function allowTalk(allowed) {
  const hadFocus = document.activeElement === view.text || document.activeElement === view.send;
  view.text.disabled = view.send.disabled = !allowed;
  if (!allowed && hadFocus) view.meet.focus(); // where the next step is
}

function clearTalk() {
  allowTalk(false);
  view.leave.hidden = true;
  view.safety.hidden = true;
  view.messages.replaceChildren();
  view.nothing.hidden = false;
}

/** @param {"mine" | "theirs" | "note"} whose @param {string} text shown as text, whatever it is */
function add(whose, text) {
  const item = document.createElement("p");
  item.className = whose;
  if (whose !== "note") {
    const who = document.createElement("span");
    who.className = "unseen";
    who.textContent = whose === "mine" ? "You: " : "Stranger: ";
    item.append(who);
  }
  item.append(text);
  view.messages.append(item);
  view.nothing.hidden = true;
  view.messages.scrollTop = view.messages.scrollHeight;
}

/**
 * The same 15 digits on both sides, made of the two certificates that the link is encrypted with: if they are equal,
 * nobody sits in between.
 *
 * @param {RTCPeerConnection} peer
 */
async function safetyNumber(peer) {
  // A link may open a moment before the browser says that it took the answer.
  if (!peer.remoteDescription) {
    await new Promise(resolve => peer.addEventListener("signalingstatechange", resolve, { once: true }));
  }
  const prints = [peer.localDescription, peer.remoteDescription].map(
    description => /^a=fingerprint:(.+)$/m.exec(description?.sdp ?? "")?.[1].trim().toLowerCase(),
  );
  if (!prints.every(Boolean)) throw new Error("a description has no fingerprint");
  const bytes = new TextEncoder().encode(prints.sort().join("\n"));
  const digest = new DataView(await crypto.subtle.digest("SHA-256", bytes));
  const groups = [0, 4, 8].map(offset => String(digest.getUint32(offset) % 100_000).padStart(5, "0"));
  return groups.join(" ");
}

// ---- the room ----

/** The room is in the address, so that a link can be shared. */
function room() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1); // a stray %
  }
}

function enterRoom() {
  view.room.value = room();
  view.copy.hidden = !room() || !navigator.clipboard;
  view.copy.textContent = "Copy link";
  if (search && room() !== searched) meet();
}

// ---- what a person does ----

view.meet.addEventListener("click", () => {
  if (!search) return meet();
  stop();
  rest("Stopped.", "Press the button to look again.");
});

view.leave.addEventListener("click", () => {
  stop();
  rest("You left.", "The stranger has been told.");
  view.meet.focus();
});

view.roomForm.addEventListener("submit", event => {
  event.preventDefault();
  location.hash = encodeURIComponent(view.room.value.trim());
  if (!search && !link) meet();
});

view.room.addEventListener("change", () => {
  location.hash = encodeURIComponent(view.room.value.trim());
});

view.copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href);
  view.copy.textContent = "Copied";
});

view.composer.addEventListener("submit", event => {
  event.preventDefault();
  const text = view.text.value.trim();
  if (!text || link?.channel.readyState !== "open") return;
  link.channel.send(text);
  add("mine", text);
  view.text.value = "";
});

// An offer is made while the person is about to click.
for (const sign of ["pointerenter", "focus"]) {
  view.meet.addEventListener(sign, () => search || prepare(SERVER));
}

addEventListener("hashchange", enterRoom);
enterRoom();
prepare(SERVER);
view.happened.open = matchMedia("(min-width: 54rem)").matches; // beside the talk, not before it
