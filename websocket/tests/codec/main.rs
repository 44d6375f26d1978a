//! The codec as its users see it.

mod interop;
mod properties;
mod rules;
mod support;
