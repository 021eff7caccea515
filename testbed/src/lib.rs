//! A real Kubernetes control plane, gateway, pods and load on one machine, without containers and without root.
//!
//! ```no_run
//! # async fn tests(_: &testbed::bed::Bed) {}
//! fn main() -> anyhow::Result<()> {
//!     testbed::binaries::Binaries::ensure()?; // while there is still a network
//!     let namespace = testbed::namespace::enter("e2e")?; // the outer process stays in there
//!     let runtime = tokio::runtime::Runtime::new()?;
//!     runtime.block_on(async {
//!         let bed = testbed::bed::Bed::boot(&namespace, Default::default()).await?;
//!         tests(&bed).await;
//!         bed.shutdown().await
//!     })
//! }
//! ```
//!
//! Nothing of the product is used here: the bed must not share its errors.

/// As `println!`, but content when nobody reads.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

pub mod audit;
pub mod bed;
pub mod bench;
pub mod binaries;
pub mod debian;
pub mod demo;
pub mod demo_pool;
pub mod fake_cloud;
pub mod fake_gateway;
pub mod gateway;
pub mod gitops;
pub mod image;
pub mod kubelet;
pub mod load;
pub mod metrics_api;
pub mod namespace;
pub mod nftables;
pub mod operator;
pub mod packaging;
pub mod peers;
pub mod pki;
pub mod pool_bed;
pub mod process;
pub mod prometheus;
mod received;
pub mod requests;
pub mod rig;
pub mod shell;
pub mod strangers;
pub mod tinyproxy;
pub mod tls;
pub mod trials;
pub mod watching;
