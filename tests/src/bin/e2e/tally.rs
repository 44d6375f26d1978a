//! What became of every single message, over all threads.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering::Relaxed};

const ACCEPTED: u8 = 1;
const DELIVERED: u8 = 2;

/// Counts and a byte per message.
pub struct Tally {
    messages: Box<[AtomicU8]>,
    sent: AtomicU32,
    accepted: AtomicU32,
    refused: AtomicU32,
    delivered: AtomicU32,
    duplicates: AtomicU32,
    misdelivered: AtomicU32,
    reconnects: AtomicU32,
    channels_open: AtomicI64,
    begun: AtomicBool,
    ended: AtomicBool,
}

impl Tally {
    /// Nothing has happened to any of `messages` messages.
    pub fn new(messages: u32) -> Self {
        let count = || AtomicU32::new(0);
        Self {
            messages: (0..messages).map(|_| AtomicU8::new(0)).collect(),
            sent: count(),
            accepted: count(),
            refused: count(),
            delivered: count(),
            duplicates: count(),
            misdelivered: count(),
            reconnects: count(),
            channels_open: AtomicI64::new(0),
            begun: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// A message was handed to its sender's session.
    pub fn note_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Its sender was told that the router has it.
    pub fn note_accepted(&self, number: u32) {
        if self.mark(number, ACCEPTED) {
            self.accepted.fetch_add(1, Relaxed);
        }
    }

    /// Its sender was told that the router will never have it.
    pub fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Its receiver's session handed it over, after its own de-duplication.
    pub fn note_delivered(&self, number: u32) {
        let counter = if self.mark(number, DELIVERED) { &self.delivered } else { &self.duplicates };
        counter.fetch_add(1, Relaxed);
    }

    /// A session handed over what was not said to its account.
    pub fn note_misdelivered(&self) {
        self.misdelivered.fetch_add(1, Relaxed);
    }

    /// A session lost its connection.
    pub fn note_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// Channels were opened or lost.
    pub fn note_channels(&self, change: i64) {
        self.channels_open.fetch_add(change, Relaxed);
    }

    /// Whether this was the first time.
    fn mark(&self, number: u32, bit: u8) -> bool {
        self.messages.get(number as usize).is_some_and(|message| message.fetch_or(bit, Relaxed) & bit == 0)
    }

    /// Traffic may flow.
    pub fn begin(&self) {
        self.begun.store(true, Relaxed);
    }

    /// Whether traffic may flow.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// The threads are to end.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Whether the threads are to end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Messages handed to sessions.
    pub fn sent(&self) -> u32 {
        self.sent.load(Relaxed)
    }

    /// Messages answered OK.
    pub fn accepted(&self) -> u32 {
        self.accepted.load(Relaxed)
    }

    /// Messages refused for good.
    pub fn refused(&self) -> u32 {
        self.refused.load(Relaxed)
    }

    /// Messages delivered at least once.
    pub fn delivered(&self) -> u32 {
        self.delivered.load(Relaxed)
    }

    /// Messages answered OK and never delivered.
    pub fn lost(&self) -> usize {
        self.messages.iter().filter(|m| m.load(Relaxed) & (ACCEPTED | DELIVERED) == ACCEPTED).count()
    }

    /// Deliveries beyond the first of a message.
    pub fn duplicates(&self) -> u32 {
        self.duplicates.load(Relaxed)
    }

    /// Deliveries to whom they were not said.
    pub fn misdelivered(&self) -> u32 {
        self.misdelivered.load(Relaxed)
    }

    /// Connections lost.
    pub fn reconnects(&self) -> u32 {
        self.reconnects.load(Relaxed)
    }

    /// Channels open.
    pub fn channels_open(&self) -> u32 {
        u32::try_from(self.channels_open.load(Relaxed)).unwrap_or(0)
    }
}
