//! The parser of command lines: what it takes means one thing, and can be said again to the next hop with that meaning.

use oncemail::mail::{Body, Notify, Ret};
use oncemail::smtp::Reply;
use oncemail::smtp::command::{Command, Mail, Rcpt};
use oncemail::smtp::parameters::Hold;

use crate::address;

/// The input is one line without its CRLF.
pub fn run(input: &[u8]) {
    let parsed = Command::parse(input);
    // Blanks behind a command have no meaning, and neither has the case of its verb.
    let blanks = [input, b" \t "].concat();
    assert_eq!(Command::parse(&blanks), parsed);
    let mut other_case = input.to_vec();
    let verb = input.iter().position(|b| *b == b' ').unwrap_or(input.len());
    other_case[..verb].make_ascii_lowercase();
    match &parsed {
        Err(error) => {
            check_reply(&error.reply());
            assert!((400..600).contains(&error.reply().code));
        }
        Ok(command) => {
            assert!(!input.iter().any(|b| b.is_ascii_control() && *b != b'\t'), "a control character");
            assert_eq!(Command::parse(&other_case).as_ref(), Ok(command));
            taken(command);
            parameters(input, command);
        }
    }
}

/// What holds for every reply of ours: lines of text, each with its code, and nothing that could end one early.
pub fn check_reply(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8(wire).expect("a reply is text");
    let lines: Vec<_> = text.strip_suffix("\r\n").expect("a reply ends with CRLF").split("\r\n").collect();
    for (number, line) in lines.iter().enumerate() {
        let separator = if number + 1 == lines.len() { ' ' } else { '-' };
        assert!(line.starts_with(&format!("{}{separator}", reply.code)), "{line:?}");
        assert!(!line.contains(|c: char| c.is_ascii_control()), "{line:?}");
    }
    if let Some(enhanced) = reply.enhanced {
        assert_eq!(u16::from(enhanced.0), reply.code / 100);
    }
}

fn taken(command: &Command<'_>) {
    match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!((1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()));
        }
        Command::Mail(mail) => said_again_mail(mail),
        Command::Rcpt(rcpt) => said_again_rcpt(rcpt),
        Command::Auth(auth) => {
            assert!(!auth.mechanism.is_empty() && !auth.mechanism.contains(' '));
            assert!(auth.initial.is_none_or(|initial| !initial.is_empty() && !initial.contains(' ')));
        }
        Command::Bdat(chunk) => {
            let line = format!("BDAT {}{}", chunk.size, if chunk.last { " LAST" } else { "" });
            assert_eq!(Command::parse(line.as_bytes()).as_ref(), Ok(command));
        }
        Command::Data
        | Command::Rset
        | Command::Noop
        | Command::Help
        | Command::Vrfy
        | Command::Quit
        | Command::StartTls => {}
    }
}

/// The most octets that a parameter's value may have, by the RFC that it is from.
const MOST: [(&str, usize); 10] = [
    ("SIZE", 20),
    ("BODY", 8),
    ("RET", 4),
    ("ENVID", 100),
    ("AUTH", 500),
    ("SMTPUTF8", 0),
    ("HOLDFOR", 9),
    ("MT-PRIORITY", 2),
    ("REQUIRETLS", 0),
    ("ORCPT", 500),
];

/// What follows the path, read a second time: words between blanks, each keyword once, no value too long.
fn parameters(input: &[u8], command: &Command<'_>) {
    let path = match command {
        Command::Mail(mail) => mail.reverse_path.to_string(),
        Command::Rcpt(rcpt) => rcpt.forward_path.to_string(),
        _ => return,
    };
    let line = std::str::from_utf8(input).expect("a command is text");
    let (_, rest) = line.split_once(&format!("{path}>")).expect("the path stands in the line");
    assert!(rest.is_empty() || rest.starts_with([' ', '\t']), "glued to the path: {rest:?}");
    let mut keywords = Vec::new();
    for word in rest.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let (keyword, value) = word.split_once('=').unwrap_or((word, ""));
        let keyword = keyword.to_ascii_uppercase();
        let most = MOST.iter().find(|(name, _)| *name == keyword).map_or(usize::MAX, |(_, most)| *most);
        assert!(value.len() <= most, "{word:?}");
        // One of the two ways to say the same.
        keywords.push(if keyword == "HOLDUNTIL" { "HOLDFOR".to_owned() } else { keyword });
    }
    keywords.sort();
    assert!(keywords.windows(2).all(|pair| pair[0] != pair[1]), "given twice: {line:?}");
}

