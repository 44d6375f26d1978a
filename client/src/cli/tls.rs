//! TLS of the internal and router ports: which files, and how they become settings of a connection.

use std::path::PathBuf;

use clap::Args;
use moor_router_client::Tls as Settings;

/// TLS with the router and with a gateway's internal port.
#[derive(Clone, Debug, Args)]
pub struct Tls {
    /// Authorities of the router's certificate (PEM): TLS is spoken with it.
    #[arg(long, global = true, env = "MOOR_ROUTER_CA", value_name = "FILE", value_delimiter = ',')]
    router_ca: Vec<PathBuf>,
    /// Certificate to show to the router (PEM); it stands for the secret.
    #[arg(long, global = true, env = "MOOR_ROUTER_CERTIFICATE", value_name = "FILE")]
    router_certificate: Option<PathBuf>,
    /// Its key (PEM), readable by its owner alone.
    #[arg(long, global = true, env = "MOOR_ROUTER_KEY", value_name = "FILE")]
    router_key: Option<PathBuf>,
    /// What the router's certificate must be for. Unset, it is the host of --router.
    #[arg(long, global = true, env = "MOOR_ROUTER_NAME", value_name = "NAME")]
    router_name: Option<String>,
    /// Authorities of the certificate of the internal port (PEM): TLS is spoken there.
    #[arg(long, global = true, env = "MOOR_INTERNAL_CA", value_name = "FILE", value_delimiter = ',')]
    internal_ca: Vec<PathBuf>,
    /// Certificate to show to the internal port (PEM); it stands for the secret.
    #[arg(long, global = true, env = "MOOR_INTERNAL_CERTIFICATE", value_name = "FILE")]
    internal_certificate: Option<PathBuf>,
    /// Its key (PEM), readable by its owner alone.
    #[arg(long, global = true, env = "MOOR_INTERNAL_KEY", value_name = "FILE")]
    internal_key: Option<PathBuf>,
    /// What the internal port's certificate must be for. Unset, it is the host of --internal.
    #[arg(long, global = true, env = "MOOR_INTERNAL_NAME", value_name = "NAME")]
    internal_name: Option<String>,
}

impl Tls {
    /// With the router; `None`: clear text.
    pub fn router(&self) -> Result<Option<Settings>, &'static str> {
        settings(&self.router_ca, &self.router_certificate, &self.router_key, &self.router_name)
            .ok_or("--router-certificate and --router-key belong together, and with --router-ca")
    }

    /// With an internal port; `None`: clear text.
    pub fn internal(&self) -> Result<Option<Settings>, &'static str> {
        settings(&self.internal_ca, &self.internal_certificate, &self.internal_key, &self.internal_name)
            .ok_or("--internal-certificate and --internal-key belong together, and with --internal-ca")
    }
}

/// `None`: they do not go together.
fn settings(
    authorities: &[PathBuf],
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
    name: &Option<String>,
) -> Option<Option<Settings>> {
    if authorities.is_empty() {
        return (certificate.is_none() && key.is_none() && name.is_none()).then_some(None);
    }
    let mut tls = Settings::new(authorities);
    match (certificate, key) {
        (None, None) => {}
        (Some(certificate), Some(key)) => tls = tls.certificate(certificate, key),
        _ => return None,
    }
    if let Some(name) = name {
        tls = tls.name(name);
    }
    Some(Some(tls))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tls: Tls,
    }

    #[test]
    fn what_goes_together_is_taken_and_nothing_else() {
        let said = |words: &[&str]| Line::parse_from(std::iter::once(&"moor").chain(words)).tls;
        assert_eq!(said(&[]).router(), Ok(None));
        let tls = said(&["--internal-ca", "a.pem,b.pem", "--internal-name", "edge-1"]);
        assert_eq!(tls.internal(), Ok(Some(Settings::new(["a.pem", "b.pem"]).name("edge-1"))));
        assert_eq!(tls.router(), Ok(None));
        let pair = ["--router-certificate", "c.pem", "--router-key", "c.key"];
        assert!(said(&pair).router().is_err(), "whom it trusts is not said");
        let tls = said(&[&["--router-ca", "a.pem"], &pair[..]].concat());
        assert_eq!(tls.router(), Ok(Some(Settings::new(["a.pem"]).certificate("c.pem", "c.key"))));
        assert!(said(&["--router-ca", "a.pem", "--router-key", "c.key"]).router().is_err());
    }
}
