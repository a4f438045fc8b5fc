/** Makes one module for a browser of a page that uses kbpgp: `node build.js [page.js [bundle.js]]`. */
import { build } from "esbuild";
import { fileURLToPath } from "node:url";

const here = name => fileURLToPath(new URL(name, import.meta.url));
const [page = here("page.js"), bundle = here("bundle.js")] = process.argv.slice(2);

await build({
  entryPoints: [page],
  outfile: bundle,
  bundle: true,
  format: "esm",
  platform: "browser",
  target: "es2022",
  logLevel: "warning",
  // kbpgp is made for Node. These stand in for what a browser does not have.
  alias: {
    crypto: here("crypto.js"),
    zlib: here("zlib.js"),
    stream: here("empty.js"),
    fs: here("empty.js"),
  },
  inject: [here("globals.js")],
  define: { global: "globalThis" },
  // kbpgp's package `bn` assigns to a variable that it never declared, which a module must not.
  banner: { js: "globalThis.diff ??= void 0;" },
});
