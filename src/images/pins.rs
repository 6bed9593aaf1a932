//! Pins: images that stay in the cache whatever needs room.
//!
//! They come from the configuration and from commands, whose pins the records keep. What they are
//! for is looked at again whenever the records say something new of a repository, so a pin holds
//! once its image comes, its tag moves, or more of it is pulled. At a start it is looked at before
//! the index is loaded, and until then nothing is evicted. Everything here blocks but
//! [`Pins::follow`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::held::{self, HeldImage};
use super::holdings::{Holdings, Moves, allowed};
use super::pin_set::{PinSet, PinSetter, SetPin};
use crate::config;
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Digest, Tag};
use crate::store::{BlobStore, Changed, Error, Survey};
use crate::wanted::{PinLine, PinTarget};

/// A handle; clones share the pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins(Arc<PinsInner>);

#[derive(Debug)]
struct PinsInner {
    store: BlobStore,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    configured: Vec<PinLine>,
    /// None while the records cannot tell.
    commanded: Option<Vec<PinLine>>,
    set: PinSet,
    /// Bytes that pins may keep.
    allowed: u64,
    holdings: Holdings,
}

/// Why a pin is not set or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    #[error("the records cannot be read just now, so nobody knows what is pinned; try again")]
    Unknown,
    #[error(
        "{image} does not fit: it takes {needs} bytes that are not pinned yet; pins may take \
         {allowed} bytes, nine tenths of `cache.max_size`, and {taken} are taken"
    )]
    NoRoom { image: String, needs: u64, taken: u64, allowed: u64 },
    #[error("{0}")]
    NotPinned(String),
    #[error(transparent)]
    Store(#[from] Error),
}

/// What a pin does just now.
#[derive(Debug)]
pub(crate) struct PinState {
    pub(crate) pin: SetPin,
    pub(crate) images: usize,
    /// Of everything that these take, here or not.
    pub(crate) bytes: u64,
    /// Images of it that find no room.
    pub(crate) unheld: Vec<String>,
}

/// All pins, and what they take.
#[derive(Debug)]
pub(crate) struct PinStates {
    pub(crate) pins: Vec<PinState>,
    pub(crate) bytes: u64,
    pub(crate) allowed: u64,
}

impl Pins {
    pub(crate) fn new(store: BlobStore, cache: &config::Cache, metrics: Arc<Metrics>) -> Self {
        let state = State {
            configured: cache.pins.0.clone(),
            commanded: None,
            set: PinSet::of(&cache.pins.0, &[]),
            allowed: allowed(cache.max_size),
            holdings: Holdings::default(),
        };
        Self(Arc::new(PinsInner { store, metrics, state: Mutex::new(state) }))
    }

    /// Has everything that is pinned stay; before the index is loaded.
    pub(crate) fn load(&self) {
        self.refresh(None);
    }

    /// Follows what becomes of the images, and of the configuration; never returns.
    pub(crate) async fn follow(self, mut caches: watch::Receiver<config::Cache>) {
        loop {
            let changed = tokio::select! {
                changed = self.0.store.records().changed() => changed,
                Ok(()) = caches.changed() => Changed { anything: true, ..Changed::default() },
            };
            let (pins, cache) = (self.clone(), caches.borrow_and_update().clone());
            let refreshed = spawn_blocking(move || {
                pins.configure(&cache);
                pins.refresh((!changed.anything).then_some(changed.names));
            });
            if refreshed.await.is_err() {
                return;
            }
        }
    }

    fn configure(&self, cache: &config::Cache) {
        let mut state = self.state();
        state.allowed = allowed(cache.max_size);
        if state.configured != cache.pins.0 {
            state.configured.clone_from(&cache.pins.0);
            state.set = state.all_pins();
        }
    }

    /// Pins images; what the lines say of an image that is pinned already counts in place of what
    /// was said. An import pins by tag what it brings by tag, so that what a later one brings in its
    /// place lets it go.
    ///
    /// # Errors
    /// [`PinError::NoRoom`] if one does not fit; nothing is changed then.
    pub(crate) fn pin(&self, lines: &[PinLine]) -> Result<(), PinError> {
        let mut state = self.state();
        state.read_commanded(&self.0.store);
        let mut commanded = state.commanded.clone().ok_or(PinError::Unknown)?;
        for line in lines {
            match commanded.iter_mut().find(|known| known.target == line.target) {
                Some(known) => *known = line.clone(),
                None => commanded.push(line.clone()),
            }
        }
        let set = PinSet::of(&state.configured, &commanded);
        let (holdings, moves) = self.plan(&state, &set, lines)?;
        let is_meant = |image: &HeldImage| lines.iter().any(|line| line.target == image.pin.target);
        if let Some((name, none)) = holdings.unheld().find(|(_, none)| is_meant(&none.image)) {
            return Err(PinError::NoRoom {
                image: text(name, &none.image),
                needs: none.needs,
                taken: holdings.bytes(),
                allowed: state.allowed,
            });
        }
        let rows: Vec<_> =
            lines.iter().map(|line| (line.target.to_string(), line.to_string())).collect();
        self.0.store.records().put_pins(&rows)?;
        state.commanded = Some(commanded);
        (state.set, state.holdings) = (set, holdings);
        for moves in &moves {
            self.apply(moves);
        }
        self.report(&state);
        Ok(())
    }

