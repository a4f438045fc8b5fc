import { build } from "esbuild";

await build({ entryPoints: ["page.js"], outfile: "bundle.js", bundle: true, format: "esm", target: "es2022" });
