//! Listening addresses as text: in the configuration and behind `--listen`.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::server::settings::{Address, SocketFile};

/// Reads `127.0.0.1:8080`, `[::1]:0`, `localhost:8080`, `:8080` (all IPv4 addresses), `unix:/path` or `unix:@name`.
pub fn parse_address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(format!("{text:?} lacks the path: unix:/run/perilune.sock"));
        }
        return match path.strip_prefix('@') {
            Some("") => Err(format!("{text:?} lacks the name: unix:@perilune")),
            Some(name) => Ok(Address::Abstract(name.to_owned())),
            None => Ok(Address::Unix {
                path: PathBuf::from(path),
                file: SocketFile::default(),
            }),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!(
            "{text:?} is not an address like 127.0.0.1:8080, [::1]:8080, :8080 or unix:/path"
        ));
    };
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err()
    {
        return Err(format!("{text:?} has no valid port (0 to 65535)"));
    }
    match host {
        "" => Ok(Address::Tcp(format!("0.0.0.0:{port}"))),
        _ if is_host(host) => Ok(Address::Tcp(text.into())),
        _ if host.parse::<Ipv6Addr>().is_ok() => Err(format!(
            "write the IPv6 address in brackets: [{host}]:{port}"
        )),
        _ => Err(format!("{host:?} is not a host name or address")),
    }
}

fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, tcp) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:0", "[::1]:0"),
            (":8080", "0.0.0.0:8080"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(parse_address(text), Ok(Address::Tcp(tcp.into())), "{text}");
        }
        let unix = Address::Unix {
            path: "/run/p.sock".into(),
            file: SocketFile::default(),
        };
        assert_eq!(parse_address("unix:/run/p.sock"), Ok(unix));
        let nameless = Address::Abstract("p".into());
        assert_eq!(parse_address("unix:@p"), Ok(nameless));
        for bad in [
            "",
            "8080",
            "localhost",
            "h:",
            "h:x",
            "h:+1",
            "h:65536",
            "::1:80",
            "a b:1",
            "[zz]:1",
            "unix:",
            "unix:@",
            "http://h:1",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
