//! Who holds how many shares, who waits, and whose turn it is (SHARE-1).
//!
//! What waits is filed under those who wait for it, and anew when one comes or leaves; before it is
//! given something it is looked at once more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use tokio::sync::oneshot;

use super::asker::{Asker, hash_of};
use super::interest::Interest;
use super::share_queues::{AskersImage, Claim, Precedence, ShareQueues, WaitingShare};
use crate::oci::{CanonicalName, UpstreamName};

/// How many shares there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareBounds {
    /// Of all upstreams together, if that is bounded.
    pub(super) all: Option<usize>,
    pub(super) each: usize,
    pub(super) reserve: Reserve,
}

/// What is left for whoever comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserve {
    /// Nothing: holders give back what others need more.
    None,
    /// As much as any asker has: one has at most half, each of two a third. What cannot be given
    /// back before it is done may last as long as its deadline.
    AsMuch,
}

/// One who waits; those who came earlier have smaller numbers.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    upstream: UpstreamName,
    number: u64,
}

#[derive(Debug)]
pub(super) struct ShareTable {
    bounds: ShareBounds,
    all: Holders,
    /// Upstreams come and go with the configuration; an entry is never removed.
    upstreams: HashMap<UpstreamName, UpstreamShares>,
    tickets: u64,
}

#[derive(Debug, Default)]
struct UpstreamShares {
    holders: Holders,
    /// How many shares of an image an asker has.
    images: HashMap<AskersImage, usize>,
    queues: ShareQueues,
}

/// How many shares are held.
#[derive(Debug, Default)]
struct Holders {
    held: usize,
    by_asker: HashMap<Asker, usize>,
    /// Those whose holders are about to give them back because of those who wait.
    yielding: usize,
}

/// A share that its holder might give back.
struct Offer {
    asker: Asker,
    /// How much the asker would have without it.
    rest: usize,
    unneeded: bool,
}

impl ShareTable {
    pub(super) fn new(bounds: ShareBounds) -> Self {
        Self { bounds, all: Holders::default(), upstreams: HashMap::new(), tickets: 0 }
    }

