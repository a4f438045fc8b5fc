// Node's zlib, as far as kbpgp uses it, over the browser's own streams.
import { Buffer } from "buffer";

const through = (Stream, format) => (data, done) =>
  new Response(new Blob([data]).stream().pipeThrough(new Stream(format)))
    .arrayBuffer()
    .then(result => done(null, Buffer.from(result)), done);

export const deflate = through(CompressionStream, "deflate");
export const deflateRaw = through(CompressionStream, "deflate-raw");
export const inflate = through(DecompressionStream, "deflate");
export const inflateRaw = through(DecompressionStream, "deflate-raw");
