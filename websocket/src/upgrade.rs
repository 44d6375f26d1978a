//! The HTTP/1.1 request that opens a connection (RFC 6455, 4.2), and its answer.
//!
//! Owns what a request must look like; keeps nothing. Until the head is whole, the caller keeps what came and
//! asks again with all of it: at most [`REQUEST_BYTES_MAX`] bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request};
use sha1::{Digest, Sha1};

use crate::limits::{REQUEST_BYTES_MAX, REQUEST_FIELDS_MAX, RESPONSE_BYTES_MAX};

/// Which requests are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The path of the endpoint, without a query; a request may add one.
    pub path: String,
    /// Pages that may connect.
    pub origins: Origins,
}

impl Default for Policy {
    /// The path `/`, and no pages.
    fn default() -> Self {
        Self { path: "/".to_owned(), origins: Origins::None }
    }
}

/// Pages that may connect. A request without an `Origin` is not from a page and is accepted under each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// No page.
    None,
    /// Pages of these origins, each as a browser writes it: `https://example.org`, with the port where it is
    /// not the scheme's own. Letter case does not matter.
    Listed(Vec<String>),
    /// Every page.
    Any,
}

impl Origins {
    fn accept(&self, origin: &str) -> bool {
        match self {
            Self::None => false,
            Self::Listed(origins) => origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin)),
            Self::Any => true,
        }
    }
}

/// A protocol spoken in the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subprotocol {
    /// `moor.v1`.
    MoorV1,
}

impl Subprotocol {
    /// Its name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MoorV1 => "moor.v1",
        }
    }
}

/// What [`upgrade`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head is not whole: ask again when more has come, with all of it.
    NeedMore,
    /// Send the response; frames follow.
    Accept {
        /// At most [`RESPONSE_BYTES_MAX`] bytes.
        response: Vec<u8>,
        /// Bytes of the request; what follows them is the client's first frame.
        consumed: usize,
        /// What both sides speak, if the client named anything we know.
        subprotocol: Option<Subprotocol>,
    },
    /// Send the refusal's [response](Refusal::response) and close.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Not HTTP.
    #[error("the request is not HTTP")]
    Malformed,
    /// A head above [`REQUEST_BYTES_MAX`] bytes or [`REQUEST_FIELDS_MAX`] fields.
    #[error("the head has more than {REQUEST_BYTES_MAX} bytes or {REQUEST_FIELDS_MAX} fields")]
    HeadTooLarge,
    /// Another version of HTTP than 1.1.
    #[error("the request is not HTTP/1.1")]
    HttpVersion,
    /// Another method than GET.
    #[error("the method is not GET")]
    Method,
    /// Another path than the endpoint's.
    #[error("there is no such path")]
    Path,
    /// No `Host`, or several.
    #[error("not exactly one Host")]
    Host,
    /// A request with a body, which would be taken for frames.
    #[error("the request has a body")]
    Body,
    /// No `Upgrade: websocket` with `Connection: upgrade`.
    #[error("the request is not an upgrade to websocket")]
    NotUpgrade,
    /// Another `Sec-WebSocket-Version` than 13.
    #[error("the websocket version is not 13")]
    WebsocketVersion,
    /// No `Sec-WebSocket-Key`, several, or one that is not 16 bytes in base64.
    #[error("the key is not 16 bytes in base64")]
    Key,
    /// A page that is not on the list, or several origins.
    #[error("the origin is not on the list")]
    Origin,
}

/// A response without a body, after which the connection ends.
macro_rules! refusal {
    ($status:literal) => {
        refusal!($status, "Connection: close\r\n")
    };
    ($status:literal, $fields:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\n", $fields, "Content-Length: 0\r\n\r\n").as_bytes()
    };
}

impl Refusal {
    /// The whole HTTP response that says so.
    #[must_use]
    pub const fn response(self) -> &'static [u8] {
        match self {
            Self::Malformed | Self::Host | Self::Body | Self::Key => refusal!("400 Bad Request"),
            Self::Origin => refusal!("403 Forbidden"),
            Self::Path => refusal!("404 Not Found"),
            Self::Method => refusal!("405 Method Not Allowed", "Allow: GET\r\nConnection: close\r\n"),
            Self::NotUpgrade | Self::WebsocketVersion => refusal!(
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
            ),
            Self::HeadTooLarge => refusal!("431 Request Header Fields Too Large"),
            Self::HttpVersion => refusal!("505 HTTP Version Not Supported"),
        }
    }
}

