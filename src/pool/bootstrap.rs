//! What a proxy's VM boots with: a script that installs tinyproxy, says what it may do, and closes everything else.
//!
//! Nothing is escaped: what goes into the script are numbers, networks and words of an alphabet that means nothing to
//! a shell, to nftables or to tinyproxy. Everything else is refused when the [`Proxy`] is made.
//!
//! The order of the script is a rule of its own: the firewall stands before tinyproxy runs for the first time, and it
//! keeps tinyproxy from every address that is not on the internet, above all from the cloud's metadata server, which
//! gives this very script to whoever asks.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use secrecy::{ExposeSecret as _, SecretString};

/// What tinyproxy calls its own page. Nobody outside the proxy is asked for it.
pub const STAT_HOST: &str = "tinyproxy.stats";
/// Longest word of a login. tinyproxy reads lines of at most 2048 bytes.
const LONGEST_WORD: usize = 128;
/// A shorter password is guessed in no time, and could not be kept out of messages.
const SHORTEST_PASSWORD: usize = 8;

/// Why a proxy cannot be like that. Never repeats what was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Anybody could use it.
    #[error("neither a login nor allowed networks: this would be an open proxy")]
    Open,
    /// tinyproxy knows only letters, digits and `-._` in a login.
    #[error("the {0} must have 1 to {LONGEST_WORD} letters, digits, dots, dashes or underscores")]
    Word(&'static str),
    /// Too easy.
    #[error("the password must have at least {SHORTEST_PASSWORD} characters")]
    ShortPassword,
    /// No network in the form 192.0.2.0/24 or 2001:db8::/32, or a single address.
    #[error("an allowed network is not of the form 192.0.2.0/24 or 2001:db8::/32")]
    Network,
    /// Port 0, or DNS, which the firewall lets through.
    #[error("{0} is no port for that")]
    Port(u16),
}

/// Who may use a proxy by name.
#[derive(Clone)]
pub struct Login {
    user: String,
    password: SecretString,
}

impl Login {
    /// Both of letters, digits and `-._`: tinyproxy knows nothing else.
    pub fn new(user: &str, password: &str) -> Result<Self, Refused> {
        let word = |text: &str| {
            (1..=LONGEST_WORD).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if !word(user) {
            return Err(Refused::Word("user"));
        }
        if password.len() < SHORTEST_PASSWORD {
            return Err(Refused::ShortPassword);
        }
        if !word(password) {
            return Err(Refused::Word("password"));
        }
        Ok(Self { user: user.into(), password: password.into() })
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        self.password.expose_secret()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Addresses that start with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// From `192.0.2.0/24`, `2001:db8::/32` or a single address.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| Refused::Network)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let digits = |bits: &&str| bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) => Some(bits).filter(digits).and_then(|bits| bits.parse().ok()).filter(|n| *n <= most).ok_or(Refused::Network)?,
        };
        // Bits after the prefix mean nothing; every reader drops them in its own way.
        let address = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(u32::from(128 - bits)).unwrap_or(0)).into(),
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// What a proxy does and for whom.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    login: Option<Login>,
    allow: Vec<Network>,
    connect_ports: Vec<u16>,
}

impl Proxy {
    /// `allow`: who may connect, nobody named: everybody. `connect_ports`: where tunnels may lead, none named: nowhere.
    pub fn new(port: u16, login: Option<Login>, allow: Vec<Network>, connect_ports: Vec<u16>) -> Result<Self, Refused> {
        let everybody = allow.is_empty() || allow.iter().any(|network| network.bits == 0);
        if login.is_none() && everybody {
            return Err(Refused::Open);
        }
        // 53: the firewall lets the proxy ask the machine's resolver.
        if let Some(wrong) = connect_ports.iter().find(|port| matches!(port, 0 | 53)) {
            return Err(Refused::Port(*wrong));
        }
        if port == 0 {
            return Err(Refused::Port(port));
        }
        Ok(Self { port, login, allow, connect_ports })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who may use it by name.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }
}

/// Where a tinyproxy runs: on a VM of its own, or beside others on a machine of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seat {
    /// Started as root, goes on as the user `tinyproxy`, listens on all addresses.
    #[default]
    Own,
    /// Stays whoever started it and listens on one address.
    At(IpAddr),
}

