use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::docker::DockerBackend;
use crate::sight::{ComputeBackend as _, Sight};

/// What an engine tells of a container, the greater part of which is not read.
fn told(number: u32) -> Value {
    json!({
        "Id": format!("{number:064x}"), "Names": ["/parent/alias", format!("/web-\u{fc}-{number}")],
        "Image": "a \"quoted\" image \\", "ImageID": "sha256:00", "Command": "sh -c '[ 1 ] && {'",
        "Created": 1_700_000_000 + number, "State": "running", "Status": "Up 3 seconds",
        "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
        "Labels": {"eip.project": "team-a", "eip.network": "a \"net\"\n", "note": "]},{\u{1f433}"},
        "HostConfig": {"NetworkMode": "bridge", "Annotations": {"none": null}},
        "Mounts": [], "SizeRw": null,
        "NetworkSettings": {"Networks": {
            "front": {"IPAMConfig": null, "IPAddress": "172.18.0.9", "MacAddress": "02:42:ac:12:00:09"},
            "a \"net\"\n": {"IPAddress": "172.19.0.9", "IPPrefixLen": 16, "DNSNames": null},
        }},
    })
}

fn list(number: u32) -> String {
    serde_json::to_string_pretty(&(0..number).map(told).collect::<Vec<_>>()).unwrap()
}

fn read<'t>(pieces: impl IntoIterator<Item = &'t [u8]>) -> Result<Listed, ListError> {
    let mut reader = Reader::default();
    pieces.into_iter().try_for_each(|piece| reader.take(piece))?;
    reader.end()
}

#[test]
fn of_what_an_engine_tells_what_is_needed_is_read() {
    let listed = read([list(2).as_bytes()]).unwrap();
    assert_eq!(listed.len(), 2);
    let (id, container) = &listed[1];
    assert_eq!(id.as_ref(), format!("{:064x}", 1));
    let report = &container.report;
    assert_eq!(report.name, "web-\u{fc}-1");
    assert_eq!(report.project.as_ref().unwrap().as_str(), "team-a");
    assert_eq!(report.vpc_id.as_deref(), Some("a \"net\"\n"));
    assert_eq!(report.target().unwrap().to_string(), "172.19.0.9");
    let networks: Vec<_> = report.interfaces.iter().map(|one| one.network.as_str()).collect();
    assert_eq!(networks, ["a \"net\"\n", "front"]);
    assert_eq!(report.interfaces[1].mac.unwrap().to_string(), "02:42:ac:12:00:09");
}

proptest! {
    #[test]
    fn a_list_is_the_same_however_its_text_is_cut(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)
    ) {
        let text = list(5);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &text.as_bytes()[ends[0]..ends[1]]);
        prop_assert_eq!(read(pieces).unwrap(), read([text.as_bytes()]).unwrap());
    }
}

#[test]
fn a_list_comes_byte_by_byte() {
    let text = list(3);
    assert_eq!(read(text.as_bytes().chunks(1)).unwrap(), read([text.as_bytes()]).unwrap());
}

#[test]
fn nothing_but_the_whole_of_a_list_is_one() {
    let text = list(2);
    for length in 0..text.len() {
        let cut = read([&text.as_bytes()[..length]]);
        assert!(matches!(cut, Err(ListError::CutOff)), "after {length}: {cut:?}");
    }
    assert_eq!(read(["[ ]\n".as_bytes()]).unwrap(), []);
}

#[test]
fn what_is_no_list_of_containers_is_refused() {
    let no_lists = [
        "null",
        "{\"message\":\"x\"}",
        "<html>",
        "[1]",
        "[[]]",
        "[{},]",
        "[,{}]",
        "[{}{}]",
        "[{}]]",
        "[] x",
    ];
    for text in no_lists {
        let read = read([text.as_bytes()]);
        assert!(matches!(read, Err(ListError::NoList)), "{text}: {read:?}");
    }
    let unreadable = [
        "[{\"Id\":5}]",
        "[{\"Labels\":[1]}]",
        "[{\"Id\":\"\u{1}\"}]",
        "[{\"Names\":[}]",
        "[{]",
        "[{\"NetworkSettings\":{\"Networks\":{\"n\":1}}}]",
    ];
    for text in unreadable {
        let read = read([text.as_bytes()]);
        assert!(matches!(read, Err(ListError::Unreadable(_))), "{text}: {read:?}");
    }
    let bytes: &[u8] = b"[{\"Id\":\"\xff\"}]";
    assert!(matches!(read([bytes]), Err(ListError::Unreadable(_))));
}

