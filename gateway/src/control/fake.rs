//! Workers that a test moves by hand.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::metrics::{CounterInfo, CounterKind, CounterSource};
use super::{DrainPlan, WorkerControl};

const TABLE: &[CounterInfo] = &[
    CounterInfo { name: "connections_open", help: "Connections held", kind: CounterKind::Gauge },
    CounterInfo { name: "deliveries_total", help: "Frames queued for sessions", kind: CounterKind::Total },
];

pub(super) struct FakeWorkers {
    values: Vec<[AtomicU64; 2]>,
    turns: Vec<AtomicU64>,
    pub links: AtomicUsize,
    pub finished: AtomicBool,
    pub orders: Mutex<Vec<String>>,
}

impl FakeWorkers {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            values: (0..workers).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect(),
            turns: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            links: AtomicUsize::new(workers),
            finished: AtomicBool::new(false),
            orders: Mutex::new(Vec::new()),
        })
    }

    pub(super) fn turn(&self, worker: usize) {
        self.turns[worker].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set(&self, worker: usize, values: [u64; 2]) {
        for (cell, value) in self.values[worker].iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

impl CounterSource for FakeWorkers {
    fn table(&self) -> &'static [CounterInfo] {
        TABLE
    }
    fn workers(&self) -> usize {
        self.values.len()
    }
    fn value(&self, worker: usize, index: usize) -> u64 {
        self.values[worker][index].load(Ordering::Relaxed)
    }
    fn turns(&self, worker: usize) -> u64 {
        self.turns[worker].load(Ordering::Relaxed)
    }
}

impl WorkerControl for FakeWorkers {
    fn drain(&self, order: DrainPlan) {
        self.orders.lock().unwrap().push(format!("drain {}", order.deadline_ms));
    }
    fn stop(&self) {
        self.orders.lock().unwrap().push("stop".to_owned());
        self.finished.store(true, Ordering::Relaxed);
    }
    fn finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
    fn links_up(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }
}
