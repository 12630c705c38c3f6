//! The PROXY protocol: a proxy in front says, before anything else, whose connection it hands on. Versions 1 (text)
//! and 2 (binary); the `ppp` crate knows their syntax, this reads not an octet more than the header.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Version 1 begins with this word and a space.
const V1_PREFIX: &[u8] = b"PROXY ";
/// The longest header of version 1, its line end included.
const V1_LONGEST: usize = 107;

/// Why a connection that should begin with a PROXY header is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("it does not begin with a PROXY header")]
    Absent,
    #[error("its PROXY header is wrong: {0}")]
    Text(#[from] v1::BinaryParseError),
    #[error("its PROXY header is wrong: {0}")]
    Binary(#[from] v2::ParseError),
    #[error("its PROXY header is of datagrams")]
    Datagram,
    #[error("it ended within the PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Both ends of a connection as the proxy saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conveyed {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Reads the header. `None`: the proxy speaks for itself (a health check), or names no internet address.
pub(crate) async fn header(
    io: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Conveyed>, ProxyError> {
    // Shorter than any header of either version.
    let mut octets = vec![0; v2::PROTOCOL_PREFIX.len()];
    let mut have = 0;
    while have < octets.len() {
        match io.read(&mut octets[have..]).await? {
            0 if have == 0 => return Err(ProxyError::Absent),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => have += count,
        }
        // Somebody who speaks without a header may wait for us next: decide as soon as it is clear.
        let read = &octets[..have];
        let text = have.min(V1_PREFIX.len());
        if !v2::PROTOCOL_PREFIX.starts_with(read) && read[..text] != V1_PREFIX[..text] {
            return Err(ProxyError::Absent);
        }
    }
    if octets == v2::PROTOCOL_PREFIX {
        binary(io, octets).await
    } else {
        text(io, octets).await
    }
}

/// Version 2, behind its signature.
async fn binary(
    io: &mut (impl AsyncRead + Unpin),
    mut octets: Vec<u8>,
) -> Result<Option<Conveyed>, ProxyError> {
    octets.resize(16, 0);
    io.read_exact(&mut octets[12..]).await?;
    let length = usize::from(u16::from_be_bytes([octets[14], octets[15]]));
    octets.resize(16 + length, 0);
    io.read_exact(&mut octets[16..]).await?;
    let header = v2::Header::try_from(octets.as_slice())?;
    match (header.command, header.protocol) {
        (v2::Command::Local, _) => return Ok(None),
        (v2::Command::Proxy, v2::Protocol::Datagram) => return Err(ProxyError::Datagram),
        (v2::Command::Proxy, v2::Protocol::Stream | v2::Protocol::Unspecified) => {}
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(ends) => Some(Conveyed {
            peer: (ends.source_address, ends.source_port).into(),
            local: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::IPv6(ends) => Some(Conveyed {
            peer: (ends.source_address, ends.source_port).into(),
            local: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

/// Version 1: octet by octet, since only its end tells its length.
async fn text(
    io: &mut (impl AsyncRead + Unpin),
    mut octets: Vec<u8>,
) -> Result<Option<Conveyed>, ProxyError> {
    while !octets.ends_with(b"\r\n") && octets.len() < V1_LONGEST {
        octets.push(io.read_u8().await?);
    }
    Ok(match v1::Header::try_from(octets.as_slice())?.addresses {
        v1::Addresses::Tcp4(ends) => Some(Conveyed {
            peer: (ends.source_address, ends.source_port).into(),
            local: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Tcp6(ends) => Some(Conveyed {
            peer: (ends.source_address, ends.source_port).into(),
            local: (ends.destination_address, ends.destination_port).into(),
        }),
        v1::Addresses::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(octets: &[u8]) -> (Result<Option<Conveyed>, ProxyError>, Vec<u8>) {
        let mut rest = octets;
        let result = header(&mut rest).await;
        (result, rest.to_vec())
    }

    fn conveyed(peer: &str, local: &str) -> Option<Conveyed> {
        Some(Conveyed {
            peer: peer.parse().unwrap(),
            local: local.parse().unwrap(),
        })
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = v2::PROTOCOL_PREFIX.to_vec();
        octets.extend([command, family]);
        octets.extend((payload.len() as u16).to_be_bytes());
        octets.extend(payload);
        octets
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    #[tokio::test]
    async fn both_versions_tell_the_addresses_and_leave_the_rest() {
        let four = conveyed("192.0.2.7:4660", "10.0.0.1:80");
        let mut with_extras = FOUR.to_vec();
        with_extras.extend([4, 0, 2, 9, 9]);
        let six = [[0x20; 16], [0x30; 16]].concat();
        let six = [&six[..], &[0, 1, 0, 2]].concat();
        for (octets, expected) in [
            (v2(0x21, 0x11, &FOUR), four),
            (v2(0x21, 0x11, &with_extras), four),
            (
                v2(0x21, 0x21, &six),
                conveyed(
                    "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
                    "[3030:3030:3030:3030:3030:3030:3030:3030]:2",
                ),
            ),
            (v2(0x20, 0x11, &FOUR), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[1; 216]), None),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n".to_vec(), four),
            (
                b"PROXY TCP6 2001:db8::7 ::1 4660 80\r\n".to_vec(),
                conveyed("[2001:db8::7]:4660", "[::1]:80"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
        ] {
            let (result, rest) = read(&[&octets[..], b"GET /"].concat()).await;
            assert_eq!(result.unwrap(), expected, "{octets:?}");
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn whatever_else_is_refused() {
        for octets in [
            &b"GET /ws HTTP/1.1\r\n"[..],
            b"\x7f\xf1\0\0",
            b"PROXIES",
            b"",
        ] {
            let (result, _) = read(octets).await;
            assert!(matches!(result, Err(ProxyError::Absent)), "{octets:?}");
        }
        for octets in [
            &b"PROXY TCP4 192.0.2.7"[..],
            b"\r\n\r\n\0\r\nQUIT",
            b"PROXY",
        ] {
            let (result, _) = read(octets).await;
            assert!(matches!(result, Err(ProxyError::Io(_))), "{octets:?}");
        }
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b' '; 200]].concat();
        for octets in [
            endless,
            b"PROXY TCP4 1.2.3 10.0.0.1 1 2\r\n".to_vec(),
            v2(0x31, 0x11, &FOUR),
            v2(0x22, 0x11, &FOUR),
            v2(0x21, 0x11, &FOUR[..11]),
            v2(0x21, 0x41, &FOUR),
        ] {
            let (result, _) = read(&octets).await;
            assert!(
                matches!(result, Err(ProxyError::Text(_) | ProxyError::Binary(_))),
                "{octets:?}"
            );
        }
        let (result, _) = read(&v2(0x21, 0x12, &FOUR)).await;
        assert!(matches!(result, Err(ProxyError::Datagram)));
    }
}
