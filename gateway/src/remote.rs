//! How the control thread speaks to the workers: orders as mail, and what each part of SIGHUP sends them.

use std::sync::Arc;

use moor_ring::Doorbell;
use moor_router::RouterHandle;

use crate::config::Config;
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
            if mailbox.try_put(mail()).is_err() {
                tracing::warn!(worker = index, "the mailbox is full; the order is lost");
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

/// What SIGHUP does for TLS: whoever comes from now on is shown the certificates that the files hold now.
pub fn reload_tls(workers: Remote) -> ReloadPart {
    Box::new(move |config| match tls_files::load(&config.tls) {
        Ok(None) => Ok("no TLS".to_owned()),
        Ok(Some(server)) => {
            workers.tell_all(|| Mail::Tls(server.clone()));
            Ok(format!("{} TLS certificates", config.tls.certificates.0.len()))
        }
        Err(error) => Err(format!("TLS goes on with the former files: {error}")),
    })
}

/// What SIGHUP does for the internal port: services that come from now on are shown what the files hold now.
pub fn reload_internal_tls(workers: Remote) -> ReloadPart {
    Box::new(move |config| match tls_files::internal(config) {
        Ok(None) => Ok("no TLS on the internal port".to_owned()),
        Ok(Some(acceptor)) => {
            workers.tell_all(|| Mail::InternalTls(acceptor.clone()));
            Ok("the internal port's certificate".to_owned())
        }
        Err(error) => Err(format!("the internal port goes on with the former files: {error}")),
    })
}

/// What SIGHUP does for the router: links that are made from now on show what the files hold now, on both sides where the
/// router is inside.
pub fn reload_router_tls(workers: Remote, router: Option<&RouterHandle>) -> ReloadPart {
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
        Ok(None) => Ok("no TLS with the router".to_owned()),
        Ok(Some(dialer)) => {
            workers.tell_all(|| Mail::RouterTls(dialer.clone()));
            Ok("the certificate shown to the router".to_owned())
        }
        Err(error) => Err(format!("links to the router go on with the former files: {error}")),
    })
}

/// What SIGHUP does for credentials: whoever comes from now on is checked against what the file says now. Who is in stays
/// until its credential expires or it is kicked.
pub fn reload_credentials(workers: Remote) -> ReloadPart {
    Box::new(move |config| match credential_files::load(&config.credentials) {
        Ok(access) => {
            let apps = access.verifier.as_ref().map_or(0, |verifier| verifier.apps());
            workers.tell_all(|| Mail::Access(access.clone()));
            Ok(format!("credentials of {apps} apps"))
        }
        Err(error) => Err(format!("credentials go on as they were: {error}")),
    })
}
