//! Which services are sent receipts of an app, and of which messages.
//!
//! A subscription may wish for traffic marks. Each wish of an app has a bit; a message on its way to a device carries the
//! bits of those that it meets, so that nothing is looked up when it is acknowledged. A bit is used again when nobody
//! wishes for its marks any more: for what was on its way then one receipt too many may be sent, never one too few.

use std::collections::HashMap;
use std::sync::Arc;

use moor_wire::client::TrafficMarks;

use crate::lease::Link;
use crate::limits::{SUBSCRIBERS_PER_APP_MAX, WISHES_PER_APP_MAX};
use crate::registry::AppIndex;
use crate::store::Marks;

/// Wishes of an app, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes(u32);

impl Wishes {
    const fn one(at: usize) -> Self {
        Self(1 << at)
    }

    /// These and others.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[derive(Debug)]
struct Subscriber {
    link: Arc<Link>,
    /// `None`: it is told of everything.
    wish: Option<Wishes>,
}

#[derive(Debug, Default)]
struct OfApp {
    subscribers: Vec<Subscriber>,
    /// By their bits.
    wishes: Vec<TrafficMarks>,
}

impl OfApp {
    /// The bit of a wish. `None`: the app has as many as it may have.
    fn wish(&mut self, marks: &TrafficMarks) -> Option<Wishes> {
        let is_free = |at: &usize| {
            let is_wished =
                |known: &Subscriber| known.wish == Some(Wishes::one(*at)) && !known.link.is_void();
            !self.subscribers.iter().any(is_wished)
        };
        let known = self.wishes.iter().position(|known| known == marks);
        let at = known.or_else(|| (0..WISHES_PER_APP_MAX).find(is_free))?;
        match self.wishes.get_mut(at) {
            Some(place) => place.clone_from(marks),
            None => self.wishes.push(marks.clone()),
        }
        Some(Wishes::one(at))
    }
}

/// The subscriptions of a shard.
#[derive(Debug, Default)]
pub struct Subscriptions(HashMap<AppIndex, OfApp>);

impl Subscriptions {
    /// Takes a subscription in; of a link that has one, it takes its place. False: the app has as many subscribers, or
    /// wishes that differ, as it may have.
    pub fn try_put(&mut self, app: AppIndex, link: Arc<Link>, marks: &Marks) -> bool {
        let app = self.0.entry(app).or_default();
        if app.subscribers.len() >= SUBSCRIBERS_PER_APP_MAX {
            app.subscribers.retain(|known| !known.link.is_void());
        }
        let place = app.subscribers.iter().position(|known| known.link.id == link.id);
        if place.is_none() && app.subscribers.len() >= SUBSCRIBERS_PER_APP_MAX {
            return false;
        }
        let wish = match marks {
            None => None,
            Some(marks) => match app.wish(marks) {
                None => return false,
                wish => wish,
            },
        };
        match place {
            Some(at) => app.subscribers[at].wish = wish,
            None => app.subscribers.push(Subscriber { link, wish }),
        }
        true
    }

    /// What a message of an app meets.
    pub fn met(&self, app: AppIndex, marks: Option<&TrafficMarks>) -> Wishes {
        let Some((app, marks)) = self.0.get(&app).zip(marks) else { return Wishes::default() };
        let is_met = |wish: &TrafficMarks| {
            wish.values().into_iter().zip(marks.values()).all(|(wish, is)| wish.is_empty() || wish == is)
        };
        let met = app.wishes.iter().enumerate().filter(|(_, wish)| is_met(wish));
        met.fold(Wishes::default(), |met, (at, _)| met.with(Wishes::one(at)))
    }

    /// Who is told when messages are acknowledged that meet such wishes.
    pub fn of(&self, app: AppIndex, met: Wishes) -> impl Iterator<Item = &Arc<Link>> {
        let subscribers = self.0.get(&app).into_iter().flat_map(|app| &app.subscribers);
        subscribers.filter(move |known| known.wish.is_none_or(|wish| met.has(wish))).map(|known| &known.link)
    }

    /// Forgets those whose link is void.
    pub fn drop_void(&mut self) {
        for app in self.0.values_mut() {
            app.subscribers.retain(|known| !known.link.is_void());
        }
    }
}
