//! `moor-bench groups`: one group whose members are all online on several gateways, at a sustained rate of messages.
//!
//! Latency counts from the moment a message should have been sent until each single member has it. What the router
//! wrote for it is read from the router's own counters before and after. A message that is refused, such as beyond the
//! app's quota, is counted by its code and need not arrive. Start the router with the
//! `--group-read-threshold` that is to be measured.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, Connect, Delivery, GroupAck, GroupCreate, GroupNames, GroupPosition, GroupRequest, Kind,
    Open, Submit, SubmitResult, put_control, put_sync_id,
};
use moor_wire::frame::{FrameReader, put_message};
use moor_wire::internal::{Group, GroupResult, Verb};
use moor_wire::limits::GROUP_NAMES_MAX;
use prost::Message as _;
use rustix::event::{Timespec, epoll};

use crate::args;
use crate::dialect::APP;
use crate::refusals::Refusals;
use crate::report::{Report, Verdict};
use crate::service::Service;
use crate::shared::histogram;

/// Longest wait for the last messages after the last send.
const LAST_MESSAGES: Duration = Duration::from_secs(15);
/// Longest wait for an answer while members log in.
const ANSWER: Duration = Duration::from_secs(20);
/// Acknowledgements are held back so long, as the client library does.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// The load of `groups`.
#[derive(Clone, Debug, Args)]
pub struct GroupsLoad {
    /// Client ports of the gateways; members are spread over them.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:7100", value_name = "ADDR,...")]
    pub target: Vec<SocketAddr>,
    /// The router.
    #[arg(long, default_value = "127.0.0.1:7300", value_name = "ADDR")]
    pub router: SocketAddr,
    /// The app that the group is in and its members log in to.
    #[arg(long, default_value = APP, value_parser = args::app)]
    pub app: &'static str,
    /// Members of the group.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub members: u32,
    /// Messages to the group per second, all members together.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// How long they talk.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Payload, bytes; the first eight carry the time.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..=60_000))]
    pub bytes: u32,
    /// The 99th percentile must be below, milliseconds.
    #[arg(long, default_value_t = 500)]
    pub p99_ms: u64,
    /// Write all figures to this file as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn text(what: &str) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

impl Service {
    fn group(&mut self, app: &str, name: &str, act: Act) -> Result<(), String> {
        let request = Some(GroupRequest { id: 0, group: name.into(), act: Some(act) });
        self.say(Verb::Group, &Group { cookie: 1, app: app.into(), account: String::new(), request })?;
        let result = GroupResult::decode(self.hear(Verb::GroupResult)?).map_err(|error| error.to_string())?;
        let answer = result.answer.unwrap_or_default();
        if answer.code() == Code::Ok { Ok(()) } else { Err(format!("{}: {}", answer.code(), answer.detail)) }
    }

