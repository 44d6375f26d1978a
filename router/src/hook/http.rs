//! One signed request to a vendor, and what its answer means.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::core::{Attempt, Outcome, Unaccepted};
use super::settings::HookSettings;
use super::sign::Signer;
use crate::clock::wall_ms;
use crate::limits::HOOK_ANSWER_BYTES_MAX;

/// Shortest secret, bytes.
const SECRET_BYTES_MIN: usize = 16;
/// Longest text of a vendor's that is kept, characters.
const REASON_CHARS_MAX: usize = 200;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Everything needed for requests to one vendor.
#[derive(Debug)]
pub struct Caller {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key_id: HeaderValue,
    signer: Signer,
    timeout: Duration,
}

/// What an answer of 2xx may say.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    failed: Vec<FailedItem>,
}

#[derive(Deserialize)]
struct FailedItem {
    index: usize,
    #[serde(default)]
    retry: bool,
    #[serde(default)]
    reason: String,
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let wrong = |what: String| format!("ca_file {}: {what}", path.display());
        let pem = moor_credentials::read_public(path).map_err(|error| format!("ca_file {error}"))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (_, _unreadable) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("this host has no authorities to believe: name some in ca_file".to_owned());
        }
    }
    Ok(roots)
}

impl Caller {
    /// Reads what the settings name.
    pub fn load(settings: &HookSettings) -> Result<Self, String> {
        let secret = moor_credentials::read_secret(&settings.secret_file, "the secret of a hook")
            .map_err(|error| format!("secret_file {error}"))?;
        let secret = secret.trim_ascii();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "secret_file {}: has {} bytes: make one of at least {SECRET_BYTES_MIN}, such as by openssl rand -hex 32",
                settings.secret_file.display(),
                secret.len()
            ));
        }
        let uri: Uri = settings.url.parse().map_err(|error| format!("url: {error}"))?;
        // Without TLS nobody has to be believed, and the host need not have authorities.
        let roots = match uri.scheme_str() {
            Some("https") => authorities(settings.ca_file.as_deref())?,
            _ => RootCertStore::empty(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let timeout = Duration::from_millis(settings.timeout_ms);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.concurrency)
            .build(connector);
        let key_id = HeaderValue::from_str(settings.key_id()).map_err(|error| format!("key_id: {error}"))?;
        Ok(Self { client, uri, key_id, signer: Signer::new(secret), timeout })
    }

    /// Makes one request. Never takes longer than the hook's timeout.
    pub async fn call(&self, attempt: Attempt) -> Outcome {
        let request = match self.request(&attempt) {
            Ok(request) => request,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed { reason: explain(&*error), retry_after_ms: None },
            Err(_) => {
                let reason = format!("no answer within {} ms", self.timeout.as_millis());
                Outcome::Failed { reason, retry_after_ms: None }
            }
        }
    }

    fn request(&self, attempt: &Attempt) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        // Anew for each try: a receiver refuses old timestamps.
        let timestamp_s = wall_ms() / 1000;
        let signature = self.signer.sign(timestamp_s, &attempt.idempotency_key, &attempt.body);
        Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("moor-router/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", &*attempt.idempotency_key)
            .header("moor-hook-key", &self.key_id)
            .header("moor-hook-timestamp", timestamp_s)
            .header("moor-hook-signature", signature)
            .body(Full::new(attempt.body.clone()))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
        let (head, body) = self.client.request(request).await?.into_parts();
        // Read in any case: a connection with an unread answer cannot be used again.
        let body = Limited::new(body, HOOK_ANSWER_BYTES_MAX).collect().await;
        if head.status.is_success() {
            // It was accepted, whatever became of the text behind.
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Ok(Outcome::Accepted(unaccepted(&body)));
        }
        Ok(judge(head.status, &head.headers))
    }
}

/// What a vendor lists as not accepted; nothing where the answer is no such list.
fn unaccepted(body: &[u8]) -> Vec<Unaccepted> {
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    let items = answer.failed.into_iter().map(|FailedItem { index, retry, reason }| {
        let reason = match reason.as_str() {
            "" => "not accepted by the vendor".to_owned(),
            reason => reason.chars().take(REASON_CHARS_MAX).collect(),
        };
        Unaccepted { index, may_retry: retry, reason }
    });
    items.collect()
}

/// Means any status but 2xx.
fn judge(status: StatusCode, headers: &HeaderMap) -> Outcome {
    // The other form, a date, is left: clocks of two hosts differ by more than most pauses last.
    let retry_after_ms = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
        .map(|seconds| seconds.saturating_mul(1000));
    let reason = format!("status {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Throttled { retry_after_ms },
        StatusCode::REQUEST_TIMEOUT => Outcome::Failed { reason, retry_after_ms: None },
        status if status.is_client_error() => Outcome::Refused(reason),
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Failed { reason, retry_after_ms },
        _ => Outcome::Failed { reason, retry_after_ms: None },
    }
}

/// An error with its causes, which alone say more than "client error (Connect)".
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text: Vec<String> = causes.map(ToString::to_string).collect();
    text.join(": ").chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, retry_after: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        judge(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn what_statuses_mean() {
        let failed = |status: u16, retry_after_ms| Outcome::Failed {
            reason: format!("status {status}"),
            retry_after_ms,
        };
        for status in [400, 401, 404, 410, 413, 422] {
            assert_eq!(judged(status, Some("5")), Outcome::Refused(format!("status {status}")));
        }
        for status in [301, 408, 500, 502, 504] {
            assert_eq!(judged(status, Some("5")), failed(status, None));
        }
        assert_eq!(judged(503, Some(" 7 ")), failed(503, Some(7000)));
        assert_eq!(judged(503, None), failed(503, None));
        assert_eq!(judged(429, Some("2")), Outcome::Throttled { retry_after_ms: Some(2000) });
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(judged(429, date), Outcome::Throttled { retry_after_ms: None });
        let longest = u64::MAX.to_string();
        assert_eq!(judged(429, Some(&longest)), Outcome::Throttled { retry_after_ms: Some(u64::MAX) });
    }

    #[test]
    fn a_list_of_what_was_not_accepted() {
        let list =
            unaccepted(br#"{"failed":[{"index":2},{"index":0,"retry":true,"reason":"later"}],"more":1}"#);
        let item =
            |index, may_retry, reason: &str| Unaccepted { index, may_retry, reason: reason.to_owned() };
        assert_eq!(list, [item(2, false, "not accepted by the vendor"), item(0, true, "later")]);
        for other in ["", "ok", "{}", "[1]", "{\"failed\":3}"] {
            assert_eq!(unaccepted(other.as_bytes()), []);
        }
        let long = format!("{{\"failed\":[{{\"index\":0,\"reason\":\"{}\"}}]}}", "ä".repeat(1000));
        assert_eq!(unaccepted(long.as_bytes())[0].reason.chars().count(), REASON_CHARS_MAX);
    }
}
