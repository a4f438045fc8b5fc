/** So many peers at once in one program, each with a module of its own; it counts those that have a TURN server. */
import { setMaxListeners } from "node:events";
import wrtc from "@roamhq/wrtc";

const [server, many] = process.argv.slice(2);
const abort = new AbortController();
setMaxListeners(0, abort.signal);
let turn = 0;

async function pupil(number) {
  const { connect } = await import(`../../signal_server/static/spacerift.js?${number}`);
  return new Promise((resolve, reject) => {
    class RTCPeerConnection extends wrtc.RTCPeerConnection {
      constructor(configuration) {
        super({ ...configuration, iceServers: [] });
        turn += configuration.iceServers.some(({ urls }) => String(urls).startsWith("turn:"));
        resolve();
      }
    }
    const options = { namespace: `desk ${number}`, gather: 1, signal: abort.signal, fetch };
    connect(server, { ...options, wrtc: { ...wrtc, RTCPeerConnection } }).catch(reject);
  });
}

await Promise.all(Array.from({ length: Number(many) }, (_, number) => pupil(number)));
console.log(JSON.stringify({ turn }));
process.exit();