    fn counters(&mut self) -> Result<Counters, String> {
        let stats = self.stats()?;
        let value = |name: &str| stats.iter().find(|stat| stat.name == name).map_or(0, |stat| stat.value);
        Ok(Counters {
            messages: value("router_group_messages_total"),
            copies: value("router_group_copies_total"),
            pushes: value("router_group_pushes_total"),
            operations: value("router_store_commit_ops_total"),
            commits: value("router_store_commits_total"),
            pulls: value("router_pulls_total"),
            retries: value("router_retries_total") + value("router_group_heads_total"),
        })
    }
}

/// What the router has counted.
struct Counters {
    messages: u64,
    copies: u64,
    pushes: u64,
    operations: u64,
    commits: u64,
    pulls: u64,
    retries: u64,
}

/// What is looked at of a `GroupDelivery`: whoever reads a million a second leaves the names where they lie.
#[derive(Clone, PartialEq, prost::Message)]
struct Said {
    #[prost(uint64, tag = "2")]
    place: u64,
    #[prost(bytes = "bytes", tag = "7")]
    payload: Bytes,
    #[prost(bool, tag = "8")]
    is_event: bool,
}

/// One member's connection.
struct Member {
    stream: TcpStream,
    reader: FrameReader,
    out: VecDeque<u8>,
    own: u64,
    place: u64,
    acked: (u64, u64),
    ack_due: Option<Instant>,
}

/// What a thread counted.
struct Counted {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    sent: u64,
    accepted: u64,
    refusals: Refusals,
    received: u64,
    duplicates: u64,
    gaps: u64,
}

impl Member {
    fn log_in(address: SocketAddr, app: &str, account: &str) -> Result<Self, String> {
        let mut stream = TcpStream::connect(address).map_err(text("no gateway"))?;
        stream.set_nodelay(true).map_err(text("the socket"))?;
        stream.set_read_timeout(Some(ANSWER)).map_err(text("the socket"))?;
        let mut out = Vec::new();
        let connect = Connect { version: 1, device: "bench".into(), ..Connect::default() };
        put_control(&mut out, Kind::Connect, 0, &connect);
        let open = Open { app: app.into(), account: account.into(), ..Open::default() };
        put_control(&mut out, Kind::Open, 1, &open);
        stream.write_all(&out).map_err(text("the gateway does not read"))?;
        let mut member = Self {
            stream,
            reader: moor_wire::client::frame_reader(),
            out: VecDeque::new(),
            own: 0,
            place: 0,
            acked: (0, 0),
            ack_due: None,
        };
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = member.reader.try_next().map_err(|error| error.to_string())? {
                match Kind::from_byte(frame.header.kind) {
                    Some(Kind::Opened) => {
                        member.stream.set_nonblocking(true).map_err(text("the socket"))?;
                        return Ok(member);
                    }
                    Some(Kind::Close | Kind::Error | Kind::GoAway) => {
                        return Err("a login was refused".into());
                    }
                    _ => {}
                }
            }
            let length = member.stream.read(&mut buffer).map_err(text("the gateway does not answer"))?;
            if length == 0 {
                return Err("the gateway hung up".into());
            }
            member.reader.push(&buffer[..length]);
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            match self.stream.write(front) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(text("the gateway does not read")(error)),
            }
        }
        Ok(())
    }

    /// Reads what is there.
    fn receive(&mut self, buffer: &mut [u8], started: Instant, counted: &mut Counted) -> Result<(), String> {
        match self.stream.read(buffer) {
            Ok(0) => return Err("a gateway hung up".into()),
            Ok(length) => self.reader.push(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(text("a gateway is gone")(error)),
        }
        // All of it was there then.
        let now_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        while let Some(frame) = self.reader.try_next().map_err(|error| error.to_string())? {
            match Kind::from_byte(frame.header.kind) {
                Some(Kind::Data) => {
                    let delivery = Delivery::decode(frame.body).map_err(|error| error.to_string())?;
                    self.own = self.own.max(delivery.sync_id);
                    if !delivery.group.is_empty() {
                        let (place, is_event) = (delivery.group_sync_id, delivery.is_event);
                        self.note(&Said { place, payload: delivery.payload, is_event }, now_us, counted);
                    }
                }
                Some(Kind::GroupDelivery) => {
                    let said = Said::decode(frame.body).map_err(|error| error.to_string())?;
                    self.note(&said, now_us, counted);
                }
                Some(Kind::Ack) => {
                    let result = SubmitResult::decode(frame.body).map_err(|error| error.to_string())?;
                    match result.code() {
                        Code::Ok => counted.accepted += 1,
                        code => counted.refusals.note(code),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, said: &Said, now_us: u64, counted: &mut Counted) {
        self.ack_due.get_or_insert_with(|| Instant::now() + ACK_DELAY);
        if said.place <= self.place {
            counted.duplicates += 1;
            return;
        }
        counted.gaps += u64::from(self.place > 0 && said.place != self.place + 1);
        self.place = said.place;
        if let (false, Some(due_us)) = (said.is_event, said.payload.first_chunk::<8>()) {
            counted.received += 1;
            counted.latency.saturating_record(now_us.saturating_sub(u64::from_be_bytes(*due_us)).max(1));
        }
    }

    fn acknowledge(&mut self, group: &str) {
        self.ack_due = None;
        let mut out = Vec::new();
        if self.own > self.acked.0 {
            put_sync_id(&mut out, Kind::Ack, 1, self.own);
        }
        if self.place > self.acked.1 {
            let positions = vec![GroupPosition { group: group.to_owned(), sync_id: self.place }];
            put_control(&mut out, Kind::GroupAck, 1, &GroupAck { positions });
        }
        self.acked = (self.own, self.place);
        self.out.extend(out);
    }
}

/// What all threads go by.
struct Talk<'a> {
    load: &'a GroupsLoad,
    group: &'a str,
    /// Zero of the times that payloads carry.
    started: Instant,
    /// The first message is due.
    settled: Instant,
    /// Messages that were refused, of all threads.
    refused: AtomicU64,
}

impl Talk<'_> {
    /// Messages, all members together.
    const fn total(&self) -> u64 {
        self.load.rate * self.load.seconds
    }

    /// Messages that each member is to receive, as far as that is known.
    fn due_to_each(&self) -> u64 {
        self.total() - self.refused.load(Relaxed)
    }
}

/// Runs it.
pub fn run(load: &GroupsLoad) -> Result<Verdict, String> {
    let mut service = Service::connect(load.router)?;
    let group = format!("bench-{:x}", fastrand::u64(..));
    let accounts: Vec<String> = (0..load.members).map(|number| format!("{group}-{number}")).collect();
    let create = GroupCreate { owner: accounts[0].clone(), ..GroupCreate::default() };
    service.group(load.app, &group, Act::Create(create))?;
    for accounts in accounts[1..].chunks(GROUP_NAMES_MAX) {
        service.group(load.app, &group, Act::Add(GroupNames { accounts: accounts.to_vec() }))?;
    }
    let gateways = load.target.len();
    let mut shares: Vec<Vec<Member>> = (0..gateways).map(|_| Vec::new()).collect();
    for (number, account) in accounts.iter().enumerate() {
        shares[number % gateways].push(Member::log_in(load.target[number % gateways], load.app, account)?);
    }
    eprintln!("{} members on {gateways} gateway(s)", accounts.len());
    // What came while they logged in is told to those who were early: let it pass.
    let settled = Instant::now() + Duration::from_secs(2);
    let started = Instant::now();
    let before = std::sync::Mutex::new(None);
    let going = Talk { load, group: &group, started, settled, refused: AtomicU64::new(0) };
    let results: Vec<Result<Counted, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(at, members)| {
                let going = &going;
                scope.spawn(move || talk(members, at, gateways, going))
            })
            .collect();
        std::thread::sleep(settled.saturating_duration_since(Instant::now()));
        let read = service.counters();
        *before.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(read);
        let died = |_| Err("a thread of the harness died".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
    });
    let before = before.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = before.unwrap_or_else(|| Err("nothing was counted".into()))?;
    let after = service.counters()?;
    report(&going, results, &before, &after)
}

