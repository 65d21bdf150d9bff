//! The account, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::accounts::{Account, Duplicates};
use crate::book::Pages;
use crate::message::Route;
use crate::round::Brought;
use crate::samples::Samples;

/// Sums of all rounds.
#[derive(Default)]
pub struct Total {
    pub rounds: u64,
    pub account: Account,
    pub asked: u64,
    pub known: u64,
}

impl Total {
    pub fn add(&mut self, brought: Brought) {
        let Brought { account, asked, known } = brought;
        let sum = &mut self.account;
        self.rounds += 1;
        self.asked += asked;
        self.known += known;
        for (own, other) in [
            (&mut sum.messages, account.messages),
            (&mut sum.recipients, account.recipients),
            (&mut sum.delivered, account.delivered),
            (&mut sum.queued, account.queued),
            (&mut sum.held, account.held),
            (&mut sum.bounced, account.bounced),
            (&mut sum.held_unsent, account.held_unsent),
            (&mut sum.held_taken, account.held_taken),
            (&mut sum.keys, account.keys),
            (&mut sum.unkeyed_again, account.unkeyed_again),
            (&mut sum.reports, account.reports),
            (&mut sum.events, account.events),
            (&mut sum.events_again, account.events_again),
            (&mut sum.events_torn, account.events_torn),
        ] {
            *own += other;
        }
        for (route, more) in account.duplicates {
            let own = sum.duplicates.entry(route).or_default();
            own.after_kill += more.after_kill;
            own.after_cut += more.after_cut;
            own.unexplained += more.unexplained;
        }
        sum.longest_doubt = sum.longest_doubt.max(account.longest_doubt);
    }
}

/// Everything that is told at the end.
pub struct Report<'a> {
    pub seed: u64,
    pub took: Duration,
    pub starts: u64,
    pub total: &'a Total,
    pub pages: &'a Pages,
    pub samples: &'a Samples,
}

impl Report<'_> {
    /// For people.
    pub fn print(&self) {
        let (a, total) = (&self.total.account, self.total);
        let took = self.took.as_secs();
        println!(
            "soak, seed {}: {took} s, {} rounds, {} starts of the relay",
            self.seed, total.rounds, self.starts
        );
        println!(
            "\n  accepted recipients   {:>9}   of {} messages, {} with a key",
            a.recipients, a.messages, a.keys
        );
        println!("  = delivered           {:>9}", a.delivered);
        println!("  + queued              {:>9}", a.queued);
        println!(
            "  + held                {:>9}   {} had been taken, {} not",
            a.held, a.held_taken, a.held_unsent
        );
        println!("  + bounced             {:>9}   by {} reports", a.bounced, a.reports);
        let missing = i128::from(a.recipients) - i128::from(a.delivered + a.queued + a.held + a.bounced);
        println!("  missing               {missing:>9}");
        println!("\n  sent again            after kill  after cut  unexplained");
        for route in Route::ALL {
            let Duplicates { after_kill, after_cut, unexplained } =
                a.duplicates.get(&route).copied().unwrap_or_default();
            println!("    {:<20}{after_kill:>10} {after_cut:>10} {unexplained:>12}", route.name());
        }
        println!("  longest time between a reply and the kill that excused its copy: {:?}", a.longest_doubt);
        println!("  without a key, queued again after a lost reply: {}", a.unkeyed_again);
        let (events, again, torn) = (a.events, a.events_again, a.events_torn);
        println!("  events: {events}; {again} lines are there again, {torn} were cut off");
        println!("\n  done to the relay, and told to applications:");
        self.pages.counts.iter().for_each(|(what, count)| println!("    {what:<28}{count:>8}"));
        println!("  at the far sides:");
        for ((route, what), count) in &self.pages.far_sides {
            println!("    {:<8}{what:<28}{count:>8}", route.name());
        }
        println!("  warnings in the log:");
        self.pages.warnings.iter().for_each(|(what, count)| println!("    {count:>6}  {what}"));
        let s = self.samples;
        println!("\n                         most        last");
        println!(
            "  resident memory  {:>9.1} MB {:>9.1} MB",
            megabytes(s.resident_most),
            megabytes(s.resident_last)
        );
        println!("  descriptors      {:>12} {:>12}", s.descriptors_most, s.descriptors_last);
        println!("  data directory   {:>9.1} MB {:>9.1} MB", megabytes(s.disk_most), megabytes(s.disk_last));
        println!("  the history knew {} of {} messages (no promise)", total.known, total.asked);
        println!("\n  faults: {}", self.pages.fault_count);
        self.pages.faults.iter().for_each(|fault| println!("    {fault}"));
    }

    /// For programs: one line.
    pub fn json(&self) -> Value {
        let (a, total, pages) = (&self.total.account, self.total, self.pages);
        let duplicates: BTreeMap<_, _> = a
            .duplicates
            .iter()
            .map(|(route, d)| {
                let Duplicates { after_kill, after_cut, unexplained } = d;
                let counts =
                    json!({ "after_kill": after_kill, "after_cut": after_cut, "unexplained": unexplained });
                (route.name(), counts)
            })
            .collect();
        let far_sides: BTreeMap<_, _> = pages
            .far_sides
            .iter()
            .map(|((route, what), n)| (format!("{}: {what}", route.name()), n))
            .collect();
        json!({
            "seed": self.seed, "seconds": self.took.as_secs_f64(), "rounds": total.rounds, "starts": self.starts,
            "messages": a.messages, "keys": a.keys, "recipients": a.recipients, "delivered": a.delivered,
            "queued": a.queued, "held": a.held, "held_taken": a.held_taken, "held_unsent": a.held_unsent,
            "bounced": a.bounced, "reports": a.reports, "unkeyed_again": a.unkeyed_again,
            "events": a.events, "events_again": a.events_again, "events_torn": a.events_torn,
            "sent_again": duplicates, "longest_doubt_seconds": a.longest_doubt.as_secs_f64(),
            "counts": pages.counts, "far_sides": far_sides, "warnings": pages.warnings,
            "samples": self.samples, "history": { "asked": total.asked, "known": total.known },
            "faults": pages.fault_count, "first_faults": pages.faults,
        })
    }
}

fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}
