//! The scripted dialogues in `tests/dialogs/*.smtp`: each is played twice, once in whole packets and once octet by
//! octet, and must read the same both times (S1).
//!
//! | Line | Meaning |
//! |---|---|
//! | `# …` | a comment |
//! | `= key value` | a setting of the server, before the first other line (see `adjust`) |
//! | `C: text` | the client sends text and CRLF; lines in a row go in one packet |
//! | `C> text` | the client sends text alone |
//! | `S: text` | the server's next line; `*` stands for anything |
//! | `S!` | the server closes the connection |
//! | `Q: n` | so many messages have been queued |
//!
//! In `C` lines `\r`, `\n`, `\0`, `\t`, `\\` and `\xHH` are octets, and `{x*500}` is 500 times x.

use std::path::Path;

use oncemail::submission::Options;
use oncemail::submission::options::AuthMode;

use crate::common::client::Client;
use crate::common::listener::{Running, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_every_dialogue_reads_as_written_in_any_packet_sizes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut scripts: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|e| e == "smtp"));
    scripts.sort();
    assert!(scripts.len() >= 25, "only {} dialogues were found", scripts.len());
    let mut failures = Vec::new();
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for slowly in [false, true] {
            if let Err(problem) = play(&script, slowly).await {
                failures.push(format!("{name}{}: {problem}", if slowly { " (octet by octet)" } else { "" }));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

async fn play(script: &str, slowly: bool) -> Result<(), String> {
    let server = Running::start(|options| {
        script.lines().filter_map(|line| line.strip_prefix("= ")).for_each(|line| adjust(options, line));
    })
    .await;
    let mut client = Client::connect(server.address).await;
    let mut packet = Vec::new();
    for (index, line) in script.lines().enumerate() {
        let problem = |text: String| Err(format!("line {}: {text}", index + 1));
        if let Some(text) = line.strip_prefix("C> ") {
            packet.extend(octets(text));
            continue;
        }
        if let Some(text) = line.strip_prefix("C:") {
            packet.extend(octets(text.strip_prefix(' ').unwrap_or(text)));
            packet.extend(b"\r\n");
            continue;
        }
        if !packet.is_empty() && !line.trim().is_empty() && !line.starts_with('#') {
            match slowly {
                true => client.send_slowly(&packet).await,
                false => client.send(&packet).await,
            }
            packet.clear();
        }
        if let Some(expected) = line.strip_prefix("S: ") {
            match client.line().await {
                Some(said) if is_like(expected, &said) => {}
                said => return problem(format!("expected {expected:?}, got {said:?}")),
            }
        } else if line == "S!" {
            if !client.is_closed().await {
                return problem("the connection is still open".to_owned());
            }
        } else if let Some(count) = line.strip_prefix("Q: ") {
            let queued = server.messages().len();
            if queued.to_string() != count {
                return problem(format!("expected {count} messages, got {queued}"));
            }
        } else if !line.trim().is_empty() && !line.starts_with(['#', '=']) {
            return problem(format!("what is {line:?}?"));
        }
    }
    if packet.is_empty() { Ok(()) } else { Err("the script ends with words of the client".to_owned()) }
}

fn adjust(options: &mut Options, setting: &str) {
    let (key, value) = setting.split_once(' ').unwrap_or((setting, ""));
    let number = || value.parse().unwrap();
    match key {
        "auth" => {
            options.listeners[0].auth =
                if value == "required" { AuthMode::Required } else { AuthMode::Optional };
            options.users = vec![user("ann")];
        }
        "senders" => options.users[0].senders = value.split(' ').map(str::to_owned).collect(),
        "allow" => options.listeners[0].allow = vec![value.parse().unwrap()],
        "verify_syntax" => options.verify.syntax = true,
        "message_size" => options.limits.message_size = number(),
        "receive_memory" => options.limits.receive_memory = number(),
        "recipients" => options.limits.recipients = number(),
        "connections" => options.limits.connections = number(),
        "connections_per_ip" => options.limits.connections_per_ip = number(),
        "messages_per_connection" => options.limits.messages_per_connection = value.parse().unwrap(),
        "auth_failures" => {
            options.limits.auth_failures = governor::Quota::per_hour(value.parse().unwrap());
        }
        _ => panic!("unknown setting {key:?}"),
    }
}

fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            rest.is_empty() || text.char_indices().any(|(at, _)| is_like(rest, &text[at..]))
        }),
    }
}

fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\\' {
            let (kind, after) = rest.split_at(1);
            rest = after;
            out.push(match kind {
                "r" => b'\r',
                "n" => b'\n',
                "t" => b'\t',
                "0" => 0,
                "\\" => b'\\',
                "x" => {
                    let (digits, after) = rest.split_at(2);
                    rest = after;
                    u8::from_str_radix(digits, 16).unwrap()
                }
                _ => panic!("unknown escape in {text:?}"),
            });
        } else if c == '{' {
            let (what, after) = rest.split_once('}').unwrap();
            let (unit, count) = what.rsplit_once('*').unwrap();
            out.extend(octets(&unit.repeat(count.parse().unwrap())));
            rest = after;
        } else {
            out.extend(c.to_string().as_bytes());
        }
    }
    out
}
