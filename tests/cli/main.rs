//! The binary as an operator meets it: exit codes, what it prints, how it stops.

mod check;
mod credential_helper;
mod credential_provider;
mod descriptors;
mod floods;
mod fsck;
mod licences;
mod list;
mod memory;
mod misses;
mod serve;
mod support;
mod volumes;