    /// What these pins would keep, and what the store would have to do for it.
    fn plan(
        &self,
        state: &State,
        set: &PinSet,
        lines: &[PinLine],
    ) -> Result<(Holdings, Vec<Moves>), Error> {
        let survey = self.0.store.survey();
        let (mut holdings, mut moves) = (state.holdings.clone(), Vec::new());
        let is_meant = |name: &CanonicalName| lines.iter().any(|line| line.target.is_in(name));
        for name in names(set, &holdings, &survey)?.into_iter().filter(is_meant) {
            let pins = set.in_repository(&name);
            let images = held::look(&survey, &name, &pins, holdings.kept_of(&name))?;
            moves.push(holdings.put(&name, images, state.allowed));
        }
        Ok((holdings, moves))
    }

    /// Takes pins away that commands have set: the one for this image or pattern, and by a pattern
    /// those of all images of these names. What is let go may be evicted from then on.
    ///
    /// # Errors
    /// [`PinError::NotPinned`] if there is none.
    pub(crate) fn unpin(&self, target: &PinTarget) -> Result<Vec<String>, PinError> {
        let mut state = self.state();
        state.read_commanded(&self.0.store);
        let commanded = state.commanded.clone().ok_or(PinError::Unknown)?;
        let is_meant = |pin: &PinTarget| match (target, pin) {
            (PinTarget::Repositories(names), PinTarget::Image(image)) => {
                names.matches(&image.name().to_string())
            }
            (PinTarget::Repositories(names), PinTarget::Repositories(pinned)) => {
                names.covers(pinned)
            }
            (PinTarget::Image(_), pin) => pin == target,
        };
        let (gone, left): (Vec<_>, Vec<_>) =
            commanded.into_iter().partition(|pin| is_meant(&pin.target));
        if gone.is_empty() {
            return Err(PinError::NotPinned(state.why_not_unpinned(target)));
        }
        let targets: Vec<String> = gone.iter().map(|pin| pin.target.to_string()).collect();
        self.0.store.records().drop_pins(&targets)?;
        state.commanded = Some(left);
        state.set = state.all_pins();
        drop(state);
        self.refresh(None);
        Ok(targets)
    }

    /// The pin that this image is kept by, or would be if there were room.
    pub(crate) fn pin_of(
        &self,
        name: &CanonicalName,
        tag: Option<&Tag>,
        digest: &Digest,
    ) -> Option<String> {
        let state = self.state();
        state.set.find(name, tag, digest).map(|pin| pin.line.to_string())
    }

    /// Whether this is kept for the repository.
    pub(crate) fn keep(&self, name: &CanonicalName, digest: &Digest) -> bool {
        self.state().holdings.holds(name, digest)
    }

    /// Repositories for which this is kept.
    pub(crate) fn repositories_of(&self, digest: &Digest) -> Vec<CanonicalName> {
        let state = self.state();
        let kept = state.holdings.kept().filter(|(_, image)| image.parts.contains_key(digest));
        let names: HashSet<_> = kept.map(|(name, _)| name.clone()).collect();
        names.into_iter().collect()
    }

    pub(crate) fn states(&self) -> PinStates {
        let state = self.state();
        let of = |pin: &SetPin| {
            let is_of = |image: &HeldImage| image.pin == pin.line;
            let kept: Vec<_> = state.holdings.kept().filter(|(_, image)| is_of(image)).collect();
            let parts: std::collections::BTreeMap<_, _> =
                kept.iter().flat_map(|(_, image)| &*image.parts).collect();
            let unheld = state.holdings.unheld().filter(|(_, none)| is_of(&none.image));
            PinState {
                pin: pin.clone(),
                images: kept.len(),
                bytes: parts.values().copied().sum(),
                unheld: unheld.map(|(name, none)| text(name, &none.image)).collect(),
            }
        };
        let pins = state.set.list().iter().map(of).collect();
        PinStates { pins, bytes: state.holdings.bytes(), allowed: state.allowed }
    }

