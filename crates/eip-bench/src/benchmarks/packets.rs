//! What it costs to carry packets, beside plain routing and beside a rule for each address.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Bench;
use crate::latencies::median;
use crate::report::{Table, Target, count, time, whole};
use crate::site::{Kind, Site};
use crate::traffic::Carried;

/// How long one measurement lasts; what is compared is measured in turn.
const SLICE: Duration = Duration::from_millis(150);
/// How many turns there are for each run that is asked for.
const TURNS: u32 = 7;
/// Up to how many addresses memory is lost in what else the kernel does.
const FEW: u32 = 10_000;

/// What was measured in each turn, in the order of the turns.
#[derive(Debug, Default)]
struct Measured {
    /// Nanoseconds for a packet.
    packets: Vec<f64>,
    /// Connections and bytes for each second of a processor.
    connections: Vec<f64>,
    stream: Vec<f64>,
}

pub(super) fn run(bench: &mut Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let mut first = None;
    for number in bench.args.associations.clone() {
        let rules = number <= bench.args.rules;
        let turns = bench.args.runs * TURNS;
        let compare = move || compared(number, rules, turns);
        // On a thread of its own: what is measured stays on one processor.
        let outcome = std::thread::spawn(compare).join();
        let outcome = outcome.map_err(|_| anyhow::anyhow!("the measurement gave up"))??;
        tables.push(table(bench, number, &outcome, &mut first)?);
    }
    Ok(tables)
}

struct Outcome {
    plain: Measured,
    eip: Measured,
    iptables: Option<Measured>,
    eip_loaded: Duration,
    iptables_loaded: Duration,
    memory: i64,
}

fn compared(number: u32, rules: bool, turns: u32) -> Result<Outcome> {
    let mut eip = Site::make(Kind::Eip(number))?;
    let mut plain = Site::make(Kind::Plain)?;
    let mut iptables = rules.then(|| Site::make(Kind::Iptables(number))).transpose()?;
    let mut outcome = Outcome {
        plain: Measured::default(),
        eip: Measured::default(),
        iptables: iptables.is_some().then(Measured::default),
        eip_loaded: eip.loaded,
        iptables_loaded: iptables.as_ref().map(|site| site.loaded).unwrap_or_default(),
        memory: eip.memory,
    };
    for _ in 0..turns {
        outcome.plain.add(&mut plain)?;
        outcome.eip.add(&mut eip)?;
        if let Some((site, measured)) = iptables.as_mut().zip(outcome.iptables.as_mut()) {
            measured.add(site)?;
        }
    }
    Ok(outcome)
}

impl Measured {
    fn add(&mut self, site: &mut Site) -> Result<()> {
        let per_second = |carried: Carried| 1e9 / carried.cost();
        self.packets.push(site.traffic.datagrams(SLICE)?.cost());
        self.connections.push(per_second(site.traffic.connections(SLICE)?));
        self.stream.push(per_second(site.traffic.stream(SLICE)?));
        Ok(())
    }

    /// The three of them, each as many times what it is for another in the same turn.
    fn over(&self, other: &Self) -> [f64; 3] {
        let ratio = |ours: &[f64], theirs: &[f64]| {
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
            median(&ratios.collect::<Vec<_>>())
        };
        [
            ratio(&self.packets, &other.packets),
            ratio(&self.connections, &other.connections),
            ratio(&self.stream, &other.stream),
        ]
    }

    fn texts(&self) -> [String; 3] {
        let per_second = |values: &[f64]| format!("{} /s", whole(median(values)));
        [
            format!("{} ns", whole(median(&self.packets))),
            per_second(&self.connections),
            format!("{:.1} Gbit/s", median(&self.stream) * 8e-9),
        ]
    }
}

const WHAT: [&str; 3] = ["CPU for a packet", "new connections", "one stream"];

fn table(
    bench: &mut Bench,
    number: u32,
    outcome: &Outcome,
    first: &mut Option<[f64; 3]>,
) -> Result<Table> {
    let Outcome { plain, eip, iptables, .. } = outcome;
    let mut table = Table::new(format!("packets: {} association(s)", count(number.into())));
    let ratios = eip.over(plain);
    let targets = [
        Target::at_most(ratios[0], 1.25, ""),
        Target::at_least(ratios[1], 0.8, ""),
        Target::at_least(ratios[2], 0.9, ""),
    ];
    let figures = plain.texts().into_iter().zip(eip.texts()).zip(targets);
    for ((what, ratio), ((theirs, ours), target)) in WHAT.iter().zip(ratios).zip(figures) {
        table.tell(format!("{what}: plain routing"), theirs);
        table.tell(format!("{what}: eip"), ours);
        table.judge(format!("{what}: eip / plain routing"), format!("{ratio:.2}"), target);
        bench.note(&format!("{number}: {what}: eip / plain"), ratio, "")?;
    }
    let beside = *first.get_or_insert(ratios);
    if beside != ratios {
        for (what, (ratio, first)) in WHAT.iter().zip(ratios.iter().zip(beside)) {
            let change = (ratio / first - 1.0) * 100.0;
            let target = Target::at_most(change.abs(), 15.0, " %");
            table.judge(
                format!("{what}: beside the first table"),
                format!("{change:+.0} %"),
                target,
            );
        }
    }
    if let Some(iptables) = iptables {
        let figures = iptables.texts().into_iter().zip(iptables.over(plain));
        for (what, (text, ratio)) in WHAT.iter().zip(figures) {
            table.tell(format!("{what}: iptables"), text);
            table.tell(format!("{what}: iptables / plain routing"), format!("{ratio:.2}"));
            bench.note(&format!("{number}: {what}: iptables / plain"), ratio, "")?;
        }
        table.tell("loading the rules: iptables", time(outcome.iptables_loaded.as_micros() as f64));
    }
    table.tell("loading the rules: eip", time(outcome.eip_loaded.as_micros() as f64));
    if number > FEW {
        let memory = outcome.memory as f64;
        let each = memory / f64::from(number);
        let megabytes = whole(memory / 1e6);
        table.tell("memory of the kernel", format!("{megabytes} MB, {each:.0} bytes each"));
        bench.note(&format!("{number}: memory of the kernel"), memory / 1e6, "MB")?;
    }
    Ok(table)
}
