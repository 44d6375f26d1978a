//! What the kernel can do.
//!
//! The floor is 6.1; below it [`probe`] and [`crate::Ring::new`] refuse with a sentence that says
//! what to do. Above it each feature is found once per ring, and each one can be taken to be
//! missing, so that the degraded paths are tested on any kernel.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use io_uring::{IoUring, Probe, opcode};

use crate::config::RingError;
use crate::release;

/// Something that kernels at or above the floor may lack.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[repr(u32)]
pub enum Feature {
    /// Completions are prepared only when the owner asks (6.1). Else: whenever it enters the
    /// kernel.
    DeferTaskrun = 1 << 0,
    /// No index array between the queue and its entries (6.6). Else: the array, filled once.
    NoSqArray = 1 << 1,
    /// The ring is named by a registered index (5.18). Else: by its descriptor, a look-up a call.
    RegisteredRing = 1 << 2,
    /// Messages and descriptors between rings (6.0). Else: doorbells, and no passing.
    MessageRing = 1 << 3,
    /// A plain descriptor for a direct one (6.8). Else: no handover of connections, no peer
    /// address.
    FixedFdInstall = 1 << 4,
    /// Socket options and bind on direct descriptors (6.7, 6.11). Else: a connection is made on a
    /// plain descriptor that then enters the table.
    DirectConnect = 1 << 5,
    /// What is closed is let go at once (6.13). Else: when every request made before has ended.
    PromptClose = 1 << 6,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Feature; 7] = [
        Feature::DeferTaskrun,
        Feature::NoSqArray,
        Feature::RegisteredRing,
        Feature::MessageRing,
        Feature::FixedFdInstall,
        Feature::DirectConnect,
        Feature::PromptClose,
    ];

    /// The name used in settings and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Feature::DeferTaskrun => "defer-taskrun",
            Feature::NoSqArray => "no-sq-array",
            Feature::RegisteredRing => "registered-ring",
            Feature::MessageRing => "message-ring",
            Feature::FixedFdInstall => "fixed-fd-install",
            Feature::DirectConnect => "direct-connect",
            Feature::PromptClose => "prompt-close",
        }
    }

    /// What is different without it.
    #[must_use]
    pub const fn without(self) -> &'static str {
        match self {
            Feature::DeferTaskrun => "completions are prepared at every system call",
            Feature::NoSqArray => "submissions go through an index array",
            Feature::RegisteredRing => "every system call looks the ring's descriptor up",
            Feature::MessageRing => "rings wake each other by eventfd and cannot pass descriptors",
            Feature::FixedFdInstall => {
                "connections cannot be handed over, and nobody's address is known: no limits per address"
            }
            Feature::DirectConnect => "outgoing connections start as plain descriptors",
            Feature::PromptClose => {
                "closed connections stay with their peers, and in memory (some 4 kB each), until every request made \
                 before has ended, which may take days: not for service, use Linux 6.13 or newer"
            }
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of features; in a configuration, those to take for missing.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct FeatureMask(u32);

impl FeatureMask {
    /// The empty set.
    pub const NONE: FeatureMask = FeatureMask(0);

    /// Every feature, for running at the floor.
    pub const ALL: FeatureMask = FeatureMask((1 << Feature::ALL.len()) - 1);

    /// The set with one member.
    #[must_use]
    pub const fn of(feature: Feature) -> FeatureMask {
        FeatureMask(feature as u32)
    }

    /// This set with one more member.
    #[must_use]
    pub const fn with(self, feature: Feature) -> FeatureMask {
        FeatureMask(self.0 | feature as u32)
    }

    /// Whether the feature is in the set.
    #[must_use]
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & feature as u32 != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn set(&mut self, feature: Feature, present: bool) {
        if present {
            self.0 |= feature as u32;
        } else {
            self.0 &= !(feature as u32);
        }
    }
}

impl From<Feature> for FeatureMask {
    fn from(feature: Feature) -> FeatureMask {
        FeatureMask::of(feature)
    }
}

impl BitOr for FeatureMask {
    type Output = FeatureMask;

    fn bitor(self, other: FeatureMask) -> FeatureMask {
        FeatureMask(self.0 | other.0)
    }
}

/// A name that is no feature's.
#[derive(Debug, thiserror::Error)]
#[error("unknown kernel feature `{0}`")]
pub struct UnknownFeature(String);

/// Names with commas between them; `all` and the empty string are understood.
impl FromStr for FeatureMask {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<FeatureMask, UnknownFeature> {
        let mut mask = FeatureMask::NONE;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Feature::ALL.into_iter().find(|feature| feature.name() == name) {
                Some(feature) => mask = mask.with(feature),
                None if name == "all" => mask = FeatureMask::ALL,
                None => return Err(UnknownFeature(name.to_owned())),
            }
        }
        Ok(mask)
    }
}

