//! Attacks, one after the other, each beside honest mail at a steady rate: its latency before, during and after, and the
//! relay's memory and descriptors. What an attack may cost is bounded, and nothing of it is left when it is over.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use clap::ValueEnum;
use tempfile::TempDir;

use super::measure::{Bench, SMALL, mebibytes};
use super::overload::{add_refusals, honest};
use super::relay::{Relay, Ways};
use super::table::{Goal, Section};
use crate::attack::far::FarSide;
use crate::attack::{Assault, Attack, Targets};
use crate::client::{Encryption, Greeting};
use crate::generate::{self, Load};
use crate::message::{Destinations, KEY, Shape};
use crate::open_loop::{Going, Taken};

/// Honest messages a second.
const RATE: f64 = 50.0;
/// Under attack the 99th percentile stays below this, in milliseconds: machine, attacker and honest client share two cores.
const P99: f64 = 500.0;
/// Descriptors that may be open more than before: files of the journal, connections of the route.
const DESCRIPTORS: u64 = 60;
/// How soon the last connection of an attack has gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// Messages for the far sides that attack.
const DEAD_MESSAGES: u64 = 2_000;
const PASSWORD: &str = "honest password";

/// One relay that is attacked.
struct Siege<'a> {
    relay: Relay,
    targets: Targets,
    sink: &'a crate::sink::Sink,
    drain: Duration,
    time: Duration,
    /// Looked at again now and then.
    _certificate: TempDir,
}

/// How an honest message fared, and the relay meanwhile.
struct Phase {
    taken: Taken,
    memory: u64,
    descriptors: u64,
}

impl Bench<'_> {
    /// See the module. `attacks`: which; none: all.
    pub fn besieged(
        &self,
        binary: &Path,
        directory: &Path,
        attacks: &[Attack],
        most: u32,
        time: Duration,
        section: &mut Section<'_>,
    ) -> Result<()> {
        let all = if attacks.is_empty() { Attack::value_variants() } else { attacks };
        for attack in all {
            let name = attack.to_possible_value().context("every attack has a name")?.get_name().to_owned();
            eprintln!("load: {name}");
            let far = FarSide::start(*attack)?;
            let ways = Ways::Beside(self.sink.address, far.address);
            for (about, limits) in limits(*attack) {
                let siege = self.siege(binary, directory, ways, limits, time)?;
                let ended = siege.undergo(*attack, &far, &format!("{name}{about}"), most, section);
                ended.with_context(|| format!("{name}:\n{}", siege.relay.log_tail()))?;
            }
        }
        Ok(())
    }

    fn siege(
        &self,
        binary: &Path,
        directory: &Path,
        ways: Ways,
        limits: &[(&'static str, &'static str)],
        time: Duration,
    ) -> Result<Siege<'_>> {
        let certificate = tempfile::tempdir_in(directory)?;
        let [guarded, encrypted, admin] = [free_port()?, free_port()?, free_port()?];
        let further = further(certificate.path(), guarded, encrypted, admin)?;
        let relay = Relay::start_as(binary, directory, ways, &further, limits)?;
        let targets = Targets { open: relay.address, guarded, encrypted, admin };
        Ok(Siege { relay, targets, sink: self.sink, drain: self.drain, time, _certificate: certificate })
    }
}