/// tinyproxy's configuration.
pub fn tinyproxy_conf(proxy: &Proxy, seat: Seat) -> String {
    let mut conf = String::new();
    let mut line = |args: fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(conf, "{args}");
    };
    match seat {
        Seat::Own => {
            line(format_args!("User tinyproxy"));
            line(format_args!("Group tinyproxy"));
        }
        Seat::At(address) => line(format_args!("Listen {address}")),
    }
    line(format_args!("Port {}", proxy.port));
    line(format_args!("Timeout 600"));
    line(format_args!("MaxClients 500"));
    // Whom the proxy's users talk to is nobody's business.
    line(format_args!("LogLevel Warning"));
    line(format_args!("DisableViaHeader Yes"));
    line(format_args!("StatHost \"{STAT_HOST}\""));
    for network in &proxy.allow {
        line(format_args!("Allow {network}"));
    }
    if let Some(login) = &proxy.login {
        line(format_args!("BasicAuth {} {}", login.user, login.password()));
    }
    if proxy.connect_ports.is_empty() {
        // Without the line tinyproxy opens tunnels to every port; with this one to none.
        line(format_args!("ConnectPort 0"));
    }
    for port in &proxy.connect_ports {
        line(format_args!("ConnectPort {port}"));
    }
    conf
}

/// The firewall, as nftables reads it.
pub fn nftables_conf(proxy: &Proxy) -> String {
    let mut doors = String::new();
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let of_family = |network: &&Network| network.address.is_ipv4() == v4;
        let networks: Vec<_> = proxy.allow.iter().filter(of_family).map(ToString::to_string).collect();
        for network in networks {
            let _ = write!(doors, "\n    {family} saddr {network} tcp dport {} accept", proxy.port);
        }
    }
    if proxy.allow.is_empty() {
        let _ = write!(doors, "\n    tcp dport {} accept", proxy.port);
    }
    format!(
        r#"flush ruleset
table inet aether {{
  chain input {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    udp sport 67 udp dport 68 accept
    udp sport 547 udp dport 546 accept{doors}
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    meta skuid != "tinyproxy" accept
    ct state established,related accept
    udp dport 53 accept
    ip daddr 127.0.0.53 tcp dport 53 accept
    ip daddr {{ 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3 }} reject
    ip6 daddr {{ ::/96, ::ffff:0:0/96, 64:ff9b::/96, fc00::/7, fe80::/10, ff00::/8 }} reject
  }}
}}
"#
    )
}

/// The script, for Debian and Ubuntu. It may run at every boot.
pub fn user_data(proxy: &Proxy) -> String {
    let (nftables, tinyproxy) = (nftables_conf(proxy), tinyproxy_conf(proxy, Seat::Own));
    format!(
        r"#!/bin/sh
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive

install_package() {{
  tries=0
  until apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install -y --no-install-recommends $1; do
    tries=$((tries + 1))
    test $tries -lt 10
    sleep 5
    apt-get -o DPkg::Lock::Timeout=300 update || true
  done
}}

getent passwd tinyproxy >/dev/null || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin tinyproxy
command -v nft >/dev/null || install_package nftables
! command -v ufw >/dev/null || ufw --force disable
cat >/etc/nftables.conf <<'AETHER_END'
{nftables}AETHER_END
systemctl enable nftables
systemctl restart nftables

install -d -m 0755 /etc/tinyproxy
touch /etc/tinyproxy/tinyproxy.conf
chown root:tinyproxy /etc/tinyproxy/tinyproxy.conf
chmod 0640 /etc/tinyproxy/tinyproxy.conf
cat >/etc/tinyproxy/tinyproxy.conf <<'AETHER_END'
{tinyproxy}AETHER_END
install_package tinyproxy
systemctl enable tinyproxy
systemctl restart tinyproxy
"
    )
}

/// The script of a proxy that is a pod, whose image has tinyproxy. What a pod may reach is for a NetworkPolicy to say.
pub fn pod_script(proxy: &Proxy) -> String {
    let tinyproxy = tinyproxy_conf(proxy, Seat::At(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    format!(
        r"set -eu
umask 077
cat >/tmp/tinyproxy.conf <<'AETHER_END'
{tinyproxy}AETHER_END
exec tinyproxy -d -c /tmp/tinyproxy.conf
"
    )
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