/// One gateway's members: they send their share of the messages and read what comes.
fn talk(mut members: Vec<Member>, at: usize, shares: usize, going: &Talk<'_>) -> Result<Counted, String> {
    let Talk { load, group, started, settled, .. } = *going;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    for (number, member) in members.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &member.stream, data, epoll::EventFlags::IN).map_err(|error| error.to_string())?;
    }
    let mut counted = Counted {
        latency: histogram(),
        lateness: histogram(),
        sent: 0,
        accepted: 0,
        refusals: Refusals::default(),
        received: 0,
        duplicates: 0,
        gaps: 0,
    };
    let total = going.total();
    let mut next = at as u64;
    let (mut number, mut told) = (0, 0);
    let step = Duration::from_nanos(1_000_000_000 / load.rate);
    let (mut events, mut buffer) = (Vec::with_capacity(1024), vec![0; 64 * 1024]);
    let each = members.len() as u64;
    let end = settled + Duration::from_secs(load.seconds) + LAST_MESSAGES;
    while Instant::now() < end && (next < total || counted.received < going.due_to_each() * each) {
        events.clear();
        let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        for event in &events {
            let event: &epoll::Event = event;
            let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if let Some(member) = members.get_mut(index) {
                member.receive(&mut buffer, started, &mut counted)?;
            }
        }
        let refused = counted.refusals.total();
        going.refused.fetch_add(refused - told, Relaxed);
        told = refused;
        while next < total {
            let due = settled + step * u32::try_from(next).unwrap_or(u32::MAX);
            let Some(late) = Instant::now().checked_duration_since(due) else { break };
            counted.lateness.saturating_record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX).max(1));
            let micros = u64::try_from((due - started).as_micros()).unwrap_or(u64::MAX);
            let mut payload = micros.to_be_bytes().to_vec();
            payload.resize(load.bytes as usize, 0);
            let submit = Submit {
                client_id: next.to_be_bytes().to_vec().into(),
                group: group.to_owned(),
                payload: payload.into(),
                ..Submit::default()
            };
            let count = members.len();
            let member = &mut members[number % count];
            let mut out = Vec::new();
            put_message(&mut out, Kind::Data.byte(), Class::Reliable.flags(), 1, &submit);
            member.out.extend(out);
            counted.sent += 1;
            number += 1;
            next += shares as u64;
        }
        let now = Instant::now();
        for member in &mut members {
            if member.ack_due.is_some_and(|due| now >= due) {
                member.acknowledge(group);
            }
            member.flush()?;
        }
    }
    Ok(counted)
}