    /// Looks again at what is pinned of these repositories, or of all.
    fn refresh(&self, only: Option<HashSet<CanonicalName>>) {
        let mut state = self.state();
        state.read_commanded(&self.0.store);
        let survey = self.0.store.survey();
        let all = || names(&state.set, &state.holdings, &survey);
        let names = match only.map_or_else(all, Ok) {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(%error, "what is pinned cannot be looked at; what was kept stays");
                return;
            }
        };
        let had_room = state.holdings.bytes();
        for name in &names {
            self.refresh_one(&mut state, &survey, name);
        }
        if state.holdings.bytes() < had_room {
            // There may be room for what found none.
            let waiting: HashSet<_> =
                state.holdings.unheld().map(|(name, _)| name.clone()).collect();
            for name in &waiting {
                self.refresh_one(&mut state, &survey, name);
            }
        }
        self.report(&state);
    }

    fn refresh_one(&self, state: &mut State, survey: &Survey, name: &CanonicalName) {
        let pins = state.set.in_repository(name);
        let before = state.holdings.kept_of(name);
        if pins.is_empty() && before.is_empty() {
            return;
        }
        let images = match held::look(survey, name, &pins, before) {
            Ok(images) => images,
            Err(error) => {
                tracing::warn!(%error, image = %name, "what is pinned cannot be looked at");
                return;
            }
        };
        let was: HashSet<_> =
            state.holdings.unheld_of(name).map(|none| none.image.digest.clone()).collect();
        let moves = state.holdings.put(name, images, state.allowed);
        for none in state.holdings.unheld_of(name) {
            if !was.contains(&none.image.digest) {
                tracing::error!(
                    image = text(name, &none.image), pin = %none.image.pin,
                    needs = none.needs, taken = state.holdings.bytes(), allowed = state.allowed,
                    "a pinned image does not fit, so it may be evicted: pins may take nine tenths \
                     of cache.max_size"
                );
            }
        }
        self.apply(&moves);
    }

    fn apply(&self, moves: &Moves) {
        self.0.store.retain(&moves.retain);
        if !moves.let_go.is_empty() {
            self.0.store.let_go(&moves.let_go);
        }
    }

    fn report(&self, state: &State) {
        let unheld = i64::try_from(state.holdings.unheld().count()).unwrap_or(i64::MAX);
        self.0.metrics.store.unheld_pins.set(unheld);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking holder leaves it whole: what is not yet kept is looked at again.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads what commands have pinned, unless that is known. A line that a later version has
    /// written may not be understood; it is left where it is.
    fn read_commanded(&mut self, store: &BlobStore) {
        if self.commanded.is_some() {
            return;
        }
        match store.records().pins() {
            Ok(lines) => {
                let read = lines.iter().filter_map(|line| PinLine::parse(line).ok());
                self.commanded = Some(read.collect());
                self.set = self.all_pins();
            }
            Err(error) => tracing::warn!(%error, "the pins cannot be read"),
        }
    }

    fn all_pins(&self) -> PinSet {
        PinSet::of(&self.configured, self.commanded.as_deref().unwrap_or_default())
    }

    fn why_not_unpinned(&self, target: &PinTarget) -> String {
        let by = self.set.list().iter().find(|pin| match target {
            PinTarget::Image(image) => pin.line.target.is_in(image.name()),
            PinTarget::Repositories(_) => pin.line.target == *target,
        });
        match by.map(|pin| (&pin.line.target, pin.by)) {
            None => format!("nothing is pinned as {target}"),
            Some((by, PinSetter::Configuration)) => {
                format!("{target} is not pinned by a command; {by} stands in `cache.pins`")
            }
            Some((by, PinSetter::Command)) => format!("nothing is pinned as {target}; {by} is"),
        }
    }
}

/// Repositories for which there are pins, and those of which something is kept.
fn names(
    set: &PinSet,
    holdings: &Holdings,
    survey: &Survey,
) -> Result<HashSet<CanonicalName>, Error> {
    let mut names = holdings.names();
    names.extend(set.names().cloned());
    if set.has_patterns() {
        let tagged: HashSet<_> = survey.tags()?.into_iter().map(|(name, _, _)| name).collect();
        names.extend(tagged.into_iter().filter(|name| !set.in_repository(name).is_empty()));
    }
    Ok(names)
}

fn text(name: &CanonicalName, image: &HeldImage) -> String {
    match &image.tag {
        Some(tag) => format!("{name}:{tag}"),
        None => format!("{name}@{}", image.digest),
    }
}
