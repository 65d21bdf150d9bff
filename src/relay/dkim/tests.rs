//! Signatures, read back by mail-auth's verifier. What that one reads differently is in `canonical.rs`; dkimpy, another
//! author's, judges what went over the wire (`tests/clients/`).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use mail_auth::common::cache::NoCache;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

use super::*;
use crate::clock::Timestamp;
use crate::mail::{Address, Body as BodyKind, Envelope, Handling, Origin, QueueId, ReversePath};

// Made for these tests with `openssl genpkey`; no message outside of them was ever signed with one.
const RSA: &str = include_str!("../../../tests/fixtures/dkim/rsa.pem");
const RSA_PKCS1: &str = include_str!("../../../tests/fixtures/dkim/rsa_pkcs1.pem");
const RSA_1024: &str = include_str!("../../../tests/fixtures/dkim/rsa_1024.pem");
const ED25519: &str = include_str!("../../../tests/fixtures/dkim/ed25519.pem");
const EC: &str = include_str!("../../../tests/fixtures/dkim/ec.pem");
const RSA_PUBLIC: &str = include_str!("../../../tests/fixtures/dkim/rsa.pub");
const ED25519_PUBLIC: &str = include_str!("../../../tests/fixtures/dkim/ed25519.pub");

const MAIL: &str = "Received: from c\r\nFrom: Shop <a@shop.example>\r\nTo: b@c.example\r\nSubject: x\r\n\
                    Date: Sun, 22 Nov 2026 10:30:00 +0000\r\nMessage-ID: <1@shop.example>\r\n\
                    MIME-Version: 1.0\r\n\r\nHello  you \r\n\r\n";

fn key(domain: &str, selector: &str, pem: &str) -> DkimKey {
    let key = zeroize::Zeroizing::new(pem.as_bytes().to_vec());
    DkimKey { domain: domain.to_owned(), selector: selector.to_owned(), key }
}

fn message(reverse_path: &str, content: &[u8]) -> Message {
    let reverse_path = match reverse_path {
        "" => ReversePath::Null,
        path => ReversePath::Mailbox(Address::parse(path).unwrap()),
    };
    Message {
        id: QueueId::new(Timestamp::from_millis(1_795_343_400_000)),
        accepted_at: Timestamp::from_millis(1_795_343_400_000),
        envelope: Envelope {
            reverse_path,
            recipients: Vec::new(),
            body: BodyKind::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "test".into(), user: None, client: None },
        key: None,
        message_id: String::new(),
        content: Bytes::copy_from_slice(content),
    }
}

fn signed(keys: &[DkimKey], reverse_path: &str, content: &[u8]) -> Option<String> {
    let fields = Signers::new(keys).unwrap().sign(&message(reverse_path, content))?;
    Some(String::from_utf8(fields).unwrap())
}

/// Public keys, by name.
#[derive(Default)]
struct Published(Mutex<HashMap<Box<str>, Txt>>);

impl ResolverCache<Box<str>, Txt> for Published {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.lock().unwrap().get(name).cloned()
    }
    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }
    fn insert(&self, name: Box<str>, record: Txt, _: Instant) {
        self.0.lock().unwrap().insert(name, record);
    }
}

/// One word for each signature: `pass`, or why not.
async fn verdicts(raw: &[u8], domain: &str) -> Vec<String> {
    let published = Published::default();
    let rsa = format!("v=DKIM1; k=rsa; p={}", RSA_PUBLIC.trim());
    let ed25519 = format!("v=DKIM1; k=ed25519; p={}", ED25519_PUBLIC.trim());
    for (selector, record) in [("rsa", rsa), ("ed", ed25519)] {
        let record = DomainKey::parse(record.as_bytes()).unwrap();
        let name = format!("{selector}._domainkey.{domain}.").into_boxed_str();
        published.0.lock().unwrap().insert(name, Txt::from(record));
    }
    let authenticator =
        MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).unwrap();
    let message = AuthenticatedMessage::parse(raw).unwrap();
    let parameters: Parameters<'_, _, NoCache<_, _>, NoCache<_, _>, _, _, _> = Parameters::new(&message);
    let outputs = authenticator.verify_dkim(parameters.with_txt_cache(&published)).await;
    let word = |result: &DkimResult| match result {
        DkimResult::Pass => "pass".to_owned(),
        other => format!("{other:?}"),
    };
    outputs.iter().map(|output| word(output.result())).collect()
}

