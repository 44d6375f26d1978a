//! Where the gateways are, and whether what is said to them is encrypted.

use std::path::PathBuf;

use clap::Args;
use moor_client::core::{CertificateProblem, DialError};
use moor_client::{Client, ClientError, Events, Options, Tls};

use super::Failure;

/// Before an address: over TLS.
const SCHEME: &str = "tls://";

#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Gateways' client addresses, the first that listens is used: HOST:PORT[,HOST:PORT...], or
    /// tls://HOST:PORT, which says --tls.
    #[arg(
        long,
        global = true,
        env = "MOOR_TARGET",
        default_value = "127.0.0.1:7100",
        value_delimiter = ',',
        value_parser = client_address
    )]
    target: Vec<String>,
    /// Over TLS; the gateway must show a certificate of an authority that this host trusts.
    #[arg(long, global = true)]
    tls: bool,
    /// Authorities to trust instead of the host's, a PEM file; says --tls.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Name that the certificate must be for, instead of the host in --target; says --tls.
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
}

/// An address as it is given: whether there is such a host turns out later.
pub fn address(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("say HOST:PORT"),
    }
}

fn client_address(text: &str) -> Result<String, &'static str> {
    address(text.strip_prefix(SCHEME).unwrap_or(text)).map(|_| text.to_owned())
}

impl Target {
    /// A client that is connected.
    pub async fn connect(&self, options: Options) -> Result<(Client, Events), Failure> {
        let (addresses, is_secure) = self.addresses()?;
        let connected = if is_secure {
            Client::connect_tls(&addresses, options, self.tls()?).await
        } else {
            Client::connect(&addresses, options).await
        };
        connected.map_err(explain)
    }

    /// The addresses as they are dialled, and whether over TLS.
    fn addresses(&self) -> Result<(Vec<String>, bool), Failure> {
        let secure = self.target.iter().filter(|address| address.starts_with(SCHEME)).count();
        let said = self.tls || self.ca.is_some() || self.server_name.is_some();
        if !said && secure > 0 && secure < self.target.len() {
            // It goes to any of them, so one in clear would be as good as none over TLS.
            return Err(
                format!("--target has addresses with and without {SCHEME}: say it of all, or --tls").into()
            );
        }
        let bare = |address: &String| address.strip_prefix(SCHEME).unwrap_or(address).to_owned();
        Ok((self.target.iter().map(bare).collect(), said || secure > 0))
    }

    fn tls(&self) -> Result<Tls, Failure> {
        let tls = match &self.ca {
            Some(file) => Tls::with_authorities(file)?,
            None => Tls::with_host_authorities()?,
        };
        Ok(match &self.server_name {
            Some(name) => tls.server_name(name)?,
            None => tls,
        })
    }
}

/// What to do about it, where that is a flag.
fn explain(error: ClientError) -> Failure {
    let ClientError::NotSecure { source, .. } = &error else { return error.into() };
    let hint = match source {
        DialError::Certificate { problem: CertificateProblem::UnknownAuthority, .. } => {
            ": name the authority's file with --ca"
        }
        DialError::Certificate { problem: CertificateProblem::OtherName, .. } => {
            ": name one that it is for with --server-name"
        }
        DialError::Tls { .. } => ": does the gateway have a certificate (tls.certificates)?",
        _ => "",
    };
    format!("{error}{hint}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addresses: &[&str]) -> Target {
        let target = addresses.iter().map(|&address| address.to_owned()).collect();
        Target { target, tls: false, ca: None, server_name: None }
    }

    #[test]
    fn tls_is_said_of_all_addresses_or_of_none() {
        let (addresses, is_secure) = target(&["a:1", "b:2"]).addresses().unwrap();
        assert_eq!((addresses, is_secure), (vec!["a:1".to_owned(), "b:2".to_owned()], false));
        let (addresses, is_secure) = target(&["tls://a:1", "tls://b:2"]).addresses().unwrap();
        assert_eq!((addresses, is_secure), (vec!["a:1".to_owned(), "b:2".to_owned()], true));
        let mixed = target(&["tls://a:1", "b:2"]);
        assert!(mixed.addresses().unwrap_err().to_string().contains("with and without tls://"));
        let (addresses, is_secure) = Target { tls: true, ..mixed }.addresses().unwrap();
        assert_eq!((addresses, is_secure), (vec!["a:1".to_owned(), "b:2".to_owned()], true));
        for implied in [
            Target { ca: Some("ca.pem".into()), ..target(&["a:1"]) },
            Target { server_name: Some("edge.example".to_owned()), ..target(&["a:1"]) },
        ] {
            assert!(implied.addresses().unwrap().1, "never less than what was said");
        }
    }
}
