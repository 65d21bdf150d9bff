//! A header names the client that was written into it, whole or not at all, and nothing behind it is read.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// What is read of octets that are all there, and how many are left.
fn read_now(mut octets: &[u8]) -> (io::Result<Origin>, usize) {
    let origin = {
        let mut reading = std::pin::pin!(read(&mut octets));
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(origin) => origin,
            Poll::Pending => unreachable!("octets in memory never wait"),
        }
    };
    (origin, octets.len())
}

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn v2(source: SocketAddr, destination: SocketAddr, more: &[u8]) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut rest = [octets(source.ip()), octets(destination.ip())].concat();
    rest.extend([source.port().to_be_bytes(), destination.port().to_be_bytes()].concat());
    rest.extend(more);
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE.as_slice(), &[0x21, family], &length, &rest].concat()
}

/// Two of one family.
fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let four = any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (IpAddr::V4(a), IpAddr::V4(b)));
    let six = any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (IpAddr::V6(a), IpAddr::V6(b)));
    (prop_oneof![four, six], any::<(u16, u16)>())
        .prop_map(|((a, b), (from, to))| (SocketAddr::new(a, from), SocketAddr::new(b, to)))
}

proptest! {
    #[test]
    fn s1_a_header_names_its_client_and_leaves_what_is_behind_it(
        (source, destination) in addresses(), more in prop::collection::vec(any::<u8>(), 0..40), behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        for header in [v1(source, destination), v2(source, destination, &more)] {
            let (origin, left) = read_now(&[header.as_slice(), &behind].concat());
            prop_assert_eq!((origin.unwrap(), left), (Origin::Client(source), behind.len()));
        }
    }

    #[test]
    fn a_header_that_is_cut_short_names_nobody((source, destination) in addresses(), at in any::<prop::sample::Index>()) {
        for header in [v1(source, destination), v2(source, destination, &[])] {
            let (origin, _) = read_now(&header[..at.index(header.len())]);
            prop_assert!(origin.is_err(), "{origin:?}");
        }
    }

    #[test]
    fn no_octets_make_it_panic_or_read_without_end(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", &SIGNATURE]), octets in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let all = [start, &octets].concat();
        let (origin, left) = read_now(&all);
        if origin.is_ok() && !all.starts_with(&SIGNATURE) {
            prop_assert!(all.len() - left <= LONGEST_LINE);
        }
    }
}
