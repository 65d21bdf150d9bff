//! The list of suppressed addresses while its file cannot be written.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::Address;
use oncemail::store::files::RealFiles;
use oncemail::store::suppression::Suppressions;

use crate::common::faulty_files::FaultyFiles;
use crate::common::history::start;

const TTL: Duration = Duration::from_secs(30 * 86_400);

#[tokio::test]
async fn a_list_that_cannot_be_written_is_kept_in_memory_and_written_when_it_can_be_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    // The file is made, and then the first line of it fails.
    let files = FaultyFiles::new(1, std::io::ErrorKind::Other);
    let list = Suppressions::open(files.clone(), dir.path(), TTL, clock.clone()).unwrap();
    let first = Address::parse("first@example.net").unwrap();
    list.add(&first, "550 5.1.1 unknown");
    let file = dir.path().join("suppressed");
    let written = async {
        for n in 0.. {
            clock.advance(Duration::from_secs(61));
            list.add(&Address::parse(&format!("later{n}@example.net")).unwrap(), "550 5.1.1 unknown");
            if files.has_failed() && std::fs::read_to_string(&file).is_ok_and(|text| text.contains("first@"))
            {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), written).await.unwrap();
    let found = list.find(&first).unwrap();
    drop(list);
    let list = Suppressions::open(Arc::new(RealFiles), dir.path(), TTL, clock).unwrap();
    assert_eq!(list.find(&first), Some(found));
}

#[test]
fn a_list_that_cannot_be_opened_says_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let files = FaultyFiles::new(0, std::io::ErrorKind::Other);
    let failed = Suppressions::open(files, dir.path(), TTL, Clock::system()).map(|_| ()).unwrap_err();
    assert!(failed.to_string().contains("suppressed: injected"), "{failed}");
}
