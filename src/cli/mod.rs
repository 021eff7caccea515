//! The command line: what people do with `aether`.

pub mod convert;
