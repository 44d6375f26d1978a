"""What an auditor finds at the port when TLS is on: sslyze against a gateway, with a certificate of each kind.

Starts the gateway named by MOOR_GATEWAY on free ports for each form of records. The certificate is made here and nobody
trusts it, so what sslyze says about its chain is passed over; everything else must be as expected.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SSLYZE = Path(sys.executable).with_name("sslyze")
LIMIT_S = 120
SCANS = "sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression fallback ems heartbleed openssl_ccs robot reneg early_data"
OLD = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]
TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
KINDS = {
    "ECDSA": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "RSA": ["rsa:2048"],
}


def make_pair(folder, kind):
    key, certificate = folder / "host.key", folder / "host.pem"
    command = ["openssl", "req", "-x509", "-newkey", *KINDS[kind], "-nodes", "-days", "30", "-subj", "/CN=edge.example"]
    command += ["-addext", "subjectAltName=DNS:edge.example", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


def scan(folder, records, certificate, key):
    arguments = [os.environ["MOOR_GATEWAY"], "--announce", "json", "--data", folder / "data", "--workers", "1"]
    arguments += ["--tls-certificates", certificate, "--tls-keys", key, "--tls-records", records]
    for flag in ("--listen", "--internal", "--admin", "--router-listen"):
        arguments += [flag, "127.0.0.1:0"]
    gateway = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        address = json.loads(gateway.stdout.readline())["listening"]["clients"]
        found = folder / "found.json"
        scans = [f"--{scan}" for scan in SCANS.split()]
        # Mozilla's profile is about the certificate too, and nobody trusts ours.
        command = [SSLYZE, "--mozilla_config=disable", *scans, "--sni", "edge.example", f"--json_out={found}", address]
        subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=True)
        results = json.loads(found.read_text())["server_scan_results"]
        assert gateway.poll() is None, "the gateway has ended"
        scanned = {name: entry["result"] for name, entry in results[0]["scan_result"].items()}
        return {name: result for name, result in scanned.items() if result is not None}
    finally:
        gateway.kill()
        gateway.wait()


def suites(result, version):
    return {suite["cipher_suite"]["name"] for suite in result[f"{version}_cipher_suites"]["accepted_cipher_suites"]}


def judge(result, kind):
    for version in OLD:
        assert not suites(result, version), f"{version} is spoken: {suites(result, version)}"
    assert suites(result, "tls_1_3") == TLS13, suites(result, "tls_1_3")
    tls12 = suites(result, "tls_1_2")
    assert tls12, "TLS 1.2 is not spoken"
    for suite in tls12:
        assert suite.startswith(f"TLS_ECDHE_{kind}_WITH_") and ("_GCM_" in suite or "CHACHA20" in suite), suite
    assert result["tls_compression"]["supports_compression"] is False
    assert result["tls_fallback_scsv"]["supports_fallback_scsv"] is True
    assert result["tls_extended_master_secret"]["supports_ems_extension"] is True
    assert result["heartbleed"]["is_vulnerable_to_heartbleed"] is False
    assert result["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"] is False
    assert result["robot"]["robot_result"].startswith("NOT_VULNERABLE"), result["robot"]
    renegotiation = result["session_renegotiation"]
    assert renegotiation["is_vulnerable_to_client_renegotiation_dos"] is False
    assert renegotiation["supports_secure_renegotiation"] is True
    assert result["tls_1_3_early_data"]["supports_early_data"] is False


def main():
    for kind in KINDS:
        for records in ("rustls", "compact"):
            with tempfile.TemporaryDirectory(prefix="moor-audit-") as folder:
                folder = Path(folder)
                result = scan(folder, records, *make_pair(folder, kind))
                judge(result, kind)
            print(f"sslyze finds nothing: {kind}, records {records}")


if __name__ == "__main__":
    main()
