#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use tern_format::checksum::sha256;

/// What a server does with the transfers of a file; the question for its metadata is always answered.
#[derive(Clone, Copy, PartialEq)]
enum Conduct {
    /// Sends what is asked for.
    Well,
    /// Breaks off in the middle of each of the first transfers.
    BreaksOff(usize),
    /// States a checksum that is another file's.
    WrongHash,
    /// States a length that is too large, and sends what there is.
    TooLong,
    /// States a length that is too small, and sends so much.
    TooShort,
    /// States the length, and sends without end.
    Endless,
    /// Sends all whatever range is asked for.
    IgnoresRange,
    /// Sends half of a file, then nothing, and keeps the connection.
    Stalls,
    /// Never answers.
    Silent,
    /// Answers with this status.
    Status(u16),
    /// States no checksum.
    NoHash,
}

struct Server {
    hub: Hub,
    requests: Arc<Mutex<Vec<String>>>,
    cache: tempfile::TempDir,
}

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A text long enough to be cut.
fn text() -> Vec<u8> {
    (0..200_000_u32).flat_map(|i| format!("{i}\n").into_bytes()).collect()
}

impl Server {
    fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut transfers = 0;
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), conduct, &log, &mut transfers);
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub {
            endpoint,
            cache: Cache::new(cache.path().join("hub")),
            token: Some("secret".to_owned()),
            offline: false,
            pause: Duration::from_millis(1),
            patience: if matches!(conduct, Conduct::Stalls | Conduct::Silent) {
                Duration::from_secs(1)
            } else {
                PATIENCE
            },
        };
        Self { hub, requests, cache }
    }

    fn fetch(&self, address: &str) -> Result<Vec<HubFile>> {
        self.hub.fetch(&address.parse().unwrap(), &mut |_| ())
    }

    fn refused(&self, address: &str) -> String {
        self.fetch(address).unwrap_err().to_string()
    }

    /// The ranges of the transfers asked for.
    fn ranges(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let range = |request: &String| {
            let line = request.lines().find(|line| line.to_lowercase().starts_with("range: "))?;
            Some(line[7..].to_owned())
        };
        requests.iter().filter_map(range).filter(|range| range != "bytes=0-0").collect()
    }

    /// Files in the cache that hold bytes of the repository.
    fn blobs(&self) -> Vec<PathBuf> {
        let blobs = self.cache.path().join("hub/datasets--o--n/blobs");
        let files = fs::read_dir(blobs).into_iter().flatten().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_none_or(|kind| kind != "lock")).collect()
    }
}

