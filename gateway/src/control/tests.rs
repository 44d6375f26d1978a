//! The control plane over real sockets, with workers moved by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::fake::FakeWorkers;
use super::*;

struct Running {
    admin: SocketAddr,
    workers: Arc<FakeWorkers>,
    signals: Sender<Signal>,
    reloads: Receiver<()>,
    thread: JoinHandle<Outcome>,
}

fn start(deadline_ms: u64) -> Running {
    let workers = FakeWorkers::new(2);
    workers.set(0, [3, 10]);
    workers.set(1, [4, 20]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = listener.local_addr().unwrap();
    let (signals, receiver) = channel();
    let (reloaded, reloads) = channel();
    let context = ControlContext {
        node: "edge-1".to_owned(),
        listening: Listening {
            clients: "127.0.0.1:7100".parse().unwrap(),
            internal: "127.0.0.1:7200".parse().unwrap(),
            router: None,
            admin,
        },
        internal_address: "edge-1:7200".to_owned(),
        admin: listener,
        drain: DrainPlan { deadline_ms },
        memory: Watch::new(
            &crate::config::Config::default().memory,
            crate::worker::door::Pressure::default(),
        ),
        source: workers.clone(),
        workers: workers.clone(),
        router: Some(Arc::new(|| serde_json::json!({ "messages": 7 }))),
        collectors: Vec::new(),
        signals: receiver,
        reload: Box::new(move || {
            reloaded.send(()).unwrap();
            Ok("level".to_owned())
        }),
    };
    let thread = std::thread::spawn(move || run(context).unwrap());
    Running { admin, workers, signals, reloads, thread }
}

impl Running {
    fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: moor\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    /// Polls until the order list reads so.
    fn await_orders(&self, expected: &[&str]) {
        let limit = Instant::now() + Duration::from_secs(10);
        while *self.workers.orders.lock().unwrap() != expected {
            assert!(Instant::now() < limit, "{:?}", self.workers.orders.lock().unwrap());
            std::thread::yield_now();
        }
    }

    fn end(self) -> Outcome {
        self.thread.join().unwrap()
    }

    fn drain(self) {
        self.signals.send(Signal::Terminate).unwrap();
        self.workers.finished.store(true, Ordering::Relaxed);
        // Finished before the order is possible and is then a loss of workers.
        self.end();
    }
}

#[test]
fn health_and_readiness_say_why_not() {
    let running = start(60_000);
    assert_eq!(running.get("/healthz").0, 200);
    assert_eq!(running.get("/readyz").2, "ok\n");
    running.workers.links.store(1, Ordering::Relaxed);
    let (status, _, body) = running.get("/readyz");
    assert_eq!((status, body.as_str()), (503, "the router link is up on 1 of 2 workers\n"));
    assert_eq!(running.get("/healthz").0, 200, "a missing link is no reason to restart");
    running.workers.links.store(2, Ordering::Relaxed);
    running.signals.send(Signal::Terminate).unwrap();
    running.await_orders(&["drain 60000"]);
    assert_eq!(running.get("/readyz").2, "draining\n");
    running.workers.finished.store(true, Ordering::Relaxed);
    assert_eq!(running.end(), Outcome::Drained);
}

#[test]
fn metrics_are_sums_or_per_worker() {
    let running = start(1000);
    let (status, head, text) = running.get("/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    for line in [
        "# HELP gateway_connections_open Connections held",
        "# TYPE gateway_connections_open gauge",
        "gateway_connections_open 7",
        "# TYPE gateway_deliveries counter",
        "gateway_deliveries_total 30",
        "gateway_workers 2",
        "gateway_workers_alive 2",
        "gateway_draining 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in\n{text}");
    }
    assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
    let (_, _, text) = running.get("/metrics?x=1&per_worker=1");
    assert!(text.contains("gateway_connections_open{worker=\"1\"} 4\n"), "{text}");
    assert!(text.contains("gateway_deliveries_total{worker=\"0\"} 10\n"), "{text}");
    running.drain();
}

#[test]
fn stats_hold_process_gateway_workers_and_router() {
    let running = start(1000);
    let (_, head, body) = running.get("/v1/stats");
    assert!(head.contains("application/json"), "{head}");
    let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(stats["process"]["resident_bytes"].as_u64().unwrap() > 100_000);
    assert!(stats["process"]["uptime_ms"].is_u64() && stats["process"]["user_cpu_us"].is_u64());
    assert_eq!(stats["gateway"]["connections_open"], 7);
    assert_eq!(stats["gateway"]["deliveries_total"], 30);
    assert_eq!(stats["gateway"]["internal_address"], "edge-1:7200");
    assert_eq!(stats["gateway"]["workers"], 2);
    assert_eq!(stats["workers"][1]["connections_open"], 4);
    assert_eq!(stats["workers"][1]["alive"], true);
    assert_eq!(stats["router"]["messages"], 7);
    running.drain();
}

#[test]
fn the_index_teaches_and_the_unknown_is_404() {
    let running = start(1000);
    assert!(running.get("/").2.contains("/v1/stats"));
    let (status, _, body) = running.get("/nothing");
    assert!(status == 404 && body.contains("/readyz"));
    running.drain();
}

#[test]
fn a_second_signal_stops_and_a_reload_is_carried_out() {
    let running = start(60_000);
    running.signals.send(Signal::Reload).unwrap();
    running.reloads.recv_timeout(Duration::from_secs(10)).unwrap();
    running.signals.send(Signal::Terminate).unwrap();
    running.signals.send(Signal::Terminate).unwrap();
    running.await_orders(&["drain 60000", "stop"]);
    assert_eq!(running.end(), Outcome::Forced);
}

#[test]
fn workers_that_vanish_end_the_process() {
    let running = start(60_000);
    running.workers.finished.store(true, Ordering::Relaxed);
    assert_eq!(running.end(), Outcome::WorkersGone);
}