fn report(
    going: &Talk<'_>,
    results: Vec<Result<Counted, String>>,
    before: &Counters,
    after: &Counters,
) -> Result<Verdict, String> {
    let load = going.load;
    let (mut latency, mut lateness, mut refusals) = (histogram(), histogram(), Refusals::default());
    let (mut sent, mut accepted, mut received, mut duplicates, mut gaps) = (0, 0, 0, 0, 0);
    for counted in results {
        let counted = counted?;
        latency.add(&counted.latency).map_err(|error| error.to_string())?;
        lateness.add(&counted.lateness).map_err(|error| error.to_string())?;
        sent += counted.sent;
        accepted += counted.accepted;
        refusals.add(&counted.refusals);
        received += counted.received;
        duplicates += counted.duplicates;
        gaps += counted.gaps;
    }
    let messages = after.messages - before.messages;
    let copies = after.copies - before.copies;
    let per_message = |value: u64| if messages == 0 { f64::NAN } else { value as f64 / messages as f64 };
    let wanted = (going.total() - refusals.total()) * u64::from(load.members);
    let mut report = Report::default();
    report.count("members", u64::from(load.members));
    report.count("gateways", load.target.len() as u64);
    report.count("rate", load.rate);
    report.count("sent", sent);
    report.count("accepted", accepted);
    refusals.report(&mut report);
    report.count("received", received);
    report.count("wanted", wanted);
    report.count("duplicates", duplicates);
    report.count("gaps", gaps);
    report.latency(&latency);
    report.fine("body_writes_per_message", per_message(messages + copies));
    report.fine("store_operations_per_message", per_message(after.operations - before.operations));
    report.fine("pushes_from_group_timeline_per_message", per_message(after.pushes - before.pushes));
    report.count("commits", after.commits - before.commits);
    report.count("pulls", after.pulls - before.pulls);
    report.count("retries", after.retries - before.retries);
    let lateness_p99_us = lateness.value_at_quantile(0.99);
    report.count("harness_lateness_p99_us", lateness_p99_us);
    if lateness_p99_us > load.p99_ms * 1000 / 4 {
        report.harness_short(format!(
            "the 99th percentile of its sends was {} ms late",
            lateness_p99_us / 1000
        ));
    }
    if received < wanted {
        report.shortcoming(format!("{} messages did not reach a member", wanted - received));
    }
    if latency.value_at_quantile(0.99) > load.p99_ms * 1000 {
        report.shortcoming(format!("the 99th percentile is above {} ms", load.p99_ms));
    }
    report.finish("groups", load.json.as_deref())
}
