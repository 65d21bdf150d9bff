//! Nobody gets a second message through by disagreeing with us, or with the next hop, about where the first one ends.
//!
//! The endings are all that published scanners and advisories name (SEC Consult's paper and its scanner, smtpsmug,
//! CVE-2023-51764, -51765, -51766, CVE-2024-27305, CVE-2023-51747), and what comes out when their parts are put together in every
//! other way.

mod inbound;
mod outbound;

/// What stands in front of the dot of an ending, and behind it, for somebody.
const PARTS: [&[u8]; 21] = [
    b"",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\r",
    b"\n\n",
    b"\r\r",
    b"\r\r\n",
    b"\r\n\r",
    b"\n\r\n",
    b"\r\n\0",
    b"\0\r\n",
    b"\r\0\n",
    b"\r\n ",
    b" \r\n",
    b"\x0b",
    b"\x0c",
    b"\x1a",
    // NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR.
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xa9",
];

/// Others that are no parts around one dot.
const WHOLE: [&[u8]; 12] = [
    b"\r\n..\r\n",
    b"\n..\n",
    b"\r..\r",
    b"\r\n.\0\r\n",
    b"\r\n\0.\0\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n.\x08\r\n",
    b"\r\n\xe3\x80\x82\r\n",
    b"\r\n\xef\xbc\x8e\r\n",
    b"\r\n=2E\r\n",
    b"\r\n.\r\0\n",
];

/// Every ending but the true one: nothing in here may end a message.
fn endings() -> Vec<Vec<u8>> {
    let around = |before: &[u8], after: &[u8]| [before, b".", after].concat();
    let mut all: Vec<_> =
        PARTS.iter().flat_map(|before| PARTS.iter().map(move |after| around(before, after))).collect();
    all.extend(WHOLE.iter().map(|whole| whole.to_vec()));
    all.retain(|ending| memchr::memmem::find(ending, b"\r\n.\r\n").is_none());
    all
}

/// What the strict reading has of a message: `None` when it must be refused.
fn is_acceptable(content: &[u8]) -> bool {
    let is_bare = |at: usize| match content[at] {
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || content[at - 1] != b'\r',
        octet => octet == 0,
    };
    !(0..content.len()).any(is_bare)
}

/// As a reader would write it down.
fn shown(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}
