// A certificate that nobody trusts unless a test says so, for the name under which clients dial: localhost.

import { execFileSync } from "node:child_process";
import { X509Certificate, createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Certificate {
  constructor(name = "localhost") {
    this.folder = mkdtempSync(join(tmpdir(), "moor-certificate-"));
    this.file = join(this.folder, "host.pem");
    this.keyFile = join(this.folder, "host.key");
    const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    const names = ["-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name}`];
    // openssl writes the key so that only its owner can read it, which the gateway insists on.
    execFileSync("openssl", ["req", "-x509", ...kind, ...names, "-keyout", this.keyFile, "-out", this.file], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.pem = readFileSync(this.file);
    this.key = readFileSync(this.keyFile);
  }

  /** What a gateway is started with to show it, and to let nobody in without TLS. */
  get flags() {
    return ["--tls-certificates", this.file, "--tls-keys", this.keyFile, "--tls-required"];
  }

  /** What Chromium calls it by: the digest of its key. */
  get keyDigest() {
    const key = new X509Certificate(this.pem).publicKey.export({ type: "spki", format: "der" });
    return createHash("sha256").update(key).digest("base64");
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
