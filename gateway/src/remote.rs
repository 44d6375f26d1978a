//! How the control thread speaks to the workers: orders as mail, and what each part of SIGHUP sends them.

use std::net::SocketAddr;
use std::sync::Arc;

use moor_ring::Doorbell;
use moor_router::RouterHandle;
use moor_tls::peer::Acceptor;

use crate::config::{self, Config};
use crate::control::WorkerControl;
use crate::control::logging::ReloadPart;
use crate::worker::counters::{Board, Counter};
use crate::worker::drain::DrainPlan;
use crate::worker::io::WorkerId;
use crate::worker::mailbox::{Mail, Mailboxes};
use crate::{credential_files, tls_files};

/// How the control thread speaks to the workers.
pub struct Remote {
    mailboxes: Mailboxes,
    doorbells: Arc<[Doorbell]>,
    board: Board,
}

impl Remote {
    /// The workers that have these mailboxes and doorbells.
    pub const fn new(mailboxes: Mailboxes, doorbells: Arc<[Doorbell]>, board: Board) -> Self {
        Self { mailboxes, doorbells, board }
    }

    fn tell_all(&self, mail: impl Fn() -> Mail) {
        for (index, doorbell) in (0..).zip(self.doorbells.iter()) {
            let Some(mailbox) = self.mailboxes.of(WorkerId(index)) else { continue };
            if mailbox.put_order(mail()).is_some() {
                tracing::warn!(
                    worker = index,
                    "the mailbox was full; what waited longest made way for an order"
                );
            }
            doorbell.ring();
        }
    }
}

impl WorkerControl for Remote {
    fn drain(&self, plan: DrainPlan) {
        self.tell_all(|| Mail::Drain(plan));
    }

    fn stop(&self) {
        self.tell_all(|| Mail::Stop);
    }

    fn finished(&self) -> bool {
        self.mailboxes.running() == 0
    }

    fn links_up(&self) -> usize {
        usize::try_from(self.board.sum(Counter::LinkUp)).unwrap_or(usize::MAX)
    }
}

/// What SIGHUP does for TLS, which is on or not so far: whoever comes from now on is shown the certificates that the files
/// hold now.
pub fn reload_tls(workers: Remote, mut is_on: bool) -> ReloadPart {
    Box::new(move |config| match tls_files::load(&config.tls) {
        Ok(None) if is_on => Err(stays_on("TLS", "tls.certificates")),
        Ok(None) => Ok("no TLS".to_owned()),
        Ok(Some(server)) => {
            workers.tell_all(|| Mail::Tls(server.clone()));
            is_on = true;
            Ok(format!("{} TLS certificates", config.tls.certificates.0.len()))
        }
        Err(error) => Err(format!("TLS goes on with the former files: {error}")),
    })
}

/// What SIGHUP does for the internal port, where this is in force so far: services that come from now on are shown what the
/// files hold now. Certificates that were asked for still are: the address and the token that may make up for them are
/// those of the start.
pub fn reload_internal_tls(workers: Remote, mut in_force: Option<Acceptor>) -> ReloadPart {
    Box::new(move |config| match tls_files::internal(config) {
        Ok(None) if in_force.is_some() => {
            Err(stays_on("TLS on the internal port", "internal_tls.certificate"))
        }
        Ok(None) => Ok("no TLS on the internal port".to_owned()),
        Ok(Some(acceptor)) if !acceptor.is_mutual() && in_force.as_ref().is_some_and(Acceptor::is_mutual) => {
            Err(stays_on("asking services for certificates", "internal_tls.authorities"))
        }
        Ok(Some(acceptor)) => {
            workers.tell_all(|| Mail::InternalTls(acceptor.clone()));
            in_force = Some(acceptor);
            Ok("the internal port's certificate".to_owned())
        }
        Err(error) => Err(format!("the internal port goes on with the former files: {error}")),
    })
}

