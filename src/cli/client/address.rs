//! Where a router is, as an URL says it.

use std::path::PathBuf;
use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::Uri;

/// The path of the WebSocket where an URL has no place for one.
const PATH: &str = "/ws";

/// A router's address: a socket to connect to and what to speak over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) socket: Socket,
    pub(super) speak: Speak,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    Tcp {
        host: String,
        port: u16,
        tls: bool,
    },
    Unix(PathBuf),
    /// A unix socket without a file.
    Abstract(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Speak {
    /// The URL that the opening handshake names.
    WebSocket {
        url: String,
    },
    RawSocket,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("ws+unix:") {
            // As in other clients, the WebSocket's path may follow the socket's behind a colon.
            let (socket, path) = match rest.rsplit_once(":/") {
                Some((socket, path)) => (socket, format!("/{path}")),
                None => (rest, PATH.to_owned()),
            };
            return Ok(Self {
                socket: unix(socket)?,
                speak: Speak::WebSocket {
                    url: format!("ws://localhost{path}"),
                },
            });
        }
        if let Some(path) = text
            .strip_prefix("unix:")
            .or_else(|| text.strip_prefix("rs+unix:"))
        {
            return Ok(Self {
                socket: unix(path)?,
                speak: Speak::RawSocket,
            });
        }
        tcp(text)
    }
}

/// `unix:/path` and `unix:///path` are the same; `unix:path` is relative, `unix:@name` no file.
fn unix(path: &str) -> Result<Socket, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if let Some(name) = path.strip_prefix('@').filter(|name| !name.is_empty()) {
        return Ok(Socket::Abstract(name.to_owned()));
    }
    match path {
        "" | "@" => Err("expected unix:/path/of/the/socket".into()),
        path => Ok(Socket::Unix(path.into())),
    }
}

fn tcp(text: &str) -> Result<Address, String> {
    let form = || {
        format!(
            "expected ws://, wss://, tcp:// or rs:// (RawSocket), rss:// (RawSocket with TLS), unix:/path or unix:@name, not {text}"
        )
    };
    let uri: Uri = text.parse().map_err(|_| form())?;
    let (tls, default_port) = match uri.scheme_str() {
        Some("ws") => (false, Some(80)),
        Some("wss") => (true, Some(443)),
        Some("tcp" | "rs") => (false, None),
        Some("rss") => (true, None),
        _ => return Err(form()),
    };
    let host = uri
        .host()
        .map(|host| host.trim_matches(['[', ']']))
        .filter(|host| !host.is_empty());
    let Some(host) = host else {
        return Err(format!("{text} names no host"));
    };
    let Some(port) = uri.port_u16().or(default_port) else {
        return Err(format!("{text} names no port"));
    };
    Ok(Address {
        socket: Socket::Tcp {
            host: host.to_owned(),
            port,
            tls,
        },
        speak: match default_port {
            Some(_) => Speak::WebSocket {
                url: text.to_owned(),
            },
            None => Speak::RawSocket,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        text.parse().expect("an address")
    }

    fn tcp(host: &str, port: u16, tls: bool) -> Socket {
        Socket::Tcp {
            host: host.into(),
            port,
            tls,
        }
    }

    #[test]
    fn urls_say_what_to_connect_to_and_what_to_speak() {
        for (text, socket) in [
            ("ws://127.0.0.1:8080/ws", tcp("127.0.0.1", 8080, false)),
            ("ws://example.com/ws", tcp("example.com", 80, false)),
            ("wss://example.com", tcp("example.com", 443, true)),
            ("ws://[::1]:8080/ws", tcp("::1", 8080, false)),
        ] {
            let address = parsed(text);
            assert_eq!(address.socket, socket);
            assert_eq!(address.speak, Speak::WebSocket { url: text.into() });
        }
        for (text, socket) in [
            ("tcp://127.0.0.1:1", tcp("127.0.0.1", 1, false)),
            ("rs://example.com:1", tcp("example.com", 1, false)),
            ("rss://example.com:1", tcp("example.com", 1, true)),
            ("unix:/run/p.sock", Socket::Unix("/run/p.sock".into())),
            ("unix:///run/p.sock", Socket::Unix("/run/p.sock".into())),
            ("unix:p.sock", Socket::Unix("p.sock".into())),
            ("unix:@p", Socket::Abstract("p".into())),
        ] {
            let address = parsed(text);
            assert_eq!(
                (address.socket, address.speak),
                (socket, Speak::RawSocket),
                "{text}"
            );
        }
        for (text, url) in [
            ("ws+unix:/run/p.sock", "ws://localhost/ws"),
            ("ws+unix:///run/p.sock:/wamp", "ws://localhost/wamp"),
        ] {
            let address = parsed(text);
            assert_eq!(address.socket, Socket::Unix("/run/p.sock".into()));
            assert_eq!(address.speak, Speak::WebSocket { url: url.into() });
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "",
            "8080",
            "http://localhost:8080/ws",
            "ws:///ws",
            "tcp://localhost",
            "unix:",
            "unix:@",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
