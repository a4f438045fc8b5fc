// A page of a signed peer, with the modules as the server serves them and the libraries as npm has them.

import kbpgp from "kbpgp";
import * as openpgp from "openpgp";

const server = new URLSearchParams(location.search).get("server");
const { connect } = await import(`${server}spacerift.js`);
const signers = await import(`${server}signers.js`);

const made = { kbpgp: given => signers.kbpgpSigner(kbpgp, given), "openpgp.js": given => signers.openpgpSigner(openpgp, given) };

window.tab = {
  states: [],

  /** Makes a key. Whom it trusts is not known yet. */
  async key(library) {
    this.engine = library;
    this.signer = await made[library]();
    return { publicKey: this.signer.publicKey(), fingerprint: this.signer.fingerprint };
  },

  async trust(trusted) {
    const own = this.signer;
    const { verify } = await made[this.engine]({ trusted });
    this.signer = { ...own, verify };
  },

  /** Looks for a peer; `linked` has the outcome. */
  meet(options) {
    const states = (this.states = []);
    const onstate = (state, why) => states.push(why ? `${state} ${why.type}` : state);
    this.abort = new AbortController();
    const signal = AbortSignal.any([this.abort.signal, AbortSignal.timeout(12_000)]);
    this.outcome = connect(server, { signer: this.signer, onstate, signal, ...options });
    this.outcome.then(link => {
      this.heard = new Promise(resolve => link.channel.addEventListener("message", ({ data }) => resolve(data), { once: true }));
    }, () => {});
  },

  stop() {
    this.abort.abort();
  },

  async linked() {
    const { role, remoteKey } = await this.outcome;
    return { role, remoteKey };
  },

  async refused() {
    return this.outcome.then(() => null, ({ type, name, message, cause }) => ({ type: type ?? name, why: `${message} ${cause ?? ""}` }));
  },

  async say(text) {
    (await this.outcome).channel.send(text);
  },

  async hears() {
    await this.outcome;
    return this.heard;
  },
};
