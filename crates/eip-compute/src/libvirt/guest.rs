//! Virtual machines: their QEMU guest agent is asked to run `ip`.
//!
//! On a connection of its own for each task: an agent may hang, and then holds up nothing but this.
//! What a guest says is taken for what it is about: names and routes of its own, which go back to the
//! same guest as words of a command, past any shell.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::dial::{self, Dialled};
use super::rpc::link::{CallError, Link};
use super::rpc::messages::{DomainRef, printable};
use super::uri::LibvirtUri;
use crate::guest::{DefaultRoute, GuestError, GuestTask, Held, Seen, Step, steps};

/// How long an agent may take to answer one question, in seconds.
const ANSWER: i32 = 5;
/// Between two questions whether a command has ended: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// As much of what a guest says as is kept.
const SAID: usize = 200;
/// What `ip` tells of a route, and does not take.
const STATES: [&str; 6] = ["linkdown", "dead", "pervasive", "offload", "rt_offload", "trap"];

/// The words of a route, without the source that it prefers.
type Words = Vec<String>;

/// Makes a guest have on its interfaces what it should.
pub(super) async fn settle(uri: &LibvirtUri, task: &GuestTask) -> Result<(), GuestError> {
    let Dialled { link, news } = dial::dial(uri).await.map_err(|e| GuestError::failed(&e))?;
    // Nothing was subscribed to.
    drop(news);
    let outcome = settle_on(&link, task).await;
    link.close().await.ok();
    outcome
}

async fn settle_on(link: &Link, task: &GuestTask) -> Result<(), GuestError> {
    let asked = |error: CallError| GuestError::failed(&error);
    let domains = link.domains().await.map_err(asked)?;
    let uuid = task.instance_id.uuid();
    let domain = domains.iter().find(|one| one.uuid == uuid && one.id >= 0);
    let guest = Guest { link, domain: domain.ok_or(GuestError::Gone)? };
    let seen = guest.look().await?;
    for step in steps(&seen, task)? {
        guest.take(step).await?;
    }
    Ok(())
}

struct Guest<'l> {
    link: &'l Link,
    domain: &'l DomainRef,
}

#[derive(Debug, Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

#[derive(Debug, Deserialize)]
struct Started {
    pid: i64,
}

/// The answer to `guest-exec-status`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    out_data: Option<String>,
    err_data: Option<String>,
}

impl Guest<'_> {
    async fn look(&self) -> Result<Seen<String, Words>, GuestError> {
        let addresses = self.ip(&["-o", "-4", "addr", "show"]).await?;
        let routes = self.ip(&["-o", "-4", "route", "show"]).await?;
        Ok(Seen {
            addresses: addresses.lines().filter_map(held).collect(),
            defaults: routes.lines().filter_map(default_route).collect(),
        })
    }

    async fn take(&self, step: Step<String, Words>) -> Result<(), GuestError> {
        let words = words_of(&step);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.ip(&words).await.map(drop)
    }

    /// Runs `ip` in the guest, and returns what it printed.
    async fn ip(&self, words: &[&str]) -> Result<String, GuestError> {
        let order = json!({
            "execute": "guest-exec",
            "arguments": { "path": "ip", "arg": words, "capture-output": true },
        });
        let Started { pid } = self.ask(&order).await?;
        let question = json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } });
        let mut pause = FIRST_PAUSE;
        let status: Status = loop {
            let status: Status = self.ask(&question).await?;
            if status.exited {
                break status;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        };
        let text = |data: Option<String>| {
            let bytes = data.and_then(|data| BASE64_STANDARD.decode(data).ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if status.exitcode == Some(0) {
            return Ok(text(status.out_data));
        }
        let said = printable(text(status.err_data).trim().as_bytes(), SAID);
        Err(GuestError::Failed(format!("\"ip {}\" failed in the guest: {said}", words.join(" "))))
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        order: &serde_json::Value,
    ) -> Result<T, GuestError> {
        let asked = self.link.ask_agent(self.domain, &order.to_string(), ANSWER).await;
        let text = asked.map_err(|error| GuestError::failed(&error))?;
        let answer: Result<Answer<T>, _> = serde_json::from_str(&text);
        answer.map(|answer| answer.value).map_err(|error| {
            GuestError::Failed(format!("its guest agent answers something else: {error}"))
        })
    }
}

/// Reads a line like `2: eth0    inet 192.168.122.5/24 brd 192.168.122.255 scope global eth0`.
fn held(line: &str) -> Option<Held<String>> {
    let mut words = line.split_ascii_whitespace();
    let device = words.nth(1)?.trim_end_matches(':').split('@').next()?;
    let (address, prefix) = words.skip_while(|word| *word != "inet").nth(1)?.split_once('/')?;
    let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
    Some(Held { device: device.to_owned(), address, prefix })
}

/// Reads a line like `default via 192.168.122.1 dev eth0 proto dhcp src 192.168.122.5 metric 100`.
fn default_route(line: &str) -> Option<DefaultRoute<Words>> {
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| *word == "default")?;
    let (mut route, mut source) = (Vec::new(), None);
    while let Some(word) = words.next() {
        match word {
            "src" => source = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok()),
            // How the lines of one route are joined.
            "\\" => {}
            word if STATES.contains(&word) => {}
            word => route.push(word.to_owned()),
        }
    }
    Some(DefaultRoute { route, source })
}

fn words_of(step: &Step<String, Words>) -> Words {
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Words>();
    match step {
        Step::PutOn { device, address } => words(format!("-4 addr add {address}/32 dev {device}")),
        Step::Prefer { route, source } => {
            let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
            let mut all = words(format!("-4 route replace default{source}"));
            all.extend(route.iter().cloned());
            all
        }
        Step::TakeOff { device, address } => {
            words(format!("-4 addr del {address}/32 dev {device}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_iproute2_and_busybox_print_them() {
        let line = "2: eth0    inet 192.168.122.5/24 brd 192.168.122.255 scope global eth0\\       \
                    valid_lft forever preferred_lft forever";
        let expected =
            Held { device: "eth0".to_owned(), address: [192, 168, 122, 5].into(), prefix: 24 };
        assert_eq!(held(line), Some(expected));
        for wrong in ["", "2: eth0", "2: eth0 inet", "2: eth0    inet6 fe80::1/64", "x y inet 1/2"]
        {
            assert_eq!(held(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_route_goes_back_as_it_came_but_for_its_source() {
        let line =
            "default via 192.168.122.1 dev eth0 proto dhcp src 192.168.122.5 metric 100 linkdown ";
        let DefaultRoute { route, source } = default_route(line).unwrap();
        assert_eq!(source, Some([192, 168, 122, 5].into()));
        let said = |source| words_of(&Step::Prefer { route: route.clone(), source }).join(" ");
        let rest = "via 192.168.122.1 dev eth0 proto dhcp metric 100";
        assert_eq!(said(None), format!("-4 route replace default {rest}"));
        let with = said(Some([100, 64, 0, 1].into()));
        assert_eq!(with, format!("-4 route replace default src 100.64.0.1 {rest}"));
        let several = "default proto static \\\tnexthop via 10.0.0.1 dev eth0 weight 1";
        assert_eq!(
            default_route(several).unwrap().route.join(" "),
            "proto static nexthop via 10.0.0.1 dev eth0 weight 1"
        );
        assert_eq!(default_route("192.168.122.0/24 dev eth0 scope link"), None);
    }
}