async fn verdicts_of(keys: &[DkimKey], content: &[u8]) -> Vec<String> {
    let mut raw = Signers::new(keys).unwrap().sign(&message("", content)).unwrap();
    raw.extend_from_slice(content);
    verdicts(&raw, "shop.example").await
}

fn both() -> [DkimKey; 2] {
    [key("shop.example", "rsa", RSA), key("shop.example", "ed", ED25519)]
}

#[tokio::test]
async fn every_key_of_a_domain_signs_and_a_verifier_agrees() {
    assert_eq!(verdicts_of(&both(), MAIL.as_bytes()).await, ["pass", "pass"]);
    let pkcs1 = [key("shop.example", "rsa", RSA_PKCS1)];
    assert_eq!(verdicts_of(&pkcs1, MAIL.as_bytes()).await, ["pass"]);
    // And it can disagree.
    let mut raw = signed(&both(), "", MAIL.as_bytes()).unwrap().into_bytes();
    raw.extend_from_slice(MAIL.replace("Subject: x", "Subject: y").as_bytes());
    assert!(verdicts(&raw, "shop.example").await.iter().all(|verdict| verdict != "pass"));
}

#[tokio::test]
async fn messages_of_all_kinds_verify() {
    let from = "From: a@shop.example\r\n";
    for content in [
        format!("{from}\r\n"),
        from.to_owned(),
        format!("{from}\r\nno line end"),
        format!("{from}\r\n\r\n\r\n\r\n"),
        format!("{from}\r\n. dot\r\n..\r\n tab\t here \r\n"),
        format!("{from}Subject: gr\u{fc}n\r\n \u{20ac}\r\n\r\nb\u{f6}dy\r\n"),
        "FROM:a@shop.example\r\nsubject:\r\n  \u{fc}   folded\r\n\tmore \r\n\r\nx\r\n".to_owned(),
        format!("{from}Cc: x@y.example\r\nReply-To: a@b.example\r\nReply-To: c@d.example\r\n\r\nx\r\n"),
        format!("{from}References: {}\r\n\r\nx\r\n", "<1@a.example>\r\n ".repeat(300)),
        format!("{from}{}\r\nx\r\n", "Reply-To: c@d.example\r\n".repeat(1_000)),
        // One To for each recipient, as some programs write it.
        format!("{from}{}\r\nx\r\n", "To: c@d.example\r\n".repeat(9)),
        format!("{}\r\nx\r\n", from.repeat(9)),
        format!("{from}\r\n{}", "0123456789 abcdefghij  \r\n".repeat(50_000)),
    ] {
        let verdicts = verdicts_of(&both(), content.as_bytes()).await;
        assert_eq!(verdicts, ["pass", "pass"], "{:?}", content.chars().take(100).collect::<String>());
    }
}

#[tokio::test]
async fn a_field_that_is_added_on_the_way_breaks_the_signature() {
    for added in
        ["From: evil@shop.example", "Subject: other", "To: x@y.example", "Date: now", "Message-ID: <2@x>"]
    {
        let mut raw = signed(&both(), "", MAIL.as_bytes()).unwrap().into_bytes();
        raw.extend_from_slice(format!("{added}\r\n{MAIL}").as_bytes());
        let verdicts = verdicts(&raw, "shop.example").await;
        assert!(
            verdicts.len() == 2 && verdicts.iter().all(|verdict| verdict != "pass"),
            "{added}: {verdicts:?}"
        );
    }
    // What relays add does not.
    let mut raw = signed(&both(), "", MAIL.as_bytes()).unwrap().into_bytes();
    raw.extend_from_slice(format!("Received: from d\r\nX-Spam: no\r\n{MAIL}").as_bytes());
    assert_eq!(verdicts(&raw, "shop.example").await, ["pass", "pass"]);
}

