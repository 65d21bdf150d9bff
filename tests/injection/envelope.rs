//! Addresses and parameters on their way to the next hop: each arrives as it was sent, on one line of its own, or is
//! refused.

use std::net::SocketAddr;

use crate::common::client::Client;
use crate::common::far_side::{FarSide, Log};
use crate::common::relay_rig::{relay_options, route, smarthost, to, to_hosts};
use crate::common::whole::{Plan, Whole};
use oncemail::relay::options::Transport;

const EVIL: &str = "evil@evil.example";

async fn relaying_to(address: SocketAddr) -> (Whole, Client) {
    let whole = Plan::new(to_hosts(&[address])).start().await;
    let client = Client::greeted(whole.addresses[0]).await.0;
    (whole, client)
}

async fn far_side() -> FarSide {
    FarSide::new().offers(&["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE"]).start().await
}

/// Sends both lines; gives back what the next hop got if both were taken.
async fn offered(far: &FarSide, whole: &Whole, mail: &str, rcpt: &str) -> Option<Vec<String>> {
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    let replies = [client.ask(mail).await, client.ask(rcpt).await];
    if replies.iter().any(|reply| !reply.starts_with("250 ")) {
        let is_told =
            |reply: &String| ["250 ", "500 ", "501 ", "503 ", "553 ", "555 "].contains(&&reply[..4]);
        assert!(replies.iter().all(is_told), "{replies:?}");
        return None;
    }
    let before = far.log().lines.len();
    assert!(client.ask("DATA").await.starts_with("354 "));
    assert!(client.ask("Subject: x\r\n\r\nx\r\n.").await.starts_with("250 "));
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
    Some(far.log().lines[before..].iter().map(|(_, line)| line.clone()).collect())
}

/// What was said in one transaction, in its order, but for what opens a connection.
fn transaction(lines: &[String]) -> Vec<&str> {
    let opening = |line: &&str| line.starts_with("EHLO ") || *line == "RSET" || *line == "QUIT";
    lines.iter().map(String::as_str).filter(|line| !opening(line)).collect()
}

