//! The PROXY protocol's header: nothing behind it is read, and what it says is what haproxy's document says it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use oncemail::submission::proxy::{Origin, read};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the peer sends first.
pub fn run(input: &[u8]) {
    let whole = header(input);
    let told = by_the_book(input);
    match (&whole, &told) {
        (Some((origin, used)), Some((expected, len))) => {
            assert_eq!((origin, used), (expected, len));
            // S1: whatever follows is none of its business.
            let more = [&input[..*used], b"EHLO smuggled.example\r\n"].concat();
            assert_eq!(header(&more), whole);
            assert!(header(&input[..*used - 1]).is_none(), "a header that is cut short");
        }
        (None, None) => {}
        _ => panic!("{whole:?} and by the book {told:?}"),
    }
}

/// What the product says, and how many octets it has taken.
fn header(input: &[u8]) -> Option<(Origin, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut rest = input;
    let origin = runtime.block_on(read(&mut rest)).ok()?;
    Some((origin, input.len() - rest.len()))
}

fn by_the_book(input: &[u8]) -> Option<(Origin, usize)> {
    match input.strip_prefix(SIGNATURE) {
        Some(rest) => version_2(rest).map(|(origin, len)| (origin, len + SIGNATURE.len())),
        None => version_1(input),
    }
}

fn version_1(input: &[u8]) -> Option<(Origin, usize)> {
    let len = input.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&input[..len]).ok()?;
    let used = len + 2;
    // §2.1: no line is longer. The shortest one is `PROXY UNKNOWN`, so twelve octets are always there.
    if used > 107 {
        return None;
    }
    let words: Vec<&str> = line.split(' ').collect();
    if words.len() >= 2 && words[..2] == ["PROXY", "UNKNOWN"] {
        return Some((Origin::Peer, used));
    }
    let ["PROXY", family, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
    address(destination)?;
    port(destination_port)?;
    Some((Origin::Client(SocketAddr::new(address(source)?, port(source_port)?)), used))
}

fn version_2(rest: &[u8]) -> Option<(Origin, usize)> {
    let [version_command, family, high, low, rest @ ..] = rest else { return None };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let rest = rest.get(..len)?;
    let origin = match (version_command, family) {
        (0x20, _) | (0x21, 0x00) => Origin::Peer,
        (0x21, 0x11) if len >= 12 => {
            let ip = Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]);
            Origin::Client(SocketAddr::new(ip.into(), u16::from_be_bytes([rest[8], rest[9]])))
        }
        (0x21, 0x21) if len >= 36 => {
            let ip: [u8; 16] = rest[..16].try_into().ok()?;
            Origin::Client(SocketAddr::new(
                Ipv6Addr::from(ip).into(),
                u16::from_be_bytes([rest[32], rest[33]]),
            ))
        }
        _ => return None,
    };
    // The product takes no more than this; load balancers send under 1 KB.
    (len <= 4096).then_some((origin, 4 + len))
}
