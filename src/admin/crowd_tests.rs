//! Who gets a place, and that it comes back.

use super::access::Peer;
use super::crowd::Crowd;

#[test]
fn s2_a_client_has_so_many_places_and_gives_them_back() {
    let crowd = Crowd::new(2);
    let from = |address: &str| crowd.admit(Peer::Network(address.parse().unwrap()));
    let first = from("[2001:db8::1]:1000");
    let second = from("[2001:db8::2]:1000");
    assert!(first.is_some() && second.is_some());
    assert!(from("[2001:db8::3]:1000").is_none());
    assert!(from("192.0.2.1:1000").is_some() && from("192.0.2.1:1001").is_some());
    drop(first);
    assert!(from("[2001:db8::3]:1000").is_some());
    drop(second);
    assert_eq!(crowd.clients(), 0);
    let local: Vec<_> = (0..9).map(|_| crowd.admit(Peer::Local)).collect();
    assert!(local.iter().all(Option::is_some));
}
