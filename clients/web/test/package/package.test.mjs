// What would be published: its files, its types as apps compile them, and the example of its README as it stands.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Gateway } from "../gateway/gateway.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const app = mkdtempSync(join(tmpdir(), "moor-web-app-"));
let files;

const run = (program, parameters, options) => execFileSync(program, parameters, { encoding: "utf8", ...options });

before(() => {
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--silent", "--pack-destination", app], { cwd: root }));
  files = packed.files.map(({ path }) => path);
  mkdirSync(join(app, "node_modules"));
  run("tar", ["-xzf", packed.filename], { cwd: app });
  cpSync(join(app, "package"), join(app, "node_modules/moor-client"), { recursive: true });
  symlinkSync(join(root, "node_modules/ws"), join(app, "node_modules/ws"));
  writeFileSync(join(app, "package.json"), '{ "type": "module" }');
});
after(() => rmSync(app, { recursive: true, force: true }));

test("the package has its code, its types, its README, its license and nothing else", () => {
  for (const file of ["README.md", "LICENSE", "package.json", "dist/index.js", "dist/index.d.ts"]) {
    assert.ok(files.includes(file), file);
  }
  const stray = files.filter((file) => !/^(README\.md|LICENSE|package\.json|dist\/[a-z]+\.(js|d\.ts))$/.test(file));
  assert.deepEqual(stray, []);
  const { dependencies } = JSON.parse(readFileSync(join(app, "node_modules/moor-client/package.json"), "utf8"));
  assert.equal(dependencies, undefined);
});

for (const [module, resolution] of [["node16", "node16"], ["es2022", "bundler"]]) {
  test(`an app in TypeScript compiles with module resolution ${resolution}`, () => {
    cpSync(join(root, "test/package/consumer.ts"), join(app, "consumer.ts"));
    const options = ["--strict", "--noEmit", "--exactOptionalPropertyTypes", "--target", "es2022", "--lib", "es2022,dom"];
    const modules = ["--module", module, "--moduleResolution", resolution];
    const tsc = join(root, "node_modules/typescript/bin/tsc");
    run(process.execPath, [tsc, ...options, ...modules, "consumer.ts"], { cwd: app, stdio: "inherit" });
  });
}

test("the examples of the README do what they say", async () => {
  const examples = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/```js\n(.*?)```/gs)];
  const gateway = await Gateway.start();
  try {
    const env = { ...process.env, MOOR_URL: `ws://127.0.0.1:${gateway.port}/` };
    const [first, second] = examples.map(([, example]) => {
      assert.ok(example.split("\n").length <= 30, "it stays short");
      writeFileSync(join(app, "example.mjs"), example);
      return run(process.execPath, ["example.mjs"], { cwd: app, env, timeout: 20_000 }).trim().split("\n");
    });
    assert.deepEqual(first.slice(0, 3), ["connected", "opened", "opened"]);
    assert.equal(first.at(-1), "bob: hello", first.join());
    assert.deepEqual(second.sort(), ["friends: hello", "live: welcome"]);
  } finally {
    await gateway.stop();
  }
});
