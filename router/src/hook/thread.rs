//! The hook's thread: takes notices, makes the requests that the core asks for, writes dead letters.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::core::{BatchId, Core, Dead, Outcome, VendorIndex};
use super::dead::{DeadLetters, Postmark};
use super::http::Caller;
use super::inbox::Inbox;
use super::metrics::{HookMetrics, HookReport, InboxMetrics};
use super::notice::Notice;
use super::settings::HookSettings;
use crate::clock::{now_ms, wall_ms};
use crate::error::StartError;
use crate::limits::{HOOK_NOTICES_PER_TURN_MAX, HOOK_STOP_MS};
use crate::threads::Running;

/// Threads that look names up, at most: `getaddrinfo` blocks.
const LOOKUP_THREADS_MAX: usize = 4;

/// Hooks whose files have been read and are right.
#[derive(Debug, Default)]
pub struct Prepared(Vec<(HookSettings, Arc<Caller>)>);

impl Prepared {
    /// Reads secrets and certificates.
    pub fn load(hooks: &[HookSettings]) -> Result<Self, StartError> {
        let load = |hook: &HookSettings| match Caller::load(hook) {
            Ok(caller) => Ok((hook.clone(), Arc::new(caller))),
            Err(what) => Err(StartError::Setting(format!("the hook \"{}\": {what}", hook.name))),
        };
        hooks.iter().map(load).collect::<Result<_, _>>().map(Self)
    }
}

/// What the thread looks at between notices, once a second; returns what to tell.
pub type Watch = Box<dyn FnMut() -> Vec<Notice> + Send>;

/// The running thread.
#[derive(Debug)]
pub struct Hook {
    /// Where shards put notices.
    pub inbox: Arc<Inbox>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

struct Turn {
    core: Core,
    inbox: Arc<Inbox>,
    callers: Vec<Arc<Caller>>,
    dead_letters: Vec<DeadLetters>,
    names: Vec<String>,
    report: HookReport,
    calls: JoinSet<(VendorIndex, BatchId, Outcome)>,
}

/// The report of hooks that are yet to be started.
pub fn report(prepared: &Prepared) -> HookReport {
    let hooks =
        prepared.0.iter().map(|(hook, _)| (hook.name.as_str().into(), Arc::new(HookMetrics::default())));
    HookReport { inbox: Arc::new(InboxMetrics::default()), hooks: hooks.collect() }
}

impl Hook {
    /// Starts the thread, which holds `running`. Dead letters lie in `data` where the settings do not say otherwise.
    pub fn start(
        prepared: Prepared,
        report: HookReport,
        data: &Path,
        epoch: u64,
        watch: Watch,
        running: Running,
    ) -> Result<Self, StartError> {
        let mut dead_letters = Vec::new();
        for (hook, _) in &prepared.0 {
            let path = hook.dead_letters.clone();
            let path = path.unwrap_or_else(|| data.join(format!("hook-{}.dead", hook.name)));
            let letters = DeadLetters::open(path.clone(), hook.dead_letter_bytes, hook.dead_letter_files)
                .map_err(|source| StartError::DataDirectory { path, source })?;
            dead_letters.push(letters);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(LOOKUP_THREADS_MAX)
            .build()
            .map_err(StartError::Thread)?;
        let inbox = Arc::new(Inbox::new(report.inbox.clone()));
        let (hooks, callers): (Vec<_>, Vec<_>) = prepared.0.into_iter().unzip();
        let names = hooks.iter().map(|hook| hook.name.clone()).collect();
        let metrics = report.hooks.iter().map(|(_, metrics)| metrics.clone());
        let turn = Turn {
            core: Core::new(hooks.into_iter().zip(metrics), epoch, fastrand::u64(..)),
            inbox: inbox.clone(),
            callers,
            dead_letters,
            names,
            report,
            calls: JoinSet::new(),
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("router-hook".to_owned())
            .spawn(move || {
                let _running = running;
                runtime.block_on(turn.live(stopped, watch));
                // A name being looked up may take its time; nobody waits for it.
                runtime.shutdown_background();
            })
            .map_err(StartError::Thread)?;
        Ok(Self { inbox, stop, thread })
    }

    /// Tells what is queued, for a moment; the rest becomes dead letters.
    pub fn stop(self) {
        self.stop.send(()).ok();
        if self.thread.join().is_err() {
            tracing::error!("the hook's thread ended in a panic");
        }
    }
}

impl Turn {
    async fn live(mut self, mut stopped: oneshot::Receiver<()>, mut watch: Watch) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_more = self.turn();
            let sleep = self.sleep(is_more);
            tokio::select! {
                _ = &mut stopped => break,
                Some(done) = self.calls.join_next() => self.handle_done(done),
                () = self.inbox.news.notified(), if !is_more => {}
                () = tokio::time::sleep(sleep) => {}
                _ = seconds.tick() => {
                    for notice in watch() {
                        self.inbox.offer(notice);
                    }
                }
            }
        }
        self.finish().await;
    }

    /// Takes what came in, sends what is due. True when there is more to take.
    fn turn(&mut self) -> bool {
        let now_ms = now_ms();
        let mut taken = 0;
        while taken < HOOK_NOTICES_PER_TURN_MAX
            && let Some(notice) = self.inbox.take()
        {
            self.core.handle_notice(&notice, now_ms);
            taken += 1;
        }
        while let Some(attempt) = self.core.poll_attempt(now_ms) {
            let caller = self.callers[attempt.vendor.0].clone();
            let (vendor, batch) = (attempt.vendor, attempt.batch);
            self.calls.spawn(async move { (vendor, batch, caller.call(attempt).await) });
        }
        self.write_dead();
        taken == HOOK_NOTICES_PER_TURN_MAX
    }

    fn sleep(&self, is_more: bool) -> Duration {
        let due_ms = if is_more { Some(0) } else { self.core.next_due_ms() };
        due_ms.map_or(Duration::from_secs(3600), |due_ms| {
            Duration::from_millis(due_ms.saturating_sub(now_ms()))
        })
    }

    fn handle_done(&mut self, done: Result<(VendorIndex, BatchId, Outcome), tokio::task::JoinError>) {
        match done {
            Ok((vendor, batch, outcome)) => self.core.handle_outcome(vendor, batch, outcome, now_ms()),
            // A call never panics by itself; its batch stays in flight and ends among the dead letters.
            Err(error) => tracing::error!(%error, "a request of the hook ended in a panic"),
        }
    }

    fn write_dead(&mut self) {
        while let Some(Dead { vendor, reason, tries, notices }) = self.core.poll_dead() {
            let hook = &self.names[vendor.0];
            let postmark = Postmark { at_ms: wall_ms(), hook, reason: &reason, tries };
            if let Err(error) = self.dead_letters[vendor.0].append(&postmark, &notices) {
                self.report.hooks[vendor.0].1.dead_unwritten.add(notices.len() as u64);
                tracing::error!(%error, %hook, notices = notices.len(), "dead letters cannot be written");
            }
        }
    }

    async fn finish(mut self) {
        self.core.stop();
        let give_up = tokio::time::sleep(Duration::from_millis(HOOK_STOP_MS));
        let mut give_up = std::pin::pin!(give_up);
        while self.turn() || !self.core.is_settled() {
            let sleep = self.sleep(false).max(Duration::from_millis(1));
            tokio::select! {
                () = &mut give_up => break,
                Some(done) = self.calls.join_next() => self.handle_done(done),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.core.bury_all();
        self.write_dead();
    }
}
