//! The proxy as its clients see it: the whole of it in this process, in front of scripted registries.

mod harness;
mod support;
