//! One app's credential never opens another's accounts.

use moor_credentials::Algorithm;

use crate::support::*;

const APPS: [&str; 2] = ["shop", "chat"];

/// Whether a token signed by `signer`'s key, saying `claimed`, opens `requested`.
fn matrix(
    files: &Files,
    signers: [&Pair; 2],
    kid: Option<&str>,
    expected: impl Fn(usize, usize, usize) -> bool,
) {
    let verifier = files.verifier();
    for (signer, pair) in signers.iter().enumerate() {
        for (claimed, app) in APPS.iter().enumerate() {
            let token = token(pair, kid, &moor_credentials::issue::Grant { app: (*app).into(), ..grant() });
            for (requested, wanted) in APPS.iter().enumerate() {
                let admitted = verifier.verify(wanted, "alice", "phone", token.as_bytes(), NOW_S).is_ok();
                let case = format!("key of {}, says {app}, opens {wanted}", APPS[signer]);
                assert_eq!(admitted, expected(signer, claimed, requested), "{case}");
            }
        }
    }
}

#[test]
fn key_claim_and_request_must_agree() {
    for first in Algorithm::ALL {
        for second in Algorithm::ALL {
            let signers = [&pairs(first)[0], &pairs(second)[1]];
            for kid in [None, Some("same id in both")] {
                let mut files = Files::new();
                files.key("shop", kid, signers[0]);
                files.key("chat", kid, signers[1]);
                matrix(&files, signers, kid, |signer, claimed, requested| {
                    signer == claimed && claimed == requested
                });
            }
        }
    }
}

#[test]
fn one_secret_in_two_apps_leaves_the_claim() {
    for algorithm in Algorithm::ALL {
        let [pair, _] = pairs(algorithm);
        let mut files = Files::new();
        files.key("shop", None, pair);
        files.key("chat", None, pair);
        matrix(&files, [pair, pair], None, |_, claimed, requested| claimed == requested);
    }
}
