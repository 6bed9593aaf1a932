//! The real binary against the real world: clients as people run them, a registry as people run it,
//! and kill -9.
//!
//! A test that lacks a program or root says `skipped: …` and passes; with `CI` set it fails
//! (`process::ready`).

mod container;
mod crash;
mod crash_pushes;
mod crowd;
mod customer;
mod demo;
mod helpers;
mod image;
mod kubelet;
mod licences;
mod lifecycle;
mod line;
mod process;
mod proxy;
mod pulls;
mod pushes;
mod registry;
mod revocation;
mod secrets;
mod signatures;
mod site;
mod token;
mod tools;
mod vendor;

mod web;
mod writer;
