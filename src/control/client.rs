//! The other end: a command asks the server that runs, or opens the directory itself.

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::exchange::OnLine;
use super::session::{Absent, Session, sent};
use crate::config::Config;

/// What is posted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) absent: Absent,
}

/// Asks for `path` and its query, and waits for the answer.
///
/// # Errors
/// [`ControlError`](super::exchange::ControlError), in words for people.
pub(crate) fn ask_and_wait(config: &Config, path: &str) -> anyhow::Result<Value> {
    let asked = Request::get(path).body(Full::default()).context("this cannot be asked for")?;
    run(config, asked, Absent::Told, &mut |_| Ok(()))
}

/// Posts `order` to `path`, and waits for the answer.
///
/// # Errors
/// [`ControlError`](super::exchange::ControlError), in words for people.
pub(crate) fn post_and_wait(config: &Config, path: &str, order: &Value) -> anyhow::Result<Value> {
    let posted = Request::post(path).body(Full::from(order.to_string()));
    run(config, posted.context("this cannot be asked for")?, Absent::Told, &mut |_| Ok(()))
}

/// Posts an order, hands the lines of the answer on as they come, and gives the result. Whoever
/// interrupts it has it cancelled.
///
/// # Errors
/// [`ControlError`](super::exchange::ControlError), in words for people.
pub(crate) fn follow_and_wait(
    config: &Config,
    order: &Order,
    on_line: OnLine<'_>,
) -> anyhow::Result<Value> {
    let posted = Request::post(order.path).body(Full::from(order.body.to_string()));
    run(config, posted.context("this cannot be ordered")?, order.absent, on_line)
}

fn run(
    config: &Config,
    request: Request<Full<Bytes>>,
    absent: Absent,
    on_line: OnLine<'_>,
) -> anyhow::Result<Value> {
    let session = Session::begin(config, absent)?;
    let answered = session.ask(request.map(sent), on_line);
    session.end();
    Ok(answered?)
}
