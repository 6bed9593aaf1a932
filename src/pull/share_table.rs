//! Who holds how many shares, who waits, and whose turn it is (SHARE-1).

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use tokio::sync::oneshot;

use crate::oci::CanonicalName;

/// Who may wait for a share at once. Beyond, the newest of whoever has most of them waiting is
/// turned away.
pub(super) const WAITING_MAX: usize = 1024;

/// For whom something is asked upstream: an identity, or the address of somebody anonymous. A hash
/// of it: two askers who have the same one share what is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker(u64);

impl Asker {
    pub fn new(who: impl Hash) -> Self {
        Self(hash_of(who))
    }

    /// What it has of one image.
    pub(super) fn claim(self, name: &CanonicalName) -> Claim {
        (self, hash_of(&name.repository))
    }
}

/// Who comes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Wanted,
    /// It has given its share back because nobody needed what it did, and waits until nobody else
    /// does.
    Yielded,
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

/// Asker and image.
pub(super) type Claim = (Asker, u64);

/// Who comes first, among those of one claim.
pub(super) type Ticket = (Precedence, u64);

#[derive(Debug)]
pub(super) struct ShareTable {
    total: usize,
    free: usize,
    reserve: Reserve,
    /// Those who hold or wait for something.
    askers: HashMap<Asker, AskerStanding>,
    claims: HashMap<Claim, ClaimStanding>,
    waiting: usize,
    tickets: u64,
    /// Shares whose holders are about to give them back because of those who wait.
    yielding: usize,
}

#[derive(Debug, Default)]
struct AskerStanding {
    held: usize,
    waiting: usize,
    /// Those of the waiting that have not given a share back.
    wanted: usize,
}

#[derive(Debug, Default)]
struct ClaimStanding {
    held: usize,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl ShareTable {
    pub(super) fn new(total: usize, reserve: Reserve) -> Self {
        let (askers, claims) = (HashMap::new(), HashMap::new());
        Self { total, free: total, reserve, askers, claims, waiting: 0, tickets: 0, yielding: 0 }
    }

    /// Enters somebody who wants a share; it is granted now if it can be.
    pub(super) fn enter(
        &mut self,
        claim: Claim,
        precedence: Precedence,
    ) -> (Ticket, oneshot::Receiver<()>) {
        let (send, granted) = oneshot::channel();
        let ticket = (precedence, self.tickets);
        self.tickets += 1;
        self.claims.entry(claim).or_default().waiting.insert(ticket, send);
        let asker = self.askers.entry(claim.0).or_default();
        asker.waiting += 1;
        asker.wanted += usize::from(precedence == Precedence::Wanted);
        self.waiting += 1;
        self.grant();
        self.turn_away();
        (ticket, granted)
    }

    /// Whoever waited has left, if it is there still.
    pub(super) fn leave(&mut self, claim: Claim, ticket: Ticket) {
        drop(self.take(claim, ticket));
    }

    pub(super) fn release(&mut self, claim: Claim, was_yielding: bool) {
        self.yielding -= usize::from(was_yielding);
        self.free += 1;
        if let Some(asker) = self.askers.get_mut(&claim.0) {
            asker.held -= 1;
        }
        if let Some(of_claim) = self.claims.get_mut(&claim) {
            of_claim.held -= 1;
        }
        self.forget(claim);
        self.grant();
    }

    /// Whether one of this asker's shares is to be given back: one for each who waits and would
    /// have it.
    pub(super) fn begin_yield(&mut self, asker: Asker, unneeded: bool) -> bool {
        let begins = self.wanting(asker, unneeded) > self.yielding;
        self.yielding += usize::from(begins);
        begins
    }

    /// How many wait who would have a share of this asker: all of them, if it is `unneeded`; else
    /// those who hold less, while the asker has more than half.
    fn wanting(&self, asker: Asker, unneeded: bool) -> usize {
        let held = self.held(asker);
        if self.waiting == 0 || (!unneeded && held * 2 <= self.total) {
            return 0;
        }
        let would_have = |(who, standing): &(&Asker, &AskerStanding)| {
            unneeded || (**who != asker && standing.held + 1 < held)
        };
        self.askers.iter().filter(would_have).map(|(_, standing)| standing.wanted).sum()
    }

    fn grant(&mut self) {
        while self.free > 0
            && let Some((claim, ticket)) = self.next()
        {
            // Whoever has left is passed over.
            if self.take(claim, ticket).is_some_and(|granted| granted.send(()).is_ok()) {
                self.free -= 1;
                self.askers.entry(claim.0).or_default().held += 1;
                self.claims.entry(claim).or_default().held += 1;
            }
        }
    }

    fn next(&self) -> Option<(Claim, Ticket)> {
        let first = |(claim, standing): (&Claim, &ClaimStanding)| {
            let (precedence, number) = *standing.waiting.first_key_value()?.0;
            let order = (precedence, self.held(claim.0), standing.held, number);
            self.may_have(claim.0).then_some((order, *claim))
        };
        let ((precedence, _, _, number), claim) = self.claims.iter().filter_map(first).min()?;
        Some((claim, (precedence, number)))
    }

    /// Whether the asker may have one more, so that something is left for whoever comes next.
    fn may_have(&self, asker: Asker) -> bool {
        match self.reserve {
            Reserve::None => true,
            Reserve::AsMuch => self.held(asker) < self.free,
        }
    }

    fn held(&self, asker: Asker) -> usize {
        self.askers.get(&asker).map_or(0, |standing| standing.held)
    }

    /// Of whoever has most waiting, and then of its image with most, the newest goes.
    fn turn_away(&mut self) {
        if self.waiting <= WAITING_MAX {
            return;
        }
        let many = |(claim, standing): &(&Claim, &ClaimStanding)| {
            (self.askers.get(&claim.0).map_or(0, |asker| asker.waiting), standing.waiting.len())
        };
        let newest = self.claims.iter().max_by_key(many).and_then(|(claim, standing)| {
            standing.waiting.last_key_value().map(|(ticket, _)| (*claim, *ticket))
        });
        if let Some((claim, ticket)) = newest {
            self.leave(claim, ticket);
        }
    }

    fn take(&mut self, claim: Claim, ticket: Ticket) -> Option<oneshot::Sender<()>> {
        let taken = self.claims.get_mut(&claim)?.waiting.remove(&ticket)?;
        self.waiting -= 1;
        if let Some(asker) = self.askers.get_mut(&claim.0) {
            asker.waiting -= 1;
            asker.wanted -= usize::from(ticket.0 == Precedence::Wanted);
        }
        self.forget(claim);
        Some(taken)
    }

    /// Takes off the table who neither holds nor waits for anything.
    fn forget(&mut self, claim: Claim) {
        if self.claims.get(&claim).is_some_and(|of| of.held == 0 && of.waiting.is_empty()) {
            self.claims.remove(&claim);
        }
        if self.askers.get(&claim.0).is_some_and(|of| of.held == 0 && of.waiting == 0) {
            self.askers.remove(&claim.0);
        }
    }
}

fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
