//! `/v1/seal`: which upstreams are sealed, and opening one for a while.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::documents::Unanswered;
use crate::pull::PullThrough;
use crate::upstream::SealStatus;

/// The longest time for which an upstream is opened: whoever means for good changes the
/// configuration.
const OPEN_MAX: Duration = Duration::from_hours(24);

/// What a command sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealOrder {
    upstream: String,
    /// Seconds; 0 seals it at once.
    open_for: u64,
}

pub(super) fn listed(pull: &PullThrough) -> Value {
    json!({ "upstreams": pull.seals().iter().map(status).collect::<Vec<_>>() })
}

/// Opens an upstream for a while, or seals it; gives how it stands then.
pub(super) fn change(pull: &PullThrough, order: &SealOrder) -> Result<Value, Unanswered> {
    let SealOrder { upstream, open_for } = order;
    let time = Duration::from_secs(*open_for);
    if time > OPEN_MAX {
        let hours = OPEN_MAX.as_secs() / 3600;
        return Err(Unanswered::bad_request(format!("{hours} h is the longest time")));
    }
    let seals = pull.seals();
    let Some(seal) = seals.iter().find(|seal| seal.upstream.as_str() == upstream) else {
        let names: Vec<_> = seals.iter().map(|seal| seal.upstream.as_str()).collect();
        let there_are = names.join(", ");
        return Err(Unanswered::bad_request(format!(
            "{upstream} is no upstream; there are: {there_are}"
        )));
    };
    pull.open_for(&seal.upstream, (!time.is_zero()).then_some(time));
    let seals = pull.seals();
    let now = seals.iter().find(|seal| seal.upstream.as_str() == upstream);
    match now {
        Some(now) if now.is_configured => Ok(status(now)),
        _ => {
            let sentence =
                format!("{upstream} is not sealed; the configuration says so with sealed: true");
            Err(Unanswered(StatusCode::CONFLICT, sentence))
        }
    }
}

fn status(seal: &SealStatus) -> Value {
    json!({
        "upstream": seal.upstream.as_str(),
        "configured": seal.is_configured,
        "sealed": seal.is_configured && seal.open_for.is_none(),
        "open_for": seal.open_for.map(|left| left.as_secs_f64().ceil()),
    })
}
