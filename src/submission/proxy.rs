//! The PROXY protocol, versions 1 and 2: a load balancer says on whose behalf it connects (haproxy's
//! `proxy-protocol.txt`, revision 2020-03-05).
//!
//! Only a peer that the operator trusts is asked for it, and such a peer must begin with it: nothing is guessed from what
//! comes first. Not one octet behind the header is read here, because what follows is SMTP or TLS (S1). A header that is
//! wrong, too long or too slow ends the connection without a word, for whoever sent it speaks no SMTP yet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with (§2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1 with its CRLF is never longer, octets (§2.1).
const LONGEST_LINE: usize = 107;
/// What may follow the fixed part of version 2: addresses and their extensions, octets. The protocol allows 65,535; what
/// load balancers add stays under 1 KB.
const LONGEST_REST: usize = 4096;

/// On whose behalf a trusted peer connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client at this address.
    Client(SocketAddr),
    /// Its own, such as a health check (`LOCAL`), or it does not say (`UNKNOWN`).
    Peer,
}

/// Reads the header, and nothing behind it.
///
/// # Errors
/// When there is none, or it is wrong, or the connection ends.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Origin> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_v2(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(wrong("no PROXY header"));
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LONGEST_LINE {
            return Err(wrong("the line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    parse_v1(&line)
}

fn parse_v1(line: &[u8]) -> io::Result<Origin> {
    let text = std::str::from_utf8(line).map_err(|_| wrong("no text"))?;
    let mut words = text.split(' ');
    let (Some("PROXY"), Some(family)) = (words.next(), words.next()) else {
        return Err(wrong("no family"));
    };
    if family == "UNKNOWN" {
        return Ok(Origin::Peer);
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = *words.as_slice() else {
        return Err(wrong("not four parts"));
    };
    let (source, _) = (address(family, source)?, address(family, destination)?);
    let (port, _) = (port(source_port)?, port(destination_port)?);
    Ok(Origin::Client(SocketAddr::new(source, port)))
}

fn address(family: &str, text: &str) -> io::Result<IpAddr> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| wrong("no IPv4 address")),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong("no IPv6 address")),
        _ => Err(wrong("an unknown family")),
    }
}

/// §2.1: decimal, without leading zeros.
fn port(text: &str) -> io::Result<u16> {
    let is_plain =
        text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| is_plain);
    port.ok_or_else(|| wrong("no port"))
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Origin> {
    let (version_command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = usize::from(stream.read_u16().await?);
    if version_command >> 4 != 2 || length > LONGEST_REST {
        return Err(wrong("not version 2, or too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match version_command & 0xF {
        0 => Ok(Origin::Peer),
        1 => proxied(family, &rest),
        _ => Err(wrong("an unknown command")),
    }
}

/// §2.2: source and destination address, source and destination port; extensions follow, and are not for us.
fn proxied(family: u8, rest: &[u8]) -> io::Result<Origin> {
    let short = || wrong("the addresses are cut short");
    let port_at = |at: usize| {
        let octets = rest.get(at..at + 2).and_then(|octets| octets.try_into().ok());
        octets.map(u16::from_be_bytes).ok_or_else(short)
    };
    match family {
        0x00 => Ok(Origin::Peer),
        0x11 => {
            let source: [u8; 4] =
                rest.get(..4).and_then(|octets| octets.try_into().ok()).ok_or_else(short)?;
            if rest.len() < 12 {
                return Err(short());
            }
            Ok(Origin::Client(SocketAddr::new(Ipv4Addr::from(source).into(), port_at(8)?)))
        }
        0x21 => {
            let source: [u8; 16] =
                rest.get(..16).and_then(|octets| octets.try_into().ok()).ok_or_else(short)?;
            if rest.len() < 36 {
                return Err(short());
            }
            Ok(Origin::Client(SocketAddr::new(Ipv6Addr::from(source).into(), port_at(32)?)))
        }
        _ => Err(wrong("not TCP over IPv4 or IPv6")),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY protocol: {what}"))
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(octets: &[u8]) -> (io::Result<Origin>, usize) {
        let mut left = octets;
        let origin = read(&mut left).await;
        (origin, left.len())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    fn client(text: &str) -> Origin {
        Origin::Client(text.parse().unwrap())
    }

    #[tokio::test]
    async fn s1_both_versions_name_the_client_and_nothing_behind_them_is_read() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x02, 0x4b];
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[32], six[33]) = (0x20, 0x01, 9, 0x30, 0x39);
        let longer = [four.as_slice(), &[0x20, 0, 3, 1, 2, 3]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 587\r\n".to_vec(), client("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 587\r\n".to_vec(), client("[2001:db8::7]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Peer),
            (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n".to_vec(), Origin::Peer),
            (v2(1, 0x11, &four), client("192.0.2.7:12345")),
            (v2(1, 0x11, &longer), client("192.0.2.7:12345")),
            (v2(1, 0x21, &six), client("[2001::9]:12345")),
            (v2(0, 0x00, &[]), Origin::Peer),
            (v2(0, 0x11, &four), Origin::Peer),
            (v2(1, 0x00, &[1, 2, 3]), Origin::Peer),
        ] {
            let with_more = [header.as_slice(), b"EHLO x\r\n"].concat();
            let (origin, left) = read_all(&with_more).await;
            assert_eq!((origin.unwrap(), left), (expected, 8), "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x02];
        for header in [
            b"EHLO client.example\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 587 1\r\n",
            b"PROXY TCP4 192.0.2.300 198.51.100.1 12345 587\r\n",
            b"PROXY TCP4 2001:db8::7 198.51.100.1 12345 587\r\n",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 12345 587\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 012345 587\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 70000 587\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 587\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1 587\r\n",
            b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 587\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 587",
            b"PROXY \xff\r\n.....",
            b"PROXY",
            endless.as_bytes(),
            &v2(1, 0x11, &four),
            &v2(1, 0x21, &four),
            &v2(1, 0x12, &four),
            &v2(2, 0x11, &four),
            &v2(1, 0x11, &[0; LONGEST_REST + 1]),
            &[SIGNATURE.as_slice(), &[0x11, 0x11, 0, 0]].concat(),
            &SIGNATURE,
        ] {
            let (origin, _) = read_all(header).await;
            assert!(origin.is_err(), "{header:?}");
        }
    }
}
