//! `GET /v1/pins`, `POST /v1/pin` and `POST /v1/unpin`.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::documents::Unanswered;
use crate::images::{PinError, PinSetter, PinState, PinStates, Pins};
use crate::wanted::PinLine;

/// What the request says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinRequest {
    images: Vec<String>,
}

pub(super) async fn states(pins: &Pins) -> Result<Value, Unanswered> {
    let pins = pins.clone();
    work(move || Ok(as_json(&pins.states()))).await
}

pub(super) async fn pin(pins: &Pins, request: PinRequest) -> Result<Value, Unanswered> {
    let (pins, lines) = (pins.clone(), lines(&request)?);
    let pinned: Vec<_> = lines.iter().map(PinLine::to_string).collect();
    work(move || {
        pins.pin(&lines)?;
        let mut states = pins.states();
        states.pins.retain(|state| pinned.contains(&state.pin.line.to_string()));
        Ok(as_json(&states))
    })
    .await
}

pub(super) async fn unpin(pins: &Pins, request: PinRequest) -> Result<Value, Unanswered> {
    let (pins, lines) = (pins.clone(), lines(&request)?);
    work(move || {
        let mut unpinned = Vec::new();
        for line in lines {
            unpinned.extend(pins.unpin(&line.target)?);
        }
        let PinStates { bytes, allowed, .. } = pins.states();
        Ok(json!({ "unpinned": unpinned, "bytes": bytes, "allowed": allowed }))
    })
    .await
}

/// All of them, or what is wrong with each.
fn lines(request: &PinRequest) -> Result<Vec<PinLine>, Unanswered> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for line in &request.images {
        match PinLine::parse(line) {
            Ok(line) => lines.push(line),
            Err(error) => wrong.push(error),
        }
    }
    if lines.is_empty() && wrong.is_empty() {
        wrong.push("say which images".to_owned());
    }
    if wrong.is_empty() { Ok(lines) } else { Err(Unanswered::bad_request(wrong.join("; "))) }
}

async fn work(
    job: impl FnOnce() -> Result<Value, PinError> + Send + 'static,
) -> Result<Value, Unanswered> {
    let done = spawn_blocking(job).await.map_err(|error| Unanswered::failed(&error))?;
    done.map_err(|error| match error {
        PinError::NoRoom { .. } | PinError::NotPinned(_) => {
            Unanswered(StatusCode::CONFLICT, error.to_string())
        }
        PinError::Unknown => Unanswered(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        PinError::Store(_) => Unanswered::failed(&error),
    })
}

fn as_json(states: &PinStates) -> Value {
    json!({
        "pins": states.pins.iter().map(state).collect::<Vec<_>>(),
        "bytes": states.bytes,
        "allowed": states.allowed,
    })
}

fn state(state: &PinState) -> Value {
    let by = match state.pin.by {
        PinSetter::Configuration => "configuration",
        PinSetter::Command => "command",
    };
    json!({
        "pin": state.pin.line.to_string(),
        "by": by,
        "images": state.images,
        "bytes": state.bytes,
        "unheld": state.unheld,
    })
}
