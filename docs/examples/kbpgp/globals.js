// What kbpgp, made for Node, finds missing in a browser.
export { Buffer } from "buffer";
export const process = { env: {}, browser: true, version: "", nextTick: (call, ...given) => setTimeout(call, 0, ...given) };