/// What SIGHUP does for the router: links that are made from now on show what the files hold now, on both sides where the
/// router is inside.
pub fn reload_router_tls(workers: Remote, router: Option<&RouterHandle>, mut is_on: bool) -> ReloadPart {
    let load = router.map(RouterHandle::tls_reloader);
    let read = move |config: &Config| {
        let Some(dialer) = tls_files::router(config).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        if let Some(load) = &load {
            load(&config.router_tls.files()).map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(Some(dialer))
    };
    Box::new(move |config| match read(config) {
        Ok(None) if is_on => Err(stays_on("TLS with the router", "router_tls.authorities")),
        Ok(None) => Ok("no TLS with the router".to_owned()),
        Ok(Some(dialer)) => {
            workers.tell_all(|| Mail::RouterTls(dialer.clone()));
            is_on = true;
            Ok("the certificate shown to the router".to_owned())
        }
        Err(error) => Err(format!("links to the router go on with the former files: {error}")),
    })
}

/// A configuration that names no files any more switches nothing off.
fn stays_on(what: &str, setting: &str) -> String {
    format!("{what} goes on with the former files: {setting} is set no more, which takes a restart")
}

/// What SIGHUP does for credentials: whoever comes from now on is checked against what the file says now. Who is in stays
/// until its credential expires or it is kicked. `clients`: where clients are served, which under systemd is not where the
/// configuration says.
pub fn reload_credentials(workers: Remote, clients: SocketAddr) -> ReloadPart {
    let read = move |config: &Config| {
        config::check_clients(clients, &config.credentials)?;
        credential_files::load(&config.credentials).map_err(|error| error.to_string())
    };
    Box::new(move |config| match read(config) {
        Ok(access) => {
            let apps = access.verifier.as_ref().map_or(0, |verifier| verifier.apps());
            workers.tell_all(|| Mail::Access(access.clone()));
            Ok(format!("credentials of {apps} apps"))
        }
        Err(error) => Err(format!("credentials go on as they were: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::limits::MAILBOX_ENTRIES;

    fn remote() -> (Remote, Mailboxes) {
        let mailboxes = Mailboxes::new(1);
        let doorbells = [Doorbell::new().unwrap()];
        (Remote::new(mailboxes.clone(), Arc::new(doorbells), Board::new(1)), mailboxes)
    }

    #[test]
    fn an_order_finds_its_place_in_a_full_mailbox() {
        let (workers, mailboxes) = remote();
        let mailbox = mailboxes.of(WorkerId(0)).unwrap();
        for _ in 0..MAILBOX_ENTRIES {
            mailbox.try_put(Mail::Stop).unwrap();
        }
        workers.drain(DrainPlan { deadline_ms: 7 });
        let last = std::iter::from_fn(|| mailbox.take()).last();
        assert!(matches!(last, Some(Mail::Drain(DrainPlan { deadline_ms: 7 }))), "{last:?}");
    }

    #[test]
    fn a_reload_opens_no_port_to_anybody() {
        let (workers, mailboxes) = remote();
        // systemd's listener is open to others; the configuration's own address is not.
        let mut reload = reload_credentials(workers, "192.0.2.7:7100".parse().unwrap());
        let said = reload(&Config::default()).unwrap_err();
        assert!(said.contains("as they were") && said.contains("192.0.2.7:7100"), "{said}");
        assert!(mailboxes.of(WorkerId(0)).unwrap().is_empty());
    }

    /// The internal port with a certificate, asking for those of services, and the files it is in.
    fn internal_tls() -> (Config, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["edge".to_owned()]).unwrap();
        let (certificate, key) = (directory.path().join("edge.pem"), directory.path().join("edge.key"));
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = Config::default();
        config.internal_tls.authorities.0.push(certificate.clone());
        config.internal_tls.certificate = Some(certificate);
        config.internal_tls.key = Some(key);
        (config, directory)
    }

    #[test]
    fn a_reload_does_not_stop_asking_services_for_certificates() {
        let (mut config, _directory) = internal_tls();
        let in_force = tls_files::internal(&config).unwrap();
        assert!(in_force.as_ref().is_some_and(Acceptor::is_mutual));
        let (workers, mailboxes) = remote();
        let mut reload = reload_internal_tls(workers, in_force);
        // On an address and with a token that would do at a start: neither is in force.
        config.internal_tls.authorities.0.clear();
        let said = reload(&config).unwrap_err();
        assert!(said.contains("certificates") && said.contains("restart"), "{said}");
        assert!(mailboxes.of(WorkerId(0)).unwrap().is_empty());
    }

    #[test]
    fn what_goes_on_is_not_said_to_be_off() {
        let said = |reload: ReloadPart| {
            let mut reload = reload;
            reload(&Config::default())
        };
        assert_eq!(said(reload_tls(remote().0, false)), Ok("no TLS".to_owned()));
        assert!(said(reload_tls(remote().0, true)).unwrap_err().contains("tls.certificates"));
        let (mutual, _directory) = internal_tls();
        let in_force = tls_files::internal(&mutual).unwrap();
        assert!(said(reload_internal_tls(remote().0, in_force)).unwrap_err().contains("internal_tls"));
        assert!(said(reload_router_tls(remote().0, None, true)).unwrap_err().contains("router_tls"));
    }
}
