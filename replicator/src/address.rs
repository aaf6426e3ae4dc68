//! The address of a member, as a person writes it: `HOST:PORT`.
//!
//! One type for the configuration, for what members tell of each other and for
//! what is dialled. It never looks a name up: that is the transport's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port a node listens on, and the one meant where an address names none.
pub const PORT_DEFAULT: u16 = 7400;

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
    /// A DNS name, which may have several addresses, or an IP address without
    /// brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is a number: it will never mean another machine.
    pub fn is_literal(&self) -> bool {
        self.literal().is_some()
    }

    /// Where it leads, if the host is a number.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: PORT_DEFAULT });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(NotAnAddress::BadPort),
                port => Ok(Self { host: address.ip().to_string(), port }),
            };
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, PORT_DEFAULT),
            Some((host, port)) => match port.parse() {
                Ok(port) if port != 0 => (host, port),
                _ => return Err(NotAnAddress::BadPort),
            },
        };
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(is_name_byte) {
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

/// The text is no `HOST:PORT`; each message goes on after the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    #[error("has a port that is no number from 1 to 65535")]
    BadPort,
    #[error("is no HOST:PORT, like app2.example.org:7400 or [2001:db8::2]:7400")]
    BadHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, shown) in [
            ("app:1", "app:1"),
            ("app", "app:7400"),
            ("Web-1.example.org:7400", "web-1.example.org:7400"),
            ("10.0.0.1", "10.0.0.1:7400"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:7400"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_cannot_be_dialled() {
        for (text, wrong) in [
            ("", NotAnAddress::BadHost),
            (":1", NotAnAddress::BadHost),
            ("a b:1", NotAnAddress::BadHost),
            ("http://a:1", NotAnAddress::BadHost),
            ("web-1:", NotAnAddress::BadPort),
            ("web-1:0", NotAnAddress::BadPort),
            ("web-1:65536", NotAnAddress::BadPort),
            ("10.0.0.1:0", NotAnAddress::BadPort),
        ] {
            assert_eq!(text.parse::<Address>(), Err(wrong), "{text}");
        }
    }
}
