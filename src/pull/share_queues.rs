//! What waits for a share of one upstream, and whose turn it is among those of one image of an asker
//! (SHARE-1).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::oneshot;

use super::asker::Asker;
use super::interest::Interest;
use crate::oci::UpstreamName;

/// Who may wait for shares of one upstream at once. Beyond, the newest of whoever has most of them
/// waiting is turned away.
pub(super) const WAITING_MAX: usize = 1024;

/// Who comes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Wanted,
    /// Only those wait for it who let all others come first (WARM-2).
    Patient,
    /// Nobody waits for what it is for, or it has given its share back because it was of little use;
    /// waits until nobody else does.
    Yielded,
}

/// Whose a share is, of which upstream, and for which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) upstream: UpstreamName,
    pub(super) asker: Asker,
    pub(super) image: u64,
}

pub(super) type AskersImage = (Asker, u64);

/// Those who came earlier have smaller numbers.
type TicketQueue = BTreeSet<(Precedence, u64)>;

#[derive(Debug, Default)]
pub(super) struct ShareQueues {
    waiting: BTreeMap<u64, WaitingShare>,
    /// What several wait for is in several.
    queues: HashMap<AskersImage, TicketQueue>,
}

#[derive(Debug)]
pub(super) struct WaitingShare {
    pub(super) image: u64,
    pub(super) interest: Interest,
    precedence: Precedence,
    filed: Filed,
    pub(super) granted: oneshot::Sender<Claim>,
}

/// As what something waits, and for whom.
#[derive(Debug, PartialEq, Eq)]
struct Filed {
    precedence: Precedence,
    /// Sorted.
    askers: Vec<Asker>,
}

impl Filed {
    /// What is filed otherwise in `other`, or not at all: thousands may wait for the same, and each
    /// who comes or leaves is filed alone.
    fn without(&self, other: &Self) -> Self {
        let is_other = |asker: &&Asker| {
            self.precedence != other.precedence || other.askers.binary_search(asker).is_err()
        };
        let askers = self.askers.iter().filter(is_other).copied().collect();
        Self { precedence: self.precedence, askers }
    }
}

impl WaitingShare {
    pub(super) fn new(
        image: u64,
        interest: Interest,
        precedence: Precedence,
        granted: oneshot::Sender<Claim>,
    ) -> Self {
        let filed = Filed { precedence, askers: Vec::new() };
        Self { image, interest, precedence, filed, granted }
    }

    pub(super) fn precedence(&self) -> Precedence {
        if self.interest.is_unwanted() {
            Precedence::Yielded
        } else if self.interest.is_patient() {
            self.precedence.max(Precedence::Patient)
        } else {
            self.precedence
        }
    }
}

impl ShareQueues {
    /// It is in no queue before it is filed.
    pub(super) fn enter(&mut self, number: u64, waiting: WaitingShare) {
        self.waiting.insert(number, waiting);
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &WaitingShare> {
        self.waiting.values()
    }

    /// Whose it is, as it is filed.
    pub(super) fn of(&self, number: u64) -> impl Iterator<Item = AskersImage> {
        let waiting = self.waiting.get(&number).into_iter();
        waiting.flat_map(|waiting| {
            waiting.filed.askers.iter().map(move |asker| (*asker, waiting.image))
        })
    }

    pub(super) fn first_of_each(&self) -> impl Iterator<Item = (AskersImage, (Precedence, u64))> {
        self.queues.iter().filter_map(|(whose, queue)| Some((*whose, *queue.first()?)))
    }

    /// Files what waits under those who wait for it now; whether that has changed.
    pub(super) fn file(&mut self, number: u64) -> bool {
        let Some(waiting) = self.waiting.get_mut(&number) else { return false };
        let now = Filed { precedence: waiting.precedence(), askers: waiting.interest.askers() };
        if now == waiting.filed {
            return false;
        }
        let (image, precedence) = (waiting.image, now.precedence);
        let (gone, come) = (waiting.filed.without(&now), now.without(&waiting.filed));
        waiting.filed = now;
        self.unfile(number, image, &gone);
        for asker in come.askers {
            self.queues.entry((asker, image)).or_default().insert((precedence, number));
        }
        true
    }

    pub(super) fn take(&mut self, number: u64) -> Option<WaitingShare> {
        let taken = self.waiting.remove(&number)?;
        self.unfile(number, taken.image, &taken.filed);
        Some(taken)
    }

    fn unfile(&mut self, number: u64, image: u64, filed: &Filed) {
        for asker in &filed.askers {
            if let Entry::Occupied(mut queue) = self.queues.entry((*asker, image)) {
                queue.get_mut().remove(&(filed.precedence, number));
                if queue.get().is_empty() {
                    queue.remove();
                }
            }
        }
    }

    /// Of whoever has most waiting, and then of its image with most, the newest goes that nobody
    /// else waits for.
    pub(super) fn turn_away(&mut self) {
        if self.waiting.len() <= WAITING_MAX {
            return;
        }
        let mut by_asker = HashMap::new();
        for ((asker, _), queue) in &self.queues {
            *by_asker.entry(*asker).or_insert(0) += queue.len();
        }
        let is_alone = |number: &u64| self.of(*number).count() == 1;
        let newest = |((asker, _), queue): (&AskersImage, &TicketQueue)| {
            let newest = queue.iter().rev().map(|(_, number)| *number).find(is_alone)?;
            Some((by_asker.get(asker).copied(), queue.len(), newest))
        };
        let newest = self.queues.iter().filter_map(newest).max().map(|(.., number)| number);
        let goes = newest.or(self.waiting.last_key_value().map(|(number, _)| *number));
        goes.map(|number| self.take(number));
    }
}