#[tokio::test]
async fn an_address_is_one_line_at_the_next_hop_or_is_refused() {
    let far = far_side().await;
    let (whole, _) = relaying_to(far.address).await;
    let quoted = |inner: &str| format!("\"{inner}\"@x.example");
    let controls = ["\0", "\t", "\u{b}", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{9b}31m", "\u{8d}"];
    for control in controls {
        for address in [
            quoted(&format!("a{control}b")),
            quoted(&format!("a\\{control}b")),
            format!("a{control}b@x.example"),
            format!("a@x{control}.example"),
            format!("a@[127.0.0.1{control}]"),
            format!("@r{control}.example:a@x.example"),
        ] {
            let (mail, rcpt) = (format!("MAIL FROM:<{address}> SMTPUTF8"), format!("RCPT TO:<{address}>"));
            assert_eq!(offered(&far, &whole, &mail, "RCPT TO:<b@x.example>").await, None, "{mail:?}");
            let lines = offered(&far, &whole, "MAIL FROM:<a@x.example> SMTPUTF8", &rcpt).await;
            assert_eq!(lines, None, "{rcpt:?}");
        }
    }
    for odd in [
        format!("a> RCPT TO:<{EVIL}"),
        format!("a@x.example>,<{EVIL}"),
        format!("a@x.example,{EVIL}"),
        format!("a@x.example {EVIL}"),
        format!("a@x.example:{EVIL}"),
        format!("a@x.example@{EVIL}"),
        format!("{EVIL}@x.example"),
        format!("@evil.example:@x.example:{EVIL}"),
        "a@x.example\\".into(),
        "\"a\\\"@x.example".into(),
        "\"a\"b@x.example".into(),
        "a@[127.0.0.1]x".into(),
        "a@[IPv6:::1%eth0]".into(),
        "a@[x.example]".into(),
        "a@x.example.".into(),
        "a@x..example".into(),
        "a@.example".into(),
        "a@x example".into(),
        "a@x\u{a0}.example".into(),
        "a@x\u{2028}.example".into(),
        "a@x\u{3000}.example".into(),
        "a@-x.example".into(),
        "a@x%0d%0a.example".into(),
        "a@=?utf-8?q?x=0D=0A?=.example".into(),
    ] {
        let rcpt = format!("RCPT TO:<{odd}> ");
        let lines = offered(&far, &whole, "MAIL FROM:<a@x.example> SMTPUTF8", &rcpt).await;
        assert_eq!(lines, None, "{rcpt:?}");
    }
    assert_eq!(far.log().connections, 0, "nothing of all this has left");
}

#[tokio::test]
async fn an_address_that_looks_like_two_arrives_as_the_one_that_it_is() {
    let far = far_side().await;
    let (whole, _) = relaying_to(far.address).await;
    for (given, sent) in [
        // Other servers route these by what stands before the last at sign; this one changes nothing and lets them.
        ("evil%evil.example@x.example".into(), None),
        ("evil.example!evil@x.example".into(), None),
        (format!("\"{EVIL}\"@x.example"), None),
        (format!("\"a> RCPT TO:<{EVIL}\"@x.example"), None),
        ("\"a\\\"> b\"@x.example".into(), None),
        ("\" \"@x.example".into(), None),
        ("=?utf-8?q?a=0D=0ARCPT?=@x.example".into(), None),
        ("a%0d%0aDATA@x.example".into(), None),
        ("a+0D+0A@x.example".into(), None),
        ("$IFS`reboot`{x}|y@x.example".into(), None),
        ("\"../../etc/passwd\"@x.example".into(), None),
        // A route is not followed (RFC 5321 §4.1.1.3), and goes no further.
        ("@evil.example,@b.example:a@x.example".into(), Some("a@x.example")),
        // What some programs take for an at sign, a dot or nothing is a character like others here.
        ("evil\u{ff20}evil.example@x.example".into(), None),
        ("evil\u{fe6b}evil.example@x.example".into(), None),
        ("a\u{202e}b\u{200b}c\u{feff}@x.example".into(), None),
        ("a\u{2028}b\u{2029}c@x.example".into(), None),
        ("a@x\u{3002}example".into(), None),
        ("a@x\u{ff0e}example".into(), None),
        ("a@x.ex\u{ad}ample".into(), None),
    ] {
        let path = sent.unwrap_or(&given).to_owned();
        let utf8 = if given.is_ascii() { "" } else { " SMTPUTF8" };
        let mail = format!("MAIL FROM:<{given}>{utf8}");
        let lines = offered(&far, &whole, &mail, &format!("RCPT TO:<{given}>")).await;
        let lines = lines.unwrap_or_else(|| panic!("{given:?} was refused"));
        let transaction = transaction(&lines);
        let [mail, rcpt, "DATA"] = transaction.as_slice() else { panic!("{given:?}: {lines:?}") };
        assert!(mail.starts_with(&format!("MAIL FROM:<{path}> SIZE=")), "{mail:?}");
        assert_eq!(*rcpt, format!("RCPT TO:<{path}>"));
        assert_eq!(mail.ends_with(" SMTPUTF8"), !path.is_ascii(), "{mail:?}");
    }
}

/// A route for a domain takes all its spellings, so that nobody gets past it by another one.
#[tokio::test]
async fn no_spelling_of_a_domain_gets_past_its_route() {
    let (inside, outside) = (far_side().await, far_side().await);
    let to_far = |far: &FarSide| Transport::Smtp(smarthost(&[far.address]));
    let routes = vec![
        to(&["corp.example", "*.corp.example"], route("inside", to_far(&inside))),
        route("outside", to_far(&outside)),
    ];
    let whole = Plan::new(relay_options(routes)).start().await;
    let spellings = [
        "corp.example",
        "CORP.Example",
        "corp\u{3002}example",
        "corp\u{ff0e}example",
        "corp\u{ff61}example",
        "\u{ff43}\u{ff4f}\u{ff52}\u{ff50}.example",
        "cor\u{ad}p.example",
        "cor\u{200b}p.example",
        "\u{1d450}orp.example",
        "a.corp\u{3002}example",
    ];
    for domain in spellings {
        let mut client = Client::greeted(whole.addresses[0]).await.0;
        assert!(client.ask("MAIL FROM:<a@x.example> SMTPUTF8").await.starts_with("250 "));
        assert!(client.ask(&format!("RCPT TO:<b@{domain}>")).await.starts_with("250 "), "{domain:?}");
        client.ask("DATA").await;
        assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
    }
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
    assert_eq!((inside.log().taken.len(), outside.log().taken.len()), (spellings.len(), 0));
}

/// What is accepted goes on as it came, and no more of it than was accepted.
fn is_kept(log: &Log, line: &str) -> bool {
    log.lines.iter().any(|(_, said)| said == line)
}

#[tokio::test]
async fn a_parameter_is_one_word_at_the_next_hop_or_is_refused() {
    let far = far_side().await;
    let (whole, _) = relaying_to(far.address).await;
    let rcpt = "RCPT TO:<b@x.example>";
    let long = "x".repeat(5_000);
    let mut mails: Vec<String> =
        ["0D+0A", "0A", "00", "1B", "7F", "80", "85", "FF", "9B", "0d", "4", "", "zz", "4g"]
            .iter()
            .flat_map(|hex| [format!("ENVID=x+{hex}"), format!("AUTH=x+{hex}")])
            .collect();
    mails.extend(
        [
            "ENVID=",
            "ENVID",
            "ENVID=a=b",
            "ENVID=\u{e9}",
            "ENVID=a\u{2028}b",
            "ENVID=a\tRET=FULL",
            "ENVID=a ENVID=b",
            "AUTH=<> AUTH=<>",
            "AUTH=",
            "AUTH",
            "RET=FULL RET=HDRS",
            "RET=FULL,HDRS",
            "BODY=8BITMIME BODY=7BIT",
            "BODY=",
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
            "SIZE=1 size=2",
            "NOTIFY=NEVER",
            "XOORG=evil.example",
            "XCLIENT=1",
            "X",
            "=",
            "=x",
            "MT-PRIORITY=10",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=1\u{b}SIZE=1",
            "HOLDFOR=1 HOLDUNTIL=2026-11-23T10:30:00Z",
            "REQUIRETLS",
        ]
        .map(str::to_owned),
    );
    mails.push(format!("ENVID={}", "x".repeat(101)));
    mails.push(format!("AUTH={}", "x".repeat(501)));
    mails.push(format!("FOO={long}"));
    for parameter in &mails {
        let mut client = Client::greeted(whole.addresses[0]).await.0;
        let reply = client.ask(&format!("MAIL FROM:<a@x.example> {parameter}")).await;
        let is_refused = ["500 ", "501 ", "530 ", "555 "].iter().any(|code| reply.starts_with(code));
        assert!(is_refused, "{parameter:.60}: {reply}");
    }
    let mut rcpts: Vec<String> = [
        "ORCPT=rfc822;a+0D+0ARCPT",
        "ORCPT=rfc822;a+0a",
        "ORCPT=rfc822;a+1B[2J",
        "ORCPT=rfc822;a=b",
        "ORCPT=rfc822;",
        "ORCPT=;a",
        "ORCPT=rfc 822;a",
        "ORCPT=rfc822\u{2028};a",
        "ORCPT=rfc822;\u{e9}",
        "ORCPT=utf-8;a\\x{0D}b",
        "ORCPT=utf-8;a\\x{9B}b",
        "ORCPT=utf-8;a\\x{D800}b",
        "ORCPT=utf-8;a\\x{110000}b",
        "ORCPT=utf-8;a\\x{0000041}b",
        "ORCPT=utf-8;a\\x{}b",
        "ORCPT=utf-8;a\\x{41",
        "ORCPT=utf-8;a\u{85}b",
        "ORCPT=utf-8;a+0D",
        "ORCPT=rfc822;a ORCPT=rfc822;b",
        "NOTIFY=",
        "NOTIFY=NEVER,FAILURE",
        "NOTIFY=SUCCESS,,FAILURE",
        "NOTIFY=success;delay",
        "SMTPUTF8",
        "XFOO",
    ]
    .map(str::to_owned)
    .to_vec();
    rcpts.push(format!("ORCPT=rfc822;{}", "x".repeat(500)));
    for parameter in &rcpts {
        let mut client = Client::greeted(whole.addresses[0]).await.0;
        client.ask("MAIL FROM:<a@x.example> SMTPUTF8").await;
        let reply = client.ask(&format!("{rcpt} {parameter}")).await;
        let is_refused = ["500 ", "501 ", "555 "].iter().any(|code| reply.starts_with(code));
        assert!(is_refused, "{parameter:.60}: {reply}");
    }
    for (mail, orcpt, sent) in [
        ("ENVID=a+20b+3BX-Evil:+201", "ORCPT=rfc822;c+20d+3Be", true),
        ("ENVID=a+3E+20RCPT+20TO:+3Cx+3E", "ORCPT=utf-8;j\\x{F6}rg@x.example", true),
        // Beyond ASCII it needs SMTPUTF8 at every hop, and is left out.
        ("SMTPUTF8 ENVID=b", "ORCPT=utf-8;j\u{f6}rg@x.example", false),
    ] {
        let mail = format!("MAIL FROM:<a@x.example> {mail}");
        let lines = offered(&far, &whole, &mail, &format!("{rcpt} {orcpt}")).await;
        let lines = lines.unwrap_or_else(|| panic!("{mail} {orcpt} was refused"));
        assert_eq!(transaction(&lines).len(), 3, "{lines:?}");
        let expected = if sent { format!("{rcpt} {orcpt}") } else { rcpt.to_owned() };
        assert!(is_kept(&far.log(), &expected), "{lines:?}");
    }
}

#[tokio::test]
async fn what_a_client_calls_itself_stays_in_its_place() {
    let far = far_side().await;
    let (whole, _) = relaying_to(far.address).await;
    let mut taken = 0;
    for name in [
        "a)(b",
        "a;b",
        "a\\b",
        "\"a\"",
        "a,b",
        "<a>",
        "a b",
        "a\tb",
        "a\u{b}b",
        "a\u{1b}[2J",
        "a\u{e9}",
        "a\u{2028}b",
        "a%0d%0aX-Evil:1",
        "a=0D=0AX-Evil:1",
        "=?utf-8?q?a=0D=0A?=",
        "[192.0.2.1]",
        "[IPv6:::1]",
        "${jndi:ldap://evil.example/a}",
        "../../x",
    ] {
        let mut client = Client::connect(whole.addresses[0]).await;
        client.reply().await;
        let reply = client.ask(&format!("EHLO {name}")).await;
        assert!(!reply.contains(name) && !reply.contains("evil"), "{reply}");
        if !reply.starts_with("250") {
            assert!(reply.starts_with("50"), "{reply}");
            continue;
        }
        taken += 1;
        client.begin().await;
        assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
    }
    whole.store.wait(|_| whole.store.messages().is_empty()).await;
    let log = far.log();
    assert!(taken >= 4 && log.taken.len() == taken, "{taken}");
    for taken in &log.taken {
        let content = String::from_utf8(taken.content.clone()).unwrap();
        let names: Vec<_> = content
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| !line.starts_with(['\t', ' ']))
            .map(|line| line.split_once(':').unwrap().0)
            .collect();
        assert_eq!(names, ["Received", "Message-ID", "Date", "Subject"], "{content}");
        let clause = content.split_once("Message-ID").unwrap().0;
        assert!(!clause.contains("${") && !clause.contains("=?") && !clause.contains('%'), "{clause}");
    }
}
