//! Every order in which connections of one client can come and go (loom).

use loom::sync;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::access;

#[allow(clippy::duplicate_mod, reason = "the same source once more, over the locks of the model")]
#[path = "crowd.rs"]
mod crowd;

use crowd::Crowd;

fn visit(crowd: &Crowd, inside: &AtomicUsize) -> bool {
    let peer = access::Peer::Network("192.0.2.1:1000".parse().unwrap());
    let Some(place) = crowd.admit(peer) else { return false };
    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the only place");
    inside.fetch_sub(1, Ordering::SeqCst);
    drop(place);
    true
}

#[test]
fn s2_no_order_gives_a_client_a_place_too_many_or_keeps_one_from_it() {
    loom::model(|| {
        let (crowd, inside) = (Crowd::new(1), sync::Arc::new(AtomicUsize::new(0)));
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let (crowd, inside) = (crowd.clone(), inside.clone());
                thread::spawn(move || visit(&crowd, &inside))
            })
            .collect();
        let admitted = visitors.into_iter().filter_map(|visitor| visitor.join().ok()).filter(|is_in| *is_in);
        assert!(admitted.count() > 0, "nobody was let in");
        assert_eq!(crowd.clients(), 0, "a place was not given back");
        assert!(visit(&crowd, &inside));
    });
}
