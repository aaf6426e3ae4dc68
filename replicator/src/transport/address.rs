//! An address a person writes: `HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::settings::RESOLVED_MAX;

/// Longest host name DNS can hold, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is a number: it will never mean another machine.
    pub fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// All addresses the host has now.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let mut addresses: Vec<_> = found.take(RESOLVED_MAX).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAnAddress::NoPort)?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(NotAnAddress::BadPort),
            Ok(port) => port,
        };
        if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let number: Ipv6Addr = inner.parse().map_err(|_| NotAnAddress::BadHost)?;
            return Ok(Self { host: number.to_string(), port });
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(plain) {
            return Err(NotAnAddress::BadHost);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }
}

impl TryFrom<String> for Address {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text is no `HOST:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    #[error("an address is HOST:PORT; the port is missing")]
    NoPort,
    #[error("an address is HOST:PORT; the port is a number from 1 to 65535")]
    BadPort,
    #[error("an address is HOST:PORT; the host is a DNS name, an IPv4 number or an [IPv6] number")]
    BadHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, shown) in [
            ("10.0.0.1:7400", "10.0.0.1:7400"),
            ("Web-1.example.org:7400", "web-1.example.org:7400"),
            ("[::1]:7400", "[::1]:7400"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_cannot_be_dialed() {
        for (text, wrong) in [
            ("web-1", NotAnAddress::NoPort),
            ("web-1:", NotAnAddress::BadPort),
            ("web-1:0", NotAnAddress::BadPort),
            ("web-1:70000", NotAnAddress::BadPort),
            (":7400", NotAnAddress::BadHost),
            ("::1:7400", NotAnAddress::BadHost),
            ("a b:7400", NotAnAddress::BadHost),
        ] {
            assert_eq!(text.parse::<Address>(), Err(wrong), "{text}");
        }
    }
}
