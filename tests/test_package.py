"""The npm package: its types, the browsers that can read its modules, and what bundlers make of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from live import ROOT, Server
from tabs import Line, OpenTab, Tab, new_context, talk

pytest_plugins = ["browser_fixtures"]

STATIC = ROOT / "signal_server/static"
MODULES = sorted(
    each["default"] for each in json.loads((ROOT / "package.json").read_text())["exports"].values()
)
OLDEST = "safari15.4,firefox115,chrome109"

CONSUMER = """
import { connect, prepare, SpaceriftError, type Link, type State } from "spacerift";
import { openpgpSigner } from "spacerift/signers";
import { fingerprintjs } from "spacerift/fingerprints";

prepare("https://rift.example.com/");
const states: State[] = [];
const link: Link = await connect("https://rift.example.com/", {
  namespace: "chess", rematch: true, resume: 0, onstate: state => states.push(state),
  fingerprint: fingerprintjs({}), signer: await openpgpSigner({}),
});
const role: "initiator" | "responder" = link.role;
link.channel.send(role);
try { await link.closed; } catch (error) { if (error instanceof SpaceriftError) error.hint?.length; }
// @ts-expect-error there is no such option
void connect("https://rift.example.com/", { namepsace: "chess" });
"""


def run(*command: str, text: str | None = None) -> str:
    ended = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def esbuild(*arguments: str, text: str | None = None) -> str:
    return run("node_modules/.bin/esbuild", "--log-level=warning", *arguments, text=text)


def test_the_types_are_those_of_the_modules(tmp_path: Path) -> None:
    """`npm run types` writes them anew."""
    run("node_modules/.bin/tsc", "-p", "tests/tsconfig.types.json", "--outDir", str(tmp_path))
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in (ROOT / "signal_server/types").iterdir()}


def test_a_typescript_program_uses_them(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/spacerift").symlink_to(ROOT)
    (tmp_path / "program.ts").write_text(CONSUMER)
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "types": []}
    options["moduleResolution"] = "bundler"
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["program.ts"]}))
    run("node_modules/.bin/tsc", "-p", str(tmp_path))


@pytest.mark.parametrize("module", MODULES)
def test_an_old_browser_can_read_it(module: str) -> None:
    """A bundler that is to write for the oldest of them finds nothing to write in another way."""
    new, old = (esbuild(module, f"--target={each}") for each in ("esnext", OLDEST))
    assert new == old


@pytest.mark.parametrize("module", MODULES)
def test_what_only_modules_know_is_not_in_it(module: str) -> None:
    assert "import.meta" not in (ROOT / module).read_text()


def test_a_program_may_require_a_bundle_where_nothing_random_can_be_made(tmp_path: Path) -> None:
    """In CommonJS, as React Native and old build chains have it; workerd allows nothing random by then."""
    bundled = tmp_path / "bundle.cjs"
    said = esbuild(MODULES[2], "--bundle", "--format=cjs", f"--outfile={bundled}")
    assert said == ""
    program = f"""
        crypto.getRandomValues = crypto.randomUUID = () => {{ throw new Error("not here") }};
        Math.random = crypto.getRandomValues;
        for (const name of ["EventTarget", "document", "performance"]) delete globalThis[name];
        console.log(Object.keys(require({json.dumps(str(bundled))})).sort().join());
    """
    assert run("node", "-e", program).strip() == "Link,SpaceriftError,connect,prepare"


MISSING = """
    for (const name of ["any", "timeout"]) delete AbortSignal[name];
    delete AbortSignal.prototype.throwIfAborted;
    for (const name of ["withResolvers", "try"]) delete Promise[name];
    for (const name of ["fromAsync"]) delete Array[name];
    for (const name of ["toSorted", "toReversed", "toSpliced", "with"]) delete Array.prototype[name];
    for (const name of ["groupBy"]) { delete Object[name]; delete Map[name]; }
    for (const name of ["canParse", "parse"]) delete URL[name];
    for (const name of ["union", "intersection", "difference"]) delete Set.prototype[name];
    for (const name of ["Iterator", "CompressionStream", "scheduler"]) delete window[name];
"""


@pytest.mark.parametrize("kind", ["native", "simple-peer 9"])
def test_a_browser_without_the_newer_names_links(
    chromium: Browser, site: str, open_tab: OpenTab, server: Server, namespace: str, kind: str
) -> None:
    """As Safari 15.4, Firefox 115 and Chromium 109 have it."""
    with Line(server.port) as line, new_context(chromium) as context:
        context.add_init_script(MISSING)
        old = Tab(context.new_page(), f"{site}page.html?server={line.url}", namespace)
        assert old.page.evaluate("typeof AbortSignal.any") == "undefined"
        new = open_tab(line.url)
        old.meet(kind)
        server.until(waiting=1)
        new.meet()
        old.linked()
        new.linked()
        talk(old, new)
        old.meet(kind)
        server.until(waiting=1)
        old.page.evaluate("tab.abort.abort()")
        assert old.refused()["name"] == "AbortError"
        server.until(waiting=0)