/// Answers one request on one connection.
fn answer(
    mut stream: TcpStream,
    conduct: Conduct,
    log: &Mutex<Vec<String>>,
    transfers: &mut usize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    log.lock().unwrap().push(request.clone());
    if conduct == Conduct::Silent {
        std::mem::forget(stream);
        return Ok(());
    }
    if let Conduct::Status(status) = conduct {
        return write!(
            stream,
            "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if request.starts_with("GET /api/") {
        let json = format!(
            "{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"b.txt\"}}, {{\"rfilename\": \"a.txt\"}}, \
             {{\"rfilename\": \"README.md\"}}]}}"
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        return write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{json}", json.len());
    }
    let text = text();
    let lower = request.to_lowercase();
    let range = lower.split("range: bytes=").nth(1).unwrap().lines().next().unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, probe): (usize, bool) = (first.parse().unwrap(), last == "0");
    let stated = match conduct {
        Conduct::TooLong => text.len() + 1000,
        Conduct::TooShort => text.len() - 1000,
        _ => text.len(),
    };
    if first >= stated {
        return write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let first = if conduct == Conduct::IgnoresRange && !probe { 0 } else { first };
    let hash = match conduct {
        Conduct::WrongHash => sha256(b"another file"),
        Conduct::NoHash => "../../../escape".to_owned(),
        _ => sha256(&text),
    };
    if conduct == Conduct::Endless && !probe {
        write!(
            stream,
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{}/{stated}\r\nConnection: close\r\n\r\n",
            stated - 1
        )?;
        // A gigabyte stands for all there is.
        return (0..1000).try_for_each(|_| stream.write_all(&text));
    }
    let body = if probe { &text[..1] } else { &text[first..stated.min(text.len())] };
    let promised = if probe { 1 } else { stated - first };
    write!(
        stream,
        "HTTP/1.1 206 Partial\r\nETag: \"x\"\r\nX-Linked-Etag: \"{hash}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
         Content-Range: bytes {first}-{}/{stated}\r\nContent-Length: {promised}\r\nConnection: close\r\n\r\n",
        first + promised - 1
    )?;
    if probe {
        return stream.write_all(body);
    }
    *transfers += 1;
    match conduct {
        Conduct::BreaksOff(times) if *transfers <= times => {
            stream.write_all(&body[..body.len() / 2])
        }
        Conduct::Stalls => {
            stream.write_all(&body[..body.len() / 2])?;
            std::mem::forget(stream);
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

const FILE: &str = "hf://datasets/o/n@v1/a.txt";

#[test]
fn a_transfer_without_end_is_broken_off() {
    let server = Server::start(Conduct::Endless);
    let message = server.refused(FILE);
    assert!(message.contains("and more came"), "{message}");
    assert!(server.blobs().is_empty(), "{:?}", server.blobs());
}

#[test]
fn a_file_is_fetched_once_with_the_token_and_then_comes_from_the_cache() {
    let server = Server::start(Conduct::Well);
    let mut seen = Vec::new();
    let mut report = |t: Transfer<'_>| seen.push((t.name.to_owned(), t.bytes, t.total_bytes));
    let files = server.hub.fetch(&FILE.parse().unwrap(), &mut report).unwrap();
    assert_eq!((files.len(), files[0].name.as_str()), (1, FILE));
    assert_eq!(fs::read(&files[0].path).unwrap(), text());
    let length = text().len() as u64;
    assert_eq!(seen.last(), Some(&(FILE.to_owned(), length, length)));
    let asked = server.requests.lock().unwrap().clone();
    assert!(asked[0].starts_with("GET /datasets/o/n/resolve/v1/a.txt HTTP/1.1"), "{}", asked[0]);
    assert!(asked[0].to_lowercase().contains("authorization: bearer secret"), "{}", asked[0]);

    assert_eq!(server.fetch(FILE).unwrap(), files);
    let offline = server.hub.clone().with_offline(true);
    assert_eq!(offline.fetch(&FILE.parse().unwrap(), &mut |_| ()).unwrap(), files);
    assert_eq!(server.requests.lock().unwrap().len(), asked.len());
    let error = offline.fetch(&"hf://o/n/b".parse().unwrap(), &mut |_| ()).unwrap_err().to_string();
    assert!(error.starts_with("hf://o/n/b: not in the cache"), "{error}");
}

#[test]
fn patterns_and_whole_repositories_are_listed() {
    let server = Server::start(Conduct::Well);
    let names = |files: Vec<HubFile>| files.into_iter().map(|file| file.name).collect::<Vec<_>>();
    let expected = ["hf://datasets/o/n/a.txt", "hf://datasets/o/n/b.txt"];
    assert_eq!(names(server.fetch("hf://datasets/o/n/*.txt").unwrap()), expected);
    let offline = server.hub.clone().with_offline(true);
    let found = offline.fetch(&"hf://datasets/o/n/*.txt".parse().unwrap(), &mut |_| ()).unwrap();
    assert_eq!(names(found), expected);
    assert_eq!(names(server.fetch("hf://datasets/o/n").unwrap()).len(), 3);
    let error = server.refused("hf://datasets/o/n/*.parquet");
    let expected =
        "hf://datasets/o/n/*.parquet: no file matches; the repository has: README.md, a.txt, b.txt";
    assert_eq!(error, expected);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stood() {
    let server = Server::start(Conduct::BreaksOff(2));
    let files = server.fetch(FILE).unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), text());
    let ranges = server.ranges();
    let half = text().len() / 2;
    assert_eq!((ranges.len(), ranges[0].as_str()), (3, "bytes=0-"));
    assert_eq!(ranges[1], format!("bytes={half}-"));
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for_and_what_came_is_kept() {
    let server = Server::start(Conduct::Stalls);
    let message = server.refused(FILE);
    assert!(message.starts_with(&format!("{FILE}: the hub said nothing for 1 s")), "{message}");
    let kept = server.blobs();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(&kept[0]).unwrap(), text()[..text().len() / 2]);
    let server = Server::start(Conduct::Silent);
    for address in [FILE, "hf://datasets/o/n/*.txt"] {
        let message = server.refused(address);
        assert!(message.contains("the hub said nothing for 1 s"), "{message}");
    }
}

#[test]
fn what_a_killed_fetch_left_is_taken_up() {
    for (left, first) in [(1000, 1000), (text().len(), text().len() - 1), (text().len() + 9, 0)] {
        let server = Server::start(Conduct::Well);
        let blobs = server.cache.path().join("hub/datasets--o--n/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let bytes: Vec<u8> = text().into_iter().chain([b'x'; 9]).take(left).collect();
        fs::write(blobs.join(sha256(&text())).with_extension("part"), bytes).unwrap();
        let files = server.fetch(FILE).unwrap();
        assert_eq!(fs::read(&files[0].path).unwrap(), text());
        assert_eq!(server.ranges(), [format!("bytes={first}-")]);
    }
}

#[test]
fn a_resumed_file_that_is_wrong_is_fetched_whole_once_more() {
    // The beginning is another file's.
    let server = Server::start(Conduct::Well);
    let blobs = server.cache.path().join("hub/datasets--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(sha256(&text())).with_extension("part"), "garbage").unwrap();
    let files = server.fetch(FILE).unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), text());
    assert_eq!(server.ranges(), ["bytes=7-", "bytes=0-"]);

    let server = Server::start(Conduct::IgnoresRange);
    let blobs = server.cache.path().join("hub/datasets--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(sha256(&text())).with_extension("part"), &text()[..100]).unwrap();
    let files = server.fetch(FILE).unwrap();
    assert_eq!(fs::read(&files[0].path).unwrap(), text());
}

#[test]
fn a_file_that_is_not_what_the_hub_states_is_refused_removed_and_named() {
    let server = Server::start(Conduct::WrongHash);
    let error = server.refused(FILE);
    let rule =
        format!("{FILE}: its SHA-256 must be {}, is {}", sha256(b"another file"), sha256(&text()));
    assert!(error.starts_with(&rule) && error.contains("removed"), "{error}");
    assert_eq!(server.blobs(), [""; 0].map(PathBuf::from));
    let offline = server.hub.clone().with_offline(true);
    assert!(offline.fetch(&FILE.parse().unwrap(), &mut |_| ()).is_err());

    let server = Server::start(Conduct::TooShort);
    let error = server.refused(FILE);
    assert!(error.starts_with(&format!("{FILE}: its SHA-256 must be")), "{error}");
    let server = Server::start(Conduct::TooLong);
    let error = server.refused(FILE);
    assert!(error.starts_with(&format!("{FILE}: ")), "{error}");
    assert!(server.fetch(FILE).is_err());

    let server = Server::start(Conduct::NoHash);
    assert!(server.refused(FILE).ends_with("states neither"), "{}", server.refused(FILE));
    assert!(server.blobs().is_empty());
}

#[test]
fn a_file_changed_in_the_cache_is_refused_and_then_fetched_anew() {
    let server = Server::start(Conduct::Well);
    let files = server.fetch(FILE).unwrap();
    fs::write(fs::canonicalize(&files[0].path).unwrap(), "edited").unwrap();
    let error = server.refused(FILE);
    assert!(error.contains("its SHA-256 must be") && error.contains("removed"), "{error}");
    assert_eq!(server.fetch(FILE).unwrap(), files);
    assert_eq!(fs::read(&files[0].path).unwrap(), text());
}

#[test]
fn answers_that_refuse_say_what_to_do() {
    for (status, words) in [
        (404, "check the spelling"),
        (401, "set HF_TOKEN"),
        (403, "set HF_TOKEN"),
        (503, "try again"),
    ] {
        let server = Server::start(Conduct::Status(status));
        for address in [FILE, "hf://datasets/o/n/*.txt"] {
            let error = server.refused(address);
            let begin = format!("{address}: the hub answers {status}: ");
            assert!(error.starts_with(&begin) && error.contains(words), "{error}");
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let server = Server::start(Conduct::Well);
    let hub = Hub { endpoint, ..server.hub.clone() };
    let error = hub.fetch(&FILE.parse().unwrap(), &mut |_| ()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{FILE}: ")), "{error}");
}
