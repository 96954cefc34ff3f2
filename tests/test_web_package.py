"""The JavaScript client's types, and the package that npm makes of it."""

import asyncio
import json
import re
from pathlib import Path

import pytest

import archibald_rt
from node import npm, run, tool
from support import Harness, harness, token

CLIENT = Path(__file__).parent.parent / "archibald_rt" / "web"
WEB = Path(__file__).parent / "web"
TEXT = "é € 😀"
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application that has installed the package."""
    folder = tmp_path_factory.mktemp("application")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (packed,) = json.loads(npm("pack", "--json", CLIENT, folder=folder))
    package = folder / "node_modules" / "archibald-rt-client"
    package.mkdir(parents=True)
    run("tar", "xf", packed["filename"], "--strip-components=1", "-C", package, folder=folder)
    return folder


@pytest.mark.needs("node", "npm")
def test_the_client_keeps_its_types_and_those_shipped_are_generated(tmp_path: Path) -> None:
    run(tool("tsc"), "-p", WEB, "--outDir", tmp_path, folder=tmp_path)
    generated = (tmp_path / "client.d.ts").read_text()
    assert generated == (CLIENT / "client.d.ts").read_text(), "scripts/types writes it anew"


@pytest.mark.needs("node", "npm")
def test_an_application_in_typescript_is_told_what_it_does_wrong(application: Path) -> None:
    (application / "uses.ts").write_text((WEB / "uses.ts").read_text())
    options = ("--strict", "--noEmit", "--target", "es2022", "--module", "nodenext")
    # Those of the browser are TypeScript's own, and take longer to check than all that is ours.
    libraries = ("--lib", "es2022,dom", "--skipDefaultLibCheck")
    run(tool("tsc"), *options, *libraries, "uses.ts", folder=application)


@pytest.mark.needs("node", "npm")
def test_the_package_holds_the_client_and_its_version(application: Path) -> None:
    package = application / "node_modules" / "archibald-rt-client"
    assert {path.name for path in package.iterdir()} == {"package.json", "client.js", "client.d.ts"}
    assert (package / "client.js").read_bytes() == (CLIENT / "client.js").read_bytes()
    version = json.loads((package / "package.json").read_text())["version"]
    assert version == archibald_rt.__version__


@pytest.mark.needs("node", "npm")
@pytest.mark.gen_test
async def test_it_follows_a_user_in_node(application: Path, tmp_path: Path) -> None:
    (application / "listen.mjs").write_text("""
        import { connect } from "archibald-rt-client";
        const [url, token] = process.argv.slice(2);
        // Byte by byte, as a network may have it.
        const transform = (all, to) => all.forEach((byte) => to.enqueue(Uint8Array.of(byte)));
        const pieces = () => new TransformStream({ transform });
        const slow = async (...words) => {
          const answer = await fetch(...words);
          return new Response(answer.body.pipeThrough(pieces()), answer);
        };
        const rt = connect(url, { token, from: "earliest", transport: "sse", fetch: slow });
        rt.on("N", async ({ payload, raw }) => {
          await new Promise((done) => setImmediate(done));
          const whole = raw.includes("12345678901234567890");
          console.log(JSON.stringify([payload.n, payload.text, whole]));
          if (payload.n === 3) void rt.close();
        });
        rt.on("rt.live", ({ replayed }) => console.log(JSON.stringify(["live", replayed])));
    """)
    async with harness(tmp_path) as server:
        for n in (1, 2):
            await emit_number(server, n)
        node = await asyncio.create_subprocess_exec(
            *("node", "listen.mjs", server.server.public_url, token("u")),
            cwd=application,
            stdout=asyncio.subprocess.PIPE,
        )
        assert node.stdout is not None
        lines = [json.loads(await node.stdout.readline()) for _ in range(3)]
        assert lines == [[1, TEXT, True], [2, TEXT, True], ["live", 2]]
        await emit_number(server, 3)
        rest, _ = await node.communicate()
        assert [json.loads(line) for line in rest.splitlines()] == [[3, TEXT, True]]
        assert node.returncode == 0


async def emit_number(server: Harness, n: int) -> None:
    payload = (
        f'{{"n":{n},"text":{json.dumps(TEXT, ensure_ascii=False)},"big":12345678901234567890}}'
    )
    body = f'{{"userId":"u","type":"N","payload":{payload}}}'
    assert (await server.post("/internal/emit", body.encode())).code == 200


@pytest.mark.needs("node", "npm")
def test_the_examples_of_all_pages_can_be_read(tmp_path: Path) -> None:
    tool("tsc")
    text = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"^```(jsx?|ts)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"js", "jsx", "ts"}
    check = tmp_path / "check.cjs"
    check.write_text(f"""
        const ts = require({json.dumps(str(WEB / "node_modules" / "typescript"))});
        const compilerOptions = {{ jsx: ts.JsxEmit.ReactJSX }};
        for (const [language, text] of {json.dumps(blocks)}) {{
          const fileName = `example.${{language}}`;
          const options = {{ compilerOptions, fileName, reportDiagnostics: true }};
          const {{ diagnostics }} = ts.transpileModule(text, options);
          for (const each of diagnostics) console.log(each.messageText, text);
        }}
    """)
    assert run("node", check, folder=tmp_path) == ""
