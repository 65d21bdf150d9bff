//! Messages that are as expensive to look at as a message may be.

use std::io;

use tokio::io::AsyncWriteExt;

use super::{Attack, Party, drain};

/// Octets of a message, about: under the limit, and much.
const LARGE: usize = 4 << 20;
const MOST_RECIPIENTS: usize = 1_000;

/// Sends one, with a key, and waits for the reply. It goes to nobody who is counted.
pub async fn send(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.open, false).await?;
    let recipients = if party.attack == Attack::Recipients { MOST_RECIPIENTS } else { 1 };
    let mut said = b"EHLO siege.invalid\r\nMAIL FROM:<a@siege.invalid>\r\n".to_vec();
    for number in 0..recipients {
        said.extend_from_slice(format!("RCPT TO:<b{number}@siege.invalid>\r\n").as_bytes());
    }
    said.extend_from_slice(b"DATA\r\n");
    said.extend_from_slice(format!("X-Idempotency-Key: {:x}\r\n", rand::random::<u64>()).as_bytes());
    said.extend_from_slice(&message(party.attack));
    said.extend_from_slice(b"\r\n.\r\nQUIT\r\n");
    stream.write_all(&said).await?;
    drain(&mut stream).await?;
    party.note();
    Ok(())
}

fn message(attack: Attack) -> Vec<u8> {
    match attack {
        Attack::Headers => {
            let mut message = Vec::with_capacity(LARGE);
            let mut number = 0;
            while message.len() < LARGE {
                message.extend_from_slice(format!("X-{number}: {number}\r\n").as_bytes());
                number += 1;
            }
            message.extend_from_slice(b"\r\nx");
            message
        }
        Attack::Nesting => {
            let mut message = b"MIME-Version: 1.0\r\n".to_vec();
            for depth in 0..20_000 {
                message.extend_from_slice(
                    format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n")
                        .as_bytes(),
                );
            }
            message.extend_from_slice(&b"Content-Type: message/rfc822\r\n\r\n".repeat(20_000));
            message
        }
        Attack::Parts => {
            let mut message =
                b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec();
            message.extend_from_slice(
                &b"--b\r\nContent-Type: text/plain; charset=iso-2022-jp\r\nContent-Transfer-Encoding: base64\r\n\r\neA==\r\n"
                    .repeat(10_000),
            );
            message.extend_from_slice(b"--b--\r\n");
            message
        }
        Attack::EncodedWords => {
            let word = b"=?iso-2022-jp?b?GyRCJCIkIiQiJCIkIiQiJCIkIiQiJCIbKEI=?=\r\n ".as_slice();
            let mut message = b"Subject: ".to_vec();
            message.extend_from_slice(&word.repeat(LARGE / word.len()));
            message.extend_from_slice(b"x\r\nX-Idempotency-Key: ");
            message.extend_from_slice(&word.repeat(1_000));
            message.extend_from_slice(b"x\r\n\r\nx");
            message
        }
        Attack::Runs => {
            let mut message =
                b"MIME-Version: 1.0\r\nContent-Encoding: gzip\r\nContent-Type: text/html; charset=utf-7\r\n\
                Content-Transfer-Encoding: quoted-printable\r\n\r\n"
                    .to_vec();
            message.extend_from_slice(
                &b"+AGEAYQBhAGEAYQBhAGEAYQBhAGEAYQBh-=20=20=20=3D=\r\n".repeat(LARGE / 52),
            );
            message
        }
        _ => b"Subject: many\r\n\r\nx".to_vec(),
    }
}