/// Decides on a request from the bytes received so far.
#[must_use]
pub fn upgrade(bytes: &[u8], policy: &Policy) -> Outcome {
    let mut fields = [EMPTY_HEADER; REQUEST_FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let consumed = match request.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) if consumed <= REQUEST_BYTES_MAX => consumed,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Outcome::NeedMore,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Outcome::Refuse(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Outcome::Refuse(Refusal::HttpVersion),
        Err(_) => return Outcome::Refuse(Refusal::Malformed),
    };
    match judge(&request, policy) {
        Ok((key, subprotocol)) => {
            Outcome::Accept { response: response(key, subprotocol), consumed, subprotocol }
        }
        Err(refusal) => Outcome::Refuse(refusal),
    }
}

/// The key of a request that is in order, and the subprotocol.
fn judge<'a>(request: &Request<'_, 'a>, policy: &Policy) -> Result<(&'a str, Option<Subprotocol>), Refusal> {
    let fields = &*request.headers;
    if request.version != Some(1) {
        return Err(Refusal::HttpVersion);
    }
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    if path(request.path.unwrap_or_default()) != policy.path {
        return Err(Refusal::Path);
    }
    if !matches!(only(fields, "host"), Ok(Some(_))) {
        return Err(Refusal::Host);
    }
    let no_body = values(fields, "content-length").all(|length| length == b"0")
        && values(fields, "transfer-encoding").next().is_none();
    if !no_body {
        return Err(Refusal::Body);
    }
    let named = |name, wanted: &[u8]| tokens(fields, name).any(|token| token.eq_ignore_ascii_case(wanted));
    if !named("connection", b"upgrade") || !named("upgrade", b"websocket") {
        return Err(Refusal::NotUpgrade);
    }
    if only(fields, "sec-websocket-version") != Ok(Some("13")) {
        return Err(Refusal::WebsocketVersion);
    }
    let key = only(fields, "sec-websocket-key").ok().flatten().filter(|key| is_key(key));
    let key = key.ok_or(Refusal::Key)?;
    match only(fields, "origin") {
        Ok(None) => {}
        Ok(Some(origin)) if policy.origins.accept(origin) => {}
        Ok(Some(_)) | Err(NotOne) => return Err(Refusal::Origin),
    }
    let ours = Subprotocol::MoorV1;
    let subprotocol = tokens(fields, "sec-websocket-protocol").any(|name| name == ours.as_str().as_bytes());
    Ok((key, subprotocol.then_some(ours)))
}

/// The answer that accepts a key.
fn response(key: &str, subprotocol: Option<Subprotocol>) -> Vec<u8> {
    /// Given by the standard.
    const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    /// 20 bytes in base64.
    const ACCEPT_BYTES: usize = 28;
    let digest = Sha1::new().chain_update(key).chain_update(SALT).finalize();
    let mut accept = [0; ACCEPT_BYTES];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_BYTES), "a digest has one length");
    let mut out = Vec::with_capacity(RESPONSE_BYTES_MAX);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    out.extend_from_slice(b"Sec-WebSocket-Accept: ");
    out.extend_from_slice(&accept);
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_str().as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The path of a request target in origin form or absolute form, without its query.
fn path(target: &str) -> &str {
    let target = ["http://", "https://"]
        .iter()
        .find_map(|scheme| {
            let (front, rest) = target.split_at_checked(scheme.len())?;
            front.eq_ignore_ascii_case(scheme).then_some(rest)
        })
        .map_or(target, |rest| rest.find('/').map_or("/", |slash| &rest[slash..]));
    target.split('?').next().unwrap_or_default()
}

fn is_key(key: &str) -> bool {
    /// 16 bytes of key, and what their base64 of 24 characters is estimated to hold.
    const DECODED_BYTES_MAX: usize = 18;
    let mut decoded = [0; DECODED_BYTES_MAX];
    STANDARD.decode_slice(key, &mut decoded) == Ok(16)
}

/// All values of a field, without the space around them.
fn values<'f, 'a>(
    fields: &'f [Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> + use<'f, 'a> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

/// All elements of the comma-separated lists of a field.
fn tokens<'f, 'a>(
    fields: &'f [Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> + use<'f, 'a> {
    values(fields, name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// A field that must not repeat does, or is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotOne;

/// The value of a field that may stand once.
fn only<'a>(fields: &[Header<'a>], name: &'static str) -> Result<Option<&'a str>, NotOne> {
    let mut values = values(fields, name);
    let first = values.next();
    if values.next().is_some() {
        return Err(NotOne);
    }
    first.map(std::str::from_utf8).transpose().map_err(|_| NotOne)
}
