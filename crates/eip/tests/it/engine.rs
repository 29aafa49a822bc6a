//! A Docker engine of the test's own, with an image of nothing but busybox.

use std::fs::File;
use std::path::PathBuf;
use std::process::Output;

use eip_testkit::eventually;
use eip_testkit::machine::Daemon;

use crate::scene::{SOON, Scene};

/// A Docker engine on the host of a scene.
pub(crate) struct Engine<'s> {
    scene: &'s Scene,
    pub(crate) daemon: Daemon,
    socket: PathBuf,
}

impl<'s> Engine<'s> {
    pub(crate) fn start(scene: &'s Scene) -> Self {
        let root = scene.folder.path().join("docker");
        std::fs::create_dir_all(&root).unwrap();
        let socket = root.join("docker.sock");
        let log = File::create(root.join("log")).unwrap();
        let mut command = scene.host.command("dockerd");
        command
            .args(["--storage-driver", "vfs", "--host"])
            .arg(format!("unix://{}", socket.display()));
        command.arg("--data-root").arg(root.join("data")).arg("--exec-root").arg(root.join("exec"));
        command.arg("--pidfile").arg(root.join("pid"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = scene.host.daemon(command);
        let engine = Self { scene, daemon, socket };
        eventually("the engine to answer", SOON, || engine.try_docker("version").then_some(()));
        engine.import_image();
        engine
    }

    /// An image of nothing but busybox: no registry is asked.
    fn import_image(&self) {
        let root = self.scene.folder.path().join("image");
        if root.exists() {
            // An earlier engine has imported it, into the same data.
            return;
        }
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "httpd", "wget", "mkdir", "timeout"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let archive = self.scene.folder.path().join("image.tar");
        self.scene.host.sh(&format!("tar -C {} -cf {} .", root.display(), archive.display()));
        self.docker(&format!("import {} eip-test", archive.display()));
    }

    fn try_docker(&self, args: &str) -> bool {
        self.run(args).status.success()
    }

    #[track_caller]
    pub(crate) fn docker(&self, args: &str) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn run(&self, args: &str) -> Output {
        self.scene.host.try_sh(&self.line(args))
    }

    /// The shell line that runs a command of Docker's on this engine.
    pub(crate) fn line(&self, args: &str) -> String {
        format!("docker -H unix://{} {args}", self.socket.display())
    }

    /// Starts a container that serves a page with its name, and waits until the service knows it.
    pub(crate) fn web(&self, name: &str, options: &str) -> String {
        let serve = format!("mkdir -p /www; echo {name} > /www/index.html; httpd -f -h /www");
        let id = self.docker(&format!("run -d --name {name} {options} eip-test sh -c '{serve}'"));
        self.scene.known(&format!("docker:{name}"));
        id
    }

    pub(crate) fn compute(&self) -> String {
        format!("docker=unix://{},sandbox", self.socket.display())
    }
}
