//! The addresses of the pod network.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Hands out the lowest free address: one that was given back is the next to be given out, as real networks may do.
#[derive(Clone, Debug)]
pub struct Addresses {
    first: u32,
    last: u32,
    used: Arc<Mutex<HashSet<u32>>>,
}

impl Addresses {
    /// All addresses of a network but its first and its last.
    pub fn new((network, prefix): (Ipv4Addr, u8)) -> Self {
        let mask = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let network = u32::from(network) & !mask;
        Self { first: network.saturating_add(1), last: (network | mask).saturating_sub(1), used: Arc::default() }
    }

    /// The lowest free address, or `None` if all are in use.
    pub fn take(&self) -> Option<Lease> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let address = (self.first..=self.last).find(|address| !used.contains(address))?;
        used.insert(address);
        Some(Lease { address, used: self.used.clone() })
    }

    /// This very address, unless it is in use or outside the network.
    pub fn take_back(&self, address: Ipv4Addr) -> Option<Lease> {
        let address = u32::from(address);
        let inside = (self.first..=self.last).contains(&address);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        (inside && used.insert(address)).then(|| Lease { address, used: self.used.clone() })
    }
}

/// An address in use; dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    address: u32,
    used: Arc<Mutex<HashSet<u32>>>,
}

impl Lease {
    /// The address.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.address)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_address_comes_next() {
        let addresses = Addresses::new((Ipv4Addr::new(10, 244, 7, 7), 29));
        let mut leases: Vec<_> = std::iter::from_fn(|| addresses.take()).collect();
        let ips: Vec<_> = leases.iter().map(Lease::ip).collect();
        assert_eq!(ips, (1..=6).map(|n| Ipv4Addr::new(10, 244, 7, n)).collect::<Vec<_>>());
        leases.remove(2);
        assert!(addresses.take_back(Ipv4Addr::new(10, 244, 7, 1)).is_none());
        assert!(addresses.take_back(Ipv4Addr::new(10, 244, 8, 1)).is_none());
        assert_eq!(addresses.take().unwrap().ip(), Ipv4Addr::new(10, 244, 7, 3));
        assert!(addresses.take_back(Ipv4Addr::new(10, 244, 7, 3)).is_some());
    }
}
