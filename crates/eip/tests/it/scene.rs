//! Two machines and a cable: the service runs on one, the world is the other.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eip_testkit::eventually;
use eip_testkit::machine::{Daemon, Machine};
use serde_json::Value;
use tempfile::TempDir;

const EIP: &str = env!("CARGO_BIN_EXE_eip");
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The world's own address, and where it tells visitors the address that it sees them with.
pub(crate) const WORLD: &str = "192.0.2.9";
pub(crate) const WHO: &str = "http://192.0.2.9:8081/cgi-bin/who";

/// busybox httpd listens on IPv6, and shows an IPv4 visitor as `[::ffff:192.0.2.1]`.
const WHO_SCRIPT: &str = "#!/bin/sh
printf '\\r\\n%s\\n' \"$REMOTE_ADDR\" | sed 's/.*:ffff:\\(.*\\)]/\\1/'
";

pub(crate) struct Scene {
    pub(crate) host: Machine,
    pub(crate) world: Machine,
    pub(crate) folder: TempDir,
    _who: Daemon,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (host, world) = (Machine::start(), Machine::start());
        host.cable("192.0.2.1/24", &world, &format!("{WORLD}/24"));
        host.sh(&format!("ip route add default via {WORLD}"));
        // On the link, not behind a router: the host must answer for the addresses itself.
        world.sh("ip route add 100.64.0.0/10 dev eth0");
        let pages = folder.path().join("pages");
        std::fs::create_dir_all(pages.join("cgi-bin")).unwrap();
        let who = pages.join("cgi-bin/who");
        std::fs::write(&who, WHO_SCRIPT).unwrap();
        std::fs::set_permissions(&who, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let mut httpd = world.command("busybox");
        httpd.args(["httpd", "-f", "-p", "8081", "-h"]).arg(&pages);
        let who = world.daemon(httpd);
        Self { host, world, folder, _who: who }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the service and waits until it answers.
    pub(crate) fn serve(&self, options: &[&str]) -> Daemon {
        self.serve_by(&[], options)
    }

    /// The same, with its command line behind that of another program.
    pub(crate) fn serve_by(&self, program: &[&str], options: &[&str]) -> Daemon {
        let log = self.folder.path().join("serve.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let line: Vec<&str> = program.iter().copied().chain([EIP]).collect();
        let mut command = self.host.command(line[0]);
        command.args(&line[1..]);
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        command.args(["--host-name", "h1", "--quarantine", "1"]).args(options);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = self.host.daemon(command);
        let ready = "curl -sf http://localhost:8080/readyz";
        eventually("the service to be ready", SOON, || {
            self.host.try_sh(ready).status.success().then_some(())
        });
        daemon
    }

    /// Starts an agent alone, whether a server answers or not.
    pub(crate) fn agent(&self, options: &[&str]) -> Daemon {
        let log = File::create(self.folder.path().join("agent.log")).unwrap();
        let mut command = self.host.command(EIP);
        command.arg("agent").arg("--data-dir").arg(self.data_dir());
        command.args(["--host-name", "h1"]).args(options);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.host.daemon(command)
    }

    /// Runs `eip` on the host, as its operator does; returns the exit code and what was printed.
    pub(crate) fn try_eip(&self, args: &str) -> (i32, String, String) {
        let data_dir = self.data_dir();
        let line = format!("EIP_DATA_DIR={} {EIP} {args}", data_dir.display());
        let output = self.host.try_sh(&line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The same for a command that must succeed.
    #[track_caller]
    pub(crate) fn eip(&self, args: &str) -> String {
        let (code, out, err) = self.try_eip(args);
        assert_eq!(code, 0, "eip {args}: {out}{err}\n{}", self.log());
        out
    }

    /// The same, reading what it prints as JSON.
    #[track_caller]
    pub(crate) fn eip_json(&self, args: &str) -> Value {
        serde_json::from_str(&self.eip(&format!("-o json {args}"))).unwrap()
    }

    /// Calls the API with curl, as the operator's script does; returns the status and the body.
    pub(crate) fn curl(&self, call: &str) -> (u16, Value) {
        let key = std::fs::read_to_string(self.data_dir().join("admin.key")).unwrap();
        let key = key.trim();
        let line = format!("API_KEY={key}; curl -s -w '\\n%{{http_code}}' {call}");
        let out = self.host.sh(&line);
        let (body, status) = out.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// What was mended on the host, as the events say it.
    pub(crate) fn mended(&self) -> Vec<String> {
        let call = "-H \"X-API-Key: $API_KEY\" 'http://localhost:8080/events?limit=500'";
        let (_, list) = self.curl(call);
        let events = list["items"].as_array().unwrap().iter();
        let mended = events.filter(|event| event["kind"] == "data_plane_mended");
        mended.map(|event| event["detail"].as_str().unwrap().to_owned()).collect()
    }

    /// Starts a sandbox and waits until the service knows it.
    pub(crate) fn sandbox(&self, name: &str) {
        self.eip(&format!("sandbox add {name}"));
        self.known(&format!("sandbox:{name}"));
    }

    pub(crate) fn known(&self, instance: &str) {
        eventually("the service to know the instance", SOON, || {
            (self.try_eip(&format!("instance show {instance}")).0 == 0).then_some(())
        });
    }

    /// Fetches the page at an address from the world; nothing when there is no answer.
    pub(crate) fn page(&self, address: &str) -> Option<String> {
        fetch(&self.world, &format!("http://{address}/"))
    }

    /// Has a client ask for the page at an address again and again while `job` runs, and a few times
    /// more. Returns what the job does, and what the client got.
    pub(crate) fn while_asked<R>(
        &self,
        address: &str,
        job: impl FnOnce() -> R,
    ) -> (R, Vec<Request>) {
        let over = AtomicBool::new(false);
        let line = format!("curl -sf -m 10 http://{address}/");
        let ask = || {
            let began = Instant::now();
            let output = self.world.try_sh(&line);
            let page = String::from_utf8_lossy(&output.stdout).into_owned();
            let page = output.status.success().then_some(page);
            Request { began, ended: Instant::now(), page }
        };
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut got = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    got.push(ask());
                }
                got.extend(std::iter::repeat_with(ask).take(5));
                got
            });
            let done = catch_unwind(AssertUnwindSafe(job));
            over.store(true, Ordering::Relaxed);
            let got = client.join().unwrap();
            (done.unwrap_or_else(|panic| resume_unwind(panic)), got)
        })
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }
}

/// One request of a client, and the page that it got, if it got one.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) page: Option<String>,
}

/// Fetches a page from a machine; nothing when there is no answer within a second.
pub(crate) fn fetch(from: &Machine, url: &str) -> Option<String> {
    let output = from.try_sh(&format!("curl -sf -m 1 {url}"));
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
