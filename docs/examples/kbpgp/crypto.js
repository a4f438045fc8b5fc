import { Buffer } from "buffer";

export const randomBytes = size => Buffer.from(crypto.getRandomValues(new Uint8Array(size)));
export const rng = randomBytes;
