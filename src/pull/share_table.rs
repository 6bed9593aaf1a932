//! Who holds how many shares, who waits, and whose turn it is (SHARE-1).
//!
//! Whoever waits is looked at anew whenever there is something to give: who waits with him may have
//! come, and all may have left, since he was entered.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use tokio::sync::oneshot;

use super::asker::{Asker, hash_of};
use super::interest::Interest;
use crate::oci::{CanonicalName, UpstreamName};

/// Who may wait for shares of one upstream at once. Beyond, the newest of whoever has most of them
/// waiting is turned away.
pub(super) const WAITING_MAX: usize = 1024;

/// Who comes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Wanted,
    /// Nobody waits for what it is for, or it has given its share back because it was of little use;
    /// waits until nobody else does.
    Yielded,
}

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

/// Whose a share is, of which upstream, and for which image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    upstream: UpstreamName,
    asker: Asker,
    image: u64,
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
    images: HashMap<(Asker, u64), usize>,
    waiting: BTreeMap<u64, WaitingShare>,
}

/// How many shares are held.
#[derive(Debug, Default)]
struct Holders {
    held: usize,
    by_asker: HashMap<Asker, usize>,
    /// Those whose holders are about to give them back because of those who wait.
    yielding: usize,
}

#[derive(Debug)]
struct WaitingShare {
    image: u64,
    interest: Interest,
    precedence: Precedence,
    granted: oneshot::Sender<Claim>,
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
        let waiting = WaitingShare { image, interest, precedence, granted: send };
        let ticket = Ticket { upstream: name.upstream.clone(), number: self.tickets };
        self.tickets += 1;
        let of_upstream = self.upstreams.entry(ticket.upstream.clone()).or_default();
        of_upstream.waiting.insert(ticket.number, waiting);
        self.reconsider(&ticket);
        if let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) {
            of_upstream.turn_away();
        }
        (ticket, granted)
    }

    /// Grants a share that waits, if it can be. Nothing else has become free, so that none of the
    /// others can.
    pub(super) fn reconsider(&mut self, ticket: &Ticket) {
        if let Some(asker) = self.grantee(ticket) {
            self.give(ticket, asker);
        }
    }

    fn grantee(&self, ticket: &Ticket) -> Option<Asker> {
        let of_upstream = self.upstreams.get(&ticket.upstream)?;
        let waiting = of_upstream.waiting.get(&ticket.number)?;
        let is_free = of_upstream.holders.held < self.bounds.each && !self.all_are_taken();
        let (_, asker) = self.rank(of_upstream, waiting).filter(|_| is_free)?;
        Some(asker)
    }

    /// Whoever waited has left, if it is there still.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        if let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) {
            of_upstream.waiting.remove(&ticket.number);
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
        let of_upstream = self.upstreams.get(&claim.upstream);
        let in_upstream = of_upstream.is_some_and(|of| {
            let total = self.bounds.each;
            let waits_for_it = !self.all_are_taken() || of.holders.held >= total;
            waits_for_it && of.holders.wanting([of], claim.asker, unneeded, total)
        });
        let in_all = self.bounds.all.filter(|_| self.all_are_taken()).is_some_and(|total| {
            let others = self.upstreams.values().filter(|of| of.holders.held < self.bounds.each);
            self.all.wanting(others, claim.asker, unneeded, total)
        });
        in_upstream || in_all
    }

    fn all_are_taken(&self) -> bool {
        self.bounds.all.is_some_and(|all| self.all.held >= all)
    }

    /// Gives what there is to those who come first.
    fn grant(&mut self) {
        while let Some((ticket, asker)) = self.next() {
            self.give(&ticket, asker);
        }
    }

    fn give(&mut self, ticket: &Ticket, asker: Asker) {
        let Some(of_upstream) = self.upstreams.get_mut(&ticket.upstream) else { return };
        let Some(waiting) = of_upstream.waiting.remove(&ticket.number) else { return };
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
        let waiting = upstreams.flat_map(|(upstream, of)| {
            of.waiting.iter().filter_map(move |(number, waiting)| {
                let (rank, asker) = self.rank(of, waiting)?;
                Some(((rank, *number), (upstream, asker)))
            })
        });
        let ((_, number), (upstream, asker)) = waiting.min_by_key(|(order, _)| *order)?;
        Some((Ticket { upstream: upstream.clone(), number }, asker))
    }

    /// The smaller, the sooner; and for whom of those who wait for it.
    fn rank(
        &self,
        of_upstream: &UpstreamShares,
        waiting: &WaitingShare,
    ) -> Option<((Precedence, usize, usize), Asker)> {
        let of = |asker: Asker| {
            let of_image = of_upstream.images.get(&(asker, waiting.image)).copied().unwrap_or(0);
            let part = self.part(&of_upstream.holders, asker);
            self.may_have(&of_upstream.holders, asker).then_some((part, of_image, asker))
        };
        let (part, of_image, asker) = waiting.interest.least(of)?;
        Some(((waiting.precedence(), part, of_image), asker))
    }

    /// How much an asker has: of the upstream's or of all, whichever is the larger part.
    fn part(&self, of_upstream: &Holders, asker: Asker) -> usize {
        let held = of_upstream.of(asker);
        self.bounds.all.map_or(held, |all| (held * all).max(self.all.of(asker) * self.bounds.each))
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

    /// Whether more wait who would have a share of this asker than have been given one: all of
    /// them, if it is `unneeded`; else those who hold less, while the asker has more than half.
    fn wanting<'a>(
        &self,
        queues: impl IntoIterator<Item = &'a UpstreamShares>,
        asker: Asker,
        unneeded: bool,
        total: usize,
    ) -> bool {
        let held = self.of(asker);
        if !unneeded && held * 2 <= total {
            return false;
        }
        let would_have = |waiting: &&WaitingShare| {
            waiting.precedence() == Precedence::Wanted
                && (unneeded || waiting.interest.any(|who| who != asker && self.of(who) + 1 < held))
        };
        let waiting = queues.into_iter().flat_map(|of| of.waiting.values());
        waiting.filter(would_have).nth(self.yielding).is_some()
    }
}

impl UpstreamShares {
    /// Of whoever has most waiting, and then of its image with most, the newest goes; before that,
    /// what nobody waits for. Who is one of several counts as the one with least.
    fn turn_away(&mut self) {
        if self.waiting.len() <= WAITING_MAX {
            return;
        }
        let mut newest_first = self.waiting.iter().rev();
        let lost = newest_first.find(|(_, waiting)| waiting.interest.is_lost());
        let goes = lost.map(|(number, _)| *number).or_else(|| self.newest_of_the_many());
        goes.map(|number| self.waiting.remove(&number));
    }

    fn newest_of_the_many(&self) -> Option<u64> {
        let (mut by_asker, mut by_image) = (HashMap::new(), HashMap::new());
        for WaitingShare { image, interest, .. } in self.waiting.values() {
            for asker in interest.changes().borrow().keys() {
                *by_asker.entry(*asker).or_insert(0_usize) += 1;
                *by_image.entry((*asker, *image)).or_insert(0_usize) += 1;
            }
        }
        let many = |(number, waiting): &(&u64, &WaitingShare)| {
            let of =
                |asker| Some((*by_asker.get(&asker)?, *by_image.get(&(asker, waiting.image))?));
            (waiting.interest.least(of), **number)
        };
        self.waiting.iter().max_by_key(many).map(|(number, _)| *number)
    }
}

impl WaitingShare {
    fn precedence(&self) -> Precedence {
        if self.interest.is_lost() { Precedence::Yielded } else { self.precedence }
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