/// An engine that breaks off, or answers as a real one cannot be made to: to the first who asks it says what
/// it is to say, and hangs up.
struct Engine {
    socket: PathBuf,
    _folder: TempDir,
}

impl Engine {
    fn that_says(answer: Vec<u8>) -> Self {
        Self::start(answer).0
    }

    /// The thread ends when everything was said, or nobody listened any more.
    fn start(answer: Vec<u8>) -> (Self, JoinHandle<std::io::Result<()>>) {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            stream.write_all(&answer)
        });
        (Self { socket, _folder: folder }, thread)
    }
}

fn chunked(pieces: &[&str], end: &str) -> Vec<u8> {
    let mut answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for piece in pieces {
        answer += &format!("{:x}\r\n{piece}\r\n", piece.len());
    }
    (answer + end).into_bytes()
}

#[tokio::test]
async fn a_list_in_chunks_is_read_to_its_end() {
    let text = list(3000);
    let (first, second) = text.split_at(500);
    let engine = Engine::that_says(chunked(&[first, second], "0\r\n\r\n"));
    assert_eq!(all(&engine.socket).await.unwrap().len(), 3000);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_list() {
    let text = list(2);
    // All containers are there, and the text is a list; but the engine had more to say.
    let engine = Engine::that_says(chunked(&[&text], ""));
    assert!(matches!(all(&engine.socket).await, Err(ListError::BrokeOff(_))));

    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len() + 1);
    let engine = Engine::that_says((head + &text).into_bytes());
    assert!(matches!(all(&engine.socket).await, Err(ListError::BrokeOff(_))));

    // Where the end of the connection is the end of the answer, the text alone tells.
    let head = "HTTP/1.0 200 OK\r\n\r\n".to_owned();
    let engine = Engine::that_says((head + &text[..text.len() - 1]).into_bytes());
    assert!(matches!(all(&engine.socket).await, Err(ListError::CutOff)));

    let engine = Engine::that_says(Vec::new());
    assert!(matches!(all(&engine.socket).await, Err(ListError::BrokeOff(_))));
}

#[tokio::test]
async fn an_engine_that_refuses_says_why() {
    let refusing = |status: &str, body: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        Engine::that_says((head + body).into_bytes())
    };
    let engine = refusing("400 Bad Request", r#"{"message":"client version 1.2 is too old"}"#);
    let error = all(&engine.socket).await.unwrap_err();
    let said = "it responded with status code 400 Bad Request: client version 1.2 is too old";
    assert_eq!(error.to_string(), said);
    let engine = refusing("503 Service Unavailable", "starting up\n");
    let error = all(&engine.socket).await.unwrap_err();
    let said = "it responded with status code 503 Service Unavailable: starting up";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn who_has_given_up_on_a_list_hangs_up() {
    let long = format!("[{{}},{}]", "x".repeat(50_000_000));
    let (engine, telling) = Engine::start(chunked(&[&long], "0\r\n\r\n"));
    assert!(matches!(all(&engine.socket).await, Err(ListError::NoList)));
    let told = tokio::task::spawn_blocking(|| telling.join().unwrap()).await.unwrap();
    assert_eq!(told.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_list_that_ends_in_the_middle_is_an_engine_that_does_not_answer() {
    let text = list(2);
    let engine = Engine::that_says(chunked(&[&text[..text.len() / 2]], "0\r\n\r\n"));
    let (sight, mut seen) = watch::channel(Sight::Unseen);
    let stop = CancellationToken::new();
    let (socket, until) = (engine.socket.clone(), stop.clone());
    let following =
        tokio::spawn(async move { DockerBackend::new(socket).watch(sight, until).await });
    let first = seen.wait_for(|sight| *sight != Sight::Unseen).await.unwrap().clone();
    let reason = "could not list its containers: its list ends in the middle".to_owned();
    assert_eq!(first, Sight::Unreachable { reason, known: None });
    stop.cancel();
    following.await.unwrap();
}
