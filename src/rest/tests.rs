//! The API without a cluster.
