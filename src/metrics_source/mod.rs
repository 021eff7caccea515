//! Where health is read: from pods' own metrics or a Prometheus, to counted requests per version.
//!
//! ```text
//! targets ---> scrape ---> exposition ---> recognise --+
//!                |                                     +--> Snapshot ---> window ---> measure ---> Evidence
//!                +--------> prometheus ----------------+
//! ```
//! Only `scrape` and `measurer` do IO. What cannot be read is a [`snapshot::Problem`], never a number.
//! What no user asked for is left out on the way ([`uncounted`]).

pub mod exposition;
pub mod measure;
pub mod measurer;
pub mod prometheus;
pub mod promql;
pub mod recognise;
pub mod scrape;
pub mod snapshot;
pub mod targets;
pub mod uncounted;
pub mod window;