/// What a ring can use. Its `Display` lists the degradations, or says that there are none.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Features {
    found: FeatureMask,
    forced_off: FeatureMask,
}

impl Features {
    /// Whether the ring uses the feature.
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        self.found.contains(feature) && !self.forced_off.contains(feature)
    }

    /// Features the ring does without, each with whether the configuration wants it so.
    pub fn degradations(&self) -> impl Iterator<Item = (Feature, bool)> + '_ {
        Feature::ALL
            .into_iter()
            .filter(|feature| !self.has(*feature))
            .map(|feature| (feature, self.forced_off.contains(feature)))
    }

    pub(crate) fn lose(&mut self, feature: Feature) {
        self.found.set(feature, false);
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (feature, forced) in self.degradations() {
            let why = if forced { "switched off" } else { "not in this kernel" };
            write!(f, "{separator}{feature} {why}: {}", feature.without())?;
            separator = "; ";
        }
        if separator.is_empty() { f.write_str("every kernel feature available") } else { Ok(()) }
    }
}

/// Asks the kernel what it can do, with a small ring that is closed again. For once at start.
///
/// # Errors
/// When io_uring is not there, not allowed, or older than 6.1; the text says what to do.
pub fn probe() -> Result<Features, RingError> {
    let ring = IoUring::new(2).map_err(|error| RingError::from_setup(&error))?;
    let mut features = inspect(&ring, FeatureMask::NONE)?;
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    build(&builder)?;
    if build(builder.setup_no_sqarray()).is_err() {
        features.lose(Feature::NoSqArray);
    }
    // Where it cannot be tried nothing is known against it.
    if !release::is_prompt().unwrap_or(true) {
        features.lose(Feature::PromptClose);
    }
    Ok(features)
}

fn build(builder: &io_uring::Builder) -> Result<IoUring, RingError> {
    builder.build(2).map_err(|error| RingError::from_setup(&error))
}

/// What the operations of a ring tell. The setup flags are found out by setting up.
pub(crate) fn inspect(ring: &IoUring, forced_off: FeatureMask) -> Result<Features, RingError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| RingError::from_setup(&error))?;
    // SENDMSG_ZC came with 6.1 and nothing else in this list did: it stands for the version, as
    // multishot receive and DEFER_TASKRUN do not show in a probe.
    if !probe.is_supported(opcode::SendMsgZc::CODE) || !ring.params().is_feature_ext_arg() {
        return Err(RingError::TooOld);
    }
    let mut found = FeatureMask::ALL;
    found.set(Feature::MessageRing, probe.is_supported(opcode::MsgRingData::CODE));
    found.set(Feature::FixedFdInstall, probe.is_supported(opcode::FixedFdInstall::CODE));
    // BIND is of 6.11, so socket options on direct descriptors (6.7, invisible) are there too.
    found.set(Feature::DirectConnect, probe.is_supported(opcode::Bind::CODE));
    Ok(Features { found, forced_off })
}

#[cfg(test)]
mod tests {
    use super::{Feature, FeatureMask, Features};

    #[test]
    fn names_parse_back() {
        for feature in Feature::ALL {
            assert_eq!(feature.name().parse::<FeatureMask>().unwrap(), FeatureMask::of(feature));
        }
        assert_eq!("all".parse::<FeatureMask>().unwrap(), FeatureMask::ALL);
        assert_eq!(" , ".parse::<FeatureMask>().unwrap(), FeatureMask::NONE);
        assert!("warp-drive".parse::<FeatureMask>().is_err());
    }

    #[test]
    fn degradations_are_listed() {
        let mut features = Features { found: FeatureMask::ALL, forced_off: FeatureMask::NONE };
        assert_eq!(features.to_string(), "every kernel feature available");
        features.lose(Feature::NoSqArray);
        features.forced_off = Feature::MessageRing.into();
        assert_eq!(
            features.to_string(),
            "no-sq-array not in this kernel: submissions go through an index array; \
             message-ring switched off: rings wake each other by eventfd and cannot pass descriptors"
        );
    }
}
