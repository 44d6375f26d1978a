//! Decisions, taken from the front of the fuzzer's bytes. When they are used up, every decision is 0: an input that was
//! cut still means something.

/// The bytes that are left.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left to decide.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// One of so many: below `count`, which is not 0.
    pub fn choice(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.choice(items.len())]
    }

    /// As many bytes as the next byte says, if there are as many.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }
}

/// Cuts a stream into the pieces that the network makes of it: lengths from `cuts`, in a circle.
///
/// # Panics
/// When there are no cuts.
pub fn pieces<'a>(mut stream: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = cuts.iter().map(|cut| 1 + usize::from(*cut)).cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().expect("a circle has no end").min(stream.len());
        let (piece, rest) = stream.split_at(length);
        stream = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