fn said_again_mail(mail: &Mail) {
    let parameters = &mail.parameters;
    if let Some(mailbox) = mail.reverse_path.mailbox() {
        address::check(mailbox);
        assert!(mailbox.domain().is_some(), "RFC 5321 knows a mailbox without a domain in RCPT only");
    }
    assert!(parameters.smtputf8 || mail.reverse_path.as_str().is_ascii());
    let mut line = format!("MAIL FROM:<{}>", mail.reverse_path);
    let mut add = |text: String| line.push_str(&text);
    parameters.size.inspect(|size| add(format!(" SIZE={size}")));
    parameters.body.inspect(|body| {
        add(format!(" BODY={}", if *body == Body::SevenBit { "7BIT" } else { "8BITMIME" }));
    });
    parameters.ret.inspect(|ret| add(format!(" RET={}", if *ret == Ret::Full { "FULL" } else { "HDRS" })));
    if let Some(envid) = &parameters.envid {
        assert!(envid.len() <= 100 && envid.bytes().all(|b| b.is_ascii_graphic()), "{envid:?}");
        add(format!(" ENVID={envid}"));
    }
    match parameters.hold {
        Some(Hold::For(interval)) => add(format!(" HOLDFOR={}", interval.as_secs())),
        Some(Hold::Until(time)) => add(format!(" HOLDUNTIL={time}")),
        None => {}
    }
    parameters.priority.inspect(|priority| add(format!(" MT-PRIORITY={priority}")));
    if parameters.smtputf8 {
        add(" SMTPUTF8".to_owned());
    }
    if parameters.require_tls {
        add(" REQUIRETLS".to_owned());
    }
    let Ok(Command::Mail(again)) = Command::parse(line.as_bytes()) else {
        panic!("not taken again: {line:?}")
    };
    assert_eq!(again.reverse_path, mail.reverse_path);
    let mut expected = parameters.clone();
    // HOLDUNTIL is said in whole seconds, and what was taken may have a fraction.
    match (&mut expected.hold, again.parameters.hold) {
        (Some(Hold::Until(time)), Some(Hold::Until(said))) if time.as_secs() == said.as_secs() => {
            *time = said
        }
        _ => {}
    }
    expected.any = again.parameters.any;
    assert_eq!(again.parameters, expected, "{line:?}");
}

fn said_again_rcpt(rcpt: &Rcpt) {
    address::check(&rcpt.forward_path);
    let mut line = format!("RCPT TO:<{}>", rcpt.forward_path);
    if let Some(Notify { success, failure, delay }) = rcpt.parameters.notify {
        let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
        let said: Vec<_> = words.iter().filter(|(is_said, _)| *is_said).map(|(_, word)| *word).collect();
        line.push_str(&format!(
            " NOTIFY={}",
            if said.is_empty() { "NEVER".to_owned() } else { said.join(",") }
        ));
    }
    if let Some(orcpt) = &rcpt.parameters.orcpt {
        assert!(orcpt.len() <= 500 && !orcpt.contains(|c: char| c.is_control() || c == ' '), "{orcpt:?}");
        line.push_str(&format!(" ORCPT={orcpt}"));
    }
    let Ok(Command::Rcpt(again)) = Command::parse(line.as_bytes()) else {
        panic!("not taken again: {line:?}")
    };
    assert_eq!(again.forward_path, rcpt.forward_path);
    assert_eq!(
        (again.parameters.notify, &again.parameters.orcpt),
        (rcpt.parameters.notify, &rcpt.parameters.orcpt)
    );
}
