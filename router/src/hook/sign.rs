//! The signature of a request: HMAC-SHA256 over timestamp, idempotency key and body.

use std::fmt::Write;

use aws_lc_rs::hmac;

/// A hook's secret.
#[derive(Debug)]
pub struct Signer(hmac::Key);

impl Signer {
    /// With the secret's bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// `v1=` and the digest in hexadecimal digits of `TIMESTAMP.IDEMPOTENCY_KEY.BODY`.
    pub fn sign(&self, timestamp_s: u64, idempotency_key: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{timestamp_s}.{idempotency_key}.").as_bytes());
        context.update(body);
        let mut text = String::from("v1=");
        for byte in context.sign().as_ref() {
            // Writing to a string does not fail.
            write!(text, "{byte:02x}").ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_signature() {
        // printf '1700000000.k-1.[]' | openssl dgst -sha256 -hmac 0123456789abcdef
        let text = Signer::new(b"0123456789abcdef").sign(1_700_000_000, "k-1", b"[]");
        assert_eq!(text, "v1=57d05ce00deb1c120d062f2f8e528407607a5d2911d34ad84740dd3f1b9427f4");
    }
}