impl Siege<'_> {
    fn undergo(
        &self,
        attack: Attack,
        far: &FarSide,
        name: &str,
        most: u32,
        section: &mut Section<'_>,
    ) -> Result<()> {
        if matches!(attack, Attack::EndlessReply | Attack::TarPit) {
            let mut load = Load::new(self.relay.address, 4, DEAD_MESSAGES, SMALL);
            load.shape.destinations = Destinations::Dead;
            generate::run(&std::sync::Arc::new(load))?;
        }
        let before = self.phase(attack, self.time / 2)?;
        let assault = Assault::start(attack, self.targets, most)?;
        let during = self.phase(attack, self.time);
        let times = assault.stop()? + far.reached();
        let during = during?;
        let after = self.phase(attack, self.time / 2)?;
        let left = self.descriptors_once_over(before.descriptors)?;
        // At once: a siege takes its time, and whoever ends it early has what was measured.
        eprintln!(
            "load: {name}: honest p99 {:.0}, {:.0}, {:.0} ms; {} of {} taken meanwhile; {:.0}, {:.0} MiB; {}, {}, {left} files",
            before.taken.after_due(0.99),
            during.taken.after_due(0.99),
            after.taken.after_due(0.99),
            during.taken.accepted.len(),
            during.taken.offered,
            mebibytes(before.memory),
            mebibytes(during.memory),
            before.descriptors,
            during.descriptors,
        );
        section.add_proof(format!("{name}: times it was done"), times as f64, "times", times == 0);
        for (when, phase, goal) in
            [("before", &before, None), ("during", &during, Some(Goal::Below(P99))), ("after", &after, None)]
        {
            section.add(format!("{name}: honest p50, {when}"), phase.taken.after_due(0.5), "ms", None);
            section.add(format!("{name}: honest p99, {when}"), phase.taken.after_due(0.99), "ms", goal);
            section.add(format!("{name}: resident memory, {when}"), mebibytes(phase.memory), "MiB", None);
            section.add(format!("{name}: descriptors, {when}"), phase.descriptors as f64, "files", None);
            add_refusals(&format!("{name}: {when}"), &phase.taken, section);
        }
        let most = before.descriptors + DESCRIPTORS;
        section.add_proof(format!("{name}: descriptors left"), left as f64, "files", left > most);
        let calm = before.taken.failed + before.taken.refused + after.taken.failed + after.taken.refused;
        section.add_proof(
            format!("{name}: honest messages not taken in peace"),
            calm as f64,
            "messages",
            calm > 0,
        );
        let none = during.taken.accepted.is_empty();
        let taken = during.taken.accepted.len() as f64 / during.taken.offered.max(1) as f64;
        section.add_proof(format!("{name}: part of honest mail taken, during"), taken, "", none);
        Ok(())
    }

    /// Honest mail for so long; all that was accepted must arrive once.
    fn phase(&self, attack: Attack, time: Duration) -> Result<Phase> {
        let shape = Shape::new(generate::new_run(), SMALL, 1, Some(KEY.to_owned()));
        let run = shape.run;
        let mut offer = honest(&self.relay, shape, RATE, time);
        if matches!(attack, Attack::Guesses | Attack::GiantAuth) {
            let login = Some(("honest".to_owned(), PASSWORD.to_owned()));
            offer.greeting = Greeting { address: self.targets.guarded, tls: Encryption::None, login };
        }
        let going = Going::start(offer);
        let (mut memory, mut descriptors, began) = (0, 0, Instant::now());
        while began.elapsed() < time {
            thread::sleep(Duration::from_millis(100));
            memory = memory.max(self.relay.resident_bytes()?);
            descriptors = descriptors.max(self.relay.descriptors()?);
        }
        let taken = going.wait(false)?;
        self.sink.tally.wait_for(run, taken.accepted.len() as u64, self.drain);
        let verdict = self.sink.tally.verify(run, &taken.accepted, 1);
        ensure!(verdict.missing + verdict.duplicated == 0, "honest mail was lost or doubled: {verdict:?}");
        Ok(Phase { taken, memory, descriptors })
    }

    /// Descriptors when no more go; or those that are left after a while.
    fn descriptors_once_over(&self, before: u64) -> Result<u64> {
        let began = Instant::now();
        loop {
            let open = self.relay.descriptors()?;
            if open <= before || began.elapsed() >= GONE_WITHIN {
                return Ok(open);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

type Limits = &'static [(&'static str, &'static str)];

/// What holds without configuration; idle connections are also had without limits that stop them.
const DEFAULTS: Limits =
    &[("ONCEMAIL__LIMITS__CONNECTIONS", "2000"), ("ONCEMAIL__LIMITS__CONNECTIONS_PER_IP", "200")];
const NONE: Limits =
    &[("ONCEMAIL__LIMITS__CONNECTIONS", "18000"), ("ONCEMAIL__LIMITS__CONNECTIONS_PER_IP", "18000")];

fn limits(attack: Attack) -> &'static [(&'static str, Limits)] {
    match attack {
        Attack::Idle => &[("", DEFAULTS), (", without limits", NONE)],
        _ => &[("", DEFAULTS)],
    }
}

fn free_port() -> Result<SocketAddr> {
    // The port is free a moment before it is used; nothing else on a machine that measures takes ports.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A listener with AUTH, one inside TLS, a user, and the administration.
fn further(home: &Path, guarded: SocketAddr, encrypted: SocketAddr, admin: SocketAddr) -> Result<String> {
    let made = rcgen::generate_simple_self_signed(vec!["relay.load.invalid".to_owned()])?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| home.join(name));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let hash =
        Argon2::default().hash_password(PASSWORD.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(format!(
        r#"
[[listener]]
name = "guarded"
address = "{guarded}"
tls = "none"
auth = "required"

[[listener]]
name = "encrypted"
address = "{encrypted}"
tls = "implicit"
auth = "none"

[tls]
certificate_file = "{}"
key_file = "{}"

[[user]]
name = "honest"
password_hash = "{hash}"

[admin]
address = "{admin}"
"#,
        certificate.display(),
        key.display(),
    ))
}