#[test]
fn the_keys_of_the_author_come_before_those_of_the_sender_and_of_domains_above() {
    let keys = [
        key("shop.example", "s", ED25519),
        key("mail.shop.example", "s", ED25519),
        key("b\u{fc}cher.example", "s", ED25519),
        key("bounces.example", "s", ED25519),
    ];
    let domain = |from: &str, reverse_path: &str| {
        let content = format!("{from}Subject: x\r\n\r\nx\r\n");
        let fields = signed(&keys, reverse_path, content.as_bytes())?;
        let start = fields.find("\td=").unwrap() + 3;
        Some(fields[start..].split(';').next().unwrap().to_owned())
    };
    for (from, reverse_path, expected) in [
        ("From: a@shop.example\r\n", "x@bounces.example", Some("shop.example")),
        ("From: \"a, b\" <a@Shop.Example>\r\n", "", Some("shop.example")),
        ("From: a@shop.example (a@other.example), c@other.example\r\n", "", Some("shop.example")),
        (
            "From:\r\n =?utf-8?q?=3Cx=40other=2Eexample=3E?=\r\n <a@mail.shop.example>\r\n",
            "",
            Some("mail.shop.example"),
        ),
        ("From: a@x.mail.shop.example\r\n", "", Some("mail.shop.example")),
        ("From: a@news.shop.example\r\n", "", Some("shop.example")),
        ("From: a@b\u{fc}cher.example\r\n", "", Some("xn--bcher-kva.example")),
        ("From: a@notshop.example\r\n", "", None),
        ("From: a@other.example\r\n", "x@bounces.example", Some("bounces.example")),
        ("From: \r\n", "x@bounces.example", Some("bounces.example")),
        ("", "x@bounces.example", Some("bounces.example")),
        ("", "", None),
        ("From: a@other.example\r\n", "", None),
        ("From: a@example\r\n", "", None),
    ] {
        assert_eq!(domain(from, reverse_path).as_deref(), expected, "{from:?} {reverse_path:?}");
    }
}

#[test]
fn a_signature_is_folded_and_always_the_same() {
    let fields = signed(&both(), "", MAIL.as_bytes()).unwrap();
    assert_eq!(fields.matches("DKIM-Signature: ").count(), 2);
    assert!(fields.ends_with("\r\n") && fields.lines().all(|line| line.len() <= 78), "{fields}");
    assert!(
        fields.lines().all(|line| line.starts_with("DKIM-Signature: ") || line.starts_with('\t')),
        "{fields}"
    );
    assert!(fields.contains("a=rsa-sha256;") && fields.contains("a=ed25519-sha256;"), "{fields}");
    assert!(fields.contains(" t=1795343400;") || fields.contains("\tt=1795343400;"), "{fields}");
    let names = fields.replace("\r\n\t", "");
    assert!(
        names.contains("h=From:From:Subject:Subject:To:To:Date:Date:Message-ID:Message-ID:MIME-Version;"),
        "{fields}"
    );
    assert_eq!(signed(&both(), "", MAIL.as_bytes()).unwrap(), fields);
}

#[test]
fn a_key_that_cannot_be_used_is_named_and_never_shown() {
    for (domain, selector, pem, expected) in [
        ("shop.example", "s1", "", "the key s1 of shop.example is no private key in PEM"),
        (
            "shop.example",
            "s1",
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
            "is neither an RSA nor an Ed25519 key that can be used",
        ),
        ("shop.example", "s1", EC, "is neither an RSA nor an Ed25519 key that can be used"),
        ("shop.example", "s1", RSA_1024, "is an RSA key of less than 2048 bits"),
        ("shop.example", "s 1", ED25519, "has a selector that is no DNS name"),
        ("shop.example; x", "s1", ED25519, "belongs to no valid domain"),
    ] {
        let key = key(domain, selector, pem);
        assert!(!format!("{key:?}").contains("PRIVATE"));
        let problem = Signers::new(&[key]).err().unwrap();
        assert!(problem.contains(expected) && problem.contains("shop.example"), "{problem}");
        assert!(pem.lines().skip(1).all(|line| !problem.contains(line)), "{problem}");
    }
}

#[test]
fn s2_a_from_without_end_names_nobody() {
    let keys = [key("shop.example", "s", ED25519), key("bounces.example", "s", ED25519)];
    let domain = |padding: usize| {
        let content = format!("From: {}a@shop.example\r\n\r\nx\r\n", " (x)\r\n ".repeat(padding));
        signed(&keys, "x@bounces.example", content.as_bytes()).unwrap()
    };
    assert!(domain(100).contains("\td=shop.example;"));
    assert!(domain(100_000).contains("\td=bounces.example;"));
}

proptest::proptest! {
    #[test]
    fn any_from_has_an_author_or_none(value in "[<>()\",:;@\\\\=?qb \t.a\u{fc}-]{0,80}", fold in 0usize..80) {
        let at = value.floor_char_boundary(fold.min(value.len()));
        let (start, end) = value.split_at(at);
        let content = format!("From: {start}\r\n {end}\r\n\r\nx\r\n");
        let _ = signed(&both(), "", content.as_bytes());
    }
}
