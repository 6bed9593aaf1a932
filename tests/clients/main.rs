//! The real binary against the real world: clients as people run them, a registry as people run it,
//! and kill -9.
//!
//! A test that lacks a program or root says `skipped: …` and passes; with `CI` set it fails
//! (`support::process::ready`).

#[path = "../docs/blocks.rs"]
mod blocks;
mod bundles;
mod campaigns;
mod concurrent_pushes;
mod container_image;
mod crash;
mod crash_pushes;
mod credential_helpers;
mod customer_proxy;
mod demo;
mod documents;
mod kubelet;
mod licences;
mod lifecycle;
mod outbound;
mod promtool;
mod pulls;
mod pushes;
mod revocation;
mod secrets;
mod signatures;
mod support;