    /// Enters a share that is wanted; it is granted now if it can be.
    pub(super) fn enter(
        &mut self,
        name: &CanonicalName,
        interest: &Interest,
        precedence: Precedence,
    ) -> (Ticket, oneshot::Receiver<Claim>) {
        let (send, granted) = oneshot::channel();
        let (image, interest) = (hash_of(&name.repository), interest.clone());
        let waiting = WaitingShare::new(image, interest, precedence, send);
        let ticket = Ticket { upstream: name.upstream.clone(), number: self.tickets };
        self.tickets += 1;
        let of_upstream = self.upstreams.entry(ticket.upstream.clone()).or_default();
        of_upstream.queues.enter(ticket.number, waiting);
        self.reconsider(&ticket);
        if let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) {
            of_upstream.queues.turn_away();
        }
        (ticket, granted)
    }

    /// Files what waits under those who wait for it now, and grants it if it can be. Nothing else has
    /// become free, so that none of the others can.
    pub(super) fn reconsider(&mut self, ticket: &Ticket) {
        if let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) {
            of_upstream.queues.file(ticket.number);
        }
        if let Some(asker) = self.grantee(ticket) {
            self.give(ticket, asker);
        }
    }

    fn grantee(&self, ticket: &Ticket) -> Option<Asker> {
        let of_upstream = self.upstreams.get(&ticket.upstream)?;
        let is_free = of_upstream.holders.held < self.bounds.each && !self.all_are_taken();
        let whose = of_upstream.queues.of(ticket.number).filter(|_| is_free);
        let ranked = whose.filter_map(|whose| self.rank(of_upstream, whose));
        ranked.min().map(|(_, _, asker)| asker)
    }

    /// Whoever waited has left, if it is there still.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        if let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) {
            of_upstream.queues.take(ticket.number);
        }
    }

    pub(super) fn release(&mut self, claim: &Claim, was_yielding: bool) {
        if let Some(of_upstream) = self.upstreams.get_mut(&claim.upstream) {
            count_down(&mut of_upstream.images, (claim.asker, claim.image));
            for holders in [&mut of_upstream.holders, &mut self.all] {
                holders.yielding -= usize::from(was_yielding);
                holders.held -= 1;
                count_down(&mut holders.by_asker, claim.asker);
            }
        }
        self.grant();
    }

    /// Whether a share is to be given back: one for each who waits and would have it.
    pub(super) fn begin_yield(&mut self, claim: &Claim, unneeded: bool) -> bool {
        let begins = self.should_yield(claim, unneeded);
        if begins && let Some(of_upstream) = self.upstreams.get_mut(&claim.upstream) {
            of_upstream.holders.yielding += 1;
            self.all.yielding += 1;
        }
        begins
    }

    /// Those wait for the bound of all upstreams whose own has something left, and the others for a
    /// share of their upstream.
    fn should_yield(&self, claim: &Claim, unneeded: bool) -> bool {
        let Some(of_upstream) = self.upstreams.get(&claim.upstream) else { return false };
        let rest = self.part(&of_upstream.holders, claim.asker, 1);
        let offer = Offer { asker: claim.asker, rest, unneeded };
        let total = self.bounds.each;
        let waits_for_it = !self.all_are_taken() || of_upstream.holders.held >= total;
        let in_upstream = waits_for_it
            && self.may_be_due(&offer, &of_upstream.holders, total)
            && self.is_wanted(&offer, &of_upstream.holders, [of_upstream]);
        let in_all = self.bounds.all.filter(|_| self.all_are_taken()).is_some_and(|total| {
            let others = self.upstreams.values().filter(|of| of.holders.held < self.bounds.each);
            self.may_be_due(&offer, &self.all, total) && self.is_wanted(&offer, &self.all, others)
        });
        in_upstream || in_all
    }

    /// What is of use is given back only by whoever has more than half, and only if it can be before
    /// it is done.
    fn may_be_due(&self, offer: &Offer, holders: &Holders, total: usize) -> bool {
        let is_needed_more = || holders.of(offer.asker) * 2 > total;
        offer.unneeded || (self.bounds.reserve == Reserve::None && is_needed_more())
    }

    /// Whether more wait who would have what is offered than have been promised something by
    /// holders who are about to give it back.
    fn is_wanted<'a>(
        &self,
        offer: &Offer,
        holders: &Holders,
        queues: impl IntoIterator<Item = &'a UpstreamShares>,
    ) -> bool {
        let all = queues.into_iter().flat_map(|of| of.queues.waiting().map(move |one| (of, one)));
        let mut wanting = all.filter(|(of_upstream, waiting)| {
            waiting.precedence() == Precedence::Wanted
                && waiting.interest.any(|who| self.would_have(offer, &of_upstream.holders, who))
        });
        wanting.nth(holders.yielding).is_some()
    }

    /// Whether it would be given to `who`: as [`Self::rank`] and [`Self::may_have`] decide once it
    /// has been given back, so that nobody yields what comes back to it.
    fn would_have(&self, offer: &Offer, of_upstream: &Holders, who: Asker) -> bool {
        let is_own = who == offer.asker;
        let may_have = match self.bounds.reserve {
            Reserve::None => true,
            Reserve::AsMuch => {
                of_upstream.of(who) - usize::from(is_own) <= self.bounds.each - of_upstream.held
            }
        };
        may_have && (offer.unneeded || (!is_own && self.part(of_upstream, who, 0) < offer.rest))
    }

    fn all_are_taken(&self) -> bool {
        self.bounds.all.is_some_and(|all| self.all.held >= all)
    }

    /// Gives what there is to those who come first.
    fn grant(&mut self) {
        while let Some((ticket, asker)) = self.next() {
            let of_upstream = self.upstreams.get_mut(&ticket.upstream);
            let has_changed = of_upstream.is_some_and(|of| of.queues.file(ticket.number));
            if !has_changed {
                self.give(&ticket, asker);
            }
        }
    }

    fn give(&mut self, ticket: &Ticket, asker: Asker) {
        let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) else { return };
        let Some(waiting) = of_upstream.queues.take(ticket.number) else { return };
        let claim = Claim { upstream: ticket.upstream.clone(), asker, image: waiting.image };
        // Whoever has left is passed over.
        if waiting.granted.send(claim.clone()).is_ok() {
            self.hold(&claim);
        }
    }

    fn hold(&mut self, claim: &Claim) {
        let Some(of_upstream) = self.upstreams.get_mut(&claim.upstream) else { return };
        *of_upstream.images.entry((claim.asker, claim.image)).or_default() += 1;
        for holders in [&mut of_upstream.holders, &mut self.all] {
            holders.held += 1;
            *holders.by_asker.entry(claim.asker).or_default() += 1;
        }
    }

    /// A share of an upstream is one of all as well: nobody holds the one while waiting for the
    /// other.
    fn next(&self) -> Option<(Ticket, Asker)> {
        if self.all_are_taken() {
            return None;
        }
        let upstreams = self.upstreams.iter().filter(|(_, of)| of.holders.held < self.bounds.each);
        let first = upstreams.flat_map(|(upstream, of)| {
            of.queues.first_of_each().filter_map(move |(whose, (precedence, number))| {
                let (part, of_image, asker) = self.rank(of, whose)?;
                Some(((precedence, part, of_image, number), (upstream, asker)))
            })
        });
        let ((.., number), (upstream, asker)) = first.min_by_key(|(order, _)| *order)?;
        Some((Ticket { upstream: upstream.clone(), number }, asker))
    }

    /// The smaller, the sooner; `None` for whom there is nothing.
    fn rank(
        &self,
        of_upstream: &UpstreamShares,
        whose: AskersImage,
    ) -> Option<(usize, usize, Asker)> {
        let (asker, of_image) = (whose.0, of_upstream.images.get(&whose).copied().unwrap_or(0));
        let part = self.part(&of_upstream.holders, asker, 0);
        self.may_have(&of_upstream.holders, asker).then_some((part, of_image, asker))
    }

    /// How much an asker has once it has given `back` shares: of the upstream's or of all,
    /// whichever is the larger part.
    fn part(&self, of_upstream: &Holders, asker: Asker, back: usize) -> usize {
        let held = of_upstream.of(asker) - back;
        let part = |all: usize| (held * all).max((self.all.of(asker) - back) * self.bounds.each);
        self.bounds.all.map_or(held, part)
    }

    /// Whether the asker may have one more, so that something is left for whoever comes next.
    fn may_have(&self, of_upstream: &Holders, asker: Asker) -> bool {
        match self.bounds.reserve {
            Reserve::None => true,
            Reserve::AsMuch => of_upstream.of(asker) < self.bounds.each - of_upstream.held,
        }
    }
}

impl Holders {
    fn of(&self, asker: Asker) -> usize {
        self.by_asker.get(&asker).copied().unwrap_or(0)
    }
}

fn count_down<K: Hash + Eq>(counts: &mut HashMap<K, usize>, of: K) {
    if let Entry::Occupied(mut count) = counts.entry(of) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
